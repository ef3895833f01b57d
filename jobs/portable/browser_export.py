"""Export of a checkpoint to static files that classify in a web page, without a server.

finetune-cnn export runs/tickets --browser site

index.html, page.mjs, page.css, icon.svg   a page to try the model
text_classifier.mjs    the reader, for other pages too; it imports linear_classifier.mjs, tensors.mjs, tokenizer.mjs
classifier.json        labels, words, settings, and tables of characters
weights.safetensors    the tensors as in the checkpoint: quantized ones stay quantized
"""

import json
import logging
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.plan import Plan
from cluster.input_files import check_output_file
from cluster.storage import StorageError, absolute_path, join, list_file_sizes
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.evaluation.reports.report_folder import check_outside_checkpoint
from jobs.inference.network_validation import validate_network
from jobs.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from jobs.model.checkpoint_locations import open_checkpoint
from jobs.model.checkpoint_tensors import write_tensors
from jobs.model.linear.tensors import PAIRS, SCALE, SQUARES
from jobs.portable.character_tables import build_tables
from jobs.portable.metadata import describe_model
from jobs.portable.plan import plan_files
from jobs.portable.whole_folder import fill_folder

logger = logging.getLogger(__name__)

FORMAT = 2  # of classifier.json; text_classifier.mjs reads no other
MODEL_FILE, WEIGHTS_FILE = "classifier.json", "weights.safetensors"
PAGE_FILES = ("index.html", "page.mjs", "page.css", "icon.svg")
STATIC_FILES = (*PAGE_FILES, "text_classifier.mjs", "linear_classifier.mjs", "tensors.mjs", "tokenizer.mjs")
_STATIC_FOLDER = Path(__file__).with_name("browser")


def export_browser(path: str, out: str, *, replace: bool = False) -> None:
    """Write a folder that a web page classifies with.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        out: folder, a path or URI.
        replace: write into a folder that has files; those of the same names are replaced.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its tokenizer is that of an installed package.
        StorageError: `out` is not empty, is in a checkpoint, or cannot be written.
    """
    checkpoint, model = _load(path, out, replace=replace)
    with fill_folder(absolute_path(out), MODEL_FILE) as folder:
        size = sum(_write(folder, checkpoint, model).values())
    is_small = "quantization" in checkpoint.metrics
    hint = "" if is_small else "; that of a checkpoint of `finetune-cnn quantize` is smaller"
    logger.log(
        RESULT,
        f"wrote {out}: {len(checkpoint.words):,} words, {len(checkpoint.labels):,} labels, {size / 1e6:.2f} MB{hint}",
    )
    report_result({"path": out, "bytes": size, "words": len(checkpoint.words)})


def plan_browser_export(path: str, out: str, *, replace: bool = False) -> Plan:
    """Return the plan of `export_browser`, which raises the same exceptions; `out` is not written."""
    checkpoint, model = _load(path, out, replace=replace)
    with tempfile.TemporaryDirectory() as folder:
        return plan_files("export", checkpoint, out, _write(Path(folder), checkpoint, model))


def _load(path: str, out: str, *, replace: bool) -> tuple[Checkpoint, bytes]:
    """Return the checkpoint to write and the content of classifier.json, after a check of the folder."""
    check_output_file(join(out, MODEL_FILE))
    if not replace and list_file_sizes(out):
        raise StorageError(f"{out}: is not empty; name a new folder, or add --force")
    checkpoint = load_checkpoint(path)
    check_outside_checkpoint(absolute_path(out), checkpoint)
    return checkpoint, build_model(checkpoint)


def _write(folder: Path, checkpoint: Checkpoint, model: bytes) -> dict[str, int]:
    """Write the files, and return their sizes in bytes by name."""
    (folder / MODEL_FILE).write_bytes(model)
    write_tensors(folder / WEIGHTS_FILE, _select_tensors(checkpoint))
    for name in STATIC_FILES:
        shutil.copyfile(_STATIC_FOLDER / name, folder / name)
    return {name: (folder / name).stat().st_size for name in (MODEL_FILE, WEIGHTS_FILE, *STATIC_FILES)}


def build_model(checkpoint: Checkpoint) -> bytes:
    """Return the content of classifier.json.

    Raises:
        CheckpointError: the tensors do not fit the settings, the tokenizer is that of an installed package, or unknown
            words are read as the nearest ones.
    """
    channels = validate_network(checkpoint)
    model, text = checkpoint.experiment.model, checkpoint.experiment.text
    if text.tokenizer not in BUILT_IN:
        raise CheckpointError(
            f"{checkpoint.path}: text.tokenizer={text.tokenizer} is Python code of an installed package, which a "
            f"browser cannot run; train with one of {', '.join(BUILT_IN)}"
        )
    if text.max_edit_distance:
        raise CheckpointError(
            f"{checkpoint.path}: the page looks up words as they are, without text.max_edit_distance="
            f"{text.max_edit_distance}; train with 0"
        )
    values = {
        "format": FORMAT,
        "name": checkpoint.experiment.name,
        **describe_model(checkpoint),
        "channels": channels,
        "filter_widths": model.filter_widths,
        "feature_maps": model.feature_maps,
        "linear": _count_linear_rows(checkpoint.weights),
        **asdict(build_tables(text.tokenizer, text.lowercase)),
        "words": checkpoint.words,
    }
    # A word may have a surrogate, for which UTF-8 has no bytes, but JSON an escape.
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def _count_linear_rows(weights: dict[str, np.ndarray]) -> dict[str, int] | None:
    """Return the numbers of words and pairs of the linear classifier; None without one."""
    if SQUARES not in weights:
        return None
    return {"words": len(weights[SQUARES]) - len(weights[PAIRS]), "pairs": len(weights[PAIRS])}


def _select_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return the tensors to write: of a quantized checkpoint those of its file, since the loaded ones are expanded."""
    if "quantization" not in checkpoint.metrics:
        return checkpoint.weights
    with open_checkpoint(checkpoint.path) as files:
        tensors = files.read_tensors(WEIGHTS_FILE)
    return {name: checkpoint.weights[name] if name == SCALE else value for name, value in tensors.items()}
