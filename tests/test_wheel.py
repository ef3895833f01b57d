"""The wheel works without a checkout: installed into an empty environment, from another folder."""

import os
import shutil
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from cluster import __version__
from cluster.package import PACKAGE_DATA, REPOSITORY
from tests.support.commands import run_command
from tests.support.toy_data import make_toy_rows

SOURCES = ("pyproject.toml", "README.md", "finetune_cnn.py", "cluster", "jobs", "serving")
SETTINGS = [
    "name=toy", "model.embedding=rand", "model.filter_widths=[1]", "model.feature_maps=4", "vectors.dimensions=8",
    "vectors.min_count=1", "train.epochs=1",
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources: setuptools writes into their folder."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(source, folder / "source" / name)
    (folder / "source/jobs/keys.txt").write_text("secret")
    command = ("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", ".")
    result = run_command("python", "-m", *command, "./source", cwd=folder)
    assert result.returncode == 0, result.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel; its packages are those of this Python."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    (site_packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = ("pip", "--python", str(folder / "bin/python"), "install", "--quiet", "--no-deps", "--no-index")
    result = run_command("python", "-m", *command, "--ignore-installed", str(wheel))
    assert result.returncode == 0, result.stderr
    return folder / "bin"


def run(scripts: Path, folder: Path, *command: str, env: dict[str, str] | None = None) -> str:
    """Run a program of the environment in a folder, and return its output."""
    environment = {key: value for key, value in (env or os.environ).items() if key != "PYTHONPATH"}
    result = run_command(str(scripts / command[0]), *command[1:], cwd=folder, env=environment, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_has_the_code_and_its_data_files(wheel: Path) -> None:
    """No tests, benchmarks or experiments, and no other file of the folder."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"cluster", "jobs", "serving", "finetune_cnn.py"}
    assert {name for name in names if not name.endswith(".py")} == set(PACKAGE_DATA)
    assert {"jobs/search/tune.py", "serving/web/page.html"} <= names
    assert wheel.name == f"finetune_cnn-{__version__}-py3-none-any.whl"


def test_the_commands_work_without_a_checkout(scripts: Path, tmp_path: Path) -> None:
    """The version, the packages, a manifest, the zip for a cluster, the versions for --install, and the estimator."""
    assert run(scripts, tmp_path, "finetune-cnn", "--version") == f"finetune-cnn {__version__}\n"
    script = (
        "import cluster, jobs, serving, finetune_cnn; print(*(m.__file__ for m in (cluster, serving, finetune_cnn)))"
    )
    paths = run(scripts, tmp_path, "python", "-c", script).split()
    assert len(paths) == 3
    assert all(Path(path).is_relative_to(scripts.parent) for path in paths)
    manifest = ("manifest", "--image", "i", "--storage", "s3://b/r", "--", "cluster")
    assert "kind: RayCluster" in run(scripts, tmp_path, "finetune-cnn", *manifest)
    assert run(scripts, tmp_path, "finetune-cnn", "service", "dashboard").startswith("{")
    assert "alert: ClassifierErrors" in run(scripts, tmp_path, "finetune-cnn", "service", "alerts")
    run(scripts, tmp_path, "finetune-cnn", "package", "code.zip")
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"cluster", "jobs", "serving", "finetune_cnn.py"}
    script = "from cluster.package import list_requirements; print(*list_requirements())"
    requirements = dict(word.split("==") for word in run(scripts, tmp_path, "python", "-c", script).split())
    assert {"ray", "torch", "fastapi", "click"} <= set(requirements)
    assert not {"pytest", "ruff", "finetune-cnn"} & set(requirements)
    script = (
        "from finetune_cnn import TextCNNClassifier, load; texts, labels = ['good', 'bad'] * 20, ['yes', 'no'] * 20; "
        "model = TextCNNClassifier(embedding='rand', feature_maps=4, learning_rate=0.02).fit(texts, labels); "
        "model.save('model'); print(*load('model').predict(['good', 'bad']))"
    )
    assert run(scripts, tmp_path, "python", "-c", script) == "yes no\n"


@pytest.mark.ray
def test_training_works_without_a_checkout(scripts: Path, tmp_path: Path, ray_environment: dict[str, str]) -> None:
    """Workers import the installed code; the checkpoint can be evaluated, used and served."""
    rows = "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(60))
    (tmp_path / "toy.csv").write_text("label,text\n" + rows)
    output = run(scripts, tmp_path, "finetune-cnn", "train", "data.train=toy.csv", *SETTINGS, env=ray_environment)
    assert "next: finetune-cnn evaluate" in output
    assert (tmp_path / "runs/toy/best.json").exists()
    assert "accuracy" in run(scripts, tmp_path, "finetune-cnn", "evaluate", "runs/toy", env=ray_environment)
    (tmp_path / "new.csv").write_text("text\na great film\n")
    assert '"label"' in run(scripts, tmp_path, "finetune-cnn", "predict", "runs/toy", "new.csv")
    assert "import_path: serving.app:build" in run(scripts, tmp_path, "finetune-cnn", "service", "config", "runs/toy")
