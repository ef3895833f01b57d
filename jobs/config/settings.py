"""The settings of an experiment, section by section, each with its default and what it means."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Embedding = Literal["rand", "static", "non-static", "multichannel"]
Metric = Literal["accuracy", "macro_f1", "loss", "train_loss", "examples_per_second", "seconds"]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class SettingsSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(SettingsSection):
    """The labelled texts. Without `train`, the docstrings of installed Python packages."""

    folder: str = "."
    """Where relative paths below start."""
    train: str | None = None
    """csv, tsv or jsonl, plain or gzipped, with a header (csv, tsv)."""
    validation: str | None = None
    """Drawn from `train` when missing."""
    test: str | None = None
    """Drawn from `train` when missing."""
    text_column: str = "text"
    label_column: str = "label"
    encoding: str = "utf-8"
    validation_share: Fraction = 0.1
    test_share: Fraction = 0.1
    packages: list[str] = [
        "gensim",
        "matplotlib",
        "networkx",
        "numpy",
        "pandas",
        "ray",
        "scipy",
        "sklearn",
        "sympy",
        "torch",
    ]
    """The docstring corpus: one class a package."""
    max_rows_per_class: int = Field(1200, ge=10)
    """The docstring corpus: rows drawn from each package."""


class TextSettings(SettingsSection):
    """How a text becomes words."""

    lowercase: bool = True
    max_tokens: int = Field(1000, ge=1)
    """Tokens of a text that are read; the rest is cut off."""
    min_count: int = Field(1, ge=1)
    """Rarer words of the training texts count as unknown, unless they have a pretrained vector."""
    max_words: int = Field(100_000, ge=1)
    """Words of the training texts that are kept, the most frequent first."""


class VectorSettings(SettingsSection):
    """The initial word vectors: read from `path`, or trained here by gensim on the texts."""

    path: str | None = None
    """A file by path or URI, plain or gzipped, only read, never changed; or gensim:NAME, a model that
    gensim's downloader knows."""
    format: Literal["auto", "word2vec-binary", "word2vec-text", "glove", "fasttext", "keyed-vectors"] = "auto"
    """fasttext: a model's .bin, with vectors for words that are not in it; its .vec is word2vec-text.
    keyed-vectors: as gensim saves them, which is a pickle."""
    allow_pickle: bool = False
    """Read keyed-vectors; a pickle can hold code that reading it runs."""
    unicode_errors: Literal["strict", "replace", "ignore"] = "strict"
    """Words of the file that are not UTF-8: an error, read with U+FFFD, or read without the wrong bytes."""
    extra_words: int = Field(60_000, ge=0)
    """Vectors kept for words that training never saw but later texts may hold, most frequent first."""
    norm: float | None = Field(3.0, gt=0)
    """L2 norm that every word's vector is scaled to before training; null keeps the lengths of the file, where
    frequent words may be several times as long as rare ones."""
    dimensions: int = Field(100, ge=1)
    """Of vectors that are trained here, or random; a file has its own, and one that has others than are set here
    is an error."""
    algorithm: Literal["skip-gram", "cbow"] = "skip-gram"
    window: int = Field(5, ge=1)
    negative: int = Field(5, ge=0)
    """Noise words drawn for each true one (negative sampling); 0 trains with hierarchical softmax instead."""
    sample: float = Field(1e-4, ge=0)
    """Share of the tokens above which a word is read less often (Mikolov et al. 2013); 0 reads all."""
    epochs: int = Field(5, ge=1)
    min_count: int = Field(3, ge=1)


class ModelSettings(SettingsSection):
    """The network (Kim 2014)."""

    embedding: Embedding = "non-static"
    trained_words: Literal["all", "out-of-vocabulary"] = "all"
    """Which words' vectors are trained: all, or only those that the pretrained vectors lack."""
    filter_widths: list[Annotated[int, Field(ge=1, le=50)]] = Field([3, 4, 5], min_length=1)
    """Words that a filter spans."""
    feature_maps: int = Field(100, ge=1)
    """Filters of each width."""
    dropout: float = Field(0.5, ge=0, lt=1)
    max_norm: float | None = Field(3.0, gt=0)
    """Largest L2 norm of a class's row in the last layer; null leaves it free."""

    @model_validator(mode="after")
    def _widths_differ(self) -> "ModelSettings":
        if len(set(self.filter_widths)) != len(self.filter_widths):
            raise ValueError("filter_widths names a width twice; raise feature_maps instead")
        return self


