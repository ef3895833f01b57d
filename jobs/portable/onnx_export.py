"""Export of a checkpoint to ONNX, with its tokenizer as tokenizer.json in the same folder.

finetune-cnn export runs/tickets --onnx model.onnx
"""

import logging

from cluster import UsageError
from cluster.console.logs import RESULT
from cluster.input_files import check_output_file
from cluster.storage import absolute_path, join, output_file, parent
from jobs.evaluation.reports.report_folder import check_outside_checkpoint
from jobs.model.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"


def tokenizer_path(out: str) -> str:
    """Return the path of the tokenizer that belongs to an ONNX file."""
    return join(parent(absolute_path(out)), TOKENIZER_FILE)


def export_onnx(path: str, out: str, *, with_tokenizer: bool = True) -> None:
    """Write a checkpoint's network as an ONNX file, and its tokenizer.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        out: path or URI of the file.
        with_tokenizer: False to write no tokenizer.json.

    Raises:
        UsageError: the packages are not installed.
        CheckpointError: the checkpoint cannot be read, is too large for one file, or a tokenizer.json cannot express
            its tokenizer; nothing is written.
        StorageError: `out` cannot be written, or is in a checkpoint.
    """
    try:
        from jobs.portable.onnx_graph import build_model
        from jobs.portable.tokenizer_json import build_tokenizer

        checkpoint = load_checkpoint(path)
        check_output_file(out)
        check_outside_checkpoint(parent(absolute_path(out)), checkpoint)
        model = build_model(checkpoint)
        tokenizer = build_tokenizer(checkpoint) if with_tokenizer else None
    except ModuleNotFoundError as error:
        raise UsageError(f"export --onnx needs the package {error.name}: pip install 'finetune-cnn[onnx]'") from error
    with output_file(out) as part:
        part.write_bytes(model.SerializeToString())
    written = f"wrote {out}: {len(checkpoint.words):,} words, {len(checkpoint.labels):,} labels"
    if tokenizer is not None:
        with output_file(tokenizer_path(out)) as part:
            part.write_text(tokenizer.to_str(), encoding="utf-8")
        written += f"; and {tokenizer_path(out)}"
    logger.log(RESULT, written)
