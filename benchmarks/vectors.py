"""Reading the vectors of a vocabulary out of a large word2vec file: this project beside gensim.

    python benchmarks/vectors.py            # 3,000,000 x 300, 3.6 GB, as large as the Google News vectors
    python benchmarks/vectors.py --quick    # 200,000 x 300

A file is generated, and each side reads it in a process of its own, one after the other, the file in the
page cache for both. Seconds are from the start of reading, memory is the process's peak, libraries included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.reporting import print_json, print_table

DIMENSIONS = 300
BLOCK_WORDS = 10_000  # rows that are written at a time


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200,000 words, once")
    parser.add_argument("--words", type=int, help="of the file (default: 3,000,000)")
    parser.add_argument("--vocabulary", type=int, default=20_000, help="words that are wanted (default: 20,000)")
    parser.add_argument("--runs", type=int, help="of each side (default: 3)")
    parser.add_argument("--folder", help="for the file (default: a temporary one)")
    parser.add_argument("--read", nargs=3, metavar=("SIDE", "FILE", "WANTED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        measure_read(*options.read)
        return
    num_words = options.words or (200_000 if options.quick else 3_000_000)
    runs = options.runs or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "vectors.bin")
        wanted = Path(folder, "wanted.txt")
        generate_vectors(path, wanted, num_words, options.vocabulary)
        size = path.stat().st_size
        print(f"{num_words:,} words x {DIMENSIONS} dimensions, {size / 1e9:.2f} GB; {options.vocabulary:,} are wanted")
        measured: dict[str, list[dict]] = {"this project": [], "gensim": []}
        for run in range(runs):
            for side, results in measured.items():
                command = [sys.executable, __file__, "--read", side, str(path), str(wanted)]
                results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                print(f"run {run + 1}, {side}: {results[-1]['seconds']:.1f} s, {results[-1]['peak MB']:,.0f} MB")
    rows = [
        {"side": side, "seconds": statistics.median(each["seconds"] for each in results),
         "peak MB": max(each["peak MB"] for each in results)}
        for side, results in measured.items()
    ]  # fmt: skip
    ratio = statistics.median(
        ours["seconds"] / theirs["seconds"]
        for ours, theirs in zip(measured["this project"], measured["gensim"], strict=True)
    )
    print_table("Reading a vocabulary's vectors (seconds: median)", rows)
    print(f"\nthis project takes {ratio:.2f} of gensim's time (median of {runs})")
    settings = {"words": num_words, "dimensions": DIMENSIONS, "vocabulary": options.vocabulary, "runs": runs}
    print_json("vectors", settings, {"reading": rows, "ratio": [{"seconds": ratio}]})


def generate_vectors(path: Path, wanted: Path, num_words: int, vocabulary: int) -> None:
    """Write a word2vec binary file, and a file of the words that are wanted of it, one a line."""
    generator = np.random.default_rng(0)
    with path.open("wb") as stream:
        stream.write(f"{num_words} {DIMENSIONS}\n".encode())
        for start in range(0, num_words, BLOCK_WORDS):
            matrix = generator.random((min(BLOCK_WORDS, num_words - start), DIMENSIONS), np.float32) - np.float32(0.5)
            for number, row in enumerate(matrix, start):
                stream.write(f"{_word(number)} ".encode() + row.tobytes())
    chosen = generator.choice(num_words, min(vocabulary, num_words), replace=False)
    wanted.write_text("".join(f"{_word(number)}\n" for number in chosen))


def measure_read(side: str, path: str, wanted: str) -> None:
    """Read the file as one side does and print seconds and peak memory."""
    words = set(Path(wanted).read_text().split())
    if side == "gensim":
        from gensim.models import KeyedVectors

        start = time.perf_counter()
        vectors = KeyedVectors.load_word2vec_format(path, binary=True)
        matrix = np.stack([vectors[word] for word in words])
    else:
        from jobs.config.settings import VectorSettings
        from jobs.embeddings import vector_files as vectors

        start = time.perf_counter()
        settings = VectorSettings(path=path, extra_words=0)
        matrix = vectors.read_vectors(settings, words, None).matrix
    seconds = time.perf_counter() - start
    assert matrix.shape == (len(words), DIMENSIONS)
    print(json.dumps({"seconds": seconds, "peak MB": read_peak_megabytes()}))


def read_peak_megabytes() -> float:
    """Return the most memory that this process has held, as the kernel counts it (VmHWM)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def _word(number: int) -> str:
    return f"{'aeiou'[number % 5]}{number:x}"


if __name__ == "__main__":
    main()
