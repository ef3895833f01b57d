"""The demo (`make demo`): search, training, evaluation and service on the default corpus.

    python -m experiments.demo [--port PORT] [KEY=VALUE ...]

It prints each command before it runs it, and at the end the seconds of each stage. Settings given by dotted path are
passed to the search, and so to all later stages.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

EXPERIMENT = "experiments/docstrings.yaml"
TEXTS = [
    "Return the eigenvalues of a square array, computed with the routine geev of LAPACK.",
    "Draw a scatter plot with colors mapped to values, and return the collection of points.",
    "Return the shortest path between two nodes of a weighted graph.",
    "Fit the estimator to the training data and predict class probabilities.",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every stage; a command that fails ends the demo with its exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the search, by dotted path")
    parser.add_argument("--port", type=int, default=8000, help="of the service (default: %(default)s)")
    options = parser.parse_args(arguments)
    runs = find_run_folder(options.settings)
    times: dict[str, float] = {}
    for name, command in build_stages(runs, options.settings).items():
        start = time.monotonic()
        announce(command)
        code = subprocess.run([sys.executable, "-m", "finetune_cnn", *command], check=False).returncode
        if code:
            sys.exit(code)
        times[name] = time.monotonic() - start
    start = time.monotonic()
    serve(build_service_command(runs, options.port), options.port)
    times["serve and classify"] = time.monotonic() - start
    best = json.loads(Path(runs, "best.json").read_text(encoding="utf-8"))
    print(f"\ncheckpoint  {runs}/{best['checkpoint']}\nreport      {runs}/{best['run']}/report/report.md\n")
    for name, seconds in times.items():
        print(f"{seconds:6.1f} s  {name}")
    print(f"{sum(times.values()):6.1f} s  total")


def find_run_folder(settings: Sequence[str]) -> str:
    """Return the folder of the experiment's runs, which settings may change."""
    values = dict(setting.split("=", 1) for setting in settings if "=" in setting)
    return f"{values.get('storage', 'runs')}/{values.get('name', 'docstrings')}"


def build_stages(runs: str, settings: Sequence[str]) -> dict[str, list[str]]:
    """Return the arguments of `finetune-cnn` for each stage before the service, by the stage's name."""
    return {
        "search": ["tune", EXPERIMENT, *settings],
        "fine-tune the best on two workers": ["train", f"{runs}/best.yaml", "train.workers=2"],
        "evaluate on the test part": ["evaluate", runs],
    }


def build_service_command(runs: str, port: int) -> list[str]:
    """Return the arguments of `finetune-cnn` for the service."""
    return ["serve", runs, *([] if port == 8000 else ["--port", str(port)])]


def announce(command: Sequence[str]) -> None:
    """Print a command as a person would type it."""
    print(f"\n$ finetune-cnn {shlex.join(command)}", flush=True)


def serve(command: Sequence[str], port: int) -> None:
    """Start the service, classify the texts over HTTP, and stop the service."""
    announce(command)
    service = subprocess.Popen([sys.executable, "-m", "finetune_cnn", *command], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    try:
        for line in service.stdout:
            print(line, end="", flush=True)
            if line.startswith("serving at"):
                break
        else:
            sys.exit(service.wait() or 1)
        classify(f"http://127.0.0.1:{port}/predict")
    finally:
        service.send_signal(signal.SIGINT)
        # Unread output could fill the pipe and keep the service from ending.
        threading.Thread(target=lambda: sys.stdout.writelines(service.stdout or ()), daemon=True).start()
        service.wait(timeout=60)


def classify(url: str) -> None:
    """Send the texts to the service and print their two best labels."""
    body = json.dumps({"inputs": TEXTS, "parameters": {"top_k": 2}})
    print(f"\n$ curl -d {shlex.quote(body)} {url}", flush=True)
    with urllib.request.urlopen(urllib.request.Request(url, data=body.encode()), timeout=60) as response:
        for text, labels in zip(TEXTS, json.load(response), strict=True):
            scores = ", ".join(f"{label['label']} {label['score']:.3f}" for label in labels)
            print(f"  {scores:32} {text}", flush=True)


if __name__ == "__main__":
    main()