class TrainSettings(SettingsSection):
    """Fine-tuning on Ray Train."""

    folds: int | None = Field(None, ge=2, le=100)
    """Cross-validation: train so many times, each with another share of the rows as the test part, and report
    mean and spread; null trains once."""
    workers: int | list[int] = 1
    """Changes the speed of a run, not what it learns. [2, 8]: as many as there is room for, from 2 to 8."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """A checkpoint is written after every epoch, and within a longer one so often."""
    cpus_per_worker: int = Field(1, ge=1)
    use_gpu: bool | None = None
    """null: when the cluster has one for each worker."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix product of words and filters; weights, sums and gradients are float32 with either."""
    epochs: int = Field(10, ge=1)
    stop_epoch: int | None = Field(None, ge=1)
    """Training ends after this one, with the learning rates of one that goes on to `epochs`; null: after `epochs`."""
    batch_size: int = Field(50, ge=1)
    """Rows a step, over all workers together."""
    learning_rate: float = Field(1e-3, gt=0, le=1e30)
    """At the start."""
    decay: Literal["linear", "none"] = "linear"
    """linear: the learning rates fall to 0 over all `epochs`, also where `patience` ends a run before."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled (AdamW), on filters and output weights; word vectors have none."""
    vectors_learning_rate: float | None = Field(None, gt=0, le=1e30)
    """Of the word vectors; null: as all else, but three times as much with `rand`, which has farthest to go."""
    vectors_pull: float = Field(0.0, ge=0)
    """Of the word vectors back to where they started: adds this, halved, times the squared distance to the
    loss, for the words of a batch."""
    frozen_epochs: int = Field(0, ge=0)
    """Epochs at the start in which the word vectors stay as they are; patience begins after them."""
    metric: Metric = "accuracy"
    """Chooses the best epoch, with the loss among equals. Measured on the validation part, but for train_loss,
    and examples_per_second and seconds, which are for searches."""
    patience: int = Field(4, ge=1)
    """Epochs without improvement after which training stops."""

    @field_validator("workers", mode="before")
    @classmethod
    def _workers_are_a_number_or_two(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list) else [value]
        whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers)
        if not whole or len(numbers) > 2 or numbers != sorted(numbers) or not numbers:
            raise ValueError("write how many, at least 1, or [fewest, most]")
        return numbers[0] if len(numbers) == 1 else value

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends, if patience does not end it before."""
        return min(self.epochs, self.stop_epoch or self.epochs)

    @property
    def min_workers(self) -> int:
        """The least that a run starts with."""
        return self.workers[0] if isinstance(self.workers, list) else self.workers

    @property
    def max_workers(self) -> int:
        """The most that a run uses."""
        return self.workers[-1] if isinstance(self.workers, list) else self.workers


class TuneSettings(SettingsSection):
    """The search on Ray Tune."""

    space: dict[str, Any] = {
        "model.embedding": {"grid": list(get_args(Embedding))},
        "model.filter_widths": {"choice": [[2, 3, 4], [3, 4, 5], [1, 2, 3, 4]]},
        "model.feature_maps": {"choice": [50, 100]},
        "model.dropout": {"uniform": [0.2, 0.6]},
    }
    """Dotted path of a setting -> {grid|choice: [...]}, {uniform|loguniform: [low, high]} or
    {randint|lograndint: [low, high]} (high excluded); [low, high, step] for uniform and randint. With
    `if: {path: [values]}` beside it, only where other settings have these values."""
    search: Literal["random", "optuna"] = "random"
    """How values are chosen: at random, or by Optuna's TPE, which learns from the trials before and takes a grid
    for a choice. A grid alone is a grid search."""
    samples: int = Field(3, ge=1)
    """Random draws for each point of the grid."""
    trials: int | None = Field(None, ge=1)
    """So many, or all there are; null: `samples` for each point of the grid, or as many as `minutes` or `patience`
    leave room for."""
    minutes: float | None = Field(None, gt=0)
    """The search ends after so long, and stops the trials that run then; null: no limit."""
    patience: int | None = Field(None, ge=1)
    """Trials in a row without a better one, after which no further one begins; null: no limit."""
    metric: Metric | None = None
    """What trials are compared by, at its best epoch; null: train.metric."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops trials early that fall behind the best third of the others at the same epoch."""
    grace_epochs: int = Field(2, ge=1)
    """ASHA stops no trial before."""
    epochs: int | None = Field(8, ge=1)
    """Overrides train.epochs for trials; null keeps it."""
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; null: as many as the cluster has room for."""
    gpus_per_trial: float | None = Field(None, ge=0)
    """Of a trial with one worker: 0.25 lets four share a GPU; null: 1 where train.use_gpu is true, else 0."""
    seeds: int = Field(0, ge=0)
    """After the search each kind of embedding's best settings are trained with so many other seeds, to tell what
    fine-tuning the vectors brings from chance; 0 trains none of them again."""
    refit: bool = False
    """At the end train the best settings on the training and validation parts together, as many epochs as were
    best, with as many workers as the cluster has room for; best.json then names that."""
    mlflow: str | None = None
    """Tracking URI that trials are logged to; null: MLFLOW_TRACKING_URI, else nowhere. Needs the extra `mlflow`."""
