"""make demo: the whole road on the default corpus, with the commands that the README teaches.

Each command is printed before it runs; the seconds of each stage are printed at the end.
"""

import json
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

EXPERIMENT = "experiments/docstrings.yaml"
RUNS = "runs/docstrings"
PORT = 8000
TEXTS = [
    "Return the eigenvalues of a square array, computed with the routine geev of LAPACK.",
    "Draw a scatter plot with colors mapped to values, and return the collection of points.",
    "Return the shortest path between two nodes of a weighted graph.",
    "Fit the estimator to the training data and predict class probabilities.",
]


def main() -> None:
    """Run every stage; a command that fails ends the demo with its exit code."""
    times: dict[str, float] = {}
    stages = {
        "search": ["jobs", "tune", EXPERIMENT],
        "fine-tune the best on two workers": ["jobs", "train", f"{RUNS}/best.yaml", "train.workers=2"],
        "evaluate on the test part": ["jobs", "evaluate", RUNS],
    }
    for name, arguments in stages.items():
        start = time.monotonic()
        command = announce(arguments)
        code = subprocess.run(command, check=False).returncode
        if code:
            sys.exit(code)
        times[name] = time.monotonic() - start
    start = time.monotonic()
    serve()
    times["serve and classify"] = time.monotonic() - start
    best = json.loads(Path(RUNS, "best.json").read_text(encoding="utf-8"))
    print(f"\ncheckpoint  {RUNS}/{best['checkpoint']}\nreport      {RUNS}/{best['run']}/report/report.md\n")
    for name, seconds in times.items():
        print(f"{seconds:6.1f} s  {name}")
    print(f"{sum(times.values()):6.1f} s  together")


def announce(arguments: list[str]) -> list[str]:
    """Print a command as a person would type it, and return it as this Python runs it."""
    print(f"\n$ python -m {shlex.join(arguments)}", flush=True)
    return [sys.executable, "-m", *arguments]


def serve() -> None:
    """Start the service, classify the texts over HTTP, and stop the service."""
    service = subprocess.Popen(announce(["serving", "run", RUNS]), stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    try:
        for line in service.stdout:
            print(line, end="", flush=True)
            if line.startswith("serving at"):
                break
        else:
            sys.exit(service.wait() or 1)
        body = json.dumps({"inputs": TEXTS, "parameters": {"top_k": 2}})
        print(f"\n$ curl -d {shlex.quote(body)} http://127.0.0.1:{PORT}/predict", flush=True)
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/predict", data=body.encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            for text, labels in zip(TEXTS, json.load(response), strict=True):
                scores = ", ".join(f"{each['label']} {each['score']:.3f}" for each in labels)
                print(f"  {scores:32} {text}", flush=True)
    finally:
        service.send_signal(signal.SIGINT)
        # Read on, or a full pipe would keep the service from ending.
        threading.Thread(target=lambda: sys.stdout.writelines(service.stdout or ()), daemon=True).start()
        service.wait(timeout=60)


if __name__ == "__main__":
    main()
