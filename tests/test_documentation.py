"""The README and the documentation: their commands run, and what they name exists."""

import csv
import gzip
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from experiments.demo import build_service_command, build_stages
from finetune_cnn import load
from jobs.config.experiment import Experiment
from tests.support.command_lines import check_command
from tests.support.commands import COMMAND_TIMEOUT_S
from tests.support.documents import (
    CodeBlock,
    find_commands,
    list_anchors,
    list_documents,
    read_code_blocks,
    read_links,
    remove_code_blocks,
)
from tests.support.running_commands import RunningCommand
from tests.support.toy_data import write_word2vec

README = REPOSITORY / "README.md"
QUICKSTART = REPOSITORY / "docs" / "quickstart.md"
GUIDES = REPOSITORY / "docs" / "guides"
# Pages with code in Python, by the test that runs it; the code of index.md is that of the README.
PAGES_WITH_CODE = {
    "test_documentation.py": ("README", "index", "abstention", "multi-label", "python", "training"),
    "test_tokenizer_package.py": ("languages",),
    "jobs/portable/test_guide.py": ("portable-models",),
    "jobs/estimator/test_ray_methods.py": ("ray",),
    "jobs/search/test_trackers.py": ("search",),
}


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.read_text().splitlines()) <= 150


@pytest.fixture(params=list_documents(), ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def document(request: pytest.FixtureRequest) -> Path:
    """The README and each page of the documentation."""
    path: Path = request.param
    return path


def test_lines_of_prose_have_at_most_120_characters(document: Path) -> None:
    """Tables, pictures and code may have longer ones."""
    lines = remove_code_blocks(document).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "!["))] == []


def test_relative_links_lead_to_files_and_headings(document: Path) -> None:
    """The pages of docs/reference are generated when the site is built, so they are not checked here."""
    for link in read_links(document):
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if target.parent != REPOSITORY / "docs" / "reference":
            assert target.exists(), f"{link}: no such file"
            assert not anchor or anchor in list_anchors(target), f"{link}: no such heading"


def test_commands_and_their_options_exist(document: Path) -> None:
    for command in find_commands(document):
        words = [*shlex.split(command)[1:], "--"]
        while words:  # a command, and after `--` the command that it runs on a cluster
            end = words.index("--")
            check_command(words[:end], command)
            words = words[end + 1 :]


def test_settings_exist(document: Path) -> None:
    sections = {name: section for name, section in Experiment().model_dump().items() if isinstance(section, dict)}
    pattern = rf"(?<![\w./-])({'|'.join(sections)})\.([a-z_]+)(?=[=:`\s])"
    for section, key in re.findall(pattern, document.read_text()):
        if f"{section}.{key}" != "vectors.bin":  # a file
            assert key in sections[section], f"{section}.{key} is not a setting"


def test_files_of_the_repository_exist(document: Path) -> None:
    """Such as the benchmark that reproduces a table."""
    folders = "benchmarks|cluster|experiments|jobs|serving|tests"
    for name in re.findall(rf"(?<![\w/.])((?:{folders})/[\w/.-]+\.\w+)", document.read_text()):
        assert (REPOSITORY / name).is_file(), name


def test_the_readme_and_the_start_page_show_the_commands_of_the_demo() -> None:
    commands = [*build_stages("runs/docstrings", []).values(), build_service_command("runs/docstrings", 8000)]
    text = "".join(f"finetune-cnn {shlex.join(command)}\n" for command in commands)
    for document in (README, REPOSITORY / "docs" / "index.md"):
        assert text in [block.text for block in read_code_blocks(document)], document


def test_bash_blocks_are_tested_or_say_why_not(document: Path) -> None:
    """Those of the README and the quickstart are run; other pages use ```console for commands."""
    for block in read_code_blocks(document):
        assert block.language, f"{block}: name the language of the block"
        if block.language == "bash" and document not in (README, QUICKSTART):
            assert block.is_excused, f"{block}: use ```console, or write <!-- not tested: REASON --> before the block"
    assert "```" not in remove_code_blocks(document), "a block without an end"


