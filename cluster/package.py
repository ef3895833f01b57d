"""Package of the code: a zip for Ray's `working_dir` with this project's files, and no data, vectors, runs or secrets.

Only the project's own files and files that the user names are in it, so nothing else in a folder can leave the machine.
Of a git checkout, the project's own files are those that git tracks.
"""

import importlib.metadata
import logging
import os
import shutil
import subprocess
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import UsageError, choose_form
from cluster.storage import split_query, write_bytes

logger = logging.getLogger(__name__)

DISTRIBUTION = "finetune-cnn"  # its name in pyproject.toml
LAYERS = ("cluster", "jobs", "serving")
FACADE = "finetune_cnn.py"
PACKAGE_DATA = (
    "serving/service.yaml",
    "serving/dashboard.json",
    "serving/alerts.yaml",
    "serving/web/page.html",
    "jobs/evaluation/reports/html/base.html",
    "jobs/evaluation/reports/html/data_check.html",
    "jobs/evaluation/reports/html/evaluation.html",
    "jobs/evaluation/reports/html/macros.html",
    "jobs/evaluation/reports/html/report.css",
    "jobs/evaluation/reports/html/report.js",
    "jobs/evaluation/reports/html/search.html",
    "jobs/portable/browser/icon.svg",
    "jobs/portable/browser/index.html",
    "jobs/portable/browser/linear_classifier.mjs",
    "jobs/portable/browser/page.css",
    "jobs/portable/browser/page.mjs",
    "jobs/portable/browser/tensors.mjs",
    "jobs/portable/browser/text_classifier.mjs",
    "jobs/portable/browser/tokenizer.mjs",
)
LOCK_FILE = "requirements.lock"

CODE_FOLDER = Path(__file__).resolve().parent.parent
"""The folder from which this code is imported: site-packages, or a checkout."""
REPOSITORY = CODE_FOLDER
"""The same folder under the name that tests and benchmarks use: they run in a checkout."""

MAX_BYTES = 20 << 20
GIT_TIMEOUT_S = 30
# Git sets them for its hooks. They would name the repository of the hook.
GIT_VARIABLES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}

# From which Ray loads code, except for uploads.
WORKING_DIR_SCHEMES = {"s3", "gs", "azure", "abfss", "https", "http", "file", "local"}


class PackageError(UsageError):
    """The code cannot be sent to the cluster as it is."""


@dataclass(frozen=True)
class Package:
    """A zip of the code. files: (path in the zip, size in bytes), the largest first."""

    path: Path
    files: list[tuple[str, int]]

    def describe(self) -> str:
        """Return a line about the upload: number of files, sizes, the largest files."""
        total = sum(size for _, size in self.files)
        largest = ", ".join(f"{name} ({size / 1024:.0f} KiB)" for name, size in self.files[:3])
        return (
            f"uploading {len(self.files)} files, {total / 1024:.0f} KiB "
            f"({self.path.stat().st_size / 1024:.0f} KiB zipped); the largest: {largest}"
        )


