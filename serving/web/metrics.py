"""Metrics of a replica, exported where Ray exports its own.

An update of a Ray counter costs as much as a classification. So requests only add to plain numbers, which are flushed
to Ray every FLUSH_PERIOD_S seconds. Ray exports all names with the prefix `ray_classifier_`; `serving/dashboard.json`
is a Grafana dashboard of them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast

from jobs.config.text_distribution import PARTS
from serving.web.distribution import WINDOW_S, Distances

FLUSH_PERIOD_S = 2.0
MAX_SAMPLES = 100  # of latencies per period, for the histograms
# Ray keeps a series for every value of a tag for as long as the replica lives. So labels are counted by the model's
# role, and later checkpoints and roles of a replica that has served this many are all called OTHER.
MAX_CHECKPOINT_TAGS, MAX_ROLE_TAGS, OTHER = 128, 128, "other"
_BOUNDARIES_S = [2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5]


class ModelCounters:
    """Counts of a model since the last flush.

    label_counts: for each class, the texts whose best label it was.
    latencies_s: samples of the time in the model.
    confidence_sum: sum of the best labels' probabilities.
    bins: texts by the bins of `EDGES`; empty if the checkpoint has no distribution.
    shadow_texts: texts that the model classified as a shadow.
    shadow_agreements: those for which its label was that of the response.
    """

    __slots__ = (
        "bins",
        "confidence_sum",
        "label_counts",
        "latencies_s",
        "shadow_agreements",
        "shadow_texts",
        "tokens",
        "unknown_tokens",
    )

    def __init__(self, num_classes: int) -> None:
        self.label_counts = [0] * num_classes
        self.latencies_s: list[float] = []
        self.bins: list[int] = []
        self.confidence_sum = 0.0
        self.tokens = self.unknown_tokens = self.shadow_texts = self.shadow_agreements = 0


class ModelCounts(NamedTuple):
    """Counters of a model for a flush. checkpoint: its name; labels: of its classes.

    role: primary, candidate, or models/NAME. distances: None if the checkpoint has no distribution.
    """

    role: str
    checkpoint: str
    labels: Sequence[str]
    counters: ModelCounters
    distances: Distances | None = None


class PoolState(NamedTuple):
    """State of a replica's further models: numbers of those that are open and refused, bytes of the open ones, and how
    many were opened since the last flush."""

    open_models: int = 0
    refused: int = 0
    bytes_used: int = 0
    opened: int = 0


class ReplicaMetrics:
    """Metrics of a replica."""

    def __init__(self) -> None:
        self._checkpoints: set[str] = set()
        self._roles: set[str] = set()
        self._measured: set[str] = set()  # roles with a distance
        self._statuses: Counter[int] = Counter()
        self._queue_waits_s: list[float] = []
        self._exported = _ExportedMetrics()

    def count_response(self, status: int) -> None:
        """Count a response."""
        self._statuses[status] += 1

    def observe_queue_wait(self, seconds: float) -> None:
        """Record how long a request waited in this replica, for Ray and in the admission queue."""
        if len(self._queue_waits_s) < MAX_SAMPLES:
            self._queue_waits_s.append(seconds)

    def set_checkpoint_refused(self, refused: bool) -> None:
        """Record whether the configured checkpoint is refused."""
        self._exported.refused.set(float(refused))

    def flush(self, models: Sequence[ModelCounts], pool: PoolState | None = None) -> None:
        """Export all counts to Ray and reset those of this replica; the caller resets those of the models.

        Args:
            pool: of the further models; None if there have never been any.
        """
        exported = self._exported
        statuses, waits = self._statuses, self._queue_waits_s
        self._statuses, self._queue_waits_s = Counter(), []  # first, so that an error does not count them twice
        for status, count in statuses.items():
            exported.requests.inc(count, {"status": str(status)})
        for seconds in waits:
            exported.queue_waits.observe(seconds)
        if pool is not None:
            exported.open_models.set(pool.open_models)
            exported.refused_models.set(pool.refused)
            exported.models_bytes.set(pool.bytes_used)
            if pool.opened:
                exported.opened_models.inc(pool.opened)
        for role, checkpoint, labels, model, _ in models:
            tags = {"checkpoint": _limit(checkpoint, self._checkpoints, MAX_CHECKPOINT_TAGS)}
            role = _limit(role, self._roles, MAX_ROLE_TAGS)
            for label, count in zip(labels, model.label_counts, strict=True):
                if count:
                    exported.labels.inc(count, {"role": role, "label": label})
            for name, counter in exported.sums.items():
                value = sum(model.label_counts) if name == "texts" else getattr(model, name)
                if value:
                    counter.inc(value, tags)
            for seconds in model.latencies_s:
                exported.latencies.observe(seconds)
        self._export_distances(models)

    def _export_distances(self, models: Sequence[ModelCounts]) -> None:
        """Export the distances of the models; 0, of 0 texts, for a role without a model that has a distribution."""
        exported = self._exported
        measured = {model.role: model.distances for model in models if model.distances and model.role in self._roles}
        for role in self._measured | measured.keys():
            texts, distances = measured.get(role, Distances(0, {}))
            exported.window_texts.set(texts, {"role": role})
            for part in PARTS:
                exported.distances.set(distances.get(part, 0.0), {"role": role, "part": part})
        self._measured = set(measured)


def _limit(value: str, values: set[str], maximum: int) -> str:
    """Return the value of a tag; OTHER if it is new and there are `maximum` values already."""
    if len(values) < maximum:
        values.add(value)
    return value if value in values else OTHER


class _ExportedMetrics:
    """Ray's metrics. Ray is imported here because it reads its environment when it is imported."""

    def __init__(self) -> None:
        from ray.serve import metrics

        def counter(name: str, description: str, *tags: str) -> metrics.Counter:
            # Ray annotates one tag only.
            keys = cast("tuple[str]", tags)
            return metrics.Counter(f"classifier_{name}", description=description, tag_keys=keys)

        def gauge(name: str, description: str, *tags: str) -> metrics.Gauge:
            return metrics.Gauge(f"classifier_{name}", description=description, tag_keys=cast("tuple[str]", tags))

        self.requests = counter("requests", "Responses sent.", "status")
        self.labels = counter("labels", "Texts for which a label was the best.", "role", "label")
        self.sums = {
            "texts": counter("texts", "Texts classified.", "checkpoint"),
            "confidence_sum": counter("confidence", "Sum of the best labels' probabilities.", "checkpoint"),
            "tokens": counter("tokens", "Tokens read.", "checkpoint"),
            "unknown_tokens": counter("unknown_tokens", "Tokens that are not in the vocabulary.", "checkpoint"),
            "shadow_texts": counter("shadow_texts", "Texts that a shadow candidate classified.", "checkpoint"),
            "shadow_agreements": counter(
                "shadow_agreed", "Texts for which a shadow candidate agreed with the response.", "checkpoint"
            ),
        }
        self.refused = gauge("checkpoint_refused", "1 while the configured checkpoint is refused.")
        self.distances = gauge(
            "distribution_distance",
            f"Jensen-Shannon distance of the texts of the last {WINDOW_S // 60} minutes from the validation rows.",
            "role",
            "part",
        )
        self.window_texts = gauge("distribution_texts", "Texts that the distances are measured on.", "role")
        self.open_models = gauge("models_open", "Further models that are open.")
        self.refused_models = gauge("models_refused", "Further models that could not be opened.")
        self.models_bytes = gauge("models_bytes", "Memory of the further models that are open.")
        self.opened_models = counter("models_opened", "Further models opened, also after they had been closed.")
        self.latencies = metrics.Histogram(
            "classifier_model_seconds",
            description=f"Time of a request in the model; at most {MAX_SAMPLES} samples per {FLUSH_PERIOD_S:g} s.",
            boundaries=_BOUNDARIES_S,
        )
        self.queue_waits = metrics.Histogram(
            "classifier_queue_wait_seconds",
            description="Time of a request between its arrival in the replica and its start, without that of its body; "
            "sampled like the time in the model.",
            boundaries=_BOUNDARIES_S,
        )
