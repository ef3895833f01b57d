"""Package of the code: files that are sent to a cluster, files that are not, and requirements."""

import os
import re
import subprocess
import tomllib
import zipfile
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from cluster import package as package_module
from cluster.__main__ import main
from cluster.package import (
    PACKAGE_DATA,
    REPOSITORY,
    PackageError,
    build_package,
    is_installed,
    list_requirements,
    pin_installed_packages,
    publish_package,
    relative_path,
    validate_working_dir,
)

SOURCES = [
    "cluster/__init__.py",
    "finetune_cnn.py",
    "jobs/__init__.py",
    "jobs/datasets/reader.py",
    "serving/service.yaml",
    "serving/web/page.html",
]
# Everything else in a folder, the files of issue 16 among it.
NOT_SENT = [
    "reviews.txt",
    "glove.6B.50d.txt",
    "keys.txt",
    "secrets.yaml",
    "requirements.lock",
    "experiments/a.yaml",
    "jobs/rows.tsv",
    "jobs/keys.txt",
    "jobs/secrets.yaml",
    "jobs/__pycache__/reader.cpython-311.pyc",
    "runs/x/experiment.yaml",
    ".env",
    "setup.py",
    "tests/test_a.py",
    "vectors.bin",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with files that must not be sent."""
    for name in (*SOURCES, *NOT_SENT):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def list_names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_only_the_projects_own_files_are_sent(folder: Path) -> None:
    """No texts, vectors, keys or settings, wherever they are."""
    assert list_names(build_package(folder).path) == SOURCES


@pytest.fixture
def repository(folder: Path) -> Path:
    """The checkout as a git repository: the sources are added, except for `jobs/datasets/reader.py`."""
    run_git(folder, "init", "--quiet")
    run_git(folder, "add", *(name for name in SOURCES if name != "jobs/datasets/reader.py"))
    return folder


def run_git(folder: Path, *words: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    subprocess.run(["git", *words], cwd=folder, env=environment, check=True, timeout=60)


def test_of_a_git_checkout_only_tracked_files_are_sent(
    repository: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message names the others; git's variables of another repository, as in a hook, have no effect."""
    (repository / ".gitignore").write_text("ignored.py\n")
    (repository / "cluster/ignored.py").write_text("token = 1\n")
    (repository / "jobs/größe.py").write_text("")
    run_git(repository, "add", "jobs/größe.py")
    monkeypatch.setenv("GIT_DIR", str(repository / "none"))
    tracked = sorted([*SOURCES[:3], "jobs/größe.py", *SOURCES[4:]])
    assert list_names(build_package(repository).path) == tracked
    [message] = messages
    assert "does not track them: cluster/ignored.py, jobs/datasets/reader.py; run `git add`, or name" in message


def test_an_untracked_file_is_sent_if_it_is_named(
    repository: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By `submit --include` and `package --include`, which call this; tracked files that were deleted are no error."""
    name = "jobs/datasets/reader.py"
    (repository / "cluster/__init__.py").unlink()
    sources = SOURCES[1:]
    assert list_names(build_package(repository, [(name, repository / name)]).path) == sources
    assert messages == []
    monkeypatch.chdir(repository)
    assert main(["package", str(tmp_path / "code.zip"), "--include", name]) == 0
    assert {name, "cluster/__main__.py"} < set(list_names(tmp_path / "code.zip"))


def test_a_checkout_that_git_cannot_read_is_sent_whole(folder: Path, messages: list[str]) -> None:
    """With a warning that states what git said. A folder inside a repository is no checkout."""
    (folder / ".git").write_text("gitdir: /none\n")
    assert list_names(build_package(folder).path) == SOURCES
    assert len(messages) == 1
    assert re.search(r"git cannot list its files, so all Python files .* are sent: fatal: not a git repo", messages[0])
    copy = folder / "copy"
    for name in SOURCES:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(copy / name)
    (folder / ".git").unlink()
    run_git(folder, "init", "--quiet")
    assert list_names(build_package(copy).path) == SOURCES
    assert len(messages) == 1


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    """Ray names an upload after its content, and does not repeat it."""
    first = build_package(folder).path.read_bytes()
    (folder / "jobs/__init__.py").touch()
    assert build_package(folder).path.read_bytes() == first


def test_named_files_are_sent(folder: Path) -> None:
    """Their path in the zip may be another one; two files at one path are an error."""
    path = folder / "reviews.txt"
    assert "data/r.txt" in list_names(build_package(folder, [("data/r.txt", path), ("data/r.txt", path)]).path)
    for name in ("jobs/__init__.py", "data/r.txt"):
        with pytest.raises(PackageError, match=rf"keys\.txt: the package has another file at {name}"):
            build_package(folder, [("data/r.txt", path), (name, folder / "keys.txt")])


def test_too_large_files_are_an_error(folder: Path) -> None:
    """The error names the largest file."""
    with (folder / "dump.txt").open("wb") as stream:
        stream.truncate(30 << 20)
    with pytest.raises(PackageError, match=r"dump\.txt \(30 MiB\)"):
        build_package(folder, [("dump.txt", folder / "dump.txt")])


def test_a_folder_without_code_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="has no package cluster, jobs, serving"):
        build_package(tmp_path)


def test_this_project_fits() -> None:
    """The package is small."""
    package = build_package()
    names = {name for name, _ in package.files}
    assert {"cluster/__main__.py", "jobs/__main__.py", "finetune_cnn.py", *PACKAGE_DATA} <= names
    assert package.path.stat().st_size < 1 << 20


def test_the_data_files_are_those_of_the_wheel_and_of_the_repository() -> None:
    """A new data file must be in all lists, or it is missing on the cluster or after an installation."""
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    in_wheel = {
        f"{name.replace('.', '/')}/{file}" for name, files in setuptools["package-data"].items() for file in files
    }
    assert in_wheel == set(PACKAGE_DATA)
    command = ["git", "ls-files", "cluster", "jobs", "serving"]
    tracked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    if tracked.returncode == 0:  # in a copy without .git there is nothing to compare
        assert {name for name in tracked.stdout.split() if not name.endswith(".py")} == set(PACKAGE_DATA)


def test_a_file_of_another_folder_has_no_relative_path(folder: Path) -> None:
    """A symbolic link counts as a file of its folder."""
    (folder / "outside.txt").write_text("x")
    (folder / "jobs/link.txt").symlink_to("../outside.txt")
    assert relative_path(folder / "jobs", "link.txt") == "link.txt"
    assert relative_path(folder / "jobs", str(folder / "jobs/link.txt")) == "link.txt"
    assert relative_path(folder / "jobs", "../outside.txt") is None
    with pytest.raises(PackageError, match=r"none\.txt: no such file in /"):
        relative_path(folder, "none.txt")


def test_a_checkout_has_its_requirements_in_the_lock_file(folder: Path) -> None:
    """A missing file is an error."""
    assert not is_installed()
    requirements = list_requirements()
    assert any(re.fullmatch("ray==[0-9.]+", requirement) for requirement in requirements)
    assert not any(requirement.startswith("#") for requirement in requirements)
    (folder / "requirements.lock").unlink()
    with pytest.raises(PackageError, match=r"requirements\.lock: --install needs this file"):
        list_requirements(folder)


class FakeDistribution:
    """Metadata of an installed distribution."""

    def __init__(self, version: str, *requires: str) -> None:
        self.version, self.requires, self.metadata = version, list(requires), Message()


def test_an_installation_pins_what_is_installed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct and indirect requirements with the requested extras; no optional ones, and no local versions."""
    installed = {
        "finetune-cnn": FakeDistribution("0.1.0", "ray[serve]>=2", "torch>=2", "pytest; extra == 'dev'"),
        "ray": FakeDistribution("2.60.0", "Click", "fastapi; extra == 'serve'", "gpustat; extra == 'default'"),
        "torch": FakeDistribution("2.13.0+cpu", "nvidia-x", "triton; sys_platform == 'never'"),
        "Click": FakeDistribution("8.5", "ray"),
        "fastapi": FakeDistribution("0.1", "missing-here"),
        "pytest": FakeDistribution("9"),
        "gpustat": FakeDistribution("9"),
        "triton": FakeDistribution("9"),
    }

    def find(name: str) -> FakeDistribution:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.distribution", find)
    monkeypatch.setattr(package_module, "is_installed", lambda: True)
    assert list_requirements() == ["click==8.5", "fastapi==0.1", "ray==2.60.0", "torch==2.13.0"]
    with pytest.raises(PackageError, match="nothing is not installed"):
        pin_installed_packages("nothing")


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
    assert "finetune-cnn package TARGET.zip" in str(error.value)


def test_a_package_is_published_whole(folder: Path, tmp_path: Path) -> None:
    """The package replaces an existing file; its name must end as Ray requires."""
    target = tmp_path / "to" / "code.zip"
    assert len(publish_package(str(target), folder).files) == len(SOURCES)
    assert list_names(target) == SOURCES
    with pytest.raises(PackageError, match=r"must end in \.zip"):
        publish_package(str(tmp_path / "code"), folder)