def is_installed() -> bool:
    """Return whether this code is in site-packages; otherwise it is in a checkout."""
    return str(CODE_FOLDER) in {str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib")}


def build_package(code: Path = CODE_FOLDER, files: Iterable[tuple[str, Path]] = ()) -> Package:
    """Return a zip of the project's files. The same files give the same bytes, so Ray uploads them once.

    Python files of a git checkout that git does not track are not in it, unless named; a warning lists them.

    Args:
        code: folder with the packages `cluster`, `jobs` and `serving`, and `finetune_cnn.py`.
        files: further files, as path in the zip and path here.

    Raises:
        PackageError: there is no code, the files are too large, or two have the same path in the zip.
    """
    sources = {path.relative_to(code).as_posix(): path for path in _list_code(code)}
    tracked = _list_tracked_files(code)
    untracked = sorted(sources.keys() - tracked) if tracked is not None else []
    for name in untracked:
        del sources[name]
    if not sources and not untracked:
        raise PackageError(f"{code}: has no package {', '.join(LAYERS)}; name a checkout of this project")
    for name, path in files:
        if not path.samefile(sources.setdefault(name, path)):
            raise PackageError(f"{path}: the package has another file at {name}; rename this one")
    if left_out := [name for name in untracked if name not in sources]:
        logger.warning(
            f"not sent, because git does not track {choose_form(len(left_out), 'it', 'them')}: {', '.join(left_out)}; "
            "run `git add`, or name a file with --include"
        )
    sizes = sorted(
        ((name, path.stat().st_size) for name, path in sources.items()), key=lambda file: (-file[1], file[0])
    )
    if sum(size for _, size in sizes) > MAX_BYTES:
        largest = ", ".join(f"{name} ({size >> 20} MiB)" for name, size in sizes[:3])
        raise PackageError(
            f"more than {MAX_BYTES >> 20} MiB to upload; put data into the storage. The largest: {largest}"
        )
    target = Path(tempfile.mkdtemp(prefix="package-"), "code.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(sources):
            # ZipInfo has a fixed time: with the time of now, the same code would be a new upload.
            archive.writestr(zipfile.ZipInfo(name), sources[name].read_bytes(), zipfile.ZIP_DEFLATED)
    return Package(target, sizes)


def publish_package(target: str, code: Path = CODE_FOLDER, files: Iterable[tuple[str, Path]] = ()) -> Package:
    """Write the zip of the code and of further files to a path or URI, and return it.

    A service needs its code at a URI, because Ray deletes an uploaded package when its job has ended.

    Raises:
        PackageError: the target does not end in .zip, which Ray requires.
        StorageError: it cannot be written.
    """
    if not split_query(target)[0].endswith(".zip"):
        raise PackageError(f"{target}: the name of a package must end in .zip")
    package = build_package(code, files)
    try:
        write_bytes(target, package.path.read_bytes())
    finally:
        shutil.rmtree(package.path.parent, ignore_errors=True)
    return package


def is_experiment_file(word: str) -> bool:
    """Return whether an argument of a command names an experiment file: no option, no setting, and a YAML suffix."""
    return "=" not in word and not word.startswith("-") and word.endswith((".yaml", ".yml"))


def relative_path(folder: Path, name: str) -> str | None:
    """Return a file's path relative to a folder, None if it is elsewhere; PackageError if there is no such file."""
    path = Path(folder, name)
    if not path.is_file():
        raise PackageError(f"{name}: no such file in {folder.absolute()}")
    # A symbolic link in the folder counts as a file of the folder, and so does a file of the folder behind one.
    for file, parent in (
        (Path(os.path.abspath(path)), Path(os.path.abspath(folder))),
        (path.resolve(), folder.resolve()),
    ):
        if file.is_relative_to(parent):
            return file.relative_to(parent).as_posix()
    return None


def map_files(
    folder: Path, arguments: Sequence[str], include: Sequence[str]
) -> tuple[list[str], list[tuple[str, Path]]]:
    """Return a job's arguments, and the files that it reads as path in the job's folder and path here.

    Experiment files among the arguments keep their path relative to `folder`; one from another folder is sent under
    its name. Data and storage are not sent.

    Raises:
        PackageError: a file does not exist, or one of `include` is in another folder.
    """
    words, files = [], []
    for word in arguments:
        if is_experiment_file(word):
            name = relative_path(folder, word) or Path(word).name
            files.append((name, folder / word))
            word = name
        words.append(word)
    for file in include:
        path = relative_path(folder, file)
        if path is None:
            raise PackageError(
                f"{file}: is outside {folder.absolute()}, so the job would have no such path; run the command in a "
                "folder that contains the file"
            )
        files.append((path, folder / file))
    return words, files


def validate_working_dir(working_dir: str) -> str:
    """Return the `working_dir` of a service, if it outlives the command that deploys the service.

    Raises:
        PackageError: it is a folder of this machine, or an upload that Ray deletes.
    """
    scheme, mark, _ = working_dir.partition("://")
    remedy = (
        "name an archive that every node can read, written by `finetune-cnn package TARGET.zip` (s3://, gs://, "
        "https://, or file:///PATH.zip on a shared file system), or a folder that exists on every node: local:///PATH"
    )
    if not mark:
        raise PackageError(f"{working_dir}: is a folder of this machine, which a service cannot keep; {remedy}")
    if scheme == "gcs":
        raise PackageError(f"{working_dir}: Ray deletes this upload after the job that sent it; {remedy}")
    if scheme not in WORKING_DIR_SCHEMES:
        raise PackageError(f"{working_dir}: Ray does not read '{scheme}://'; {remedy}")
    return working_dir


def list_requirements(code: Path = CODE_FOLDER) -> list[str]:
    """Return the requirements of the code for pip: requirements.lock of a checkout, else the versions installed here.

    Raises:
        PackageError: requirements.lock cannot be read.
    """
    path = code / LOCK_FILE
    if code == CODE_FOLDER and (is_installed() or not path.is_file()):
        return pin_installed_packages()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PackageError(f"{path}: --install needs this file: {error.strerror}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def pin_installed_packages(distribution: str = DISTRIBUTION) -> list[str]:
    """Return everything that a distribution requires, directly or not, as `name==version` of what is installed here.

    Optional requirements that nothing requests are not in it. A local version such as `2.13.0+cpu` loses its suffix,
    because package registries do not have it.

    Raises:
        PackageError: the distribution is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    versions: dict[str, str] = {}
    visited: set[tuple[str, str]] = set()
    pending = [(distribution, "")]  # a distribution, and one of its extras
    while pending:
        name, extra = pending.pop()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        try:
            metadata = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            if name == distribution:
                raise PackageError(f"{name} is not installed: its requirements are unknown") from error
            continue  # pip resolves on the node what is missing here
        versions[canonicalize_name(name)] = metadata.version.partition("+")[0]
        for requirement in map(Requirement, metadata.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                pending += [(requirement.name, selected) for selected in ("", *requirement.extras)]
    del versions[canonicalize_name(distribution)]
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _list_code(code: Path) -> Iterator[Path]:
    """Yield the project's files in a folder: Python files of the packages, their data files, and the facade."""
    for layer in LAYERS:
        yield from (path for path in (code / layer).rglob("*.py") if not path.name.startswith("."))
    yield from (path for name in (*PACKAGE_DATA, FACADE) if (path := code / name).is_file())


def _list_tracked_files(code: Path) -> set[str] | None:
    """Return the paths in a checkout that git tracks; None for a folder that is no checkout, or without git."""
    if not (code / ".git").exists() or shutil.which("git") is None:
        return None
    environment = {name: value for name, value in os.environ.items() if name not in GIT_VARIABLES}
    command = ["git", "-C", str(code), "ls-files", "-z", "--", *LAYERS, FACADE]
    try:
        result = subprocess.run(command, env=environment, capture_output=True, timeout=GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error).encode()
        message = " ".join(reason.decode(errors="replace").split())
        logger.warning(f"{code}: git cannot list its files, so all Python files of the packages are sent: {message}")
        return None
    return set(os.fsdecode(result.stdout).split("\0"))
