"""Fixtures of all tests: toy experiments, shared data, log messages, Ray, separate hosts."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cluster.console.logs import handle_logs
from jobs.config.experiment import Experiment
from tests.host_network import HostNetwork, find_missing_requirement
from tests.support.skipped_tests import (  # noqa: F401 hooks of the option --fail-on-skip
    NO_GPU,
    NO_SHARED_DATA,
    SHARED,
    pytest_addoption,
    pytest_configure,
)
from tests.support.toy_data import make_toy_rows

PROJECT_TESTS = Path(__file__).parent

# Generated examples are the same in every run: a change does not fail because of what the last one left unnoticed.
settings.register_profile("deterministic", derandomize=True, database=None)
settings.load_profile("deterministic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and order the files for several processes.

    Files of `tests/` itself test several layers and are the longest: started last, one of them would keep one process
    busy after the other has ended.
    """
    items.sort(key=lambda item: len(item.path.relative_to(PROJECT_TESTS).parts))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        for item in () if torch.cuda.is_available() else marked:
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture(scope="session", autouse=True)
def no_external_cluster() -> Iterator[None]:
    """Keep the tests from using a Ray cluster that somebody else runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible_commands() -> None:
    """Let tests interrupt their commands: a suite that a shell started in the background ignores Ctrl-C, and so would
    all processes that it starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def unchanged_ray_address() -> Iterator[None]:
    """Fail a test that leaves another RAY_ADDRESS behind: later tests would use its cluster."""
    before = os.environ.get("RAY_ADDRESS")
    yield
    after = os.environ.pop("RAY_ADDRESS", None)
    if before is not None:
        os.environ["RAY_ADDRESS"] = before
    assert after == before, f"the test left RAY_ADDRESS={after} in the environment; set it with monkeypatch"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of labelled data sets next to the checkout; tests that need it are skipped without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip(NO_SHARED_DATA)
    return SHARED / "data"


@pytest.fixture
def toy_csv(tmp_path: Path) -> Path:
    """A csv of 120 rows with columns label and text."""
    path = tmp_path / "toy.csv"
    path.write_text("label,text\n" + "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(120)))
    return path


@pytest.fixture
def make_experiment(toy_csv: Path) -> Callable[..., Experiment]:
    """Function that returns an experiment on the toy csv that trains in a second; settings by dotted path."""

    def make(**settings: object) -> Experiment:
        defaults = {
            "name": "toy",
            "storage": str(toy_csv.parent / "runs"),
            "data.train": str(toy_csv),
            "model.embedding": "rand",
            "model.filter_widths": [1, 2],
            "model.feature_maps": 8,
            "vectors.dimensions": 12,
            "vectors.min_count": 1,
            "train.epochs": 3,
            "train.learning_rate": 0.01,
            "train.batch_size": 16,
            "tune.refit": False,
        }
        return Experiment().replace(defaults | {key.replace("__", "."): value for key, value in settings.items()})

    return make


class _Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """Log messages of the project's loggers during the test, the oldest first."""
    recorder = _Recorder()
    recorder.addFilter(lambda record: record.name != "jobs.compilation.cache")  # only where a kernel is compiled
    with handle_logs(recorder):
        yield recorder.messages


@pytest.fixture
def ray_environment() -> Iterator[dict[str, str]]:
    """Environment variables for a command that starts its own Ray."""
    folder = tempfile.mkdtemp(prefix="rt-", dir="/tmp")  # short: Ray creates sockets in it
    yield {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def host_network() -> type[HostNetwork]:
    """Class that creates separate hosts (tests/host_network.py); skipped where namespaces are not available."""
    reason = find_missing_requirement()
    if reason:
        pytest.skip(reason)
    return HostNetwork


@pytest.fixture(scope="session")
def host_network_ssh(host_network: type[HostNetwork]) -> type[HostNetwork]:
    """As `host_network`, with the programs that ssh needs."""
    reason = find_missing_requirement(ssh=True)
    if reason:
        pytest.skip(reason)
    return host_network
