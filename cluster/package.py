"""The code as one zip, as Ray takes it for a `working_dir`: source only, no data, vectors, runs or environments."""

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

EXCLUDED_FOLDERS = {
    "__pycache__",
    "runs",
    "data",
    "vectors",
    "tests",
    "benchmarks",
    "node_modules",
    "build",
    "dist",
}
# What is sent is code and settings; texts, vectors and weights lie in the storage.
INCLUDED_SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".lock", ".md", ".html", ".js", ".css", ".txt"}
MAX_SOURCE_BYTES = 20 << 20

WORKING_DIR_SCHEMES = {
    "s3",
    "gs",
    "azure",
    "abfss",
    "https",
    "http",
    "file",
    "local",
}  # what Ray takes code from, but for uploads


class PackageError(UsageError):
    """The code cannot be sent to the cluster as it is."""


@dataclass(frozen=True)
class Package:
    """A zip of the code. files: what is in it, with their sizes in bytes, the largest first."""

    path: Path
    files: list[tuple[str, int]]

    def describe(self) -> str:
        """Return what is uploaded, in words."""
        total = sum(size for _, size in self.files)
        largest = ", ".join(f"{name} ({size / 1024:.0f} KiB)" for name, size in self.files[:3])
        return (
            f"uploading {len(self.files)} files, {total / 1024:.0f} KiB "
            f"({self.path.stat().st_size / 1024:.0f} KiB zipped); the largest: {largest}"
        )


def build_package(folder: Path = REPOSITORY, include: Iterable[str] = ()) -> Package:
    """Return a zip of a folder's source files; the same files give the same bytes, so Ray uploads once.

    Args:
        also: further files, relative to the folder, that are sent whatever they are called.

    Raises:
        PackageError: there is nothing to send, it is too large, or a file of `also` lies elsewhere.
    """
    names = {*_sources(folder), *(relative_path(folder, name) for name in include)}
    if not names:
        raise PackageError(f"{folder}: holds no source files to send")
    files = sorted(((name, (folder / name).stat().st_size) for name in names), key=lambda each: (-each[1], each[0]))
    if sum(size for _, size in files) > MAX_SOURCE_BYTES:
        largest = ", ".join(f"{name} ({size >> 20} MiB)" for name, size in files[:3])
        raise PackageError(f"{folder}: more than {MAX_SOURCE_BYTES >> 20} MiB of source; the largest: {largest}")
    target = Path(tempfile.mkdtemp(prefix="package-"), "code.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(names):
            # A fixed time, or the same code would be another upload.
            archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return Package(target, files)


def publish_package(target: str, folder: Path = REPOSITORY) -> Package:
    """Write the zip of a folder's source files to a path or URI, and return what is in it.

    A service that is deployed with it keeps it, where an upload of Ray's is forgotten after the job that made it.

    Raises:
        PackageError: it is not called .zip, which is how Ray knows it; StorageError: it cannot be written.
    """
    if not target.partition("?")[0].endswith(".zip"):
        raise PackageError(f"{target}: a package's name ends in .zip")
    package = build_package(folder)
    try:
        write_bytes(target, package.path.read_bytes())
    finally:
        shutil.rmtree(package.path.parent, ignore_errors=True)
    return package


def validate_working_dir(working_dir: str) -> str:
    """Return the `working_dir` of a service, if the service can outlive whoever deploys it.

    Raises:
        PackageError: it is a folder of this machine, or an upload that Ray forgets.
    """
    scheme, mark, _ = working_dir.partition("://")
    ways = (
        "name an archive that every node can read, as `python -m cluster package TARGET.zip` makes one (s3://, gs://, "
        "https://, or file:///PATH.zip on a shared file system), or a folder that is on every node: local:///PATH"
    )
    if not mark:
        raise PackageError(f"{working_dir}: is a folder of this machine, which a service cannot keep; {ways}")
    if scheme == "gcs":
        raise PackageError(f"{working_dir}: Ray forgets this upload after the job that made it has ended; {ways}")
    if scheme not in WORKING_DIR_SCHEMES:
        raise PackageError(f"{working_dir}: Ray reads no '{scheme}://'; {ways}")
    return working_dir


def _sources(folder: Path) -> list[str]:
    names = []
    for where, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in EXCLUDED_FOLDERS
            and not Path(where, name, "pyvenv.cfg").exists()
        ]
        names += [
            Path(where, name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix in INCLUDED_SUFFIXES
        ]
    return names


def relative_path(folder: Path, name: str) -> str:
    """Return a file's name relative to the folder; PackageError if it is not in it."""
    path = Path(folder, name).resolve()
    if not path.is_file():
        raise PackageError(f"{name}: no such file in {folder}")
    if not path.is_relative_to(folder.resolve()):
        raise PackageError(f"{name}: lies outside {folder}, which is what the cluster gets; put it inside")
    return path.relative_to(folder.resolve()).as_posix()
