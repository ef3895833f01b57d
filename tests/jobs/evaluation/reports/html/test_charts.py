"""Charts of the report pages: round scales, coordinates, legends."""

import pytest

from jobs.evaluation.reports.html.charts import Axis, Chart, Scale, Series


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([0.8123, 0.8321], ["0.81", "0.815", "0.82", "0.825", "0.83", "0.835"]),
        ([5.0], ["5", "5.1"]),
        ([-3.0, 12345.0], ["-2500", "0", "2500", "5000", "7500", "10000", "12500"]),
        ([0.0], ["0", "0.2"]),
        ([0.4290847563922432, 0.42908475639224325], ["0.42", "0.43"]),
    ],
)
def test_scales_have_round_ticks_and_contain_all_values(values: list[float], ticks: list[str]) -> None:
    scale = Scale.of(values)
    axis = scale.axis("x")
    assert [text for _, text in axis.ticks] == ticks
    assert [position for position, _ in axis.ticks] == pytest.approx(
        [number / (len(ticks) - 1) for number in range(len(ticks))]
    )
    assert all(0 <= scale.position(value) <= 1 for value in values)


def test_shares_are_shown_in_percent() -> None:
    assert [text for _, text in Scale(0, 0.5, 0.25).axis("x", percent=True).ticks] == ["0%", "25%", "50%"]


def test_positions_become_coordinates_between_the_margins() -> None:
    chart = Chart("title", Axis("x", []), Axis("y", []), [Series("a", "a", [(0, 0), (1, 1)]), Series("a", "a", [])])
    assert chart.format_points(chart.series[0]) == (
        f"{chart.left:.1f},{chart.bottom:.1f} {chart.right:.1f},{chart.top:.1f}"
    )
    assert chart.legend == [("a", "a")]
