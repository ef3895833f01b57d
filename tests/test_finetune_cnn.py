"""The Python interface, and the console command with all sub-commands."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cluster.__main__
import finetune_cnn
import jobs.__main__
import serving.__main__
from cluster.console.cli import list_parsers
from cluster.package import REPOSITORY
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import save_checkpoint
from serving.client import Client
from tests.support.checkpoints import checkpoint_of
from tests.support.commands import run_command

COMMANDS = [
    "init",
    "show",
    "check-data",
    "train",
    "tune",
    "cross-validate",
    "evaluate",
    "predict",
    "quantize",
    "export",
    "push",
    "runs",
    "clean",
    "vectors train",
    "vectors export",
    "vectors drift",
    "serve",
    "deploy",
    "service status",
    "service undeploy",
    "service rollback",
    "service config",
    "service dashboard",
    "service alerts",
    "service environment",
    "check",
    "submit",
    "package",
    "manifest",
    "token",
    "job list",
    "job status",
    "job logs",
    "job stop",
    "compile",
    "completion",
]
# Verbs of `python -m` that have another name now.
# Commands of `python -m MODULE` that `finetune-cnn` has under another name.
OLD_VERBS = (
    {"serving run": "serve", "serving switches": "service environment"}
    | {
        f"serving {verb}": f"service {verb}"
        for verb in ("status", "undeploy", "rollback", "config", "dashboard", "alerts")
    }
    | {f"cluster {verb}": f"job {verb}" for verb in ("list", "status", "logs", "stop")}
)


def describe_options(parser: argparse.ArgumentParser) -> list[tuple[object, ...]]:
    return [(action.option_strings, action.dest, action.nargs, action.default) for action in parser._actions]


def test_the_public_names() -> None:
    """A new name is a promise to users: it is added here on purpose."""
    names = [
        "BatchClassifier", "Classifier", "Client", "Epoch", "Explanation", "Service", "TextCNNClassifier", "UsageError",
        "__version__", "build_parser", "deploy", "load", "main", "search_space", "train_loop_per_worker",
    ]  # fmt: skip
    assert finetune_cnn.__all__ == names
    assert [name for name in names if not hasattr(finetune_cnn, name)] == []
    assert (finetune_cnn.Classifier, finetune_cnn.Client) == (Classifier, Client)
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        finetune_cnn.Trainer  # type: ignore[attr-defined]  # noqa: B018


def test_every_public_name_has_documentation() -> None:
    """The reference is made of it."""
    objects = [getattr(finetune_cnn, name) for name in finetune_cnn.__all__ if name != "__version__"]
    assert all(value.__doc__ for value in objects)
    assert all("finetune_cnn." in value.__doc__ for value in (finetune_cnn, finetune_cnn.load, finetune_cnn.main))


def test_importing_the_interface_imports_only_the_standard_library(tmp_path: Path) -> None:
    """No Ray, torch, numpy or compiled kernel; no file is written."""
    script = (
        "import sys; before = set(sys.modules); import finetune_cnn; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    environment = {"PYTHONPATH": str(Path(finetune_cnn.__file__).parent)}
    result = run_command("python", "-c", script, cwd=tmp_path, env=environment)
    assert set(result.stdout.split()) == {"cluster", "finetune_cnn"}, result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--help"], ["vectors", "train", "--help"], ["--version"]])
def test_help_imports_only_the_standard_library(arguments: list[str], tmp_path: Path) -> None:
    """So it takes well under a second."""
    script = (
        "import sys, finetune_cnn\n"
        "before = set(sys.modules)\n"
        "try:\n"
        f"    finetune_cnn.main({arguments})\n"
        "finally:\n"
        "    print({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)\n"
    )
    environment = {"PYTHONPATH": str(Path(finetune_cnn.__file__).parent)}
    result = run_command("python", "-c", script, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert set(re.findall(r"'(\w+)'", result.stdout.splitlines()[-1])) <= {"cluster", "jobs", "serving"}


def test_load_returns_a_classifier_without_torch_and_without_ray(tmp_path: Path) -> None:
    """The path may be a folder with a checkpoint; a missing one is a usage error."""
    save_checkpoint(tmp_path / "run" / "checkpoint", checkpoint_of("static"))
    script = (
        "import sys, finetune_cnn\n"
        f"classifier = finetune_cnn.load('{tmp_path}/run/checkpoint')\n"
        "print(*classifier.predict_logits(['word1'])[0])\n"
        "sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    )
    result = run_command("python", "-c", script)
    assert result.returncode == 0, result.stderr
    expected = Classifier(checkpoint_of("static")).predict_logits(["word1"])[0]
    np.testing.assert_allclose([float(word) for word in result.stdout.split()], expected, rtol=1e-5)
    with pytest.raises(finetune_cnn.UsageError, match="contains neither a checkpoint nor a best"):
        finetune_cnn.load(str(tmp_path))


def test_the_commands_in_their_order() -> None:
    assert list(list_parsers(finetune_cnn.build_parser())) == COMMANDS


def test_help_has_a_heading_for_each_group_and_a_line_for_each_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        finetune_cnn.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert headings == ["train and evaluate", "serve", "run on a cluster", "set up", "options"]
    names = re.findall(r"^  ([a-z][a-z-]*)  +\S", text, re.MULTILINE)
    assert names == list(dict.fromkeys(command.split()[0] for command in COMMANDS))
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.findall(r"^ {10,}", text, re.MULTILINE)) == 0, "a line is continued"


def test_python_m_has_the_same_commands_under_their_old_verbs() -> None:
    """With the same options; nothing is missing from either."""
    commands = list_parsers(finetune_cnn.build_parser())
    old = {
        OLD_VERBS.get(f"{name} {verb}", verb): parser
        for name, module in (("jobs", jobs.__main__), ("serving", serving.__main__), ("cluster", cluster.__main__))
        for verb, parser in list_parsers(module._build_command_line().parser).items()
    }
    del commands["compile"], commands["completion"]  # of the console command only
    assert old.keys() == commands.keys()
    for name, parser in old.items():
        assert describe_options(parser) == describe_options(commands[name])
        assert parser.get_default("run").__name__ == commands[name].get_default("run").__name__


def test_settings_and_the_words_after_two_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    """KEY=VALUE words may follow options; words after `--` are those of the submitted command, its options included."""
    assert finetune_cnn.main(["show", "--quiet", "model.dropout=0.25"]) == 0
    assert "dropout: 0.25" in capsys.readouterr().out
    assert finetune_cnn.main(["train", "--address", "127.0.0.1:1", "model.dropuot=1"]) == 2
    assert "did you mean 'model.dropout'?" in capsys.readouterr().err
    words = ["cross-validate", "--folds", "3", "my.yaml", "seed=1"]
    options = finetune_cnn.build_parser().parse_args(["submit", "--detach", "--", *words])
    assert (options.arguments, options.detach, options.install) == (words, True, False)
    options = finetune_cnn.build_parser().parse_args(["manifest", "--image", "i", "--storage", "s", "--", *words])
    assert options.arguments == words


def test_python_m_runs_the_command() -> None:
    """So a job runs on nodes that have the code but no script."""
    result = run_command(sys.executable, "-m", "finetune_cnn", "--version")
    assert result.stdout == f"finetune-cnn {finetune_cnn.__version__}\n", result.stderr


def test_the_console_command_ends_without_freeing_its_memory() -> None:
    """Its output is complete, functions that libraries registered are called, and the exit code is the command's.

    Garbage is collected less often than by default: the imports of torch and Ray take a sixth less time.
    """
    code = """
import atexit, finetune_cnn, gc

class Memory:
    def __del__(self):
        print("freed")

def main():
    atexit.register(print, "called at exit", end="")
    print("output")
    assert gc.isenabled() and gc.get_threshold()[0] > 10_000
    return 3

memory = Memory()
finetune_cnn.main = main
finetune_cnn.run_command()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (3, "output\ncalled at exit"), result.stderr
