"""Figure of the drift of word vectors: the distance of each word by its frequency."""

from typing import TYPE_CHECKING

import numpy as np

from jobs.evaluation.reports.figures import (
    BLUE,
    VERMILLION,
    add_legend,
    create_figure,
    figure_style,
    shorten_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    from jobs.evaluation.drift import Drift

# Positions of a word's name relative to its point, in the order of preference: offset in points, alignments.
LABEL_POSITIONS = (
    ((4, 2), "left", "bottom"),
    ((-4, 2), "right", "bottom"),
    ((4, -2), "left", "top"),
    ((-4, -2), "right", "top"),
)


@figure_style()
def draw_drift(drift: "Drift", name: str) -> "Figure":
    """Return a figure: the distance of each word by its frequency, with the names of the words that moved farthest."""
    title = f"{shorten_label(name)}: how far fine-tuning moved the vectors of {len(drift.words):,} words"
    length = np.median(drift.initial_norms)
    figure = create_figure(9, 6.5, f"{title}\nmedian length of a vector before training: {length:.2f}")
    axes = figure.add_subplot()
    groups = (
        (drift.pretrained, "initial vector from the vectors file", BLUE, "o"),
        (~drift.pretrained, "random initial vector", VERMILLION, "^"),
    )
    for mask, label, color, marker in groups:
        if mask.any():
            axes.scatter(
                drift.counts[mask], drift.distance[mask], s=14, alpha=0.5, linewidth=0, color=color, marker=marker,
                label=label,
            )  # fmt: skip
    order = np.argsort(drift.counts)
    label = "median of words of similar frequency"
    axes.plot(drift.counts[order], drift.expected[order], color="black", linewidth=1.2, label=label)
    axes.set(xscale="log", xlabel="occurrences in the training texts", ylabel="distance moved (L2)", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    add_legend(figure, [axes])
    _annotate_words(figure, axes, drift)
    return figure


def _annotate_words(figure: "Figure", axes: "Axes", drift: "Drift") -> None:
    """Write the names of the words that moved farthest next to their points.

    A name is inside the axes, overlaps no other name and hides as few points as possible. Names without room are
    skipped.
    """
    figure.draw_without_rendering()  # places the axes
    points = axes.transData.transform(np.column_stack([drift.counts, drift.distance]))
    taken: list[Bbox] = []
    for index in dict.fromkeys([*drift.top_by_distance(), *drift.top_by_relative_distance()]):
        candidates: list[tuple[int, int, Annotation, Bbox]] = []
        for offset, horizontal, vertical in LABEL_POSITIONS:
            label = axes.annotate(
                shorten_label(drift.words[index]), (drift.counts[index], drift.distance[index]), offset,
                textcoords="offset points", size=9, ha=horizontal, va=vertical, in_layout=False,
            )  # fmt: skip
            box = label.get_window_extent()
            is_inside = all(axes.bbox.contains(x, y) for x, y in box.corners())
            if is_inside and not any(box.overlaps(other) for other in taken):
                num_hidden = int(((points > box.min) & (points < box.max)).all(axis=1).sum())
                candidates.append((num_hidden, len(candidates), label, box))
            else:
                label.remove()
        candidates.sort(key=lambda candidate: candidate[:2])
        taken += [box for *_, box in candidates[:1]]
        for _, _, label, _ in candidates[1:]:
            label.remove()
