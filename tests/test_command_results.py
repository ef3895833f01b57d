"""The results that the guide to the command line promises, for all commands."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from typing import Any

import pytest

import finetune_cnn
from cluster.console.cli import list_parsers
from cluster.package import REPOSITORY
from tests.support.hub_server import connect_to_hub, run_hub_server
from tests.support.toy_data import make_toy_rows

# huggingface_hub calls its HTTP library in a way that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

GUIDE = REPOSITORY / "docs" / "guides" / "command-line.md"
SETTINGS = ["data.train=toy.csv", "model.embedding=rand", "model.feature_maps=8", "train.epochs=1"]
# Commands without a cluster, in an order in which each has its input.
COMMANDS: dict[str, list[str]] = {
    "init": ["toy.csv", "--out", "toy.yaml"],
    "show": ["toy.yaml"],
    "check-data": ["toy.yaml"],
    "train": SETTINGS,
    "evaluate": ["runs/toy", "--no-baseline"],
    "predict": ["runs/toy", "toy.csv", "--out", "labelled.csv"],
    "quantize": ["runs/toy", "small"],
    "export": ["small", "--browser", "site"],
    "push": ["small", "owner/toy"],
    "runs": ["runs/toy"],
    "clean": ["runs/toy"],
    "vectors train": ["toy.csv", "--out", "toy.bin", "vectors.epochs=1", "vectors.min_count=1"],
    "vectors export": ["runs/toy", "out.bin"],
    "vectors drift": ["runs/toy"],
    "service config": ["runs/toy"],
    "service dashboard": [],
    "service alerts": [],
    "manifest": ["--image", "i", "--storage", "s3://b/r", "--", "cluster"],
    "package": ["code.zip"],
    "token": [],
}
TESTED_ELSEWHERE = {  # most with Ray
    "compile", "tune", "cross-validate", "serve", "deploy", "service status", "service undeploy", "service rollback",
    "service environment", "check", "submit", "job list", "job status", "job logs", "job stop",
}  # fmt: skip
# Commands whose results are other documents, of which the guide names some keys.
OPEN_RESULTS = {"show", "train", "evaluate", "service config", "service dashboard", "service alerts"}


def read_guide() -> dict[str, set[str]]:
    """Return the keys of each command in the table of the guide."""
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", GUIDE.read_text(), re.MULTILINE)
    return {
        name.partition(" --")[0]: set(re.findall(r"`(\w+)`", keys))
        for names, keys in rows
        for name in re.findall(r"`([^`]+)`", names)
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The objects of COMMANDS, which run in a folder of their own, with a Hub of this machine."""
    folder = tmp_path_factory.mktemp("results")
    rows = "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(120))
    (folder / "toy.csv").write_text(f"label,text\n{rows}")
    with run_hub_server() as hub, chdir(folder), pytest.MonkeyPatch.context() as monkeypatch:
        connect_to_hub(hub, folder / "cache", monkeypatch)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
        yield {name: call(*name.split(), "--json", *words) for name, words in COMMANDS.items()}


def call(*words: str) -> Any:
    """Return the object that a command prints on standard output, on one line."""
    with redirect_stdout(io.StringIO()) as output:
        assert finetune_cnn.main(words) == 0, output.getvalue()
    return json.loads(output.getvalue())


def test_the_guide_has_the_result_of_every_command() -> None:
    commands = set(list_parsers(finetune_cnn.build_parser())) - {"completion"}
    assert set(read_guide()) == commands == set(COMMANDS) | TESTED_ELSEWHERE
    assert set(COMMANDS).isdisjoint(TESTED_ELSEWHERE)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_has_the_keys_of_the_guide(command: str, results: dict[str, Any]) -> None:
    keys = set(results[command]) - {"next"}
    assert keys
    assert command in OPEN_RESULTS or keys <= read_guide()[command]
    assert "error" not in keys
