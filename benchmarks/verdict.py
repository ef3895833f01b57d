"""How often a search's verdict on fine-tuning is wrong, and how often it finds a true difference, by simulation.

    python benchmarks/verdict.py            # about five minutes
    python benchmarks/verdict.py --quick    # fewer searches of fewer sizes

Each simulated search trains some trials of `static` and of one or two kinds that fine-tune the vectors, chooses the
best settings of each kind on the validation rows, and repeats them with other seeds on the same rows. The best of the
tuned kinds is compared with `static`, as `finetune-cnn tune` does. A row is correct if a normal variable is below a
threshold. The variable is the sum of the difficulty of the row for all classifiers and of its difficulty for a kind,
for settings, and for a training; each training also has a general deviation. Settings are equally good, the worst case
for a choice among them. `pays` and `does not pay` are the verdicts, in % of the searches; `pays, unpaired` is that of
two independent proportions with Student's t of the seeds, the verdict without predictions of the rows; there is none
for micro F1.

For micro F1 a row has several labels, or none. Each label of a row has a variable of its own, of which half of the
difficulty for all classifiers is that of the row; the label is assigned wrongly, or missing, if it is not below the
threshold.
"""

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.reporting import Row, print_json, print_table
from jobs.evaluation.multi_label.metrics import encode_row_counts
from jobs.search.results.analysis import compute_row_margin, compute_seed_margin
from jobs.search.results.verdict import KindRows, compare_kinds, compute_row_values

