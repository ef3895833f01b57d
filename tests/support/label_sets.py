"""Rows with several labels each."""

import json
import random
from pathlib import Path

WORDS = {
    "sound": ["music", "loud", "song"],
    "sight": ["picture", "bright", "colour"],
    "price": ["cheap", "costs", "euro"],
}
FILLER = ["the", "it", "was", "a", "very", "thing"]


def make_label_set_rows(count: int, seed: int = 0) -> list[tuple[tuple[str, ...], str]]:
    """Return (labels, text) rows, a quarter of them without a label; each label has a word of its own in the text."""
    choose = random.Random(seed)
    rows = []
    for number in range(count):
        labels = sorted(choose.sample(sorted(WORDS), number % 4 if number % 4 < 3 else 1))
        words = [choose.choice(WORDS[label]) for label in labels] + choose.choices(FILLER, k=3)
        choose.shuffle(words)
        rows.append((tuple(labels), " ".join(words)))
    return rows


def write_label_sets(path: Path, rows: list[tuple[tuple[str, ...], str]]) -> Path:
    """Write rows as jsonl with a list of labels; return the path."""
    path.write_text("".join(json.dumps({"text": text, "label": labels}) + "\n" for labels, text in rows))
    return path
