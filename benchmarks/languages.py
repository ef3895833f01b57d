"""Accuracy in four languages with each built-in tokenizer: descriptions of Debian's packages, classified by section.

    python benchmarks/languages.py --folder debian      # downloads 20 MB with apt once; then about ten minutes
    python benchmarks/languages.py --quick              # generated texts without spaces, no network

The texts are the translated descriptions of the packages in German, Japanese, Chinese and Russian, cut after 200
characters. apt downloads them from the machine's own sources into the folder; its configuration stays as it is. Classes
are the sections with at least 20 descriptions. A source has at most three packages, all in one part: 70 % of the
sources are for training (at most 4,000 descriptions), 15 % for validation, 15 % for test. Word vectors are trained with
`vectors train` on the complete descriptions of the training part. Training takes up to 30 epochs; all other settings
are defaults. The table has means over the seeds, and the share of the largest class. The validation part chooses
between single characters and pairs.
"""

import argparse
import hashlib
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.datasets.readers import Split
from jobs.embeddings.pretraining import train_word2vec_on_files
from jobs.estimator.training import train_dataset
from jobs.inference.classifier import Classifier

LANGUAGES = {"German": "de", "Russian": "ru", "Japanese": "ja", "Chinese": "zh_CN"}
TOKENIZERS = ("words", "unicode", "unicode-pairs")
MIN_ROWS = 20  # of a section
MAX_CHARACTERS = 200  # of a text
MAX_TRAINING_ROWS = 4000  # of a language
MAX_SOURCE_ROWS = 3  # of a source; some have over a hundred packages with nearly the same description
EPOCHS = 30  # the sets are small
PARTS = {"train": 70, "validation": 85, "test": 100}  # percent of the sources, cumulated
APT_HELPER = "/usr/lib/apt/apt-helper"
DOWNLOAD_SECONDS = 600
LabelledText = tuple[str, str, str]  # label, description, source


def main() -> None:
    """Prepare the data, train all sides, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="generated texts, one seed, small networks")
    parser.add_argument("--folder", type=Path, help="folder of the downloaded data (default: a temporary one)")
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, help="(default: all)")
    parser.add_argument("--seeds", type=int, default=2, help="(default: %(default)s)")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            names, seeds = ["generated"], 1
            folder = Path(scratch, "data")
            _write_parts(folder / "generated", list(_generate_rows()))
        else:
            names, seeds = options.languages or list(LANGUAGES), options.seeds
            folder = options.folder or Path(scratch, "data")
            prepare(folder, names)
        table = [
            _measure(folder / name, tokenizer, seeds, Path(scratch), quick=options.quick)
            for name in names
            for tokenizer in TOKENIZERS
        ]
    print_table("Sections of Debian's packages, accuracy in %, means over the seeds", table)
    choices = [_choose(name, table) for name in names]
    print_table("Single characters or pairs, chosen on validation rows", choices)
    tables = {"accuracy": table, "choices": choices}
    print_json("languages", {"seeds": seeds, "seconds": time.perf_counter() - start}, tables)


def _measure(folder: Path, tokenizer: str, seeds: int, scratch: Path, *, quick: bool) -> Row:
    """Return the accuracy of a tokenizer in a language, trained with each seed."""
    validation, test, unknown = [], [], []
    for seed in range(seeds):
        experiment = make_experiment(folder, tokenizer, seed, scratch, quick=quick)
        vectors = scratch / f"{folder.name}-{tokenizer}-{seed}.bin"
        train_word2vec_on_files([str(folder / "texts.jsonl")], str(vectors), experiment, threads=1)
        experiment = experiment.replace({"vectors.path": str(vectors)})
        dataset = load_dataset(experiment)
        checkpoint = train_dataset(experiment, dataset).checkpoint
        classifier = Classifier(checkpoint, table_dtype="float32", share_table=False)
        validation.append(_measure_accuracy(classifier, dataset.validation))
        test.append(_measure_accuracy(classifier, dataset.test))
        result = classifier.score_texts(dataset.test.texts)
        unknown.append(result.num_unknown / max(1, result.num_tokens))
        print(f"{folder.name:9} {tokenizer:14} seed {seed}  {validation[-1]:.2f}  {test[-1]:.2f}", flush=True)
    return {
        "language": folder.name,
        "tokenizer": tokenizer,
        "rows": len(dataset.train),
        "classes": len(dataset.labels),
        "tokens a text": round(result.num_tokens / len(dataset.test), 1),
        "largest class": round(100 * max(Counter(dataset.test.labels).values()) / len(dataset.test), 1),
        "unknown": round(100 * statistics.mean(unknown), 1),
        "validation": round(statistics.mean(validation), 2),
        "test": round(statistics.mean(test), 2),
        "validation, each seed": " ".join(f"{value:.2f}" for value in validation),
        "test, each seed": " ".join(f"{value:.2f}" for value in test),
    }


def _measure_accuracy(classifier: Classifier, part: Split) -> float:
    return 100 * float(np.mean(np.array(classifier.predict(part.texts)) == np.array(part.labels)))


def make_experiment(folder: Path, tokenizer: str, seed: int, storage: Path, *, quick: bool) -> Experiment:
    settings = {
        "name": folder.name,
        "seed": seed,
        "storage": str(storage),
        "data.folder": str(folder),
        **{f"data.{part}": f"{part}.jsonl" for part in PARTS},
        "text.tokenizer": tokenizer,
        "train.epochs": EPOCHS,
    }
    if quick:
        settings |= {"train.epochs": 3, "model.feature_maps": 20, "vectors.dimensions": 20, "vectors.epochs": 2}
    return Experiment().replace(settings)


def _choose(name: str, table: list[Row]) -> Row:
    """Return the row of the better of single characters and pairs on the validation part."""
    sides = {row["tokenizer"]: row for row in table if row["language"] == name}
    best = max(TOKENIZERS[1:], key=lambda tokenizer: sides[tokenizer]["validation"])
    test = sides[best]["test"]
    return {"language": name, "chosen": best, "test": test, "gain over words": round(test - sides["words"]["test"], 2)}


def prepare(folder: Path, names: list[str]) -> None:
    """Write the parts of the languages that are not in the folder; exit without network or apt."""
    missing = [name for name in names if not (folder / name).exists()]
    if not missing:
        return
    lists = folder / "apt" / "lists"
    try:
        _download(folder / "apt", [LANGUAGES[name] for name in missing])
        sections = dict(_read_sections(lists))
        for name in missing:
            _write_parts(folder / name, list(_read_rows(lists, LANGUAGES[name], sections)))
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(
            f"the descriptions of Debian's packages cannot be downloaded with apt, so nothing is measured: {error}"
        )


def _download(folder: Path, languages: list[str]) -> None:
    """Download the package lists and translations of the machine's own sources into a folder."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State": folder, "Dir::State::lists": folder / "lists", "Dir::State::status": "/dev/null",
        "Dir::Cache": folder / "cache", "Acquire::Languages": ",".join(languages),
    }  # fmt: skip
    command = ["apt-get", "update", *(f"-o{key}={value}" for key, value in options.items())]
    subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)


