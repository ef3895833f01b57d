"""Scikit-learn estimator: texts and labels from memory, word vectors fine-tuned in a CNN, no files needed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from cluster.storage import list_file_sizes, output_folder
from jobs.config.experiment import Experiment
from jobs.config.settings import Embedding
from jobs.estimator.inputs import EvalSet, LabelSets, check_texts, list_classes, name_label, read_same_form, to_array
from jobs.estimator.parameters import SETTINGS, check_own_settings, read_parameters
from jobs.estimator.progress import show_epochs
from jobs.estimator.ray_methods import RayMethods
from jobs.estimator.training import (
    EpochCallback,
    TrainedModel,
    load_trained,
    track_fit,
    train_dataset,
    train_on_workers,
)
from jobs.inference.batch.cluster_pipeline import label_dataset
from jobs.inference.classifier import Classifier, select_labels
from jobs.inference.explanation import Explanation
from jobs.inference.file_prediction import MIN_TEXTS_FOR_TABLE, build_classifier
from jobs.model.checkpoint import load_labels, save_checkpoint
from jobs.portable.model_card import render_model_card


class TextCNNClassifier(RayMethods, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no annotations
    """CNN text classifier over word vectors that training fine-tunes (Kim 2014), with scikit-learn's interface.

    >>> texts, labels = ["a good film", "a bad film"] * 20, ["good", "bad"] * 20
    >>> model = TextCNNClassifier(embedding="rand", feature_maps=10, learning_rate=0.02).fit(texts, labels)
    >>> model.predict(["good", "bad"])
    array(['good', 'bad'], dtype='<U4')
    >>> model.best_epoch_ <= len(model.epochs_) <= 10
    True

    `TextCNNClassifier(vectors="vectors.bin.gz")` starts from the word vectors of a file.

    The same texts, labels, validation rows, settings and vectors file give the same weights as `finetune-cnn train`,
    bit for bit. A share of the rows is held out to select the best epoch.

    Args:
        vectors: path or URI of a file of word vectors, which is never changed. None: gensim trains word2vec on the
            texts, which needs many of them.
        embedding: whether the vectors are trained: `static`, `non-static`, `multichannel`; or `rand`, random ones.
        filter_widths: widths of the filters, in words.
        feature_maps: number of filters of each width.
        dropout: probability with which a feature is set to zero in training.
        linear: linear classifier whose scores are added to those of the network: `words-and-pairs`, or `none`.
        epochs: maximum number of passes over the training rows.
        batch_size: number of rows of a step; None for 50, and for less where there are fewer than 4,500 rows.
        learning_rate: learning rate of filters and output weights at the start; it decreases to 0. Word vectors have
            0.5 times this rate, or 1.5 times this rate with `rand`.
        patience: epochs without a better one after which training ends.
        class_weight: weights of the classes in the loss: `balanced`, or a weight for each label; None: equal ones.
        validation_fraction: share of the rows that is held out if `fit` gets no `eval_set`.
        random_state: seed of all random numbers: an int, a `numpy.random.RandomState`, or None for another one each
            time.
        settings: other settings of an experiment by dotted path, such as `{"train.weight_decay": 0.01}`;
            `finetune-cnn show` prints them all. Those that are a parameter, or are about files of texts, are errors.
        n_workers: number of workers of Ray Train, on the Ray that this process is connected to, on the cluster of
            RAY_ADDRESS, or on an embedded Ray; None: train in this process.
        warm_start: a further `fit` starts from the weights of the one before, which must have the same classes; words
            that are new have the vectors of the file, or without one random vectors.
        verbose: show the epochs: a bar on a terminal or in a notebook with ipywidgets, elsewhere a line for each.

    Attributes:
        classes_: the labels, sorted, `(classes,)`.
        epochs_: metrics of the epochs, the validation rows' among them.
        best_epoch_: number of the epoch whose weights are used, from 1.
    """

    def __init__(
        self,
        vectors: str | os.PathLike[str] | None = None,
        *,
        embedding: Embedding = "non-static",
        filter_widths: Sequence[int] = (3, 4, 5),
        feature_maps: int = 100,
        dropout: float = 0.5,
        linear: Literal["none", "words-and-pairs"] = "words-and-pairs",
        epochs: int = 10,
        batch_size: int | None = None,
        learning_rate: float = 2e-3,
        patience: int = 4,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        settings: Mapping[str, Any] | None = None,
        n_workers: int | None = None,
        warm_start: bool = False,
        verbose: bool = False,
    ) -> None:
        # Scikit-learn reads the parameters from attributes of the same names; `fit` checks them.
        self.vectors = vectors
        self.embedding = embedding
        self.filter_widths = filter_widths
        self.feature_maps = feature_maps
        self.dropout = dropout
        self.linear = linear
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.settings = settings
        self.n_workers = n_workers
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(
        self,
        X: Iterable[str],
        y: Iterable[Any],
        sample_weight: Iterable[float] | None = None,
        *,
        eval_set: EvalSet | None = None,
        callbacks: Sequence[EpochCallback] = (),
    ) -> Self:
        """Train, and keep the weights of the best epoch.

        Args:
            X: texts, `(rows,)`: a list, an array of numpy or pyarrow, or a column of pandas.
            y: their labels, `(rows,)`, texts or numbers. With several labels per text: a list for each text, or an
                indicator matrix `(rows, labels)` of 0 and 1, as of scikit-learn's MultiLabelBinarizer.
            sample_weight: their weights in the training loss, `(rows,)`, at least 0; by default they are equal.
            eval_set: texts and labels of the validation rows, or a list with one such pair; by default a share of the
                rows is drawn.
            callbacks: called after each epoch, in this process. One that raises StopIteration ends the training, and
                the best epoch until then is used; workers train until the last epoch.

        Raises:
            ValueError: a text is not a text, there is a single class, the numbers of rows differ, or a weight is not a
                number of at least 0; or `warm_start` is impossible.
            UsageError: a setting is invalid, or the vectors cannot be read.
        """
        experiment, dataset, sets = self._make_dataset(
            self.to_experiment(), X, y, sample_weight, eval_set, continues=self.warm_start
        )
        if experiment.train.start_from is not None:  # labels that do not fit are an error before the training
            list_classes(y, sets, load_labels(experiment.train.start_from))
        initial = self._model if self.warm_start and hasattr(self, "_model") else None
        if initial is not None and self.n_workers is not None:
            raise ValueError("warm_start: workers always start from new weights; set n_workers=None")
        with (
            track_fit(experiment, len(dataset.train)) as log,
            show_epochs(experiment.train.last_epoch) if self.verbose else nullcontext() as show,
        ):
            callbacks = [*log, *callbacks, *([show] if show else [])]
            if self.n_workers is None:
                model = train_dataset(experiment, dataset, callbacks, initial)
            else:
                model = train_on_workers(experiment, dataset, (self.settings or {}).get("storage"), callbacks)
        return self._set_model(model, y, sets)

    def predict(self, X: Iterable[str]) -> Any:
        """Return the most likely label of each text, `(texts,)`, of the type of the labels in `fit`.

        With several labels per text: those whose probability reaches their thresholds, as a list for each text, the
        most likely first; or as an indicator matrix `(texts, labels)`, if `fit` received one.

        Of a `ray.data.Dataset` with a column of texts (`data.text_column`, by default `text`), the result is a dataset
        with the columns `label`, a string, and `score` added, as `BatchClassifier` returns them. Ray Data computes it
        when it is used, in actors.
        """
        if hasattr(X, "map_batches"):
            check_is_fitted(self)
            return label_dataset(X, self._model.checkpoint)
        probabilities = self.predict_proba(X)
        if self._label_sets is None:
            return np.asarray(self.classes_[probabilities.argmax(axis=1)])
        thresholds = self._model.checkpoint.label_thresholds[self._class_order()]
        if self._label_sets.is_indicator:
            return (probabilities >= thresholds).astype(np.int64)
        classes = self.classes_.tolist()
        return [[classes[index] for index in row] for row in select_labels(probabilities, thresholds)]

    def score(self, X: Iterable[str], y: Iterable[Any], sample_weight: Iterable[float] | None = None) -> float:
        """Return the accuracy; with several labels per text, the share of the texts whose labels are all correct."""
        check_is_fitted(self)
        sets = read_same_form(y, self._label_sets)
        if sets is None or sets.is_indicator:
            return float(super().score(X, y, sample_weight))
        is_correct = [set(own) == set(true) for own, true in zip(self.predict(X), sets.rows, strict=True)]
        return float(np.average(is_correct, weights=None if sample_weight is None else to_array(sample_weight)))

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Return the probabilities of the classes, `(texts, classes)` float32, in the order of `classes_`.

        With several labels per text each label has a probability of its own.

        >>> model.classes_
        array(['bad', 'good'], dtype='<U4')
        >>> model.predict_proba(["a good film", "a bad film", ""]).shape
        (3, 2)
        """
        check_is_fitted(self)
        texts = check_texts(X)
        probabilities = self._get_classifier(len(texts)).predict_proba(texts)
        return probabilities[:, self._class_order()]

    def explain(self, text: str, label: Any = None) -> Explanation:
        """Return the phrases of a text that contribute to the score of a label, by default the most likely one.

        The shares of the phrases and the bias add up to the score exactly.

        >>> explanation = model.explain("a good film")
        >>> shares = sum(phrase.share for phrase in explanation.phrases)
        >>> abs(shares + explanation.bias - explanation.score) < 1e-5
        True
        """
        check_is_fitted(self)
        return self._get_classifier(1).explain(text, None if label is None else name_label(label))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint into a new or empty folder, at a path or URI.

        `finetune_cnn.load` reads it, and `finetune-cnn serve`, `evaluate` and `predict`.

        >>> import tempfile, finetune_cnn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model")
        ...     finetune_cnn.load(f"{folder}/model").predict(["good", "bad"])
        ['good', 'bad']

        Raises:
            FileExistsError: the folder is not empty.
            StorageError: it cannot be written.
        """
        check_is_fitted(self)
        if list_file_sizes(str(path)):
            raise FileExistsError(f"{path}: is not empty")
        with output_folder(str(path)) as folder:
            checkpoint = self._model.checkpoint
            card = render_model_card(checkpoint)
            save_checkpoint(folder, checkpoint, constants=self._model.constants, card=card)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return a fitted estimator of a checkpoint, which `save` or a command wrote.

        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model")
        ...     TextCNNClassifier.load(f"{folder}/model").feature_maps
        10

        Its parameters and `settings` are those that the checkpoint was trained with, apart from workers, trackers and
        files: a checkpoint may come from anywhere, so a vectors file that it names is read only after
        `set_params(vectors=...)`. With `set_params(warm_start=True)`, `fit` starts from its weights. Its labels are
        texts, and `epochs_` is empty: a checkpoint has the metrics of its own epoch only. `finetune_cnn.load` needs
        less memory and time to classify.

        Args:
            path: as of `finetune_cnn.load`.

        Raises:
            UsageError: there is no checkpoint, or it is incomplete, altered, or of a newer format.
        """
        model = load_trained(str(path), [])
        checkpoint = model.checkpoint
        sets = LabelSets([], np.array(checkpoint.labels), is_indicator=False) if checkpoint.is_multi_label else None
        return cls(**read_parameters(checkpoint.experiment))._set_model(model, checkpoint.labels, sets)

    def to_experiment(self) -> Experiment:
        """Return the experiment with these parameters, for example to write an experiment file.

        Raises:
            ExperimentError: a value is invalid, or `settings` has one without effect or of a parameter.
        """
        check_own_settings(self.settings or {})
        values = {path: getattr(self, name) for name, path in SETTINGS.items()}
        seed = self.random_state if isinstance(self.random_state, int | np.integer) else None
        if seed is None:
            seed = check_random_state(self.random_state).randint(1 << 31)
        if isinstance(self.class_weight, Mapping):
            values["train.class_weights"] = {name_label(label): weight for label, weight in self.class_weight.items()}
        if self.n_workers is not None:
            values["train.workers"] = self.n_workers
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
        tags.classifier_tags.multi_label = True
        return tags

    def _set_model(self, model: TrainedModel, y: Iterable[Any], sets: LabelSets | None) -> Self:
        self._model = model
        self._classifiers: dict[bool, Classifier] = {}
        self._label_sets = sets and replace(sets, rows=[])
        self.classes_ = list_classes(y, sets, model.checkpoint.labels)
        self.epochs_ = model.epochs
        self.best_epoch_ = int(model.checkpoint.metrics["epoch"])
        return self

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
        return [indices[name_label(value)] for value in self.classes_.tolist()]
