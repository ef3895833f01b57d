"""What the service measures of itself, exported where Ray exports its metrics.

Ray's counters cost as much as a classification, so requests only add to plain numbers, which are handed to Ray every
PERIOD_S seconds. All names start with `ray_classifier_` once Ray has exported them; `serving/dashboard.json` draws
them.
"""

from collections import Counter
from collections.abc import Mapping

FLUSH_PERIOD_S = 2.0
MAX_SAMPLES = 100  # of latencies in each period, for the histograms
_SECONDS = [2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5]


class ModelCounters:
    """What one model classified since the last flush.

    labels: for each class the texts that it was the best of; confidence: the sum of the best labels' probabilities;
    seconds: samples of the time in the model, with reading and writing for plain questions; shadowed, agreed: texts
    that it classified unseen, and those for which its label was the answer's.
    """

    __slots__ = (
        "confidence_sum",
        "label_counts",
        "latencies_s",
        "shadow_agreements",
        "shadow_texts",
        "tokens",
        "unknown_tokens",
    )

    def __init__(self, classes: int) -> None:
        self.label_counts = [0] * classes
        self.latencies_s: list[float] = []
        self.confidence_sum = 0.0
        self.tokens = self.unknown_tokens = self.shadow_texts = self.shadow_agreements = 0


class ReplicaMetrics:
    """A replica's figures."""

    def __init__(self) -> None:
        self._statuses: Counter[int] = Counter()
        self._waits: list[float] = []
        self._exported = _Exported()

    def count_response(self, status: int) -> None:
        """Count a request."""
        self._statuses[status] += 1

    def observe_queue_wait(self, seconds: float) -> None:
        """Note how long a request to classify waited in this replica: for Ray to hand it over, and for its turn."""
        if len(self._waits) < MAX_SAMPLES:
            self._waits.append(seconds)

    def set_checkpoint_refused(self, refused: bool) -> None:
        """Say whether the checkpoint that was asked for last was refused."""
        self._exported.refused.set(float(refused))

    def flush(self, tallies: Mapping[tuple[str, tuple[str, ...]], ModelCounters]) -> None:
        """Hand to Ray what was counted, of each model by its name and labels; all but `tallies` starts anew."""
        exported = self._exported
        for status, count in self._statuses.items():
            exported.requests.inc(count, {"status": str(status)})
        for seconds in self._waits:
            exported.waits.observe(seconds)
        self._statuses.clear()
        self._waits.clear()
        for (checkpoint, labels), tally in tallies.items():
            tags = {"checkpoint": checkpoint}
            for label, count in zip(labels, tally.label_counts, strict=True):
                if count:
                    exported.labels.inc(count, tags | {"label": label})
            for name, counter in exported.sums.items():
                value = sum(tally.label_counts) if name == "texts" else getattr(tally, name)
                if value:
                    counter.inc(value, tags)
            for seconds in tally.latencies_s:
                exported.model.observe(seconds)


class _Exported:
    """Ray's side."""

    def __init__(self) -> None:
        from ray.serve import metrics

        def counter(name: str, description: str, *tags: str) -> metrics.Counter:
            return metrics.Counter(f"classifier_{name}", description=description, tag_keys=tags)

        self.requests = counter("requests", "Requests answered.", "status")
        self.labels = counter("labels", "Texts for which a label was the best.", "checkpoint", "label")
        self.sums = {
            "texts": counter("texts", "Texts classified.", "checkpoint"),
            "confidence_sum": counter("confidence", "Sum of the best labels' probabilities.", "checkpoint"),
            "tokens": counter("tokens", "Tokens read.", "checkpoint"),
            "unknown_tokens": counter("unknown_tokens", "Tokens that are not in the vocabulary.", "checkpoint"),
            "shadow_texts": counter("shadow_texts", "Texts that a candidate classified unseen.", "checkpoint"),
            "shadow_agreements": counter("shadow_agreed", "Those for which its label was the answer's.", "checkpoint"),
        }
        self.refused = metrics.Gauge("classifier_checkpoint_refused", description="1 after a swap that was refused.")
        self.model = metrics.Histogram(
            "classifier_model_seconds",
            description=f"Time in the model for a request; {MAX_SAMPLES} samples each {FLUSH_PERIOD_S:g} s at most.",
            boundaries=_SECONDS,
        )
        self.waits = metrics.Histogram(
            "classifier_queue_wait_seconds",
            description="From a request's arrival in the replica to its turn, less the time its body took; sampled so.",
            boundaries=_SECONDS,
        )
