"""Progress messages where there is no terminal."""

import pytest

from jobs.embeddings import progress
from jobs.embeddings.progress import make_progress_logger, progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time in seconds, as the only item."""
    times = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[0])
    return times


def test_progress_is_logged_every_few_seconds_and_at_the_end(clock: list[float], messages: list[str]) -> None:
    with progress_bar("reading texts", "bytes", 2000) as report:
        report(500)
        assert messages == []
        clock[0] += 4
        report(1000)
        report(1500)
        assert messages == ["reading texts:  50%, 1,000 bytes, 250 a second"]
        report(2000)
        assert messages[1:] == ["reading texts: 100%, 2,000 bytes, 500 a second"]


def test_an_unknown_total_has_no_percentage(clock: list[float], messages: list[str]) -> None:
    report = make_progress_logger("word2vec", "words", None)
    clock[0] += 4
    report(1000)
    assert messages == ["word2vec: 1,000 words, 250 a second"]
