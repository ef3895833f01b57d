"""Locations of checkpoints on the Hugging Face Hub, and what may be meant by a path without a checkpoint.

A repository of the Hub is `hf://OWNER/NAME[@REVISION]`. It is downloaded into the Hub's cache of this machine. The
address and the token are those of huggingface_hub: `HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`. The download is only
read, never written to; what reads it does the same checks as for any other checkpoint.
"""

import re
from pathlib import Path

from cluster.storage import StorageError, exists, is_uri, join, list_folders

SCHEME = "hf://"
MAX_SUGGESTIONS = 3
# Files that readers use. Without the names, the weights of another library's model would be downloaded before it is
# clear that it is no checkpoint.
FILES = (
    "manifest.json", "README.md", "experiment.yaml", "labels.json", "vocabulary.json", "metrics.json",
    "weights.safetensors", "untrained.safetensors", "initial.safetensors", "train-texts.safetensors",
)  # fmt: skip
MISSING_PACKAGE = "needs the package huggingface_hub: pip install huggingface_hub"
_URI = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@?#\s]+))?")


def is_on_hub(path: str) -> bool:
    """Return whether a path is the URI of a repository on the Hub."""
    return path.startswith(SCHEME)


def parse_hub_uri(uri: str) -> tuple[str, str | None]:
    """Return the repository, OWNER/NAME, and the revision of a URI; StorageError if it is not one."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise StorageError(f"{uri}: is not hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    return match["repository"], match["revision"]


def pin_revision(uri: str) -> str:
    """Download a repository, and return its URI with the commit as revision, which never changes.

    Raises:
        StorageError: it cannot be downloaded and is not in the cache.
    """
    return f"{SCHEME}{parse_hub_uri(uri)[0]}@{_download(uri).name}"


def locate_snapshot(path: str) -> str:
    """Return the folder of a repository in the cache, downloaded if needed; any other path unchanged.

    Raises:
        StorageError: as for `pin_revision`.
    """
    return str(_download(path)) if is_on_hub(path) else path


def _download(uri: str) -> Path:
    """Return the folder of a repository in the cache, which is named after the commit."""
    repository, revision = parse_hub_uri(uri)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise StorageError(f"{uri}: {MISSING_PACKAGE}") from error
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except RepositoryNotFoundError as error:
        raise StorageError(f"{uri}: the Hub has no such repository, or it is private: `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise StorageError(f"{uri}: the repository has no revision '{revision}'") from error
    except Exception as error:  # those of its HTTP library have no base class of their own
        raise StorageError(f"{uri}: cannot be downloaded: {describe_hub_error(error)}") from error


def describe_hub_error(error: Exception) -> str:
    """Return the first line of an error of huggingface_hub, whose messages have many, and that of its cause."""
    line = (str(error).strip() or repr(error)).splitlines()[0]
    cause = error.__cause__
    return f"{line} {describe_hub_error(cause)}" if isinstance(cause, Exception) and str(cause) not in line else line


def suggest_folder(path: str) -> str:
    """Return what may be meant by a path without a checkpoint, as the end of an error message."""
    try:
        folders = [join(path, name) for name in sorted(list_folders(path)) if exists(join(path, name, "best.json"))]
    except StorageError:
        folders = []
    if not folders and not is_uri(path):
        folders = [folder for folder in [str(Path("runs", Path(path).name))] if Path(folder, "best.json").is_file()]
    if folders:
        return f"; did you mean {' or '.join(folders[:MAX_SUGGESTIONS])}?"
    return "; name the folder of an experiment, such as runs/NAME; `finetune-cnn runs` lists what there is"