@pytest.mark.slow
def test_the_code_of_the_python_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks in their order, with small vectors; what it prints of labels is right."""
    shutil.copytree(REPOSITORY / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    write_small_vectors(tmp_path / "vectors.bin.gz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = [block for block in read_code_blocks(GUIDES / "python.md") if block.language == "python"]
    for block in blocks:
        block.run(names)
    assert len(blocks) == 4
    assert names["classifier"].predict(names["texts"]) == names["estimator"].predict(names["texts"]).tolist()
    assert {*names["classifier"].predict(names["texts"], abstain="retention")} <= {*names["labels"], None}


@pytest.mark.slow
def test_the_python_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tickets, with small vectors. The start page has the same code."""
    [code] = [block for block in read_code_blocks(README) if block.language == "python"]
    assert code.text in [block.text for block in read_code_blocks(README.parent / "docs" / "index.md")]
    write_small_vectors(tmp_path / "vectors.bin.gz")
    monkeypatch.chdir(tmp_path)
    with (REPOSITORY / "experiments" / "tickets.csv").open() as file:
        rows = list(csv.DictReader(file))
    names: dict[str, Any] = {"texts": [row["message"] for row in rows], "labels": [row["queue"] for row in rows]}
    output = io.StringIO()
    with redirect_stdout(output):
        code.run(names)
    assert output.getvalue() == "['billing']\n"
    assert load("model").predict(["Why was my card charged twice?"]) == ["billing"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # of MLflow's use of SQLAlchemy
def test_the_code_of_other_guides_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training with a callback that logs to MLflow, abstention of its checkpoint, and several labels per text."""
    shutil.copytree(REPOSITORY / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    mlflow = pytest.importorskip("mlflow")
    training, abstention, several = (
        next(block for block in read_code_blocks(GUIDES / f"{name}.md") if block.language == "python")
        for name in ("training", "abstention", "multi-label")
    )
    names: dict[str, Any] = {}
    try:
        training.run(names)
        [run] = mlflow.search_runs(output_format="list")
    finally:
        mlflow.end_run()
    assert run.data.metrics["epoch"] > 1
    abstention.run(names)
    assert names["classifier"].labels == ["billing", "delivery", "technical"]
    several.run(names)
    assert names["estimator"].predict(["cheap and loud music"]) == [["sound", "price"]]
    assert names["estimator"].predict_proba(["cheap and loud music"]).shape == (1, 2)


def test_the_code_of_every_page_is_run_by_a_test() -> None:
    pages = [page for tested in PAGES_WITH_CODE.values() for page in tested]
    with_code = [path for path in list_documents() if "python" in {block.language for block in read_code_blocks(path)}]
    assert sorted(path.stem for path in with_code) == sorted(pages)
    for test, tested in PAGES_WITH_CODE.items():
        assert all(page in (REPOSITORY / "tests" / test).read_text() for page in tested)


def test_the_start_page_leads_to_every_page() -> None:
    """Except the results of the generated reference, whose pages do not exist before the site is built."""
    index = REPOSITORY / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in read_links(index)}
    pages = {path for path in list_documents()[1:] if path.parent.name != "reference"} - {index}
    assert pages - linked == set()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_and_the_quickstart_run(workspace: "Workspace") -> None:
    """In the documents' order. A block that occurs twice runs once, since it would do the same."""
    finished: set[str] = set()
    for document in (README, QUICKSTART):
        blocks = [block for block in read_code_blocks(document) if block.language == "bash" and not block.is_excused]
        blocks = [block for block in blocks if block.text not in finished]
        finished.update(block.text for block in blocks)
        workspace.run_document(blocks)
    assert (workspace.home / "my-texts" / "tuned.bin").is_file()
    assert (workspace.home / "my-texts" / "runs" / "my-texts" / "best.yaml").is_file()


class Workspace:
    """A folder as a clone, an empty home folder, and ports of its own.

    The documents' commands run unchanged except for the ports: other services may use the default ones.
    """

    def __init__(self, folder: Path, ray_folder: Path) -> None:
        self.clone, self.home = folder / "clone", folder / "home"
        self._state = folder / "state"
        self._ray_folder = ray_folder
        binaries = folder / "bin"
        for path in (self.home, binaries):
            path.mkdir()
        shutil.copytree(REPOSITORY / "experiments", self.clone / "experiments")
        script = binaries / "finetune-cnn"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m finetune_cnn "$@"\n')
        script.chmod(0o755)
        write_small_vectors(self.clone / "vectors.bin.gz")
        http, gcs, dashboard, client, agent, stats, metrics, fallback = find_free_ports(8)
        self._replacements = {
            "127.0.0.1:8000": f"127.0.0.1:{http}",
            "127.0.0.1:8265": f"127.0.0.1:{dashboard}",
            "finetune-cnn serve": f"finetune-cnn serve --port {http}",
            "finetune-cnn deploy": f"finetune-cnn deploy --port {http}",
            "finetune-cnn service environment": f"finetune-cnn service environment --folder {ray_folder}/proxy",
            "ray start --head": f"export RAY_SERVE_HAPROXY_STATS_PORT={stats}\n"
            f"export RAY_SERVE_HAPROXY_METRICS_PORT={metrics}\n"
            f"export RAY_SERVE_FALLBACK_PROXY_HTTP_PORT={fallback}\n"
            f"ray start --head --port {gcs} --dashboard-port {dashboard} --num-cpus 2 "
            f"--ray-client-server-port {client} --dashboard-agent-listen-port {agent} --temp-dir {ray_folder}",
        }
        self._environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {
            "HOME": str(self.home),
            "PATH": f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RAY_TMPDIR": str(ray_folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def run_document(self, blocks: list[CodeBlock]) -> None:
        """Run blocks in their order; each section starts in the clone with the initial environment."""
        section = -1
        while blocks:
            block, *blocks = blocks
            if block.section != section:
                section = block.section
                self._state.write_text(f"cd {shlex.quote(str(self.clone))}\n")
            if block.is_service:
                request, *blocks = blocks
                with self._serve(block):
                    self._run(request)
            else:
                self._run(block)

    def _adapt(self, block: CodeBlock) -> str:
        """Return the commands of a block, after those that restore the folder and variables of the previous one."""
        text = block.text
        for old, new in self._replacements.items():
            text = text.replace(old, new)
        return f". {self._state}\n{text}"

    def _run(self, block: CodeBlock) -> None:
        """Run a block in bash; fail if one of its commands fails."""
        save = f'{{ echo "cd $(printf %q "$PWD")"; export -p; }} > {self._state}'
        start = time.monotonic()
        result = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", f"{self._adapt(block)}\n{save}"],
            env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        print(f"{time.monotonic() - start:5.1f} s  {block}\n{block.text}{result.stdout}", flush=True)
        assert result.returncode == 0, f"{block}: exit code {result.returncode}\n{result.stdout}"
        assert "Traceback" not in result.stdout, f"{block}\n{result.stdout}"
        if "curl " in block.text:
            assert '"label"' in result.stdout, f"{block}\n{result.stdout}"

    @contextmanager
    def _serve(self, block: CodeBlock) -> Iterator[None]:
        """Context manager: the service of a block, from its ready line until Ctrl-C, which must end it cleanly."""
        start = time.monotonic()
        command = self._adapt(block).replace("\nfinetune-cnn", "\nexec finetune-cnn")  # which then receives the signal
        with RunningCommand(["bash", "-c", command], self._environment) as running:
            running.wait_for_line("serving at")
            print(f"{time.monotonic() - start:5.1f} s  {block}\n{block.text}{running.output}", flush=True)
            try:
                yield
            finally:
                code = running.interrupt()
        assert code == 0, running.output

    def kill_ray(self) -> None:
        """Kill the processes of the Ray that the documents started; the documents stop it with `ray stop`."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    if os.fsencode(self._ray_folder) in text:
                        os.kill(int(entry.name), signal.SIGKILL)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """Where the documents' commands run."""
    ray_folder = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))  # short: Ray creates sockets in it
    workspace = Workspace(tmp_path, ray_folder)
    yield workspace
    workspace.kill_ray()
    shutil.rmtree(ray_folder, ignore_errors=True)


def write_small_vectors(path: Path) -> None:
    """Write vectors for the words of the tickets as a gzipped word2vec file, with few dimensions."""
    words = sorted(set(re.findall(r"[a-z]+", (REPOSITORY / "experiments" / "tickets.csv").read_text().lower())))
    matrix = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
    plain = write_word2vec(path.with_name("vectors.bin"), words, matrix)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
