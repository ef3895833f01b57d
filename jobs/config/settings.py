"""Settings of an experiment, section by section, with their defaults; those of a search are in `tune_settings`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from jobs.config.abstention import Objective
from jobs.config.class_weights import ClassWeights, parse_class_weights
from jobs.config.label_thresholds import parse_objective, parse_thresholds
from jobs.config.limits import MAX_LINEAR_WEIGHT, MAX_TEMPERATURE, MIN_TEMPERATURE

Embedding = Literal["rand", "static", "non-static", "multichannel"]
Metric = Literal[
    "accuracy", "macro_f1", "balanced_accuracy", "matthews_correlation", "micro_f1", "precision_at_1",
    "mean_average_precision", "loss", "train_loss", "examples_per_second", "seconds",
]  # fmt: skip
# A path or URI of a file, of a folder or with a glob pattern; or several.
Source = str | list[str]
Fraction = Annotated[float, Field(gt=0, lt=1)]
# Delimiters that are detected, in the order of preference.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def describe_source(source: Source) -> str:
    """Return the name of a source of texts for messages: of a list, the first path and the number of the others."""
    if isinstance(source, str):
        return source
    return source[0] if len(source) == 1 else f"{source[0]} and {len(source) - 1} more"


class SettingsSection(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot be changed.

    The docstrings of the fields are their descriptions, in the JSON schema and in the reference of the documentation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataSettings(SettingsSection):
    """Labelled texts. Without `train`: the docstrings of installed Python packages."""

    folder: str = "."
    """Base of the relative paths below."""
    train: Source | None = None
    """Training part: path or URI of a file, of a folder of files, or with a glob pattern; or a list of these. csv and
    tsv with a header, jsonl, parquet, Arrow or Feather, lines of fastText, a dataset that `datasets` saved to disk;
    plain, gzip or zstd. null: the docstrings of `packages`."""
    validation: Source | None = None
    """Validation part, as `train`. null: drawn from the training part."""
    test: Source | None = None
    """Test part, as `train`. null: drawn from the training part."""
    out_of_scope: Source | None = None
    """Texts that belong to no class, as `train`; their labels are ignored. They select thresholds of abstention."""
    out_of_scope_use: Literal["auto", "threshold", "class"] = "auto"
    """threshold: they only select thresholds. class: half of them are also trained on, as a class `out_of_scope`. auto:
    train both ways, and keep what is better on the other half and the validation part."""
    text_column: str = "text"
    """Column, or key in jsonl, of the texts; lines of fastText need none."""
    label_column: str = "label"
    """Column, or key in jsonl, of the labels; lines of fastText need none."""
    multi_label: bool = False
    """A text may have several labels, or none: a list in jsonl, parquet and Arrow; several in a line of fastText."""
    label_separator: str | None = Field(None, min_length=1)
    """Text between the labels of a string, such as '|' in a|b; a text may then have several (`multi_label`)."""
    weight_column: str | None = None
    """Column, or key in jsonl, of the weights of the training rows in the loss: numbers of at least 0. A file of the
    validation part needs it only in a search with `tune.refit`. null: all rows have the same weight."""
    delimiter: str | None = None
    """Character between the columns of a csv or tsv file. null: in tsv a tab; in csv the first of comma, semicolon,
    tab and vertical bar that divides a header with the columns above."""
    encoding: str = "utf-8"
    """Character encoding of text files, by its name in Python."""
    validation_share: Fraction = 0.1
    """Share of the training rows that is drawn as validation part if it has no file, after the test part is drawn."""
    test_share: Fraction = 0.1
    """Share of the training rows that is drawn as test part if it has no file."""
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
    """Docstring corpus: names of installed packages, one class each."""
    max_rows_per_class: int = Field(1200, ge=10)
    """Docstring corpus: maximum number of rows drawn from each package."""

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several labels."""
        return self.multi_label or self.label_separator is not None

    @field_validator("train", "validation", "test", "out_of_scope", mode="before")
    @classmethod
    def _check_source(cls, value: Any) -> Any:
        paths = value if isinstance(value, list) else [value]
        if value is not None and not (paths and all(isinstance(path, str) for path in paths)):
            raise ValueError("must be a path, or a list of paths such as [a.csv, b.csv]")
        return value

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, value: str | None) -> str | None:
        value = "\t" if value in ("tab", r"\t") else value
        if value is not None and (len(value) != 1 or value in '"\r\n' or value.isalnum()):
            raise ValueError("must be a single character, as in data.delimiter=';', or tab")
        return value


