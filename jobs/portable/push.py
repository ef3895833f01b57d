"""Upload of a checkpoint to the Hugging Face Hub, as one commit.

    finetune-cnn push runs/tickets OWNER/NAME

What classifies is uploaded, with the model card. Left out are the state that a run resumes from, the vectors before
training and the digests of the training texts, by which somebody could find out whether a text was trained on. Names of
folders, URIs and logging services in the settings are removed. The manifest lists what is uploaded.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.plan import Plan
from cluster.storage import StorageError, as_local_folder, exists, join, parent
from jobs.model.checkpoint import Checkpoint, load_checkpoint
from jobs.model.checkpoint_files import (
    MODEL_CARD_FILE,
    CheckpointError,
    VerifiedFiles,
    read_json,
)
from jobs.model.checkpoint_locations import (
    MISSING_PACKAGE,
    SCHEME,
    describe_hub_error,
    is_on_hub,
    locate_snapshot,
    open_checkpoint,
    parse_hub_uri,
)
from jobs.model.checkpoint_tensors import CLASSIFICATION_FILES
from jobs.portable.model_card import CardMetric, read_measured_metrics, render_model_card
from jobs.portable.plan import plan_files
from jobs.portable.private_paths import hide_folder, hide_folders

# Of an evaluation.json: its confusion matrix has 8 bytes for each cell in files of earlier versions, now 2.
MAX_REPORT_BYTES = 64 << 20

logger = logging.getLogger(__name__)


def push_checkpoint(path: str, repository: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload a checkpoint to a repository of the Hub, which is created if needed, and return its URI.

    A README.md that was edited in the checkpoint's folder is uploaded as it is; otherwise the card is written for the
    repository, with the metrics of the report next to the checkpoint.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        repository: OWNER/NAME. private: of a repository that is created; an existing one stays as it is.
        revision: branch to commit to, which must exist; None for the main one.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        StorageError: huggingface_hub is not installed, or the Hub refuses the upload.
    """
    repository, uri = _parse_repository(repository)
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise StorageError(f"{uri}: {MISSING_PACKAGE}") from error
    checkpoint = load_checkpoint(path)
    with as_local_folder(locate_snapshot(checkpoint.path)) as folder:
        with open_checkpoint(str(folder)) as files:
            contents = list(_list_contents(checkpoint, files, uri))
        operations = [CommitOperationAdd(name, content) for name, content in contents]
        logger.info(f"uploading {len(operations)} files of {checkpoint.path}")
        try:
            api = HfApi()
            api.create_repo(repository, private=private or None, exist_ok=True)
            message = f"Upload {checkpoint.experiment.name} with finetune-cnn"
            commit = api.create_commit(repository, operations, commit_message=message, revision=revision)
        except Exception as error:  # those of its HTTP library have no base class of their own
            raise StorageError(f"{uri}: cannot be uploaded: {describe_hub_error(error)}") from error
        size = sum(_measure(contents).values())
    logger.log(RESULT, f"pushed {checkpoint.path} to {commit.commit_url}")
    report_result({"commit_url": str(commit.commit_url), "files": len(operations), "bytes": size})
    return uri if revision is None else f"{uri}@{revision}"


def plan_push(path: str, repository: str, *, private: bool = False, revision: str | None = None) -> Plan:
    """Return the plan of `push_checkpoint`: the uploaded files with their sizes. No server is contacted."""
    repository, uri = _parse_repository(repository)
    checkpoint = load_checkpoint(path)
    with as_local_folder(locate_snapshot(checkpoint.path)) as folder, open_checkpoint(str(folder)) as files:
        sizes = _measure(_list_contents(checkpoint, files, uri))
    access = "private" if private else "public"
    starts = {"repository": repository, "branch": revision or "main", "access_if_new": access}
    return plan_files("push", checkpoint, uri, sizes, starts)


def _parse_repository(repository: str) -> tuple[str, str]:
    """Return the name of a repository, and its URI."""
    uri = f"{SCHEME}{repository.removeprefix(SCHEME)}"
    name, at = parse_hub_uri(uri)
    if at is not None:
        raise StorageError(f"{uri}: name the branch with --revision")
    return name, uri


def _measure(contents: Iterable[tuple[str, Path | bytes]]) -> dict[str, int]:
    """Return the sizes in bytes by name."""
    return {name: len(content) if isinstance(content, bytes) else content.stat().st_size for name, content in contents}


def _list_contents(checkpoint: Checkpoint, files: VerifiedFiles, uri: str) -> Iterator[tuple[str, Path | bytes]]:
    """Yield the names and contents of the uploaded files, the manifest last."""
    manifest: dict[str, dict[str, object]] = {}
    for name in CLASSIFICATION_FILES:
        if name in files:
            path = files.verify(name)
            manifest[name] = {"sha256": files.checksum(name), "bytes": path.stat().st_size}
            yield name, path
    published = _hide_paths(checkpoint)
    card = files.read_edited_text(MODEL_CARD_FILE)
    if card is None:
        card = render_model_card(published, uri, _read_report(checkpoint.path))
    texts = {
        "experiment.yaml": published.experiment.to_yaml(),
        "metrics.json": json.dumps(published.metrics, indent=1, ensure_ascii=False) + "\n",
        MODEL_CARD_FILE: card,
    }
    for name, text in texts.items():
        content = text.encode()
        manifest[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        yield name, content
    yield "manifest.json", (json.dumps({"format": files.format, "files": manifest}, indent=1) + "\n").encode()


def _hide_paths(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint without the names of folders."""
    metrics: dict[str, Any] = dict(checkpoint.metrics)
    if start := metrics.get("started_from"):
        metrics["started_from"] = start | {"checkpoint": hide_folder(str(start.get("checkpoint")))}
    return replace(checkpoint, experiment=hide_folders(checkpoint.experiment), metrics=metrics)


def _read_report(checkpoint: str) -> list[CardMetric]:
    """Return the metrics of the report next to a checkpoint; none if it has none, or if it is of another checkpoint."""
    if is_on_hub(checkpoint):
        return []
    path = join(parent(checkpoint), "report", "evaluation.json")
    try:
        evaluation = read_json(path, MAX_REPORT_BYTES) if exists(path) else {}
        return read_measured_metrics(evaluation) if evaluation.get("checkpoint") == checkpoint else []
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
        logger.warning(f"{path}: the model card has no metrics of test texts: {error}")
        return []