def _read_paragraphs(path: Path) -> list[str]:
    """Return the paragraphs of a list, which apt may have compressed."""
    command = [APT_HELPER, "cat-file", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS).stdout
    return text.strip().split("\n\n")


def _read_sections(lists: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the section and the source of each package."""
    for path in sorted(lists.glob("*_main_binary-*_Packages*")):
        for paragraph in _read_paragraphs(path):
            fields = dict(re.findall(r"^(Package|Section|Source): (\S+)", paragraph, re.MULTILINE))
            if "Section" in fields:
                yield fields["Package"], (fields["Section"], fields.get("Source", fields["Package"]))


def _read_rows(lists: Path, language: str, sections: dict[str, tuple[str, str]]) -> Iterator[LabelledText]:
    """Yield the section, the description and the source of each package with a translation."""
    paths = sorted(lists.glob(f"*_main_i18n_Translation-{language.replace('_', '%5f')}*"))
    if not paths:
        raise FileNotFoundError(f"no translations into {language} in {lists}")
    known = set()
    for path in paths:
        for paragraph in _read_paragraphs(path):
            match = re.search(rf"^Package: (\S+)\n.*^Description-{language}: (.*)", paragraph, re.DOTALL | re.MULTILINE)
            if match and match[1] in sections and match[1] not in known:
                known.add(match[1])
                section, source = sections[match[1]]
                lines = [line.strip() for line in match[2].split("\n")]
                yield section, " ".join(line for line in lines if line != "."), source


def _write_parts(folder: Path, rows: list[LabelledText]) -> None:
    """Write the rows of frequent labels into three parts, and the complete training texts, completely or not at all."""
    random.Random(0).shuffle(rows)
    sources: Counter[str] = Counter()
    selected = []
    for row in rows:
        sources[row[2]] += 1
        if sources[row[2]] <= MAX_SOURCE_ROWS:
            selected.append(row)
    counts = Counter(label for label, _, _ in selected)
    parts: dict[str, list[LabelledText]] = {part: [] for part in PARTS}
    for row in selected:
        number = int(hashlib.sha256(row[2].encode()).hexdigest(), 16) % 100
        part = next(part for part, end in PARTS.items() if number < end)
        if counts[row[0]] >= MIN_ROWS and (part != "train" or len(parts[part]) < MAX_TRAINING_ROWS):
            parts[part].append(row)
    files = {
        part: [{"label": label, "text": text[:MAX_CHARACTERS]} for label, text, _ in own] for part, own in parts.items()
    }
    files["texts"] = [{"text": text} for _, text, _ in parts["train"]]
    scratch = folder.with_suffix(".part")
    scratch.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (scratch / f"{name}.jsonl").write_text(content, encoding="utf-8")
    scratch.rename(folder)


def _generate_rows() -> Iterator[LabelledText]:
    """Yield texts of three classes in ideographs without spaces; a class has words of its own."""
    generator = random.Random(0)
    letters = [chr(code) for code in range(0x4E00, 0x4E40)]
    words = ["".join(generator.sample(letters, 2)) for _ in range(40)]
    for number in range(450):
        label = number % 3
        own = words[10 * label : 10 * label + 10]
        text = "".join(generator.choice(own if generator.random() < 0.4 else words[30:]) for _ in range(8))
        yield f"class{label}", text + "。", str(number)


if __name__ == "__main__":
    main()
