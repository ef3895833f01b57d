"""The layout of the code: direction of imports, where Ray may be imported, and nothing happens at import."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.package import REPOSITORY

LAYERS = ("cluster", "jobs", "serving")
FILES = [path.relative_to(REPOSITORY) for layer in LAYERS for path in sorted((REPOSITORY / layer).rglob("*.py"))]
RAY_ALLOWED = {
    "jobs/datasets/dataset.py",
    "jobs/training/cross_validation.py",
    "cluster/message_queue.py",
    "jobs/training/monitor.py",
    "jobs/training/train.py",
    "jobs/search/trainable.py",
    "jobs/search/runner.py",
    "jobs/search/tune.py",
    "jobs/training/worker.py",
    "serving/accepted.py",
    "serving/app.py",
    "serving/web/metrics.py",
    "serving/deployment/server.py",
    "serving/__main__.py",
}
# In this order: a package of `jobs` imports only from those before it.
PACKAGES = ("config", "datasets", "embeddings", "model", "inference", "evaluation", "training", "search")
# What of `jobs` a replica needs; `serving` imports nothing else.
FOR_SERVING = {"config", "inference", "jobs.datasets.tokenizer", "jobs.model.checkpoint"}


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down(path: Path) -> None:
    """serving -> jobs -> cluster, and never back."""
    above = LAYERS[LAYERS.index(path.parts[0]) + 1 :]
    assert not [name for name in imports(path) if name.split(".")[0] in above]


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "jobs" and len(path.parts) > 2], ids=str)
def test_a_package_of_jobs_imports_only_from_those_before_it(path: Path) -> None:
    later = PACKAGES[PACKAGES.index(path.parts[1]) + 1 :]
    assert not [name for name in imports(path) if name.startswith("jobs.") and name.split(".")[1] in later]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_ray_is_imported_only_where_its_job_is(path: Path) -> None:
    """Everything else is tested without a cluster."""
    if path.parts[0] != "cluster" and path.as_posix() not in RAY_ALLOWED:
        assert not [name for name in imports(path) if name.split(".")[0] == "ray"]


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "serving"], ids=str)
def test_serving_takes_only_what_reads_a_checkpoint(path: Path) -> None:
    """A replica carries no training code."""
    modules = [".".join(name.split(".")[:3]) for name in imports(path) if name.startswith("jobs.")]
    assert {name for name in modules if not FOR_SERVING & {name, name.split(".")[1]}} == set()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_one_noun(path: Path) -> None:
    """About 300 lines at most."""
    assert len((REPOSITORY / path).read_text().splitlines()) <= 330


@pytest.mark.parametrize("module", LAYERS)
def test_help_is_quick_and_imports_neither_torch_nor_ray(module: str, tmp_path: Path) -> None:
    """`--help` answers at once, and leaves nothing behind."""
    script = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    heavy = {'ray', 'torch', 'gensim', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "    sys.exit(stop.code or bool(heavy))\n"
    )
    command = [sys.executable, "-c", script]
    times = []
    for _ in range(3):  # the quickest: other work on the machine is not ours
        start = time.perf_counter()
        found = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False
        )
        times.append(time.perf_counter() - start)
        assert found.returncode == 0, found.stderr
    assert "usage" in found.stdout
    assert min(times) < 0.5
    assert not list(tmp_path.iterdir())


# Imported without Ray: the rest of `jobs` and `serving` runs on Ray.
PURE = [
    "cluster/auth.py",
    "cluster/input_files.py",
    "cluster/logs.py",
    "cluster/manifest.py",
    "cluster/package.py",
    "cluster/storage.py",
    "cluster/tables.py",
    "jobs/config",
    "jobs/datasets",
    "jobs/embeddings",
    "jobs/model",
    "jobs/inference",
    "jobs/evaluation",
    "jobs/training/checkpoint_store.py",
    "jobs/training/corpus.py",
    "jobs/training/history.py",
    "jobs/training/learning_curve.py",
    "jobs/training/loop.py",
    "jobs/training/process_group.py",
    "jobs/training/run_folder.py",
    "jobs/training/shared_memory.py",
    "jobs/training/snapshot.py",
    "jobs/search/analysis.py",
    "jobs/search/records.py",
    "jobs/search/search.py",
    "jobs/search/space.py",
    "serving/client.py",
    "serving/web",
]


def test_importing_the_pure_files_starts_nothing() -> None:
    """None of them connects to Ray, reads its environment, or imports it."""
    modules = [
        ".".join(path.with_suffix("").parts)
        for path in FILES
        if path.stem != "__init__" and any(str(path).startswith(pure) for pure in PURE)
    ]
    assert len(modules) > len(PURE)
    script = "import importlib, sys\n" + "".join(f"importlib.import_module('{name}')\n" for name in modules)
    script += "sys.exit('ray' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_path_of_one_machine_is_committed() -> None:
    """Home folders and scratch folders are nobody else's."""
    for path in FILES:
        text = (REPOSITORY / path).read_text()
        assert str(Path.home()) + "/" not in text
        assert str(REPOSITORY.parent) + "/" not in text
