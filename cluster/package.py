"""Package of the code: a zip for Ray's `working_dir`, with source files but no data, vectors, runs or environments."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster import UsageError
from cluster.storage import write_bytes

REPOSITORY = Path(__file__).resolve().parent.parent

EXCLUDED_FOLDERS = {"__pycache__", "node_modules"}  # at any depth
EXCLUDED_ROOT_FOLDERS = {"runs", "data", "vectors", "tests", "benchmarks", "build", "dist"}
# Code and settings only: texts, vectors and weights are in the storage.
INCLUDED_SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".lock", ".md", ".html", ".js", ".css", ".txt"}
MAX_SOURCE_BYTES = 20 << 20

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


def build_package(folder: Path = REPOSITORY, include: Iterable[str] = ()) -> Package:
    """Return a zip of a folder's source files. The same files give the same bytes, so Ray uploads them once.

    Args:
        include: paths, relative to the folder, of further files of any kind.

    Raises:
        PackageError: there are no source files, they are too large, or a file of `include` is not in the folder.
    """
    names = {*_list_sources(folder), *(relative_path(folder, name) for name in include)}
    if not names:
        raise PackageError(f"{folder}: has no source files to send")
    files = sorted(((name, (folder / name).stat().st_size) for name in names), key=lambda file: (-file[1], file[0]))
    if sum(size for _, size in files) > MAX_SOURCE_BYTES:
        largest = ", ".join(f"{name} ({size >> 20} MiB)" for name, size in files[:3])
        raise PackageError(f"{folder}: more than {MAX_SOURCE_BYTES >> 20} MiB of source; the largest: {largest}")
    target = Path(tempfile.mkdtemp(prefix="package-"), "code.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(names):
            # ZipInfo has a fixed time: with the time of now, the same code would be a new upload.
            archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return Package(target, files)


def publish_package(target: str, folder: Path = REPOSITORY) -> Package:
    """Write the zip of a folder's source files to a path or URI, and return it.

    A service keeps code at a URI. Ray deletes an upload after the job that sent it.

    Raises:
        PackageError: the target does not end in .zip, which Ray requires.
        StorageError: it cannot be written.
    """
    if not target.partition("?")[0].endswith(".zip"):
        raise PackageError(f"{target}: the name of a package must end in .zip")
    package = build_package(folder)
    try:
        write_bytes(target, package.path.read_bytes())
    finally:
        shutil.rmtree(package.path.parent, ignore_errors=True)
    return package


def validate_working_dir(working_dir: str) -> str:
    """Return the `working_dir` of a service, if it outlives the command that deploys the service.

    Raises:
        PackageError: it is a folder of this machine, or an upload that Ray deletes.
    """
    scheme, mark, _ = working_dir.partition("://")
    remedy = (
        "name an archive that every node can read, written by `python -m cluster package TARGET.zip` (s3://, gs://, "
        "https://, or file:///PATH.zip on a shared file system), or a folder that exists on every node: local:///PATH"
    )
    if not mark:
        raise PackageError(f"{working_dir}: is a folder of this machine, which a service cannot keep; {remedy}")
    if scheme == "gcs":
        raise PackageError(f"{working_dir}: Ray deletes this upload after the job that sent it; {remedy}")
    if scheme not in WORKING_DIR_SCHEMES:
        raise PackageError(f"{working_dir}: Ray does not read '{scheme}://'; {remedy}")
    return working_dir


def _list_sources(folder: Path) -> list[str]:
    """Return the paths of a folder's source files, relative to it."""
    names = []
    for parent, folders, files in os.walk(folder):
        excluded = EXCLUDED_FOLDERS | EXCLUDED_ROOT_FOLDERS if Path(parent) == folder else EXCLUDED_FOLDERS
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name not in excluded and not Path(parent, name, "pyvenv.cfg").exists()
        ]
        names += [
            Path(parent, name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix in INCLUDED_SUFFIXES
        ]
    return names


def relative_path(folder: Path, name: str) -> str:
    """Return a file's path relative to the folder; PackageError if it is not in the folder."""
    path = Path(folder, name).resolve()
    if not path.is_file():
        raise PackageError(f"{name}: no such file in {folder}")
    if not path.is_relative_to(folder.resolve()):
        raise PackageError(f"{name}: is outside {folder}, which is sent to the cluster; move it inside")
    return path.relative_to(folder.resolve()).as_posix()
