"""Style of figures: legends, labels, fonts."""

import io
import warnings

import matplotlib
import pytest
from matplotlib.figure import Figure

from jobs.evaluation.reports.figures import (
    FONTS,
    MAX_LABEL_CHARACTERS,
    add_legend,
    create_figure,
    figure_style,
    save_figure,
    shorten_label,
)


@figure_style()
def draw(title: str, labels: list[str]) -> Figure:
    """Return a figure of one panel with a line for each label."""
    figure = create_figure(6, 4, title)
    axes = figure.add_subplot()
    for number, label in enumerate(labels):
        axes.plot([0, 1], [number, number], label=label)
    add_legend(figure, [axes])
    return figure


@pytest.mark.parametrize(
    "labels", [["one"], ["a long label of a legend"] + [f"{n}, another long label" for n in range(6)]]
)
def test_the_legend_is_in_the_figure_and_outside_the_axes(labels: list[str]) -> None:
    """It takes as many lines as it needs."""
    figure = draw("title", labels)
    figure.draw_without_rendering()
    [axes], [legend] = figure.axes, figure.legends
    box = legend.get_window_extent()
    assert [text.get_text() for text in legend.get_texts()] == labels
    assert not box.overlaps(axes.get_tightbbox())
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1


def test_the_style_applies_only_inside() -> None:
    with figure_style():
        assert matplotlib.rcParams["font.family"][0] == FONTS[0]
        assert not matplotlib.rcParams["axes.spines.top"]
    assert matplotlib.rcParams["axes.spines.top"]
    assert not draw("title", ["a"]).axes[0].spines["right"].get_visible()


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("short\nlabel", "short label"),
        ("y" * 40, "y" * (MAX_LABEL_CHARACTERS - 1) + "…"),
        ("several words that are too long together", "several words that are too…"),
        ("$_$", "$_$"),
    ],
)
def test_long_labels_are_shortened(label: str, short: str) -> None:
    assert shorten_label(label) == short


def test_a_character_without_a_font_is_logged_and_other_warnings_are_kept(
    monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """The figure is written all the same; a formula's syntax is only text."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(draw("$_$ {\\x", ["$\\", "plain"]), stream)
        assert messages == []
        save_figure(draw("\u1b83", ["\u1b83"]), stream)  # Sundanese, which none of the fonts has
    assert stream.getvalue().startswith(b"\x89PNG")
    [message] = messages
    assert message.startswith("charts show boxes for characters that no installed font has")
    figure = draw("title", ["a"])
    monkeypatch.setattr(figure, "savefig", lambda *args, **kwargs: warnings.warn("another", stacklevel=1))
    with pytest.warns(UserWarning, match="another"):
        save_figure(figure, stream)