class TextSettings(SettingsSection):
    """Tokenizer and vocabulary."""

    tokenizer: str = Field("unicode", min_length=1)
    """unicode: words of any script, and the single characters of scripts without spaces between words, such as Chinese
    and Thai. unicode-pairs: in these scripts, pairs of neighbouring characters. words: as in earlier versions, which
    did not divide such scripts. Or the name of a tokenizer of an installed package, such as jieba."""
    lowercase: bool = True
    """Convert texts to lower case."""
    max_tokens: int = Field(1000, ge=1)
    """Maximum length of a text, in tokens; longer texts are truncated."""
    min_count: int = Field(1, ge=1)
    """Words with fewer occurrences in the training texts count as unknown, unless they have a pretrained vector."""
    max_words: int = Field(100_000, ge=1)
    """Maximum number of words of the training texts in the vocabulary; the most frequent are selected."""
    max_edit_distance: int = Field(0, ge=0, le=1)
    """1: a word of at least 4 letters that is not in the vocabulary is read as the first word there, also of at least
    4 letters, at Damerau-Levenshtein distance 1: one letter is inserted, deleted or replaced, or two adjacent ones are
    swapped. 0: only exact words are found."""


# Settings of `vectors` that apply only to vectors trained here, and only to vectors read from a file.
PRETRAINING_SETTINGS: tuple[str, ...] = ("algorithm", "window", "negative", "sample", "epochs", "min_count")
VECTOR_FILE_SETTINGS: tuple[str, ...] = ("format", "allow_pickle", "unicode_errors")


class VectorSettings(SettingsSection):
    """Initial word vectors: read from `path`, or trained on the texts by gensim."""

    path: str | None = None
    """Path or URI of a file, plain or gzipped, which is never changed; or gensim:NAME, a model of gensim's
    downloader."""
    format: Literal["auto", "word2vec-binary", "word2vec-text", "glove", "fasttext", "keyed-vectors"] = "auto"
    """Format of the file. auto: detected from its content. fasttext: the .bin file of a model, which also has vectors
    for words that it does not contain; its .vec file is word2vec-text. keyed-vectors: saved by gensim; a pickle."""
    allow_pickle: bool = False
    """Allow the format keyed-vectors. Reading a pickle can run code that it contains."""
    unicode_errors: Literal["strict", "replace", "ignore"] = "strict"
    """Handling of words of the file that are not UTF-8. strict: error; replace: invalid bytes become U+FFFD; ignore:
    invalid bytes are dropped."""
    extra_words: int = Field(60_000, ge=0)
    """Number of vectors to load for words that are not in the training texts but may be in later ones, the most
    frequent first."""
    norm: float | None = Field(3.0, gt=0)
    """L2 norm that the vector of each word is scaled to before training; null keeps the lengths of the file, where
    frequent words may be several times as long as rare ones."""
    dimensions: int = Field(100, ge=1)
    """Dimensions of vectors that are trained here or random. A file has its own; it is an error if another value than
    the default is set here and differs from them. In a search that also reads a file, random vectors have the file's
    dimensions."""
    algorithm: Literal["skip-gram", "cbow"] = "skip-gram"
    """Algorithm of word2vec (Mikolov et al. 2013). This and the settings below apply to vectors that are trained on the
    texts."""
    window: int = Field(5, ge=1)
    """Maximum distance between a word and its context words, in words."""
    negative: int = Field(5, ge=0)
    """Number of noise words for each true word (negative sampling); 0 trains with hierarchical softmax instead."""
    sample: float = Field(1e-4, ge=0)
    """Relative frequency above which words are downsampled (Mikolov et al. 2013); 0: no downsampling."""
    epochs: int = Field(5, ge=1)
    """Number of passes over the texts."""
    min_count: int = Field(3, ge=1)
    """Words with fewer occurrences in the texts get no vector."""


