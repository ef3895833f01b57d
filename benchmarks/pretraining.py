"""Speed of training word2vec, compared with gensim's own command on the same file and cores.

    python benchmarks/pretraining.py            # 10 million words of docstrings, 5 epochs, 3 runs
    python benchmarks/pretraining.py --quick    # 1 million words, 1 epoch, one run

Both sides are whole commands: they read the texts, count words, train skip-gram with negative sampling (100
dimensions) and write word2vec binary. The texts are tokenized docstrings of the installed packages. gensim's command
splits them at white space, ours tokenizes them again, as it does with any text.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.reporting import print_json, print_table
from jobs.config.settings import DataSettings
from jobs.datasets import docstrings
from jobs.datasets.tokenizer import tokenize


def main() -> None:
    """Write the texts, measure both commands, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 million words, 1 epoch, one run")
    parser.add_argument("--words", type=int, help="of the texts (default: 10,000,000)")
    parser.add_argument("--runs", type=int, help="of each side (default: 3)")
    options = parser.parse_args()
    num_words = options.words or (1_000_000 if options.quick else 10_000_000)
    epochs, runs = (1, 1) if options.quick else (5, 3)
    runs = options.runs or runs
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder, "texts.txt")
        words = write_corpus(texts, num_words)
        print(f"{words:,} words, {epochs} epochs, {threads} threads")
        python = [sys.executable, "-m"]
        commands = {
            "this project": [*python, "jobs", "vectors", "train", str(texts), "--out", f"{folder}/ours.bin",
                             "--force", f"vectors.epochs={epochs}", "vectors.min_count=5", "vectors.sample=0.001"],
            "gensim": [*python, "gensim.scripts.word2vec_standalone", "-train", str(texts), "-output",
                       f"{folder}/gensims.bin", "-binary", "1", "-cbow", "0", "-size", "100", "-window", "5",
                       "-negative", "5", "-sample", "0.001", "-min_count", "5", "-iter", str(epochs),
                       "-threads", str(threads)],
        }  # fmt: skip
        measured: dict[str, list[float]] = {side: [] for side in commands}
        for run in range(runs):
            for side, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                measured[side].append(time.perf_counter() - start)
                print(f"run {run + 1}, {side}: {measured[side][-1]:.1f} s", flush=True)
    rows = [
        {"side": side, "seconds": (median := statistics.median(seconds)), "words a second": epochs * words / median}
        for side, seconds in measured.items()
    ]
    ratio = statistics.median(
        theirs / ours for ours, theirs in zip(measured["this project"], measured["gensim"], strict=True)
    )
    print_table("Training word2vec, the whole command (median)", rows)
    print(f"\nthis project is {ratio:.2f} times as fast as gensim's command (median of {runs})")
    settings = {"words": words, "epochs": epochs, "threads": threads, "runs": runs}
    print_json("pretraining", settings, {"training": rows, "ratio": [{"speed": ratio}]})


def write_corpus(path: Path, num_words: int) -> int:
    """Write tokenized docstrings, one per line and repeatedly until there are enough words; return their number."""
    files = [file for package in DataSettings().packages for file in docstrings.find_source_files(package)]
    lines = [" ".join(tokenize(text)) for text in docstrings.read_docstrings(files)]
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        while written < num_words:
            for line in lines:
                stream.write(line + "\n")
                written += line.count(" ") + 1
                if written >= num_words:
                    break
    return written


if __name__ == "__main__":
    main()
