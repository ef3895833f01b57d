"""The notebooks of the documentation: they run in a kernel, are stored without outputs, and have pages."""

import importlib
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cluster.package import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
CELL_TIMEOUT_S = 120


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    """They would differ between machines, and their changes would hide those of the text."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


def test_the_page_of_a_notebook_has_all_cells(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    page = importlib.import_module("notebook_pages").render_notebook(path)
    assert page.startswith("# ")
    for cell in nbformat.read(path, as_version=4).cells:
        lines = cell.source.splitlines()
        assert all(line in page for line in lines)
    assert f"]({path.name})" in page


@pytest.mark.slow
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Jupyter kernel, which shows epochs as lines: it has no ipywidgets. The answer of the quickstart is right."""
    shutil.copytree(REPOSITORY / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    errors = [output.text for output in outputs if output.get("name") == "stderr"]
    assert [text for text in errors if "ipywidgets" not in text] == []  # of tqdm and Ray, which show progress with it
    lines = "".join(output.text for output in outputs if output.get("name") == "stdout").splitlines()
    assert lines[0].startswith("epoch 1: training loss ")
    assert outputs[-1].data["text/plain"] == "['delivery', 'billing']"
