"""Training speed, beside the usual hand-written loop: texts padded to the longest of their batch, Conv1d, dense Adam.

    python benchmarks/training.py                  # a few minutes, one thread
    python benchmarks/training.py --quick
    python benchmarks/training.py --device cuda    # needs torch and numpy, nothing else

The network and the settings are Kim's: 300 dimensions, widths 3, 4 and 5 with 100 maps each, dropout 0.5, batches
of 50. Texts are those of MR and IMDB where they lie beside the checkout, else drawn with the same lengths. The two
sides take turns, and what is given is the median over the turns. `in products` is the share of this project's time
that goes into the matrix product of words and filters, without which there is no convolution.
"""

import argparse
import functools
import gzip
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.figures import finish, show
from jobs import convolution
from jobs.batches import order
from jobs.group import Group
from jobs.loop import Loop
from jobs.network import Network
from jobs.text import Tokens, Vocabulary, encode, frequent_words, tokenize

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"mr": ("mr/all.tsv", 21, 20_000), "imdb": ("imdb/train.tsv.gz", 234, 80_000)}
DIMENSIONS, WIDTHS, MAPS = 300, [3, 4, 5], 100


class Part:
    """Texts with labels, as the loop takes them."""

    def __init__(self, tokens: Tokens, labels: np.ndarray) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.labels)


def corpus_of(name: str, rows: int, folder: Path) -> tuple[Any, str]:
    """Return a corpus of so many rows with random vectors, and where its texts are from."""
    path, length, num_words = SETS[name]
    random = np.random.default_rng(0)
    if (folder / path).exists():
        texts = list(read(folder / path, rows))
        words = [word for word, _ in frequent_words(texts, 100_000)]
        tokens, source = encode(texts, Vocabulary(words), 1000), name
    else:
        lengths = np.clip(random.lognormal(np.log(length), 0.5, rows).astype(int), 1, 1000)
        ids = np.minimum(random.zipf(1.2, lengths.sum()) + 1, num_words + 1).astype(np.int32)
        tokens, source = Tokens(ids, np.concatenate([[0], lengths.cumsum()])), f"drawn as {name}"
        words = [""] * num_words
    return with_vectors(tokens, len(words) + 2), source


def with_vectors(tokens: Tokens, num_words: int) -> Any:
    """Return a corpus with random vectors of length 3 and random labels of two classes."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((num_words, DIMENSIONS), dtype=np.float32) * (3 / DIMENSIONS**0.5)
    vectors[0] = 0
    part = Part(tokens, random.integers(0, 2, len(tokens)))
    return SimpleNamespace(train=part, validation=part, vectors=vectors, pretrained=np.ones(num_words, bool))


def read(path: Path, rows: int) -> Iterator[list[str]]:
    """Yield the tokens of rows spread over a file of `label<TAB>text`."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        lines = stream.readlines()[1:]
    for number in np.linspace(0, len(lines) - 1, min(rows, len(lines))).astype(int):
        yield tokenize(lines[number].partition("\t")[2])