ACCURACY = 0.85
# Variances of the parts of a row's variable, which add up to 1.
PARTS = {"row": 0.90, "kind": 0.02, "settings": 0.03, "training": 0.05}
SETTINGS_MATTER = {"row": 0.88, "kind": 0.02, "settings": 0.08, "training": 0.02}
CLASS_SHARES = np.array([0.5, 0.25, 0.15, 0.07, 0.03])  # for macro F1, and of the rows with each label for micro F1
SEED_DEVIATION = 0.02  # of the threshold: about half a point of accuracy
NUM_DRAWS = 1_000_000  # rows by which trainings are compared
DIFFERENCES = (0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Scenario:
    """Size of the simulated searches. trials: of `static`, then of each tuned kind. difference: true gain."""

    rows: int = 1000
    seeds: int = 5
    trials: tuple[int, ...] = (16, 16, 16)
    difference: float = 0.0
    settings_matter: bool = False
    deviation: float = SEED_DEVIATION
    metric: str = "accuracy"


def simulate(scenario: Scenario, generator: np.random.Generator) -> tuple[str, bool]:
    """Return the verdict of a search, and whether an unpaired test says that fine-tuning pays."""
    parts = SETTINGS_MATTER if scenario.settings_matter else PARTS
    scale = {name: np.float32(variance**0.5) for name, variance in parts.items()}
    rows = scenario.rows
    is_multi_label = scenario.metric == "micro_f1"
    labels, wrong = draw_label_sets(rows, generator) if is_multi_label else draw_classes(rows, generator)

    def train(difficulty: np.ndarray, threshold: float) -> np.ndarray:
        noise = scale["training"] * generator.standard_normal(difficulty.shape, np.float32)
        shape = (len(difficulty), *[1] * labels.ndim)
        deviation = scenario.deviation * generator.standard_normal(shape, np.float32)
        correct = difficulty + noise < threshold + deviation
        if scenario.metric == "accuracy":
            return correct.astype(float)
        predictions = np.where(correct, labels, wrong)
        if is_multi_label:
            predictions = np.array([encode_row_counts(labels, predicted) for predicted in predictions])
        return np.array([compute_row_values(scenario.metric, labels, predicted) for predicted in predictions])

    base = generator.standard_normal(labels.shape, np.float32)
    if is_multi_label:
        base = (base + generator.standard_normal((rows, 1), np.float32)) / np.float32(2**0.5)
    base *= scale["row"]
    kinds = []
    for number, trials in enumerate(scenario.trials):
        threshold = statistics.NormalDist().inv_cdf(ACCURACY + (scenario.difference if number else 0))
        own = base + scale["kind"] * generator.standard_normal(labels.shape, np.float32)
        settings = own + scale["settings"] * generator.standard_normal((trials, *labels.shape), np.float32)
        searched = train(settings, threshold)
        best = settings[searched.mean(axis=1).argmax()]
        kinds.append(KindRows(searched, train(np.repeat(best[None], scenario.seeds, axis=0), threshold)))
    static, *tuned = kinds
    chosen = max(tuned, key=lambda kind: float(kind.repeated.mean()))
    class_sizes = [rows] if is_multi_label else [int(size) for size in np.bincount(labels) if size]
    gain = compare_kinds(chosen, static, class_sizes if scenario.metric == "macro_f1" else [rows], len(tuned))
    verdict = "pays" if gain.low > 0 else "does not pay" if gain.high < 0 else "cannot tell"
    return verdict, gain.mean > _unpaired_margin(scenario.metric, chosen.repeated, static.repeated, class_sizes)


def draw_classes(rows: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a class for each row, and another one, `(rows,)` int64 each."""
    labels = generator.choice(len(CLASS_SHARES), rows, p=CLASS_SHARES)
    return labels, (labels + generator.integers(1, len(CLASS_SHARES), rows)) % len(CLASS_SHARES)


def draw_label_sets(rows: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return which labels each row has, and which it has not, `(rows, labels)` of 0 and 1."""
    labels = (generator.random((rows, len(CLASS_SHARES))) < CLASS_SHARES).astype(np.int64)
    return labels, 1 - labels


def _unpaired_margin(metric: str, first: np.ndarray, second: np.ndarray, class_sizes: list[int]) -> float:
    """Return the margin of the verdict without predictions of the rows; infinite for a metric without one."""
    row_margin = compute_row_margin(metric, float(first.mean()), float(second.mean()), class_sizes)
    if row_margin is None:
        return math.inf
    return math.hypot(compute_seed_margin((first - second).mean(axis=1).tolist()), row_margin)


def list_null_scenarios() -> list[Scenario]:
    """Return searches without a true difference."""
    usual = Scenario()
    return [
        *(replace(usual, rows=rows) for rows in (50, 200, 1000, 5000)),
        *(replace(usual, seeds=seeds) for seeds in (3, 10)),
        *(replace(usual, trials=trials) for trials in ((1, 1), (16, 16), (64, 64, 64), (4, 64, 64), (64, 4, 4))),
        *(replace(usual, settings_matter=True, trials=trials) for trials in ((16, 16, 16), (4, 64, 64))),
        *(replace(usual, metric=metric, rows=rows) for metric in ("macro_f1", "micro_f1") for rows in (200, 1000)),
        *(replace(usual, deviation=deviation, seeds=seeds) for deviation in (0.0, 0.1) for seeds in (3, 5)),
    ]


def list_power_scenarios() -> list[Scenario]:
    """Return searches in which fine-tuning is truly better."""
    sizes = [(200, 5), (1000, 3), (1000, 5), (1000, 10), (5000, 5)]
    return [Scenario(rows, seeds, difference=gain) for gain in DIFFERENCES for rows, seeds in sizes]


def measure_disagreement(name: str, parts: dict[str, float]) -> Row:
    """Return the shares of the rows that one of two trainings predicts correctly, in %."""
    generator = np.random.default_rng(0)
    row, first_kind, second_kind, first, second, third, *noise = (
        parts[part] ** 0.5 * generator.standard_normal(NUM_DRAWS)
        for part in ("row", "kind", "kind", *["settings"] * 3, *["training"] * 4)
    )
    threshold = statistics.NormalDist().inv_cdf(ACCURACY)
    difficulties = (first_kind + first, first_kind + first, first_kind + second, second_kind + third)
    correct = [row + own + part < threshold for own, part in zip(difficulties, noise, strict=True)]
    sides = ("the same settings", "other settings", "another kind")
    return {"parts": name} | {
        side: 100 * float(np.mean(correct[0] != other)) for side, other in zip(sides, correct[1:], strict=True)
    }


def measure(scenario: Scenario, searches: int) -> Row:
    """Return the shares of the verdicts in some searches, in %."""
    generator = np.random.default_rng(0)
    verdicts, unpaired = zip(*(simulate(scenario, generator) for _ in range(searches)), strict=True)
    shares = {name: 100 * verdicts.count(name) / searches for name in ("pays", "does not pay", "cannot tell")}
    return {
        "metric": scenario.metric,
        "rows": scenario.rows,
        "seeds": scenario.seeds,
        "trials": " + ".join(map(str, scenario.trials)),
        "settings matter": "yes" if scenario.settings_matter else "no",
        "deviation": scenario.deviation,
        "true gain, points": 100 * scenario.difference,
        **shares,
        "pays, unpaired": 100 * sum(unpaired) / searches,
    }


def main() -> None:
    """Simulate searches and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer searches of fewer sizes")
    parser.add_argument("--searches", type=int, help="of each size (default: 1000)")
    options = parser.parse_args()
    searches = options.searches or (200 if options.quick else 1000)
    null, power = list_null_scenarios(), list_power_scenarios()
    if options.quick:
        null, power = [null[1], null[2]], [power[2], power[12]]
    start = time.perf_counter()
    disagreement = [
        measure_disagreement("usual", PARTS),
        measure_disagreement("settings matter", SETTINGS_MATTER),
    ]
    print_table("Rows that one of two trainings predicts correctly, %: a training and one of ...", disagreement)
    tables = {"disagreement": disagreement}
    for name, scenarios in (("no difference", null), ("fine-tuning is better", power)):
        tables[name] = [measure(scenario, searches) for scenario in scenarios]
        print_table(f"Verdicts in % of {searches:,} searches: {name}", tables[name])
    print_json("verdict", {"searches": searches, "seconds": time.perf_counter() - start}, tables)


if __name__ == "__main__":
    main()
