"""Charts of the report pages: lines and points on two axes, drawn as SVG by the templates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NUM_TICKS = 5
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Axis of a chart. ticks: positions, from 0 to 1, and texts."""

    label: str
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Series:
    """Points of a chart, at positions from 0 to 1.

    name: in the legend, empty for none. style: class of the style sheet. title: shown under the pointer. trial: number
    of the trial that the points belong to, empty for none.
    """

    name: str
    style: str
    points: Points
    is_line: bool = True
    has_markers: bool = False
    title: str = ""
    trial: str = ""


@dataclass(frozen=True)
class Chart:
    """Chart of series on two axes; the margins are wide enough for its ticks."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    width: int = 460
    height: int = 320
    left: int = 62
    top: int = 10

    @property
    def right(self) -> int:
        """Right end of the horizontal axis."""
        return self.width - 16

    @property
    def bottom(self) -> int:
        """Lower end of the vertical axis."""
        return self.height - 44

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Names and styles, without repetitions."""
        return list({item.name: (item.name, item.style) for item in self.series if item.name}.values())

    def column(self, position: float) -> str:
        """Return the horizontal coordinate of a position."""
        return f"{self.left + position * (self.right - self.left):.1f}"

    def row(self, position: float) -> str:
        """Return the vertical coordinate of a position."""
        return f"{self.bottom - position * (self.bottom - self.top):.1f}"

    def format_points(self, series: Series) -> str:
        """Return the coordinates of points as an attribute of a polyline."""
        return " ".join(f"{self.column(x)},{self.row(y)}" for x, y in series.points)


@dataclass(frozen=True)
class ParallelChart:
    """Parallel coordinates: a vertical axis for each setting and a line for each trial.

    series: their points are the number of an axis and a position on it.
    """

    title: str
    axes: Sequence[Axis]
    series: Sequence[Series]
    height: int = 320
    top: int = 12
    axis_width: int = 150

    @property
    def width(self) -> int:
        """Width of the chart, which depends on the number of axes."""
        return len(self.axes) * self.axis_width

    @property
    def bottom(self) -> int:
        """Lower end of the axes."""
        return self.height - 48

    def column(self, number: float) -> str:
        """Return the horizontal coordinate of an axis."""
        return f"{(number + 0.4) * self.axis_width:.1f}"

    def row(self, position: float) -> str:
        """Return the vertical coordinate of a position."""
        return f"{self.bottom - position * (self.bottom - self.top):.1f}"

    def format_points(self, series: Series) -> str:
        """Return the coordinates of points as an attribute of a polyline."""
        return " ".join(f"{self.column(x)},{self.row(y)}" for x, y in series.points)


@dataclass(frozen=True)
class Scale:
    """Linear scale from values to positions; both ends are round numbers."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Scale":
        """Return the smallest scale that has all values."""
        low, high = min(values), max(values)
        width = high - low
        if width <= 1e-9 * max(abs(low), abs(high)):  # equal except for rounding
            width = abs(high) * 0.1 or 1.0
        magnitude = 10.0 ** math.floor(math.log10(width / NUM_TICKS))
        step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if width / (magnitude * factor) <= NUM_TICKS)
        start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(start * step, max(end, start + 1) * step, step)

    def position(self, value: float) -> float:
        """Return the position of a value, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def axis(self, label: str, percent: bool = False) -> Axis:
        """Return the axis; percent: its ticks are shares."""
        values = [
            round(self.low + number * self.step, 12) for number in range(round((self.high - self.low) / self.step) + 1)
        ]
        texts = [f"{100 * value:.4g}%" if percent else f"{value:.6g}" for value in values]
        return Axis(label, [(self.position(value), text) for value, text in zip(values, texts, strict=True)])
