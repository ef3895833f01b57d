"""Compiled kernels of this project, compared with numerical libraries: sparse products, Adam, dropout, prefetching.

    python benchmarks/kernels.py            # about two minutes, one thread
    python benchmarks/kernels.py --quick

Sparse products and Adam: the loop of training takes steps on the texts of MR and IMDB, with Kim's settings and batches
of 50. Each side computes with the same inputs in the same step. The tables show medians of the milliseconds of a step,
and how long an epoch would take with that side, relative to this project. `difference` is the largest one between the
results, which are gradients or the word vectors after all steps. This project's sparse products are scipy's.

Dropout: masks of 300 features with dropout 0.5; numpy's generator SFC64 draws float32, which torch scales.

Prefetch: the classifier scores texts of MR, with and without the prefetch instruction, alternately.

Times are those of the processor, so that other processes on the machine matter less.
"""

import argparse
import functools
import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.generated_data import make_random_checkpoint
from benchmarks.labelled_datasets import DATA_FOLDER
from benchmarks.reporting import Row, print_json, print_table
from benchmarks.training_loops import make_benchmark_corpus, make_loop, read_tokens
from jobs.inference import classifier, scoring_kernel
from jobs.model import kernels
from jobs.model.batches import make_epoch_batches
from jobs.model.dropout import MaskNumber, draw_mask
from jobs.model.lazy_adam import LazyAdam
from jobs.training.process_group import ProcessGroup