class ModelSettings(SettingsSection):
    """Network (Kim 2014), and the linear classifier next to it."""

    embedding: Embedding = "non-static"
    """Initial word vectors, and whether they are trained. rand: random, trained. static: those of `vectors`, not
    trained. non-static: those of `vectors`, trained. multichannel: two copies of those of `vectors`, one of them
    trained."""
    trained_words: Literal["all", "out-of-vocabulary"] = "all"
    """Words whose vectors are trained: all, or only those without a pretrained vector."""
    filter_widths: list[Annotated[int, Field(ge=1, le=50)]] = Field([3, 4, 5], min_length=1)
    """Widths of the filters, in words."""
    feature_maps: int = Field(100, ge=1)
    """Number of filters of each width."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Probability with which a feature is set to zero in training, before the last layer."""
    max_norm: float | None = Field(3.0, gt=0)
    """Maximum L2 norm of the weights of a class in the last layer; null: no limit."""
    linear: Literal["none", "words-and-pairs"] = "words-and-pairs"
    """Linear classifier whose scores are added to those of the network. words-and-pairs: a linear SVC over the TF-IDF
    of words, and of pairs of adjacent words that occur twice or more. none: the network alone."""

    @field_validator("filter_widths")
    @classmethod
    def _check_filter_widths(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("contains a width twice; increase feature_maps instead")
        return value


# Values of settings that earlier versions did not have, by section: files without them mean these.
EARLIER_VALUES: dict[str, dict[str, Any]] = {
    "text": {"tokenizer": "words", "max_edit_distance": 0},
    "model": {"linear": "none"},
}
# Settings of `train` without an effect at their defaults, which earlier versions did not have.
NEWER_SETTINGS = (
    "linear_weight", "linear_weight_growth", "class_weights", "temperature", "threshold_objective", "thresholds",
    "abstention_retention", "abstention_precision", "abstention_thresholds",
)  # fmt: skip
WORKER_SETTINGS = "train.workers and train.cpus_per_worker"  # in errors


class TrainSettings(SettingsSection):
    """Fine-tuning on Ray Train."""

    workers: int | list[int] = 1
    """Number of workers; changes the speed of a run, not its result. [2, 8]: 2 to 8, as many as fit in the
    cluster."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Interval of checkpoints within an epoch, in minutes; there is always one at the end of an epoch."""
    cpus_per_worker: int = Field(1, ge=1)
    """CPUs that Ray reserves for each worker, and number of its threads."""
    use_gpu: bool | None = None
    """Train on GPUs, one for each worker. null: true if each worker fits on a node with a GPU and enough CPUs, and
    torch can use the GPUs of all nodes."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix product of words and filters. Weights, sums and gradients are always float32."""
    start_from: str | None = None
    """Checkpoint whose weights training starts from: its folder, a best.json or a folder with one. New words
    and classes are added; network and tokens must be of the same kind. null: train from the beginning."""
    epochs: int = Field(10, ge=1)
    """Maximum number of passes over the training rows; see `patience`."""
    stop_epoch: int | None = Field(None, ge=1)
    """Last epoch of a run that keeps the learning rates of a run of `epochs`; null: `epochs`."""
    batch_size: int | None = Field(None, ge=1)
    """Number of rows of a step, over all workers. null: 50, and with fewer than 4,500 training rows as many as make an
    epoch of 90 steps, or a step for each row; see `python benchmarks/learning_curves.py`."""
    learning_rate: float = Field(2e-3, gt=0, le=1e30)
    """Learning rate of filters and output weights at the start."""
    decay: Literal["linear", "none"] = "linear"
    """Schedule of the learning rates. linear: they decrease to 0 over all `epochs`, even if `patience` ends the run
    earlier."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay (AdamW) of filters and output weights; biases and word vectors have none."""
    vectors_learning_rate: float | None = Field(None, gt=0, le=1e30)
    """Learning rate of the word vectors at the start; null: 0.5 times `learning_rate`, or 1.5 times `learning_rate`
    with `rand`, whose vectors start farthest from their final values."""
    vectors_pull: float = Field(0.0, ge=0)
    """L2 penalty on the distance of the word vectors from their initial values: half this factor times the squared
    distance is added to the loss, for the words of a batch."""
    linear_weight: float | None = Field(None, ge=0, le=MAX_LINEAR_WEIGHT)
    """Weight of the scores that `model.linear` adds, for the class with the most training rows. null: fitted to the
    validation part after each epoch, with `linear_weight_growth`."""
    linear_weight_growth: float = Field(0.0, ge=0, le=MAX_LINEAR_WEIGHT)
    """Increase of `linear_weight` for a class with fewer training rows, times the logarithm of how many times fewer."""
    class_weights: Annotated[ClassWeights, BeforeValidator(parse_class_weights)] = None
    """Weights of the classes in the loss. balanced: rows / (classes * rows of the class), as in scikit-learn; or a
    weight for each label, as in {spam: 2, ham: 1}. null: none. A mapping applies to the linear classifier of
    `model.linear` too; otherwise, with one label per text, its classes are balanced where those of the network are not.
    Validation metrics have no weights. With several labels per text they weight the rows with a label; balanced: as
    much as those without it."""
    threshold_objective: Annotated[Literal["micro_f1", "macro_f1"] | Fraction, BeforeValidator(parse_objective)] = (
        "micro_f1"
    )
    """Objective of the thresholds of labels, with several per text: micro_f1, macro_f1, or as many labels as possible
    of at least a precision, such as 0.9. They are chosen on the validation part."""
    thresholds: Annotated[Fraction | dict[str, Fraction] | None, BeforeValidator(parse_thresholds)] = None
    """Score from which a text gets a label, with several per text: one for all labels, or a mapping of label to score.
    null: chosen by `threshold_objective`."""
    temperature: float | None = Field(None, ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)
    """Divisor of the logits before softmax, or sigmoid with several labels per text (Guo et al. 2017). null: fitted to
    the validation part, so that scores are probabilities; 1: scores as they were trained."""
    abstention_retention: Fraction = 0.95
    """Share of the texts in scope that keep their label when a classifier abstains with the objective retention."""
    abstention_precision: Fraction = 0.95
    """Share of correct labels among the texts that keep one, with the objective precision."""
    abstention_thresholds: dict[Objective, Annotated[float, Field(ge=0, le=1)]] | None = None
    """Scores below which a text gets no label, by objective. null: selected on the validation part."""
    frozen_epochs: int = Field(0, ge=0)
    """Number of epochs at the start in which the word vectors do not change. `patience` counts from the next one."""
    metric: Metric = "accuracy"
    """Metric of the best epoch; the loss decides between equals. Measured on the validation part, except train_loss;
    examples_per_second and seconds are meant for searches. With several labels per text, the default of a file without
    it is micro_f1, and accuracy is the share of texts whose labels are all correct."""
    patience: int = Field(4, ge=1)
    """Number of epochs without improvement after which training stops."""

    @model_validator(mode="before")
    @classmethod
    def _drop_folds(cls, values: Any) -> Any:
        # Files of earlier versions contain `folds: null`.
        if not isinstance(values, dict) or values.get("folds", ...) is not None:
            return values
        return {name: value for name, value in values.items() if name != "folds"}

    @field_validator("workers", mode="before")
    @classmethod
    def _check_workers(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list) else [value]
        valid = all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers)
        if not valid or len(numbers) > 2 or numbers != sorted(numbers) or not numbers:
            raise ValueError("must be a number of at least 1, or [minimum, maximum]")
        return numbers[0] if len(numbers) == 1 else value

    @property
    def last_epoch(self) -> int:
        """Last epoch of a run that `patience` does not end earlier."""
        return min(self.epochs, self.stop_epoch or self.epochs)

    @property
    def min_workers(self) -> int:
        """Minimum number of workers of a run."""
        return self.workers[0] if isinstance(self.workers, list) else self.workers

    @property
    def max_workers(self) -> int:
        """Maximum number of workers of a run."""
        return self.workers[-1] if isinstance(self.workers, list) else self.workers
