"""Style of the project's figures: fonts, colors, titles and legends.

The colors are those of Okabe and Ito (2008), which color-blind readers can tell apart.
"""

import logging
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

logger = logging.getLogger(__name__)

BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#767676"
DPI = 120
MAX_LABEL_CHARACTERS = 30

# DejaVu Sans comes with matplotlib and has Latin, Greek, Cyrillic, Hebrew and Arabic letters. Characters that it lacks
# are drawn with the first of the other fonts that is installed and has them.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Malgun Gothic", "Yu Gothic",
    "Noto Sans Devanagari", "Lohit Devanagari", "Nirmala UI", "Kohinoor Devanagari", "Noto Sans Bengali",
    "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Thai", "Arial Unicode MS", "Unifont",
)  # fmt: skip
STYLE: "dict[RcKeyType, Any]" = {
    "figure.dpi": DPI,
    "figure.titlesize": 12,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": False,
    "text.parse_math": False,  # words and labels may contain dollar signs
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Context manager and decorator: figures that are created inside have the style."""
    from matplotlib import rc_context
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    fonts = [name for name in FONTS if name in installed]
    with rc_context({**STYLE, "font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # `save_figure` logs it
        yield


def create_figure(width: float, height: float, title: str) -> "Figure":
    """Return an empty figure with a title; the size is in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def add_legend(figure: "Figure", axes: Sequence["Axes"]) -> None:
    """Add a legend of the labelled artists below the axes, where it hides no data."""
    entries: dict[str, Artist] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    for columns in range(len(entries), 0, -1):
        legend = figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            break
        legend.remove()


def shorten_label(label: str) -> str:
    """Return a label of at most `MAX_LABEL_CHARACTERS` characters, on one line."""
    line = " ".join(label.split())
    if len(line) <= MAX_LABEL_CHARACTERS:
        return line
    if " " in line[:MAX_LABEL_CHARACTERS]:
        return textwrap.shorten(line, MAX_LABEL_CHARACTERS, placeholder="…")
    return line[: MAX_LABEL_CHARACTERS - 1] + "…"


def save_figure(figure: "Figure", target: Path | BinaryIO) -> None:
    """Write a figure as PNG; log if no installed font has one of its characters."""
    with figure_style(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(target, format="png", dpi=DPI)
    missing_glyphs = False
    for warning in caught:
        if str(warning.message).startswith("Glyph "):
            missing_glyphs = True
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing_glyphs:
        logger.info("charts show boxes for characters that no installed font has; install, for example, a Noto font")
