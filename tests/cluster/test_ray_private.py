"""Private names of Ray: the installed Ray has each, and one module uses them."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.serve._private.client import ServeControllerClient

from cluster import ray_private
from cluster.package import REPOSITORY

MODULE = Path("cluster/ray_private.py")
FILES = [
    path.relative_to(REPOSITORY)
    for folder in ("cluster", "jobs", "serving", "benchmarks")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
] + [Path("finetune_cnn.py")]
# Modules of Ray that its documentation does not contain, besides those with an underscore.
UNDOCUMENTED = ("ray.core", "ray.dashboard", "ray.experimental", "ray.serve.context", "ray.serve.generated")
# Attributes with an underscore that are not Ray's: argparse's, numba's, torch's, and others.
OTHER_ATTRIBUTES = {
    "_SubParsersAction", "_actions", "_check_value", "_group_actions", "_option_string_actions",
    "_cache", "_cache_file", "_getvalue", "_source_stamp",
    "_foreach_add_",
    "_ended", "_exit", "_set_model",
}  # fmt: skip
# The environment variables of Ray Serve, which are its settings, stand in one file too.
SERVE_SETTINGS = Path("serving/deployment/haproxy.py")
RAY_FOLDER = Path(ray.__file__).parent


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the modules of Ray that a file imports and the names that it imports from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "ray")


def is_private(module: str, name: str) -> bool:
    """Return whether a name of Ray is private or undocumented."""
    parts = [*module.split("."), *([name] if name else [])]
    full = f"{module}.{name}."
    return any(part.startswith("_") for part in parts) or any(full.startswith(f"{start}.") for start in UNDOCUMENTED)


def find_private_names(path: Path) -> Iterator[str]:
    """Yield the private names of Ray in a file: imports, attributes, and strings with the names of modules."""
    tree = ast.parse((REPOSITORY / path).read_text())
    yield from (f"{module}.{name}" for module, name in imported_names(tree) if is_private(module, name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr) and node.attr not in OTHER_ATTRIBUTES:
            if ast.unparse(node.value) not in ("self", "cls", "super()"):
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # `ray._private.x`, but not a sentence in which a module ends.
            yield from (name for name in re.findall(r"\bray(?:\.\w+)+", node.value) if is_private(name, ""))
            if "RAY_SERVE_" in node.value and path != SERVE_SETTINGS:
                yield node.value


@pytest.mark.parametrize("path", [path for path in FILES if path != MODULE], ids=str)
def test_one_module_uses_private_names_of_ray(path: Path) -> None:
    assert list(find_private_names(path)) == []


def test_the_installed_ray_has_each_name() -> None:
    names = list(imported_names(ast.parse((REPOSITORY / MODULE).read_text())))
    assert len(names) == 9
    assert all(is_private(*name) for name in names)
    for module, name in names:
        imported = importlib.import_module(module)
        if not hasattr(imported, name):
            importlib.import_module(f"{module}.{name}")
    worker, raylet, constants, node, messages = map(importlib.import_module, (
        "ray._private.worker", "ray._raylet", "ray._private.ray_constants", "ray._private.node",
        "ray.core.generated.gcs_service_pb2",
    ))  # fmt: skip
    assert worker._global_node is None or isinstance(worker._global_node, node.Node)
    assert callable(node.Node.get_runtime_env_dir_path)
    assert callable(raylet.Config.initialize)
    assert callable(raylet.AuthenticationTokenLoader.instance().reset_cache)
    assert isinstance(constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV, bool)
    assert messages.CheckAliveRequest
    assert messages.GetAllNodeInfoRequest
    assert callable(SubmissionClient._do_request)
    assert isinstance(ServeControllerClient.http_config, property)


@pytest.mark.parametrize("logger", ray_private.CLIENT_LOGGERS)
def test_the_clients_have_the_loggers(logger: str) -> None:
    assert "logger = logging.getLogger(__name__)" in inspect.getsource(importlib.import_module(logger))


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        (ray_private.JOB_VARIABLE, "_private/runtime_env/constants.py"),
        ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "_private/ray_constants.py"),
        ("RAY_USAGE_STATS_ENABLED", "_common/usage/usage_constants.py"),
        ("RAY_AIR_NEW_OUTPUT", "tune/experimental/output.py"),
        ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "train/v2/_internal/constants.py"),
        ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "train/v2/_internal/constants.py"),
        ("RAY_CHDIR_TO_TRIAL_DIR", "train/constants.py"),
    ],
)
def test_ray_reads_the_environment_variables(variable: str, file: str) -> None:
    """A renamed variable would have no effect. Those of Serve are tested in test_haproxy.py."""
    assert f'"{variable}"' in RAY_FOLDER.joinpath(file).read_text()


def test_each_function_has_a_reason_and_imports_ray_itself() -> None:
    """So importing the module imports no Ray."""
    functions = [function for _, function in inspect.getmembers(ray_private, inspect.isfunction)]
    assert len(functions) == 9
    for function in functions:
        assert len((function.__doc__ or "").split(".")) > 2, function.__name__
        assert list(imported_names(ast.parse(inspect.getsource(function)))) or function.__name__ == "read_session_name"
    top = ast.parse((REPOSITORY / MODULE).read_text()).body
    assert not [node for node in top if isinstance(node, ast.Import | ast.ImportFrom) and "ray" in ast.unparse(node)]