PROJECT = "this project"
BATCH_SIZE, LEARNING_RATE = 50, 1e-3
CHUNK = 512  # texts
WARM_UP_STEPS = 2
Sparse = tuple[np.ndarray, np.ndarray, np.ndarray]
Product = Callable[[Sparse, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def multiply_with_scipy(
    sparse: Sparse, vectors: np.ndarray, filters: np.ndarray, *, transpose: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the product of a CSR matrix with vectors, and of its transpose with filters.

    transpose: by a matrix of its own, instead of a view in CSC.
    """
    indptr, indices, values = sparse
    matrix = scipy.sparse.csr_array((values, indices, indptr), shape=(len(filters), len(vectors)))
    return matrix @ vectors, (matrix.T.tocsr() if transpose else matrix.T) @ filters


def multiply_with_torch(sparse: Sparse, vectors: np.ndarray, filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `multiply_with_scipy`, with torch.sparse."""
    indptr, indices, values = map(torch.from_numpy, sparse)
    shape = len(filters), len(vectors)
    matrix = torch.sparse_csr_tensor(indptr, indices.long(), values, shape, check_invariants=False)
    transposed = matrix.t().to_sparse_csr()
    return (matrix @ torch.from_numpy(vectors)).numpy(), (transposed @ torch.from_numpy(filters)).numpy()


PRODUCTS: dict[str, Product] = {
    PROJECT: multiply_with_scipy,
    "scipy, transposed": functools.partial(multiply_with_scipy, transpose=True),
    "torch.sparse": multiply_with_torch,
}


class TorchAdam:
    """An optimizer of torch on a table: SparseAdam, or Adam, whose step changes every row."""

    def __init__(self, table: Tensor, optimizer: type[torch.optim.Optimizer], **options: Any) -> None:
        self.table = torch.nn.Parameter(table)
        self.is_sparse = optimizer is torch.optim.SparseAdam
        self.optimizer = optimizer([self.table], lr=LEARNING_RATE, **options)

    def step(self, word_ids: Tensor, gradient: Tensor) -> None:
        """Take a step with the gradient of some rows; see `LazyAdam.step`."""
        if self.is_sparse:
            self.table.grad = torch.sparse_coo_tensor(
                word_ids[None], gradient, self.table.shape, check_invariants=False
            )
        else:
            self.optimizer.zero_grad(set_to_none=False)
            self.table.grad = torch.zeros_like(self.table) if self.table.grad is None else self.table.grad
            self.table.grad[word_ids] = gradient
        self.optimizer.step()


class FusedRowAdam(LazyAdam):
    """Lazy Adam with torch's fused Adam on copies of the rows, as on a GPU."""

    @torch.no_grad()
    def step(self, word_ids: Tensor, gradient: Tensor) -> None:
        """Take a step on some rows."""
        self.steps += 1
        self.step_with_torch(word_ids, gradient)


ADAMS: dict[str, Callable[[Tensor], Any]] = {
    PROJECT: lambda table: LazyAdam(table, LEARNING_RATE),
    "fused Adam on copies of the rows": lambda table: FusedRowAdam(table, LEARNING_RATE),
    "SparseAdam": lambda table: TorchAdam(table, torch.optim.SparseAdam),
    "Adam, fused": lambda table: TorchAdam(table, torch.optim.Adam, fused=True),
    "Adam, foreach": lambda table: TorchAdam(table, torch.optim.Adam, foreach=True),
}


def measure_training(name: str, rows: int, steps: int, folder: Path) -> tuple[str, dict[str, list[Row]]]:
    """Return the source of the texts, and the tables of the products and of Adam."""
    corpus, source = make_benchmark_corpus(name, rows, folder)
    loop = make_loop(corpus, "non-static", BATCH_SIZE, "cpu", "float32", ProcessGroup())
    loop.network.train()
    assert loop.network.vectors is not None
    assert loop.vectors_optimizer is not None
    adams = {side: make(loop.network.vectors.detach().clone()) for side, make in ADAMS.items()}
    seconds: dict[str, list[float]] = defaultdict(list)
    differences: dict[str, float] = defaultdict(float)
    inputs: dict[str, Any] = {}  # of the products and the update in the last step
    _record(kernels, "max_over_windows_backward", lambda _, result: inputs.update(sparse=result))
    _record(loop.vectors_optimizer, "step", lambda arguments, _: inputs.update(update=arguments))
    batches = make_epoch_batches(corpus.train.tokens.lengths, BATCH_SIZE, 0, 1)[: steps + WARM_UP_STEPS]
    for number, batch in enumerate(batches):
        filters = loop.network.filters.detach().numpy().copy()
        vectors = loop.network.vectors.detach()[loop.texts.collator.collate(batch).word_ids].numpy()
        _timed(seconds["step"], loop.step, batch, 1, number)
        results = {
            side: _timed(seconds[f"products, {side}"], multiply, inputs["sparse"], vectors, filters)
            for side, multiply in _rotate(PRODUCTS, number)
        }
        for side, result in results.items():
            for ours, theirs in zip(results[PROJECT], result, strict=True):
                differences[side] = max(differences[side], float(np.abs(ours - theirs).max()))
        for side, adam in _rotate(adams, number):
            _timed(seconds[f"adam, {side}"], adam.step, *inputs["update"])
    medians = {name: statistics.median(values[WARM_UP_STEPS:]) for name, values in seconds.items()}
    table = adams[PROJECT].table
    adam_differences = {side: float((adam.table.detach() - table).abs().max()) for side, adam in adams.items()}
    return source, {
        "products": _make_rows("products", medians, differences),
        "adam": _make_rows("adam", medians, adam_differences),
    }


def _record(owner: Any, name: str, record: Callable[[tuple[Any, ...], Any], None]) -> None:
    """Replace a function by one that also records its arguments and result."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def recorded(*arguments: Any) -> Any:
        result = function(*arguments)
        record(arguments, result)
        return result

    setattr(owner, name, recorded)


def _rotate(sides: dict[str, Any], number: int) -> Sequence[tuple[str, Any]]:
    """Return the sides in an order that changes with every step."""
    items = list(sides.items())
    return items[number % len(items) :] + items[: number % len(items)]


def _timed(seconds: list[float], function: Callable[..., Any], *arguments: Any) -> Any:
    start = time.process_time()
    result = function(*arguments)
    seconds.append(time.process_time() - start)
    return result


def _make_rows(kind: str, medians: dict[str, float], differences: dict[str, float]) -> list[Row]:
    step, ours = medians["step"], medians[f"{kind}, {PROJECT}"]
    return [
        {
            "side": side,
            "ms": medians[f"{kind}, {side}"] * 1e3,
            "share of a step": medians[f"{kind}, {side}"] / step,
            "epoch, x ours": (step + medians[f"{kind}, {side}"] - ours) / step,
            "difference": difference,
        }
        for side, difference in differences.items()
    ]


def draw_mask_with_numpy(rows: int, features: int, seed: int) -> Tensor:
    """Return a mask as `dropout.draw_mask`, from numpy's fastest generator."""
    random = np.random.Generator(np.random.SFC64([seed]))
    return torch.from_numpy(random.random((rows, features), np.float32) < 0.5).float().div_(0.5)


def measure_masks(rounds: int) -> list[Row]:
    """Return the microseconds of a dropout mask by its rows."""
    features, device = 300, torch.device("cpu")
    table: list[Row] = []
    for rows in (50, 256, 4096):
        numbers = np.arange(rows)
        seconds: dict[str, list[float]] = defaultdict(list)
        for step in range(rounds + 1):
            number = MaskNumber(0, 1, step)
            _timed(seconds[PROJECT], draw_mask, numbers, features, 0.5, number, device)
            _timed(seconds["numpy"], draw_mask_with_numpy, rows, features, step)
        ours, theirs = (statistics.median(seconds[side][1:]) * 1e6 for side in (PROJECT, "numpy"))
        table.append({"rows": rows, PROJECT: ours, "numpy": theirs, "times": theirs / ours})
    return table


def measure_prefetch(texts: list[str], rounds: int) -> list[Row]:
    """Return the microseconds per text of the classifier with and without the prefetch instruction."""
    from jobs.config.experiment import Experiment
    from jobs.datasets.tokenizer import count_words, tokenize

    words = [word for word, _ in count_words(map(tokenize, texts), Experiment().text.max_words)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_random_checkpoint(words)
        sides = {PROJECT: scoring_kernel, "without prefetch": _load_kernel_without_prefetch(Path(folder))}
        scorer = classifier.Classifier(checkpoint, share_table=False)
        times: dict[tuple[str, int], list[float]] = defaultdict(list)
        chunks = [texts[first : first + CHUNK] for first in range(0, len(texts), CHUNK)]
        for number, chunk in enumerate(chunks * rounds):
            # One side after the other on the same texts would measure the caches.
            side = list(sides)[(number % len(chunks) + number // len(chunks)) % len(sides)]
            classifier.kernel = sides[side]
            for batch in (1, 256):
                scorer.predict_logits(chunk[:batch])  # compiles
                start = time.process_time()
                for first in range(0, len(chunk), batch):
                    scorer.predict_logits(chunk[first : first + batch])
                times[side, batch].append((time.process_time() - start) / len(chunk) * 1e6)
        classifier.kernel = scoring_kernel
    medians = {key: statistics.median(values) for key, values in times.items()}
    return [
        {"side": side}
        | {f"lists of {batch}": medians[side, batch] for batch in (1, 256)}
        | {f"x ours, {batch}": medians[side, batch] / medians[PROJECT, batch] for batch in (1, 256)}
        for side in sides
    ]


def _load_kernel_without_prefetch(folder: Path) -> Any:
    """Return a copy of the kernel's module that prefetches rows of no columns."""
    source = Path(scoring_kernel.__file__).read_text(encoding="utf-8")
    arguments = " near_entries, ids, table,\n            num_columns,\n"  # of the tokenizer
    assert source.count(arguments) == 1
    path = folder / "kernel_without_prefetch.py"
    path.write_text(source.replace(arguments, " near_entries, ids, table, 0,\n"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Measure all sides and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and steps")
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the data sets (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    tables: dict[str, list[Row]] = {}
    for name, rows, steps in (("mr", 10_662, 200), ("imdb", 2000, 40)):
        source, measured = measure_training(name, *((300, 4) if options.quick else (rows, steps)), options.data)
        for kind, title in (("products", "Sparse products"), ("adam", "Adam on the words of a batch")):
            tables[f"{kind}, {name}"] = measured[kind]
            print_table(f"{title}, texts of {source}, batches of {BATCH_SIZE}", measured[kind])
    tables["dropout"] = measure_masks(20 if options.quick else 100)
    print_table("Dropout masks of 300 features, microseconds", tables["dropout"])
    source = options.data / "mr" / "all.tsv"
    if source.exists():
        texts = [" ".join(tokens) for tokens in read_tokens(source, 512 if options.quick else 10_662)]
        tables["prefetch"] = measure_prefetch(texts, 2 if options.quick else 9)
        print_table("Classifier, microseconds per text of MR", tables["prefetch"])
    print_json("kernels", {"quick": options.quick, "batch size": BATCH_SIZE}, tables)


if __name__ == "__main__":
    main()
