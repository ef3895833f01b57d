"""Locations of checkpoints: folders, URIs and the Hugging Face Hub, and what may be meant by a path without one.

A repository of the Hub is `hf://OWNER/NAME[@REVISION]`. It is downloaded into the Hub's cache of this machine. The
manifest and the settings come first; the other files only if these are a checkpoint's, and fit the repository. The
address and the token are those of huggingface_hub: `HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`. The download is only
read, never written to; what reads it does the same checks as for any other checkpoint.
"""

import logging
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cluster import UsageError
from cluster.console.progress import shows_bars
from cluster.storage import (
    StorageError,
    absolute_path,
    exists,
    is_uri,
    join,
    list_folders,
    local_path,
    parent,
    resolve_filesystem,
    split_query,
)
from jobs.config.settings import Source
from jobs.model.checkpoint_files import (
    MODEL_CARD_FILE,
    CheckpointError,
    VerifiedFiles,
    parse_settings,
    read_json,
    shorten_error,
    text_limit,
)

SCHEME = "hf://"
MAX_SUGGESTIONS = 3
COPIED_BYTES = 8 << 20  # of a URI, each with a request
# Files that every checkpoint has, and all that readers use. The first ones are downloaded before the others.
MODEL_FILES = ("experiment.yaml", "labels.json", "vocabulary.json", "weights.safetensors", "metrics.json")
FIRST_FILES = ("manifest.json", "experiment.yaml")
UNTRAINED_FILE = "untrained.safetensors"  # needed if the manifest has it
OPTIONAL_FILES = ("initial.safetensors", "train-texts.safetensors")  # classification does not need them
MISSING_PACKAGE = "needs the package huggingface_hub: pip install huggingface_hub"
_URI = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@?#\s]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger(__name__)


