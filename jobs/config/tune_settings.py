"""Settings of a search, with their defaults."""

from typing import Any, Literal, get_args

from pydantic import Field

from jobs.config.settings import Embedding, Metric, SettingsSection


class TuneSettings(SettingsSection):
    """Search on Ray Tune."""

    space: dict[str, Any] = {  # noqa: RUF012  # pydantic copies it
        "model.embedding": {"grid": list(get_args(Embedding))},
        "model.filter_widths": {"choice": [[2, 3, 4], [3, 4, 5], [1, 2, 3, 4, 5]]},
        "model.dropout": {"uniform": [0.3, 0.6]},
        "train.learning_rate": {"loguniform": [0.001, 0.004]},
        "train.vectors_pull": {"choice": [0.0, 0.01]},
    }
    """Search space: dotted path of a setting -> {grid|choice: [...]}, {uniform|loguniform: [low, high]} or
    {randint|lograndint: [low, high]} (high excluded); [low, high, step] for uniform and randint. An additional
    `if: {path: [values]}` restricts it to trials in which other settings have these values."""
    search: Literal["random", "optuna"] = "random"
    """Search algorithm. random: random search. optuna: Optuna's TPE, which learns from earlier trials and treats a grid
    as a choice. A space of grids only is searched completely."""
    samples: int = Field(3, ge=1)
    """Number of random draws for each point of the grid."""
    trials: int | None = Field(None, ge=1)
    """Maximum number of trials; null: `samples` for each point of the grid, or as many as `minutes` or `patience`
    allow."""
    minutes: float | None = Field(None, gt=0)
    """Time limit of the search, in minutes, over all commands that resume it; running trials are stopped. null: no
    limit."""
    patience: int | None = Field(None, ge=1)
    """Number of consecutive trials without improvement, failed ones included, after which no further trial starts.
    null: no limit."""
    metric: Metric | None = None
    """Metric that trials are compared by, at its best epoch; null: train.metric."""
    scheduler: Literal["asha", "none"] = "asha"
    """Early stopping of trials. asha: a trial is stopped if it is not among the best third of the trials at the same
    epoch."""
    grace_epochs: int = Field(2, ge=1)
    """Minimum number of epochs before ASHA stops a trial."""
    epochs: int | None = Field(8, ge=1)
    """Maximum number of epochs of a trial, instead of train.epochs, if `space` does not have that; null:
    train.epochs."""
    max_concurrent: int | None = Field(None, ge=1)
    """Maximum number of concurrent trials; null: as many as fit in the cluster."""
    gpus_per_trial: float | None = Field(None, ge=0)
    """GPUs of a trial with one worker; with 0.25, four trials share a GPU. null: 1 if trials use GPUs (train.use_gpu),
    else 0."""
    seeds: int = Field(0, ge=0)
    """Number of other seeds with which the best settings of each kind of embedding are trained after the search, to
    separate the effect of fine-tuning the vectors from chance; a verdict needs at least 3."""
    refit: bool = True
    """After the search, train the best settings on the training and validation parts together, for the best number
    of epochs; best.json then names this checkpoint."""
    mlflow: str | None = None
    """As the setting `mlflow` outside of this section, which is used if both are set."""
