"""Shell completion, in real shells."""

import shutil
from pathlib import Path

import pytest

import finetune_cnn
from cluster.console.completion import format_script
from tests.support.commands import run_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts of the shells, two experiments and a folder."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        keys = finetune_cnn._list_keys()
        script = format_script(finetune_cnn.build_parser(), shell, keys)
        (folder / f"script.{shell}").write_text(script)
    (folder / "work" / "runs").mkdir(parents=True)
    for name in ("first.yaml", "second.yaml"):
        (folder / "work" / name).write_text("")
    return folder


def complete(folder: Path, *words: str) -> list[str]:
    """Return what bash offers for the last word."""
    script = (
        f"source {folder}/script.bash\n"
        'COMP_WORDS=(finetune-cnn "$@")\nCOMP_CWORD=$#\n'
        'function=$(complete -p finetune-cnn | sed "s/.*-F \\([^ ]*\\) .*/\\1/")\n'
        '"$function" finetune-cnn "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    result = run_command("bash", "--norc", "-c", script, "bash", *words, cwd=folder / "work")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tra"], ["train"]),
        (["vectors", ""], ["train", "export", "drift"]),
        (["job", "lo"], ["logs"]),
        (["train", "--pro"], ["--promote"]),
        (["train", "fi"], ["first.yaml"]),
        (["train", "train.learning_r"], ["train.learning_rate="]),
        (["train", "first.yaml", "--promote", "model.drop"], ["model.dropout="]),
        (["train", "data.train", "=", "sec"], ["second.yaml"]),
        (["evaluate", "ru"], ["runs/"]),
        (["evaluate", "runs", "--out", "ru"], ["runs/"]),
        (["predict", "runs", "in.csv", "--format", "p"], ["parquet"]),
        (["completion", "z"], ["zsh"]),
        (["nothing", "xyz"], []),
    ],
)
def test_bash_offers_commands_options_files_and_settings(words: list[str], offered: list[str], folder: Path) -> None:
    assert complete(folder, *words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_valid(shell: str, folder: Path) -> None:
    """As far as the shells are installed."""
    if shutil.which(shell) is not None:
        result = run_command(shell, "-n", str(folder / f"script.{shell}"))
        assert (result.returncode, result.stderr) == (0, "")
    assert "train.epochs=" in (folder / f"script.{shell}").read_text()


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert finetune_cnn.main(["completion", "bash"]) == 0
    assert capsys.readouterr().out.strip() == (folder / "script.bash").read_text().strip()
    with pytest.raises(SystemExit):
        finetune_cnn.main(["completion", "dash"])
    assert "invalid choice: 'dash'" in capsys.readouterr().err
