"""What is sent to a cluster, and what never is."""

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


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_only_code_and_settings_are_sent(folder: Path) -> None:
    """Data, vectors, runs, hidden files and environments stay here."""
    assert names(build_package(folder).path) == ["experiments/a.yaml", "jobs/__init__.py", "requirements.lock"]


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    """Ray names an upload by its content, and skips one that it has."""
    first = build_package(folder).path.read_bytes()
    (folder / "jobs/__init__.py").touch()
    assert build_package(folder).path.read_bytes() == first


def test_a_file_named_explicitly_is_sent(folder: Path) -> None:
    """What the command line names goes along, whatever it is called."""
    assert "rows.csv" in names(build_package(folder, include=["rows.csv"]).path)


@pytest.mark.parametrize("name", ["missing.yaml", "../outside.yaml"])
def test_a_file_that_is_not_inside_is_an_error(folder: Path, name: str) -> None:
    """The job would not find it."""
    (folder.parent / "outside.yaml").write_text("a: 1")
    with pytest.raises(PackageError, match=name):
        build_package(folder, include=[name])


def test_too_much_names_the_largest(folder: Path) -> None:
    """A forgotten dump is named, not uploaded."""
    with (folder / "dump.txt").open("wb") as stream:
        stream.truncate(30 << 20)
    with pytest.raises(PackageError, match=r"dump\.txt \(30 MiB\)"):
        build_package(folder)


def test_this_repository_fits() -> None:
    """The three floors and the lock go, and stay small."""
    package = build_package(REPOSITORY)
    sent = {name for name, _ in package.files}
    assert {"cluster/__main__.py", "jobs/__main__.py", "serving/service.yaml", "requirements.lock"} <= sent
    assert package.path.stat().st_size < 1 << 20


@pytest.mark.parametrize("working_dir", ["s3://bucket/code.zip", "file:///shared/code.zip", "local:///opt/code"])
def test_a_service_keeps_what_every_node_can_read(working_dir: str) -> None:
    """Archives at a URI, and folders that are there."""
    assert validate_working_dir(working_dir) == working_dir


@pytest.mark.parametrize(
    ("working_dir", "message"),
    [
        (".", "a folder of this machine"),
        ("/home/me/code", "a folder of this machine"),
        ("gcs://_ray_pkg_0123.zip", "Ray forgets this upload after the job"),
        ("ftp://host/code.zip", "Ray reads no 'ftp://'"),
    ],
)
def test_a_service_is_not_given_what_goes_away(working_dir: str, message: str) -> None:
    """What works is named instead."""
    with pytest.raises(PackageError, match=message) as error:
        validate_working_dir(working_dir)
    assert "python -m cluster package TARGET.zip" in str(error.value)


def test_a_package_is_published_whole(folder: Path, tmp_path: Path) -> None:
    """Over what was there, under a name that Ray takes for an archive."""
    target = tmp_path / "to" / "code.zip"
    assert len(publish_package(str(target), folder).files) == 3
    assert names(target) == ["experiments/a.yaml", "jobs/__init__.py", "requirements.lock"]
    with pytest.raises(PackageError, match=r"ends in \.zip"):
        publish_package(str(tmp_path / "code"), folder)
