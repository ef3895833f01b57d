"""The command that compiles the kernels in advance."""

import json
import os
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from tests.support.commands import run_command

FIT_AND_PREDICT = """
import logging
import finetune_cnn
logging.basicConfig(level="INFO", format="%(message)s")
model = finetune_cnn.TextCNNClassifier(embedding="rand", epochs=1).fit(10 * ["good film", "bad film"], 10 * ["g", "b"])
model.save("model")
print(finetune_cnn.load("model").predict(["good film"]))
print(finetune_cnn.load("model").explain("good film"))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_the_command_nothing_is_compiled(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    compiled = run_command("python", "-m", "finetune_cnn", "compile", "--json", env=environment, timeout=280)
    folder = tmp_path / "finetune-cnn" / "kernels"
    assert json.loads(compiled.stdout) == {"path": str(folder)}
    assert compiled.stderr.count(f"it is kept in {folder}") == 1
    again = run_command("python", "-c", FIT_AND_PREDICT, env=environment, cwd=tmp_path, timeout=280)
    assert again.returncode == 0
    assert "compiling" not in again.stderr
