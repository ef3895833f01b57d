"""Scikit-learn estimator: texts and labels from memory, word vectors fine-tuned in a CNN, no files needed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from cluster.storage import list_file_sizes, output_folder
from jobs.config.experiment import Experiment
from jobs.config.settings import Embedding
from jobs.datasets.dataset import Dataset, stratified_split
from jobs.datasets.formats.labels import spell_label
from jobs.datasets.readers import Split
from jobs.estimator.training import train_dataset
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer, Explanation
from jobs.inference.file_prediction import MIN_TEXTS_FOR_TABLE, build_classifier
from jobs.model.checkpoint import save_checkpoint
from jobs.training.history import Epoch

# Parameters of the estimator, with the settings of an experiment that they set.
SETTINGS = {
    "vectors": "vectors.path",
    "embedding": "model.embedding",
    "filter_widths": "model.filter_widths",
    "feature_maps": "model.feature_maps",
    "dropout": "model.dropout",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "learning_rate": "train.learning_rate",
    "patience": "train.patience",
    "class_weight": "train.class_weights",
}


class TextCNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no annotations
    """CNN text classifier over word vectors that training fine-tunes (Kim 2014), with scikit-learn's interface.

        model = TextCNNClassifier(vectors="vectors.bin.gz").fit(texts, labels)
        model.predict(["where is my parcel"])
        model.save("model")  # for finetune_cnn.load, `finetune-cnn serve`, `finetune-cnn evaluate`

    The same texts, labels, validation rows and settings give the same weights as `finetune-cnn train`, bit for bit. A
    share of the rows is held out to select the best epoch, so refitting on all rows needs no other code.

    Args:
        vectors: path or URI of a file of word vectors, which is never changed. None: gensim trains word2vec on the
            texts, which needs many of them.
        embedding: whether the vectors are trained: `static`, `non-static`, `multichannel`; or `rand`, random ones.
        filter_widths: widths of the filters, in words.
        feature_maps: number of filters of each width.
        dropout: probability with which a feature is set to zero in training.
        epochs: maximum number of passes over the training rows.
        batch_size: number of rows of a step.
        learning_rate: learning rate at the start; it decreases to 0.
        patience: epochs without a better one after which training ends.
        class_weight: weights of the classes in the loss: `balanced`, or a weight for each label; None: equal ones.
        validation_fraction: share of the rows that is held out if `fit` gets no `eval_set`.
        random_state: seed of all random numbers: an int, a `numpy.random.RandomState`, or None for another one each
            time.
        settings: other settings of an experiment by dotted path, such as `{"train.weight_decay": 0.01}`;
            `finetune-cnn show` prints them all.
        verbose: print a line for each epoch.

    Attributes:
        classes_: the labels, sorted, `(classes,)`.
        epochs_: metrics of the epochs, the validation rows' among them.
        best_epoch_: number of the epoch whose weights are used, from 1.
    """

    def __init__(
        self,
        vectors: str | None = None,
        *,
        embedding: Embedding = "non-static",
        filter_widths: Sequence[int] = (3, 4, 5),
        feature_maps: int = 100,
        dropout: float = 0.5,
        epochs: int = 10,
        batch_size: int = 50,
        learning_rate: float = 1e-3,
        patience: int = 4,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        settings: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        # Scikit-learn reads the parameters from attributes of the same names; `fit` checks them.
        self.vectors = vectors
        self.embedding = embedding
        self.filter_widths = filter_widths
        self.feature_maps = feature_maps
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.settings = settings
        self.verbose = verbose

    def fit(
        self,
        X: Iterable[str],
        y: Iterable[Any],
        sample_weight: Iterable[float] | None = None,
        *,
        eval_set: tuple[Iterable[str], Iterable[Any]] | None = None,
        callbacks: Sequence[Callable[[Epoch], None]] = (),
    ) -> "TextCNNClassifier":
        """Train, and keep the weights of the best epoch.

        Args:
            X: texts, `(rows,)`: a list, an array of numpy or pyarrow, or a column of pandas.
            y: their labels, `(rows,)`, texts or numbers.
            sample_weight: their weights in the training loss, `(rows,)`, at least 0; by default they are equal.
            eval_set: texts and labels of the validation rows; by default a share of the rows is drawn.
            callbacks: called after each epoch.

        Raises:
            ValueError: a text is not a text, there is a single class, the numbers of rows differ, or a weight is not a
                number of at least 0.
            UsageError: a setting is invalid, or the vectors cannot be read.
        """
        rows = self._make_split(X, y, "the training rows", sample_weight)
        weighted = sorted({label for index, label in enumerate(rows.labels) if not rows.weights or rows.weights[index]})
        if len(weighted) < 2:
            number = f"one class, '{weighted[0]}'," if weighted else "no class"
            raise ValueError(f"y has {number} with a weight above zero; a classifier needs two or more")
        experiment = self.to_experiment()
        if eval_set is not None:
            validation = self._make_split(*eval_set, "eval_set")
            unknown = sorted(set(validation.labels) - set(rows.labels))
            if unknown:
                raise ValueError(f"eval_set has the label {unknown[0]!r}, which does not occur in y")
            train = rows
        else:
            train, validation = stratified_split(rows, self.validation_fraction, experiment.seed, "validation_fraction")
        dataset = Dataset(train, validation, Split([], []), sorted(set(rows.labels)), [])
        self._model = train_dataset(experiment, dataset, [*callbacks, *([_print_epoch] if self.verbose else [])])
        self._classifiers: dict[bool, Classifier] = {}
        self.classes_ = np.unique(column_or_1d(_to_array(y)))
        self.epochs_ = self._model.epochs
        self.best_epoch_ = int(self._model.checkpoint.metrics["epoch"])
        return self

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """Return the most likely label of each text, `(texts,)`."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Return the probabilities of the classes, `(texts, classes)` float32, in the order of `classes_`."""
        check_is_fitted(self)
        texts = _check_texts(X)
        probabilities = self._get_classifier(len(texts)).predict_proba(texts)
        return probabilities[:, self._class_order()]

    def explain(self, text: str, label: Any = None) -> Explanation:
        """Return the phrases of a text that contribute to the score of a label, by default the most likely one.

        The shares of the phrases and the bias add up to the score exactly.
        """
        check_is_fitted(self)
        classifier = self._get_classifier(1)
        if label is None:
            index = int(classifier.predict_logits([text])[0].argmax())
        elif _name_label(label) in classifier.labels:
            index = classifier.labels.index(_name_label(label))
        else:
            raise ValueError(f"{label!r} is not one of the labels: {', '.join(classifier.labels)}")
        return Explainer(classifier, text).explain(index)

    def save(self, path: str) -> None:
        """Write a checkpoint into a new or empty folder, at a path or URI.

        Raises:
            FileExistsError: the folder is not empty.
            StorageError: it cannot be written.
        """
        check_is_fitted(self)
        if list_file_sizes(str(path)):
            raise FileExistsError(f"{path}: is not empty")
        with output_folder(str(path)) as folder:
            save_checkpoint(folder, self._model.checkpoint, constants=self._model.constants)

    def to_experiment(self) -> Experiment:
        """Return the experiment with these parameters, for example to write an experiment file.

        Raises:
            ExperimentError: a value is invalid.
        """
        values = {path: getattr(self, name) for name, path in SETTINGS.items()}
        seed = self.random_state if isinstance(self.random_state, int | np.integer) else None
        if seed is None:
            seed = check_random_state(self.random_state).randint(1 << 31)
        if isinstance(self.class_weight, Mapping):
            values["train.class_weights"] = {_name_label(label): weight for label, weight in self.class_weight.items()}
        values |= {"seed": int(seed), "model.filter_widths": list(self.filter_widths), **(self.settings or {})}
        return Experiment().replace(values)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the compiled classifier, which is built again when it is needed."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_classifiers": {}} if "_classifiers" in state else state

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def _make_split(
        self, texts: Iterable[str], labels: Iterable[Any], name: str, weights: Iterable[float] | None = None
    ) -> Split:
        """Return rows of texts and labels, whose names are texts in a checkpoint, and of weights."""
        checked = _check_texts(texts)
        values = column_or_1d(_to_array(labels))
        check_classification_targets(values)
        if len(checked) != len(values):
            raise ValueError(f"{name}: {len(checked):,} texts and {len(values):,} labels")
        own_weights = None if weights is None else column_or_1d(_to_array(weights), dtype=np.float64)
        if own_weights is not None:
            if len(own_weights) != len(checked):
                raise ValueError(f"{name}: {len(checked):,} texts and {len(own_weights):,} weights")
            if not (np.isfinite(own_weights) & (own_weights >= 0)).all():
                raise ValueError("sample_weight: a weight is not a number of at least 0")
        names = [_name_label(value) for value in values.tolist()]
        return Split(checked, names, name, weights=None if own_weights is None else own_weights.tolist())

    def _get_classifier(self, num_texts: int) -> Classifier:
        """Return the compiled classifier; for many texts one with a table of products, which takes time to build."""
        with_table = num_texts >= MIN_TEXTS_FOR_TABLE
        # One with a table suits few texts as well.
        if with_table not in self._classifiers and True not in self._classifiers:
            self._classifiers[with_table] = build_classifier(self._model.checkpoint, num_texts)
        return self._classifiers.get(True) or self._classifiers[with_table]

    def _class_order(self) -> list[int]:
        """Return the checkpoint's index of each class: there the labels are texts, sorted as such."""
        indices = {label: index for index, label in enumerate(self._model.checkpoint.labels)}
        return [indices[_name_label(value)] for value in self.classes_.tolist()]


def _check_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list; ValueError if they are not a sequence of texts."""
    if isinstance(texts, str | bytes):
        raise ValueError(f"expected a sequence of texts, got a single one: {texts[:50]!r}; put it in a list")
    if getattr(texts, "ndim", 1) != 1:
        raise ValueError(f"expected texts, (rows,), got an array of shape {texts.shape}; select its column of texts")  # type: ignore[attr-defined]
    values = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)  # pyarrow: numpy would make objects
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"texts[{index}] is {value!r}, not a text")
    return [str(value) for value in values]  # numpy has a class of its own


def _to_array(values: Iterable[Any]) -> np.ndarray:
    return np.asarray(values.to_pylist() if hasattr(values, "to_pylist") else values)


def _name_label(label: Any) -> str:
    """Return the name of a label in a checkpoint: a number or a boolean is spelled as one that is read from a file."""
    return label if isinstance(label, str) else spell_label(str(label))


def _print_epoch(epoch: Epoch) -> None:
    print(
        f"epoch {epoch.epoch}: training loss {epoch.train_loss:.4f}, validation loss {epoch.loss:.4f}, "
        f"accuracy {epoch.accuracy:.4f}",
        flush=True,
    )
