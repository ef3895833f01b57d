"""Layout of the code: import directions, imports of Ray and torch, sizes, types of public signatures."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.package import REPOSITORY

LAYERS = ("cluster", "jobs", "serving")
FILES = [path.relative_to(REPOSITORY) for layer in LAYERS for path in sorted((REPOSITORY / layer).rglob("*.py"))]
MAX_LINES = 330
MAX_FILES_PER_FOLDER = 13
# Files that need Ray whenever they are imported.
RAY_AT_TOP = {
    "cluster/check.py",
    "cluster/connection.py",
    "cluster/message_queue.py",
    "cluster/ray_jobs.py",
    "cluster/resources.py",
    "jobs/search/runner.py",
    "jobs/search/shared_state.py",
    "jobs/search/trainable.py",
    "jobs/search/tune.py",
    "jobs/training/corpora/sharing.py",
    "jobs/training/cross_validation.py",
    "jobs/training/monitor.py",
    "jobs/training/run_files/reporter.py",
    "jobs/training/train.py",
    "jobs/training/worker.py",
    "serving/app.py",
}
# Files that import Ray at all; the others import it in a function.
RAY_ALLOWED = RAY_AT_TOP | {
    "jobs/inference/batch/cluster_pipeline.py",
    "serving/__main__.py",
    "serving/deployment/server.py",
    "serving/web/metrics.py",
}
# In this order: a package of `jobs` imports only from earlier ones.
PACKAGES = (
    "config", "compilation", "datasets", "embeddings", "model", "inference", "evaluation", "portable", "training",
    "data_checks", "search", "runs", "estimator",
)  # fmt: skip
# The parts of `jobs` that a replica needs; `serving` imports nothing else.
USED_BY_SERVING = {
    "config", "compilation", "inference", "jobs.datasets.tokenization", "jobs.datasets.tokenizer",
    "jobs.model.checkpoint", "jobs.model.checkpoint_leases", "jobs.model.checkpoint_locations",
}  # fmt: skip
# Within `serving`: what the files of a package, or a file, must not import.
SERVING_FORBIDDEN = {
    "serving/web/": ("serving.app", "serving.deployment"),
    "serving/app.py": ("serving.deployment",),
}
# Importable without Ray.
PURE = [
    "cluster/auth.py",
    "cluster/durable_files.py",
    "cluster/fsspec_files.py",
    "cluster/input_files.py",
    "cluster/console/logs.py",
    "cluster/kuberay/manifest.py",
    "cluster/package.py",
    "cluster/storage.py",
    "cluster/console/tables.py",
    "jobs/compilation",
    "jobs/config",
    "jobs/data_checks",
    "jobs/datasets",
    "jobs/embeddings",
    "jobs/estimator",
    "jobs/evaluation",
    "jobs/inference",
    "jobs/model",
    "jobs/portable",
    "jobs/runs",
    "jobs/search/results/analysis.py",
    "jobs/search/records.py",
    "jobs/search/search.py",
    "jobs/search/space.py",
    "jobs/training/run_files/checkpoint_store.py",
    "jobs/training/corpora/building.py",
    "jobs/training/corpora/corpus.py",
    "jobs/training/corpora/block_reader.py",
    "jobs/training/corpora/token_blocks.py",
    "jobs/training/exchange",
    "jobs/training/history.py",
    "jobs/training/run_files/learning_curve.py",
    "jobs/training/loop.py",
    "jobs/training/process_group.py",
    "jobs/training/run_files/run_folder.py",
    "jobs/training/run_files/snapshot.py",
    "serving/api_keys.py",
    "serving/client.py",
    "serving/web",
]
# Public functions whose signatures contain an untyped dict: configurations of Kubernetes, Ray and Ray Serve, methods
# whose signatures Ray defines, and settings by dotted path. To be reduced: nothing may be added.
UNTYPED_ALLOWED = {
    "cluster/kuberay/manifest.py::build_ray_cluster",
    "cluster/kuberay/manifest.py::build_ray_job",
    "cluster/kuberay/manifest.py::build_ray_service",
    "cluster/ray_jobs.py::build_runtime_env",
    "jobs/config/experiment.py::Experiment.replace",
    "jobs/evaluation/drift.py::Drift.tables",
    "jobs/model/checkpoint.py::save_checkpoint",
    "jobs/search/best_checkpoint.py::BestCheckpointManager.recover",
    "jobs/search/points.py::generate_points",
    "jobs/search/points.py::list_own_settings",
    "jobs/search/records.py::RecordStore.read_started",
    "jobs/search/records.py::RecordStore.write_started",
    "jobs/search/records.py::TrialReport.to_tune_result",
    "jobs/search/results/report.py::build_embedding_rows",
    "jobs/search/runner.py::TuneSearcher.on_trial_complete",
    "jobs/search/runner.py::TrialRecorder.on_trial_result",
    "jobs/search/search.py::FixedSampler.ask",
    "jobs/search/search.py::OptunaSampler.ask",
    "jobs/search/search.py::Sampler.ask",
    "jobs/search/search.py::Search.next_trial",
    "jobs/search/search.py::build_search",
    "jobs/search/trainable.py::DistributedTrial.setup",
    "jobs/search/trainable.py::DistributedTrial.step",
    "jobs/search/trainable.py::InProcessTrial.reset_config",
    "jobs/search/trainable.py::InProcessTrial.setup",
    "jobs/search/trainable.py::InProcessTrial.step",
    "jobs/training/worker.py::run_worker",
    "serving/app.py::Replica.reconfigure",
    "serving/client.py::Client.info",
    "serving/deployment/server.py::deploy",
    "serving/deployment/server.py::run",
    "serving/web/openapi.py::build_openapi",
    "serving/web/served_models.py::parse_user_config",
}


def read_imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it or only at its top."""
    tree = ast.parse((REPOSITORY / path).read_text())
    names: set[str] = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_in(name: str, module: str) -> bool:
    """Return whether a dotted name is a module or something in it."""
    return f"{name}.".startswith(f"{module}.")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_layers_import_only_from_lower_layers(path: Path) -> None:
    """serving -> jobs -> cluster."""
    above = LAYERS[LAYERS.index(path.parts[0]) + 1 :]
    assert not [name for name in read_imports(path) if name.split(".")[0] in above]


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "jobs" and len(path.parts) > 2], ids=str)
def test_a_package_of_jobs_imports_only_from_earlier_packages(path: Path) -> None:
    later = PACKAGES[PACKAGES.index(path.parts[1]) + 1 :]
    assert not [name for name in read_imports(path) if name.startswith("jobs.") and name.split(".")[1] in later]


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "serving"], ids=str)
def test_the_web_application_does_not_depend_on_its_deployment(path: Path) -> None:
    forbidden = [names for start, names in SERVING_FORBIDDEN.items() if path.as_posix().startswith(start)]
    modules = [module for names in forbidden for module in names]
    assert not [name for name in read_imports(path) for module in modules if is_in(name, module)]


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "serving"], ids=str)
def test_serving_imports_only_what_reads_a_checkpoint(path: Path) -> None:
    """A replica carries no training code."""
    modules = [".".join(name.split(".")[:3]) for name in read_imports(path) if name.startswith("jobs.")]
    assert {name for name in modules if not USED_BY_SERVING & {name, name.split(".")[1]}} == set()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_ray_is_imported_only_where_it_is_needed(path: Path) -> None:
    """All other files are tested without a cluster."""
    if path.parts[0] != "cluster" and path.as_posix() not in RAY_ALLOWED:
        assert not [name for name in read_imports(path) if is_in(name, "ray")]
    if path.as_posix() not in RAY_AT_TOP:
        assert not [name for name in read_imports(path, top_only=True) if is_in(name, "ray")]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_are_short(path: Path) -> None:
    assert len((REPOSITORY / path).read_text().splitlines()) <= MAX_LINES


