"""Reading a vocabulary's vectors from a large word2vec file, compared with gensim.

    python benchmarks/vectors.py            # 3,000,000 x 300, 3.6 GB, as large as the Google News vectors
    python benchmarks/vectors.py --quick    # 200,000 x 300

The file is generated. Each side reads it in a new process, one after the other, from the page cache. Seconds are
measured from the start of reading; memory is the peak of the process, libraries included.
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

from benchmarks.reporting import Row, print_json, print_table

DIMENSIONS = 300
BLOCK_WORDS = 10_000  # written at a time


def main() -> None:
    """Generate the file, measure both sides, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200,000 words, one run")
    parser.add_argument("--words", type=int, help="of the file (default: 3,000,000)")
    parser.add_argument("--vocabulary", type=int, default=20_000, help="words to read (default: %(default)s)")
    parser.add_argument("--runs", type=int, help="of each side (default: 3)")
    parser.add_argument("--folder", help="for the file (default: a temporary one)")
    parser.add_argument("--read", nargs=3, metavar=("SIDE", "FILE", "WORDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        measure_read(*options.read)
        return
    num_words = options.words or (200_000 if options.quick else 3_000_000)
    runs = options.runs or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, vocabulary = Path(folder, "vectors.bin"), Path(folder, "vocabulary.txt")
        generate_vectors(path, vocabulary, num_words, options.vocabulary)
        gigabytes = path.stat().st_size / 1e9
        print(f"{num_words:,} words x {DIMENSIONS} dimensions, {gigabytes:.2f} GB; {options.vocabulary:,} are read")
        measured: dict[str, list[Row]] = {"this project": [], "gensim": []}
        for run in range(runs):
            for side, results in measured.items():
                command = [sys.executable, __file__, "--read", side, str(path), str(vocabulary)]
                results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                print(f"run {run + 1}, {side}: {results[-1]['seconds']:.1f} s, {results[-1]['peak MB']:,.0f} MB")
    rows = [
        {"side": side, "seconds": statistics.median(result["seconds"] for result in results),
         "peak MB": max(result["peak MB"] for result in results)}
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


def generate_vectors(path: Path, vocabulary: Path, num_words: int, vocabulary_size: int) -> None:
    """Write a word2vec binary file, and a text file with some of its words, one per line."""
    generator = np.random.default_rng(0)
    with path.open("wb") as stream:
        stream.write(f"{num_words} {DIMENSIONS}\n".encode())
        for start in range(0, num_words, BLOCK_WORDS):
            matrix = generator.random((min(BLOCK_WORDS, num_words - start), DIMENSIONS), np.float32) - np.float32(0.5)
            for number, row in enumerate(matrix, start):
                stream.write(f"{_word(number)} ".encode() + row.tobytes())
    numbers = generator.choice(num_words, min(vocabulary_size, num_words), replace=False)
    vocabulary.write_text("".join(f"{_word(number)}\n" for number in numbers))


def measure_read(side: str, path: str, vocabulary: str) -> None:
    """Read the file as one side does, and print seconds and peak memory as JSON."""
    words = set(Path(vocabulary).read_text().split())
    if side == "gensim":
        from gensim.models import KeyedVectors

        start = time.perf_counter()
        vectors = KeyedVectors.load_word2vec_format(path, binary=True)
        matrix = np.stack([vectors[word] for word in words])
    else:
        from jobs.config.settings import VectorSettings
        from jobs.embeddings.vector_files import read_vectors

        start = time.perf_counter()
        matrix = read_vectors(VectorSettings(path=path, extra_words=0), words, None).matrix
    seconds = time.perf_counter() - start
    assert matrix.shape == (len(words), DIMENSIONS)
    print(json.dumps({"seconds": seconds, "peak MB": read_peak_megabytes()}))


def read_peak_megabytes() -> float:
    """Return the peak memory of this process (VmHWM) in MB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def _word(number: int) -> str:
    return f"{'aeiou'[number % 5]}{number:x}"


if __name__ == "__main__":
    main()
