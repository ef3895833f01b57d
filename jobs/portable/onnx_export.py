"""Export of a checkpoint to ONNX, with its tokenizer as tokenizer.json in the same folder.

finetune-cnn export runs/tickets --onnx model.onnx
"""

import logging

from cluster import UsageError
from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.plan import Plan
from cluster.input_files import check_output_file
from cluster.storage import absolute_path, join, parent, write_bytes
from jobs.evaluation.reports.report_folder import check_outside_checkpoint
from jobs.model.checkpoint import Checkpoint, load_checkpoint
from jobs.portable.plan import plan_files

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
    checkpoint, contents = _build_files(path, out, with_tokenizer=with_tokenizer)
    for target, content in contents.items():
        write_bytes(target, content)
    written = f"wrote {out}: {len(checkpoint.words):,} words, {len(checkpoint.labels):,} labels"
    logger.log(RESULT, f"{written}; and {tokenizer_path(out)}" if with_tokenizer else written)
    tokenizer = tokenizer_path(out) if with_tokenizer else None
    report_result({"path": out, "tokenizer": tokenizer, "bytes": sum(map(len, contents.values()))})


def plan_onnx_export(path: str, out: str, *, with_tokenizer: bool = True) -> Plan:
    """Return the plan of `export_onnx`, which raises the same exceptions; nothing is written."""
    checkpoint, contents = _build_files(path, out, with_tokenizer=with_tokenizer)
    sizes = {target.rpartition("/")[2]: len(content) for target, content in contents.items()}
    return plan_files("export", checkpoint, parent(absolute_path(out)), sizes)


def _build_files(path: str, out: str, *, with_tokenizer: bool) -> tuple[Checkpoint, dict[str, bytes]]:
    """Return the checkpoint, and the contents of the files to write by path; StorageError if one cannot be written."""
    for target in (out, tokenizer_path(out)) if with_tokenizer else (out,):
        check_output_file(target)
    try:
        from jobs.portable.onnx_graph import build_model
        from jobs.portable.tokenizer_json import build_tokenizer

        checkpoint = load_checkpoint(path)
        check_outside_checkpoint(parent(absolute_path(out)), checkpoint)
        contents: dict[str, bytes] = {out: build_model(checkpoint).SerializeToString()}
        if with_tokenizer:
            contents[tokenizer_path(out)] = build_tokenizer(checkpoint).to_str().encode()
    except ModuleNotFoundError as error:
        raise UsageError(f"export --onnx needs the package {error.name}: pip install onnx tokenizers") from error
    return checkpoint, contents