class _UnreachableError(StorageError):
    """The Hub cannot be reached, or refuses access, so a download in the cache may be used."""


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
        CheckpointError: it is no checkpoint; its tensors were not downloaded.
        StorageError: it cannot be downloaded and is not in the cache.
    """
    return f"{SCHEME}{parse_hub_uri(uri)[0]}@{_download(uri).name}"


def locate_snapshot(path: str) -> str:
    """Return the folder of a repository in the cache, downloaded if needed; any other path unchanged.

    Raises:
        CheckpointError, StorageError: as for `pin_revision`.
    """
    return str(_download(path)) if is_on_hub(path) else path


def resolve_checkpoint(path: str) -> str:
    """Return the checkpoint folder of a path: itself, or the one that a best.json (or its folder) names.

    That of hf://OWNER/NAME[@REVISION] is the commit, hf://OWNER/NAME@COMMIT.

    Raises:
        CheckpointError: there is neither.
        StorageError: the storage, or the Hub, does not respond.
    """
    if is_on_hub(path):
        return pin_revision(path)
    original = path = absolute_path(path)
    if not split_query(path)[0].endswith(".json"):
        if exists(join(path, "manifest.json")):
            return path
        path = join(path, "best.json")
    if not exists(path):
        raise CheckpointError(f"{original}: contains neither a checkpoint nor a best.json{suggest_folder(original)}")
    best = read_json(path)
    target = best.get("checkpoint") if isinstance(best, dict) else None
    if not isinstance(target, str):
        raise CheckpointError(f"{path}: does not name a checkpoint")
    return target if is_uri(target) or Path(target).is_absolute() else join(parent(path), target)


def read_published_test_part(path: str) -> Source | None:
    """Return the test part that the last command named in a best.json or its folder; None for a checkpoint.

    Raises:
        CheckpointError: the best.json cannot be read.
    """
    if is_on_hub(path):
        return None
    path = absolute_path(path)
    if not split_query(path)[0].endswith(".json"):
        path = join(path, "best.json")
    best = read_json(path) if exists(path) else None
    test = best.get("test") if isinstance(best, dict) else None
    is_list = isinstance(test, list) and all(isinstance(part, str) for part in test)
    return test if is_list or isinstance(test, str) else None


@contextmanager
def open_checkpoint(location: str) -> Iterator[VerifiedFiles]:
    """Yield the files of a folder or URI; CheckpointError if one cannot be read.

    Those of a URI are copied to this machine when they are read: a reader that needs few of them waits for these only.
    """
    with _raise_checkpoint_errors(location):
        folder = local_path(locate_snapshot(location))
        if folder is not None:
            yield VerifiedFiles(location, folder)
            return
        with tempfile.TemporaryDirectory() as copies:
            yield _RemoteFiles(location, Path(copies))


class _RemoteFiles(VerifiedFiles):
    """Files of a checkpoint at a URI; each is copied into a local folder when it is first read."""

    def __init__(self, location: str, folder: Path) -> None:
        _copy_file(join(location, "manifest.json"), folder / "manifest.json")
        super().__init__(location, folder)

    def _path(self, name: str) -> Path:
        if name in self and not (self._folder / name).exists():
            _copy_file(join(self._location, name), self._folder / name)
        return super()._path(name)


def _copy_file(uri: str, target: Path) -> None:
    """Copy a file to this machine, if it exists; OSError if it cannot be read."""
    filesystem, inside = resolve_filesystem(uri)
    with (
        suppress(FileNotFoundError),
        filesystem.open_input_stream(inside, compression=None) as source,
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy, COPIED_BYTES)


@contextmanager
def _raise_checkpoint_errors(location: str) -> Iterator[None]:
    """Raise a CheckpointError that names the location instead of any error of files that may come from anywhere."""
    try:
        yield
    except CheckpointError as error:
        if str(error).startswith(location):
            raise
        raise CheckpointError(f"{location}: {error}") from error
    # safetensors raises TypeError and AttributeError for types of numbers that numpy does not have.
    except (OSError, LookupError, ValueError, TypeError, AttributeError, SafetensorError, UsageError) as error:
        raise CheckpointError(f"{location}: cannot be read: {shorten_error(error)}") from error


def _download(uri: str) -> Path:
    """Return the folder of a repository in the cache, which is named after the commit; errors of `pin_revision`."""
    repository, revision = parse_hub_uri(uri)
    if revision is not None and _COMMIT.fullmatch(revision) and (folder := _find_cached(uri, OPTIONAL_FILES)):
        return folder
    try:
        names = {*FIRST_FILES, *MODEL_FILES, UNTRAINED_FILE, *OPTIONAL_FILES, MODEL_CARD_FILE}
        listed = _fetch(uri, names, dry_run=True)
    except _UnreachableError as error:
        folder = _find_cached(uri)
        if folder is None:
            raise
        if folder.name != revision:
            logger.warning(f"{error}; using commit {folder.name} of the cache")
        return folder
    sizes = {file.filename: file.file_size for file in listed}
    if "manifest.json" not in sizes:
        raise CheckpointError(f"{uri}: is no checkpoint: it has no manifest.json")
    location = f"{SCHEME}{repository}@{listed[0].commit_hash}"
    if folder := _find_cached(location, OPTIONAL_FILES):
        return folder
    for name, size in sizes.items():
        if size is None:
            raise CheckpointError(f"{location}: {name}: the Hub does not know its size")
        if not name.endswith(".safetensors") and size > text_limit(name):
            raise CheckpointError(f"{location}: {name}: is longer than {text_limit(name):,} bytes")
    folder = Path(_fetch(location, FIRST_FILES))
    with _raise_checkpoint_errors(location):
        names = _select_files(location, VerifiedFiles(location, folder), sizes)
    return Path(_fetch(location, names, shows_progress=shows_bars(logger)))


def _find_cached(uri: str, optional: Collection[str] = ()) -> Path | None:
    """Return the folder of a revision in the cache; None if it lacks the manifest, or a file that this lists.

    Args:
        optional: names of files that it must have too if the manifest lists them.

    Raises:
        CheckpointError: the manifest cannot be read.
    """
    repository, revision = parse_hub_uri(uri)
    try:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(repository, "manifest.json", revision=revision)
    except (ImportError, ValueError, OSError):  # as `_fetch` reports
        return None
    if not isinstance(path, str):
        return None
    files = VerifiedFiles(uri, Path(path).parent)
    names = {*MODEL_FILES, *(name for name in (UNTRAINED_FILE, *optional) if name in files)}
    return Path(path).parent if all(Path(path).with_name(name).is_file() for name in names) else None


def _select_files(location: str, files: VerifiedFiles, sizes: Mapping[str, int]) -> set[str]:
    """Return the names of the files to download.

    Args:
        files: of which the first ones were downloaded. sizes: bytes of the files in the repository, by name.

    Raises:
        CheckpointError, ValueError: the settings are malformed, or a file is missing or has another size than in the
            manifest.
    """
    parse_settings(files.read_text("experiment.yaml"))
    names = {*MODEL_FILES, *(name for name in OPTIONAL_FILES if name in files and name in sizes)}
    if UNTRAINED_FILE in files:
        names.add(UNTRAINED_FILE)
    wrong = [name for name in sorted(names) if name not in sizes or sizes[name] != files.size(name)]
    if wrong:
        raise CheckpointError(f"{location}: {', '.join(wrong)} missing, or of another size than in the manifest")
    return {*FIRST_FILES, *names, MODEL_CARD_FILE}


def _fetch(uri: str, names: Collection[str], *, dry_run: bool = False, shows_progress: bool = False) -> Any:
    """Return what huggingface_hub's `snapshot_download` returns for files of a repository.

    Raises:
        StorageError: it fails; `_UnreachableError` if the cache may be used instead, in a dry run.
    """
    repository, revision = parse_hub_uri(uri)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import DryRunError, RepositoryNotFoundError, RevisionNotFoundError
        from huggingface_hub.utils.tqdm import tqdm
    except ImportError as error:
        raise StorageError(f"{uri}: {MISSING_PACKAGE}") from error

    class ProgressBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            hidden = {} if shows_progress else {"disable": True}
            super().__init__(*arguments, **options | hidden)  # type: ignore[no-untyped-call]

    options: dict[str, Any] = {"dry_run": dry_run, "tqdm_class": ProgressBar}
    try:
        return snapshot_download(repository, revision=revision, allow_patterns=sorted(names), **options)
    except Exception as error:  # those of its HTTP library have no base class of their own
        is_unreachable = isinstance(error, DryRunError)  # not for a missing revision, nor for a proxy that fails
        cause = error.__cause__ if is_unreachable and isinstance(error.__cause__, Exception) else error
        if isinstance(cause, RepositoryNotFoundError):
            message = "the Hub has no such repository, or it is private: `hf auth login`"
        elif isinstance(cause, RevisionNotFoundError):
            message = f"the repository has no revision '{revision}'"
        else:
            message = f"cannot be downloaded: {describe_hub_error(cause)}"
        raise (_UnreachableError if is_unreachable else StorageError)(f"{uri}: {message}") from error


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