def test_the_batch_package_imports_nothing_of_the_prediction_that_uses_it() -> None:
    users = ("jobs.inference.sharded_prediction", "jobs.inference.file_prediction")
    files = [path for path in FILES if path.parent.as_posix() == "jobs/inference/batch"]
    assert files
    assert [path for path in files if any(is_in(name, user) for name in read_imports(path) for user in users)] == []


def test_folders_hold_few_files() -> None:
    counts = Counter(path.parent.as_posix() for path in FILES if path.name not in ("__init__.py", "__main__.py"))
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES_PER_FOLDER} == {}


def test_packages_import_nothing_by_themselves() -> None:
    """A package's __init__ is empty, or importing one of its modules would import the others too."""
    packages = [path for path in FILES if path.name == "__init__.py" and len(path.parts) > 2]
    assert packages
    assert [path for path in packages if (REPOSITORY / path).read_text()] == []


def find_untyped_signatures(node: ast.AST, prefix: str) -> Iterator[str]:
    """Yield public functions and methods that take or return a `dict` without a type of its values."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from find_untyped_signatures(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
            annotations = [*(argument.annotation for argument in arguments), child.returns]
            texts = [ast.unparse(annotation) for annotation in annotations if annotation]
            is_json = child.name in ("to_json", "from_json")  # JSON values are the point
            if not is_json and any(
                text == "dict" or "dict[str, Any]" in text or "dict[str, object]" in text for text in texts
            ):
                yield f"{prefix}{child.name}"


def test_public_signatures_have_typed_objects_instead_of_dicts() -> None:
    names = {
        name
        for path in FILES
        for name in find_untyped_signatures(ast.parse((REPOSITORY / path).read_text()), f"{path.as_posix()}::")
    }
    print(f"{len(names)} public functions with untyped dicts; no longer among them: {UNTYPED_ALLOWED - names}")
    assert names - UNTYPED_ALLOWED == set()


@pytest.mark.parametrize("module", LAYERS)
def test_help_imports_only_the_standard_library_and_creates_no_file(module: str, tmp_path: Path) -> None:
    """So `--help` takes well under a second."""
    script = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "before = set(sys.modules)\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    tops = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"    foreign = tops - set(sys.stdlib_module_names) - set({LAYERS})\n"
        "    sys.exit(stop.code or ' '.join(sorted(foreign)) or 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout
    assert not list(tmp_path.iterdir())


def test_importing_the_pure_files_imports_no_ray() -> None:
    modules = [
        ".".join(path.with_suffix("").parts)
        for path in FILES
        if path.stem != "__init__" and any(str(path).startswith(pure) for pure in PURE)
    ]
    assert len(modules) > len(PURE)
    script = "import importlib, sys\n" + "".join(f"importlib.import_module('{name}')\n" for name in modules)
    script += "sys.exit('ray' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_training_loop_imports_only_torch_and_numpy() -> None:
    """`benchmarks/training.py --device cuda` runs on machines that have nothing else."""
    absent = "ray gensim pydantic yaml pyarrow scipy sklearn pandas numba safetensors rich"
    script = f"import sys\nsys.modules |= dict.fromkeys({absent!r}.split())\nimport benchmarks.training\n"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


def test_no_path_of_this_machine_is_committed() -> None:
    """Home folders and scratch folders exist on one machine only."""
    for path in FILES:
        text = (REPOSITORY / path).read_text()
        assert str(Path.home()) + "/" not in text
        assert str(REPOSITORY.parent) + "/" not in text
