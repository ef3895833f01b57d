"""Complete commands: from a file of labelled texts on disk to a model on disk, and from texts to predictions on disk.

It also measures how long commands that need Ray take to start (`benchmarks/start_times.py`).

    pip install fasttext-wheel               # the extra `bench`; without it fastText is skipped
    python benchmarks/commands.py            # tickets and TREC, five rounds, 50,000 rows of MR, and start-up times
    python benchmarks/commands.py --quick    # tickets and 2,000 rows, one round, start-up times without plain Ray
    python benchmarks/commands.py --only starts

Each side is a new process, and the sides take turns. Seconds are those of the whole process, imports and exit included.
This project trains with default settings and the vectors file. The alternatives:

    hand-written script   the usual one: gensim reads the vectors file; Conv1d, dense Adam and padded batches; as many
                          epochs of batches of the same size, on the same number of threads; torch.save
    TF-IDF, linear SVC    scikit-learn, words and bigrams; joblib
    fastText              25 epochs at a learning rate of 0.5, one thread
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import add_data_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from benchmarks.start_times import PLAIN, PROJECT, measure_start_times
from cluster.package import REPOSITORY

SCRIPT, SVC, FASTTEXT = "hand-written script", "TF-IDF, linear SVC", "fastText"
ALTERNATIVES = (SCRIPT, SVC, FASTTEXT)
TIMEOUT_S = 600
TITLES = {
    "training": "From labelled texts to a model, complete processes (median)",
    "prediction": "From texts to predictions, complete process (median)",
    "starts": "From the start of a process to its work (median)",
}
PARTS = tuple(TITLES)


def main() -> None:
    """Measure the sides in turn, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tickets and 2,000 rows to predict, one round")
    add_data_options(parser)
    parser.add_argument("--rounds", type=int, help="(default: 5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--sets", nargs="+", choices=("tickets", "trec"), help="(default: both)")
    parser.add_argument("--rows", type=int, help="of MR, repeated, to predict (default: 50,000)")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "SET", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        train_alternative(options)
        return
    options.vectors = require_vectors(options)
    rounds = options.rounds or (1 if options.quick else 5)
    rows = options.rows or (2_000 if options.quick else 50_000)
    sets = options.sets or (["tickets"] if options.quick else ["tickets", "trec"])
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = folder / f"{sets[0]}-0-0" / sets[0]
        if "training" in options.only:
            tables["training"] = [row for name in sets for row in measure_training(name, options, folder, rounds)]
        else:
            time_command(build_training_command(PROJECT, sets[0], options, checkpoint.parent))
        if "prediction" in options.only:
            tables["prediction"] = measure_prediction(options.data, folder, checkpoint, rows, rounds)
        if "starts" in options.only:
            sides = (PROJECT,) if options.quick else (PROJECT, PLAIN)
            tables["starts"] = measure_start_times(folder, options.vectors, checkpoint, rounds, sides)
    for name, table in tables.items():
        print_table(TITLES[name], table)
    print_json("commands", {"rounds": rounds, "rows": rows}, tables)


def measure_training(name: str, options: argparse.Namespace, folder: Path, rounds: int) -> list[Row]:
    """Return the median seconds of each side's training."""
    sides = [PROJECT, *(side for side in ALTERNATIVES if side != FASTTEXT or find_spec("fasttext"))]
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            target = folder / f"{name}-{number}-{sides.index(side)}"
            seconds[side].append(time_command(build_training_command(side, name, options, target)))
            print(f"{name}, round {number + 1}, {side}: {seconds[side][-1]:.1f} s", flush=True)
    return [{"set": name, "side": side, "seconds": statistics.median(values)} for side, values in seconds.items()]


def build_training_command(side: str, name: str, options: argparse.Namespace, target: Path) -> list[str]:
    """Return the command that trains a side on a data set and writes the model to a new path."""
    if side != PROJECT:
        paths = ["--data", str(options.data), "--vectors", options.vectors]
        return [sys.executable, __file__, *paths, "--side", side, name, str(target)]
    settings = [f"vectors.path={options.vectors}", f"storage={target}"]
    if name != "tickets":
        settings.append(f"data.folder={options.data / name}")
    return [sys.executable, "-m", "finetune_cnn", "train", f"experiments/{name}.yaml", *settings]


def measure_prediction(data: Path, folder: Path, checkpoint: Path, num_rows: int, rounds: int) -> list[Row]:
    """Return the median seconds of labelling rows of MR, from a tsv file to a jsonl file."""
    lines = (data / "mr" / "all.tsv").read_text(encoding="utf-8").splitlines()
    header, rows = lines[0], lines[1:]
    texts = folder / "texts.tsv"
    chosen = (rows[number % len(rows)] for number in range(num_rows))
    texts.write_text("\n".join([header, *chosen]) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "finetune_cnn", "predict", str(checkpoint), str(texts), "--text-column", "text"]
    seconds = []
    for number in range(rounds):
        seconds.append(time_command([*command, "--out", str(folder / f"out-{number}.jsonl")]))
        print(f"predict, round {number + 1}: {seconds[-1]:.1f} s", flush=True)
    median = statistics.median(seconds)
    return [{"side": PROJECT, "rows": num_rows, "seconds": median, "rows a second": num_rows / median}]


def time_command(command: list[str]) -> float:
    """Return the seconds that a command takes; exit with its output if it fails."""
    start = time.perf_counter()
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return time.perf_counter() - start


def train_alternative(options: argparse.Namespace) -> None:
    """Train an alternative in this process, and write its model."""
    import csv

    side, name, target = options.side
    path, delimiter = options.data / name / "train.tsv", "\t"
    columns = ["text", "label"]
    if name == "tickets":
        path, delimiter, columns = REPOSITORY / "experiments" / "tickets.csv", ",", ["message", "queue"]
    with path.open(encoding="utf-8", newline="") as stream:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        rows = list(csv.DictReader(stream, delimiter=delimiter, quoting=quoting))
    texts, labels = ([row[column] for row in rows] for column in columns)
    if side == SCRIPT:
        from benchmarks.usual_script import train_and_save

        small = name == "tickets"  # the settings of experiments/tickets.yaml
        train_and_save(
            texts, labels, options.vectors, target, batch_size=8 if small else 50, epochs=30 if small else 10
        )
    elif side == SVC:
        import joblib
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVC

        joblib.dump(make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LinearSVC()).fit(texts, labels), target)
    else:
        import fasttext

        lines = (
            f"__label__{label} {' '.join(text.lower().split())}\n" for text, label in zip(texts, labels, strict=True)
        )
        Path(f"{target}.txt").write_text("".join(lines), encoding="utf-8")
        fasttext.train_supervised(f"{target}.txt", epoch=25, lr=0.5, thread=1, verbose=0).save_model(target)


if __name__ == "__main__":
    main()
