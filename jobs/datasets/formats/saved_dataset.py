"""Datasets that the library `datasets` of Hugging Face saved to disk: Arrow streams, state.json, dataset_info.json.

The names of their classes (ClassLabel) are in dataset_info.json. The library itself is not needed.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from cluster.input_files import READ_ERRORS, open_stream
from cluster.storage import join
from jobs.datasets.formats.rows import DataError, SourceFile

DICT_FILE, STATE_FILE, INFO_FILE = "dataset_dict.json", "state.json", "dataset_info.json"


def find_saved_dataset(folder: str, names: Collection[str]) -> list[SourceFile] | None:
    """Return the files of a saved dataset in their order; None if the folder is none.

    Args:
        names: of all files in the folder.

    Raises:
        DataError: it holds several splits, or its JSON files are invalid.
    """
    if DICT_FILE in names:
        splits = _read_json(folder, DICT_FILE).get("splits")
        split_names = [split for split in splits if isinstance(split, str)] if isinstance(splits, list) else []
        example = join(folder, split_names[0] if split_names else "SPLIT")
        raise DataError(f"{folder}: has the splits {', '.join(split_names)}; name one, as in {example}")
    if not {STATE_FILE, INFO_FILE} <= set(names):
        return None
    state = _read_json(folder, STATE_FILE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder}: is a selection of rows; call flatten_indices() of the dataset, and save it again")
    try:
        class_names = parse_class_names(join(folder, INFO_FILE), _read_json(folder, INFO_FILE).get("features") or {})
        files = [str(entry["filename"]) for entry in state["_data_files"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: {STATE_FILE} or {INFO_FILE} is not as `datasets` writes it: {error!r}") from error
    for file in files:
        if PurePath(file).name != file:
            raise DataError(f"{join(folder, STATE_FILE)}: '{file}' is not a file of this folder")
    return [SourceFile(join(folder, file), "arrow", class_names) for file in files]


def parse_class_names(path: str, features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Return the names of the classes in the features of a dataset, by column; a class is the index of its name.

    The column may hold lists of classes.

    Raises:
        DataError: the names of a column are not a list of strings; the message names the path.
    """
    class_names = {
        column: feature["names"]
        for column, feature in ((column, _get_item_feature(feature)) for column, feature in features.items())
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }
    for column, names in class_names.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            message = f"{path}: the class names of the column '{column}' in the metadata are not a list of strings"
            raise DataError(f"{message}; write the file again with `datasets`, or without these metadata")
    return class_names


def _get_item_feature(feature: Any) -> Any:
    """Return the feature of the items of a column of lists; that of another column itself."""
    return feature.get("feature") or feature if isinstance(feature, dict) else feature


def _read_json(folder: str, name: str) -> dict[str, Any]:
    """Return the object in a file of a folder; DataError if it is none."""
    path = join(folder, name)
    try:
        with open_stream(path) as stream:
            value = json.loads(stream.read())
    except (*READ_ERRORS, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: must be a JSON object, not a {type(value).__name__}")
    return value
