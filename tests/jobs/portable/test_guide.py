"""The guide to portable models: its commands and its code run in their order."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.package import REPOSITORY
from jobs.__main__ import main
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.documents import read_code_blocks
from tests.support.hub_server import HubServer
from tests.support.static_site import StaticSite

# huggingface_hub calls its HTTP library in a way that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


GUIDE = REPOSITORY / "docs" / "guides" / "portable-models.md"


def test_the_guide_runs(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what installs packages, logs in, or evaluates, which takes seconds."""
    monkeypatch.chdir(tmp_path)
    checkpoint = replace(checkpoint_of("rand"), metrics={"epoch": 1, "rows": 9, "accuracy": 0.5, "versions": {}})
    save_checkpoint(Path("runs/tickets"), checkpoint)
    names: dict[str, Any] = {}
    commands = []
    for block in read_code_blocks(GUIDE):
        if block.language == "python":
            block.run(names)
        for line in block.text.splitlines() if block.language == "console" else ():
            program, command, *arguments = shlex.split(line)
            if program == "finetune-cnn" and command != "evaluate":
                assert main([command, *arguments]) == 0, line
                commands.append(command)
    assert commands == ["push", "quantize", "export", "export"]
    assert names["best"] == names["classifier"].predict(["Where is my parcel?", "The invoice is wrong"])


@pytest.mark.slow
def test_the_module_of_the_guide_runs_in_a_browser(site: StaticSite) -> None:
    """As a page of the folder that was exported."""
    [block] = [block for block in read_code_blocks(GUIDE) if block.language == "js"]
    save_checkpoint(site.folder / "guide-checkpoint", checkpoint_of("rand"))
    out = site.folder / "guide" / "site"
    assert main(["export", str(site.folder / "guide-checkpoint"), "--browser", str(out)]) == 0
    (out / "example.mjs").write_text(block.text)
    (out / "index.html").write_text("<!doctype html><title></title>")
    title = site.run("guide/site", 'await load("example.mjs"); return document.title')
    [label] = Classifier(load_checkpoint(str(site.folder / "guide-checkpoint"))).predict(["Where is my parcel?"])
    assert title.startswith(f"{label}: 0.")
