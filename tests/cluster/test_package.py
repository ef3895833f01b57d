"""Package of the code: files that are sent to a cluster, and files that are not."""

import zipfile
from pathlib import Path

import pytest

from cluster.package import REPOSITORY, PackageError, build_package, publish_package, validate_working_dir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "jobs/__init__.py",
        "experiments/a.yaml",
        "requirements.lock",
        "data/rows.py",
        "vectors/a.py",
        "jobs/data/reader.py",
        "jobs/vectors/a.py",
        "jobs/__pycache__/a.py",
        "jobs/data/node_modules/a.js",
        "runs/x/experiment.yaml",
        ".hidden/a.py",
        ".secret.yaml",
        "env/pyvenv.cfg",
        "env/lib/a.py",
        "vectors.bin",
        "rows.csv",
        "jobs/rows.tsv",
        "tests/test_a.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


SOURCES = [
    "experiments/a.yaml",
    "jobs/__init__.py",
    "jobs/data/reader.py",
    "jobs/vectors/a.py",
    "requirements.lock",
]


def list_names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_only_code_and_settings_are_sent(folder: Path) -> None:
    """No data, vectors or runs of the root, and no hidden files, caches and environments at any depth."""
    assert list_names(build_package(folder).path) == SOURCES


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    """Ray names an upload after its content, and does not repeat it."""
    first = build_package(folder).path.read_bytes()
    (folder / "jobs/__init__.py").touch()
    assert build_package(folder).path.read_bytes() == first


def test_an_included_file_is_sent(folder: Path) -> None:
    """The name of an included file does not matter."""
    assert "rows.csv" in list_names(build_package(folder, include=["rows.csv"]).path)


@pytest.mark.parametrize("name", ["missing.yaml", "../outside.yaml"])
def test_an_included_file_outside_the_folder_is_an_error(folder: Path, name: str) -> None:
    """A missing file is an error too: the job would not find it."""
    (folder.parent / "outside.yaml").write_text("a: 1")
    with pytest.raises(PackageError, match=name):
        build_package(folder, include=[name])


def test_too_much_source_is_an_error(folder: Path) -> None:
    """The error names the largest file."""
    with (folder / "dump.txt").open("wb") as stream:
        stream.truncate(30 << 20)
    with pytest.raises(PackageError, match=r"dump\.txt \(30 MiB\)"):
        build_package(folder)


def test_this_repository_fits() -> None:
    """This repository's package has the three layers and the lock file, and is small."""
    package = build_package(REPOSITORY)
    names = {name for name, _ in package.files}
    assert {"cluster/__main__.py", "jobs/__main__.py", "serving/service.yaml", "requirements.lock"} <= names
    assert package.path.stat().st_size < 1 << 20


@pytest.mark.parametrize("working_dir", ["s3://bucket/code.zip", "file:///shared/code.zip", "local:///opt/code"])
def test_a_service_accepts_code_that_every_node_can_read(working_dir: str) -> None:
    """Archives at a URI, and folders of the nodes."""
    assert validate_working_dir(working_dir) == working_dir


@pytest.mark.parametrize(
    ("working_dir", "message"),
    [
        (".", "a folder of this machine"),
        ("/home/me/code", "a folder of this machine"),
        ("gcs://_ray_pkg_0123.zip", "Ray deletes this upload after the job"),
        ("ftp://host/code.zip", "Ray does not read 'ftp://'"),
    ],
)
def test_a_service_rejects_code_that_disappears(working_dir: str, message: str) -> None:
    """The error names what works."""
    with pytest.raises(PackageError, match=message) as error:
        validate_working_dir(working_dir)
    assert "python -m cluster package TARGET.zip" in str(error.value)


def test_a_package_is_published_whole(folder: Path, tmp_path: Path) -> None:
    """The package replaces an existing file; its name must end as Ray requires."""
    target = tmp_path / "to" / "code.zip"
    assert len(publish_package(str(target), folder).files) == len(SOURCES)
    assert list_names(target) == SOURCES
    with pytest.raises(PackageError, match=r"must end in \.zip"):
        publish_package(str(tmp_path / "code"), folder)
