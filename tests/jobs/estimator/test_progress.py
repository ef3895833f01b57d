"""Display of an estimator's epochs."""

import io
import sys
from importlib.machinery import ModuleSpec
from threading import Thread
from unittest.mock import MagicMock, Mock

import pytest
from rich.console import Console

from jobs.estimator.progress import show_epochs
from jobs.training.history import Epoch

EPOCH = Epoch(2, 0.25, 0.5, 0.75, 0.75, 100.0, 1.0)


def test_a_terminal_shows_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    output = io.StringIO()
    with show_epochs(4, Console(file=output, force_terminal=True, width=120)) as show:
        show(EPOCH)
    assert "2/4" in output.getvalue()
    assert "accuracy 0.7500" in output.getvalue()
    assert capsys.readouterr().out == ""


def test_a_notebook_with_ipywidgets_shows_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a widget; both ipywidgets and the notebook are replaced here."""
    module, displayed = MagicMock(__spec__=ModuleSpec("ipywidgets", None)), []
    monkeypatch.setitem(sys.modules, "ipywidgets", module)
    monkeypatch.setattr("IPython.display.display", displayed.append)
    with show_epochs(4, Console(force_jupyter=True, width=120)) as show:
        show(EPOCH)
    widget = module.Output()
    assert displayed[0] is widget
    assert widget.__enter__.called
    assert "2/4 training loss 0.2500" in "".join(bar.text for bar in displayed[1:])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("is_notebook", [True, False])
def test_without_a_terminal_each_epoch_is_a_line(
    is_notebook: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a notebook without ipywidgets, where a bar is impossible."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    output = io.StringIO()
    with show_epochs(4, Console(file=output, force_jupyter=is_notebook)) as show:
        show(EPOCH)
    assert capsys.readouterr().out == "epoch 2: training loss 0.2500, validation loss 0.5000, accuracy 0.7500\n"
    assert output.getvalue() == ""


def test_fits_of_several_threads_or_processes_show_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal too, where their bars would overwrite each other."""
    output = io.StringIO()

    def fit() -> None:
        with show_epochs(4, Console(file=output, force_terminal=True)) as show:
            show(EPOCH)

    thread = Thread(target=fit)
    thread.start()
    thread.join()
    monkeypatch.setattr("jobs.estimator.progress.parent_process", Mock())
    fit()
    assert capsys.readouterr().out.count("epoch 2: training loss 0.2500") == 2
    assert output.getvalue() == ""