class Usual(nn.Module):
    """The network as it is usually written."""

    def __init__(self, vectors: np.ndarray, *, static: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(vectors.copy()), freeze=static, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(DIMENSIONS, MAPS, width, padding=width - 1) for width in WIDTHS)
        self.output = nn.Linear(len(WIDTHS) * MAPS, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores `(rows, 2)` of padded texts `(rows, longest)`."""
        embedded = self.embedding(tokens).transpose(1, 2)  # (rows, dimensions, longest)
        features = [F.relu(convolution(embedded)).amax(dim=2) for convolution in self.convolutions]
        return self.output(F.dropout(torch.cat(features, dim=1), 0.5, self.training))


def usual_steps(corpus: Any, static: bool, batch_size: int, device: str) -> Iterator[int]:
    """Take steps of the usual loop, and yield the rows of each."""
    network = Usual(corpus.vectors, static=static).to(device)
    adam = torch.optim.Adam([each for each in network.parameters() if each.requires_grad])
    tokens, labels = corpus.train.tokens, torch.from_numpy(corpus.train.labels)
    texts = [torch.from_numpy(tokens.ids[a:b]).long() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    random = np.random.default_rng(0)
    while True:
        rows = random.permutation(len(texts))
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            padded = nn.utils.rnn.pad_sequence([texts[row] for row in chosen], batch_first=True)
            adam.zero_grad()
            F.cross_entropy(network(padded.to(device)), labels[chosen].to(device)).backward()
            adam.step()
            yield len(chosen)


def loop_of(corpus: Any, embedding: str, batch_size: int, device: str, precision: str, group: Group) -> Loop:
    """Return this project's loop."""
    model = SimpleNamespace(
        embedding=embedding, trained_words="all", filter_widths=WIDTHS, feature_maps=MAPS, dropout=0.5, max_norm=3.0
    )
    settings = SimpleNamespace(
        batch_size=batch_size, learning_rate=1e-3, decay="none", weight_decay=0.0, vectors_learning_rate=None,
        vectors_pull=0.0, frozen_epochs=0, metric="accuracy", epochs=1, patience=1, precision=precision,
    )  # fmt: skip
    network = Network(model, corpus.vectors, 2, rank=group.rank, size=group.size).to(device)
    return Loop(network, corpus, settings, 0, group, device)


def our_steps(
    corpus: Any, embedding: str, batch_size: int, device: str, precision: str = "float32", group: Group | None = None
) -> Iterator[int]:
    """Take steps of this project's loop, and yield the rows of each."""
    loop = loop_of(corpus, embedding, batch_size, device, precision, group or Group())
    loop.network.train()
    epoch = 0
    while True:
        epoch += 1
        for number, rows in enumerate(order(corpus.train.tokens.lengths, batch_size, 0, epoch)):
            loop.step(rows, epoch, number)
            yield len(rows)


def speed(steps: Iterator[int], seconds: float, device: str) -> float:
    """Return the examples a second of steps over so many seconds, whole steps."""
    waited(device)
    start, rows = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        rows += next(steps)
    waited(device)
    return rows / (time.perf_counter() - start)


def waited(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def in_turns(sides: dict[str, Iterator[int]], seconds: float, turns: int, device: str) -> dict[str, float]:
    """Return each side's median examples a second; they take turns."""
    for steps in sides.values():
        for _ in range(3):
            next(steps)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, steps in sides.items():
            found[name].append(speed(steps, seconds, device))
    return {name: statistics.median(values) for name, values in found.items()}


def share_in_products(steps: Iterator[int], seconds: float) -> float:
    """Return the share of the time of steps on a CPU that goes into the product of words and filters."""
    spent = 0.0
    project = convolution.project

    def timed(*arguments: Any) -> Tensor:
        nonlocal spent
        start = time.perf_counter()
        found = project(*arguments)
        spent += time.perf_counter() - start
        return found

    convolution.project = timed
    start = time.perf_counter()
    speed(steps, seconds, "cpu")
    convolution.project = project
    return spent / (time.perf_counter() - start)


def compare(name: str, options: argparse.Namespace, rows: int) -> tuple[str, list[dict[str, Any]]]:
    """Return where the texts are from, and the usual loop's speed and this project's for each kind."""
    corpus, source = corpus_of(name, rows, Path(options.data))
    found = []
    precisions = ["float32", "bfloat16"] if multiplies_bfloat16(options.device) else ["float32"]
    for embedding in ("static", "non-static"):
        sides = {"usual": usual_steps(corpus, embedding == "static", 50, options.device)}
        sides |= {each: our_steps(corpus, embedding, 50, options.device, each) for each in precisions}
        speeds = in_turns(sides, options.seconds, options.turns, options.device)
        for precision in precisions:
            row = {"embedding": embedding, "precision": precision, "usual loop": speeds["usual"],
                   "this project": speeds[precision], "times": speeds[precision] / speeds["usual"]}  # fmt: skip
            if options.device == "cpu":
                row["in products"] = share_in_products(sides[precision], options.seconds)
            found.append(row)
    return source, found


def multiplies_bfloat16(device: str) -> bool:
    """Tell whether the processor has an instruction for it; others are slower with it than without."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def vocabularies(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Return where the texts are from, and the speed with a short and a long table, the same texts."""
    corpus, source = corpus_of("mr", 4000, Path(options.data))
    sizes = [len(corpus.vectors), 400_000]
    # The words of the texts, spread over the long table as they would lie there.
    spread = np.random.default_rng(0).permutation(np.arange(1, sizes[1]))[: sizes[0]]
    ids = spread[corpus.train.tokens.ids].astype(np.int32)
    long = with_vectors(Tokens(ids, corpus.train.tokens.offsets), sizes[1])
    sides = {f"{len(each.vectors):,}": our_steps(each, "non-static", 50, options.device) for each in (corpus, long)}
    speeds = in_turns(sides, options.seconds, options.turns, options.device)
    first = next(iter(speeds.values()))
    return source, [
        {"words": name, "this project": value, "a step costs": first / value} for name, value in speeds.items()
    ]


def worker(rank: int, size: int, folder: str, data: str, seconds: float, turns: int) -> None:
    """One of two processes that train together, and alone in turn; writes speeds and bytes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    corpus, source = corpus_of("mr", 10_662, Path(data))
    here, apart = Group(rank, size), Group(rank, size)
    groups = {"by memory": here, "by gloo": apart} if here.meet() else {"by gloo": apart}
    sides = {name: our_steps(corpus, "non-static", 256, "cpu", group=group) for name, group in groups.items()}
    alone = our_steps(corpus, "non-static", 256, "cpu")
    found: dict[str, list[float]] = {name: [] for name in ("alone", *sides)}
    sent = {}
    for turn in range(turns + 1):
        torch.distributed.barrier()
        if rank == 0:
            found["alone"].append(speed(alone, seconds, "cpu"))
        # The same number of steps on both sides, so that none waits for the other.
        steps = max(1, int(seconds * 20))
        for name, each in sides.items():
            torch.distributed.barrier()
            before, start, rows = groups[name].bytes, time.perf_counter(), 0
            for _ in range(steps):
                rows += next(each)
            found[name].append(rows / (time.perf_counter() - start))
            sent[name] = (groups[name].bytes - before) // steps
        if turn == 0:  # to warm up
            found = {name: [] for name in found}
    if rank == 0:
        torch.save((source, found, sent), f"{folder}/found.pt")
    torch.distributed.destroy_process_group()


def workers(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Return where the texts are from, and the speed of one and of two workers, non-static, global batches of 256."""
    import torch.multiprocessing as multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(
            worker, size=2, folder=folder, data=options.data, seconds=options.seconds, turns=options.turns
        )
        multiprocessing.spawn(run, nprocs=2)
        source, found, sent = torch.load(f"{folder}/found.pt")
    speeds = {name: statistics.median(values) for name, values in found.items()}
    one = speeds.pop("alone")
    return source, [
        {"workers": "1", "this project": one, "times": 1.0, "bytes a step": 0},
        *(
            {"workers": f"2, {name}", "this project": both, "times": both / one, "bytes a step": sent[name]}
            for name, both in speeds.items()
        ),
    ]


TABLES = {
    "short": "examples a second, MR's texts",
    "long": "examples a second, IMDB's texts",
    "vocabulary": "examples a second with tables of so many trained words",
    "workers": "examples a second of single-threaded workers, global batches of 256, non-static",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE", help=", ".join(TABLES)
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data", default=str(DATA), help="folder with mr/ and imdb/ (default: beside the checkout)")
    options = parser.parse_args()
    options.seconds, options.turns = (0.5, 2) if options.quick else (3.0, 7)
    torch.set_num_threads(1)
    measures: dict[str, Callable[[], tuple[str, list[dict[str, Any]]]]] = {
        "short": lambda: compare("mr", options, 2000 if options.quick else 10_662),
        "long": lambda: compare("imdb", options, 500 if options.quick else 5000),
        "vocabulary": lambda: vocabularies(options),
        "workers": lambda: workers(options),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.only:
        if options.device == "cpu" or name in ("short", "long"):
            source, found[name] = measures[name]()
            show(f"{TABLES[name]} ({source}), {options.device}", found[name])
    if options.device == "cpu" and not multiplies_bfloat16("cpu"):
        print("\nbfloat16 is not measured: this processor has no instruction for it")
    settings = {"quick": options.quick, "device": options.device}
    if options.device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name()
    finish("training", settings, found)


if __name__ == "__main__":
    main()
