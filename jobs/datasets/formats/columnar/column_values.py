"""Values of columns of Arrow: types, invalid texts, and conversion to objects of Python."""

import base64
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence

import pyarrow as pa

from jobs.datasets.formats.rows import DataError, Record


def decode_dictionary(column: pa.Array) -> pa.Array:
    """Return a column without a dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def replace_views(kind: pa.DataType) -> pa.DataType:
    """Return a type with other strings and bytes instead of views, for which Arrow lacks operations."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        create = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return create(kind.value_field.with_type(replace_views(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(replace_views(kind.value_type)), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(replace_views(field.type)) for field in kind])
    return kind


def find_invalid_texts(column: pa.Array) -> dict[int, str]:
    """Return why values of a column of strings are not UTF-8, by index; ArrowInvalid if the column is damaged."""
    try:
        column.validate(full=True)
        return {}
    except pa.ArrowInvalid:
        reasons = {}
        for index, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
            try:
                (value or b"").decode("utf-8")
            except UnicodeDecodeError as error:
                reasons[index] = error.reason
        if not reasons:
            raise
        return reasons


def is_list(kind: pa.DataType) -> bool:
    """Return whether values of a type are lists."""
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def is_label(kind: pa.DataType) -> bool:
    """Return whether a value of a type may be a label: a string, number or boolean, with or without a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return is_text(kind) or any(check(kind) for check in checks)


def has_class_numbers(kind: pa.DataType) -> bool:
    """Return whether values of a type, or their items, may be numbers of classes."""
    return bool(pa.types.is_integer(kind.value_type if is_list(kind) else kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of a type are strings, with or without a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def list_values(column: pa.Array, class_names: Sequence[str] | None) -> list[object]:
    """Return the values of a column; those of class numbers are names, or None for -1, which stands for no class."""
    values = _to_objects(column)
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):  # 0.1, not 0.10000000149
        convert = column.type.to_pandas_dtype()
        return [value if value is None else float(str(convert(value))) for value in values]
    if class_names is None or not has_class_numbers(column.type):
        return values
    names: dict[object, str | None] = dict(enumerate(class_names)) | {None: None, -1: None}
    return [
        [names.get(item, item) for item in value] if isinstance(value, list) else names.get(value, value)
        for value in values
    ]


def _to_objects(column: pa.Array) -> list[object]:
    """Return the values of a column; as text if Python has no such ones, and in UTC if their time zone is unknown."""
    kind = column.type
    if kind == pa.time64("ns"):  # Python's times have microseconds
        column = column.cast(pa.string())
    try:
        return list(column.to_pylist())
    except OverflowError:
        return [_to_python(value) for value in column]
    except pa.ArrowInvalid:
        if not pa.types.is_timestamp(kind) or kind.tz in (None, "UTC"):
            raise
        return _to_objects(column.cast(pa.timestamp(kind.unit, "UTC")))


def _to_python(scalar: pa.Scalar) -> object:
    """Return a value; as text if Python has no such one: its dates end with the year 9999."""
    try:
        return scalar.as_py()
    except OverflowError:
        if is_list(scalar.type):
            return [_to_python(item) for item in scalar.values]
        if pa.types.is_struct(scalar.type):
            return {name: _to_python(item) for name, item in scalar.items()}
        if pa.types.is_duration(scalar.type):
            return f"{scalar.value} {scalar.type.unit}"
        return scalar.cast(pa.string()).as_py()


def require_equal_schemas(schema: pa.Schema, other: pa.Schema, advice: str) -> None:
    """Raise a DataError that says how two files of the input differ, and the advice, unless their schemas are equal."""
    if schema.equals(other):
        return
    if schema.names == other.names:
        pairs = [(first, second) for first, second in zip(schema, other, strict=True) if not first.equals(second)]
        types = (f"'{first.name}' is {_name_type(first)} and {_name_type(second)}" for first, second in pairs)
        difference = f"types: {', '.join(types)}"
    else:
        difference = f"columns: {', '.join(schema.names)}; {', '.join(other.names)}"
    raise DataError(f"the files of the input have different {difference}; {advice}")


def _name_type(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' without null'}"


def name_classes(value: object) -> object:
    """Return a value, or the items of a list, as strings; null stays."""
    if isinstance(value, list):
        return [name_classes(item) for item in value]
    return value if value is None else str(value)


def build_records(batch: pa.RecordBatch, class_names: Mapping[str, Sequence[str]]) -> list[Record]:
    """Return the rows of a batch with the values of all columns; NaN and infinity, which JSON lacks, are None."""
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = list_values(column, class_names.get(name))
        kind = column.type
        is_json = is_text(kind) or any(
            check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
        )
        if pa.types.is_floating(kind):
            values = [value if isinstance(value, float) and math.isfinite(value) else None for value in values]
        elif not is_json:
            values = json.loads(json.dumps(values, default=_encode_value), parse_constant=lambda name: None)
        columns.append(values)
    names = [normalize_name(name) for name in batch.schema.names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _encode_value(value: object) -> str:
    """Return a value that JSON lacks as a string: bytes in base64, others as Python prints them, such as dates."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def normalize_name(name: str) -> str:
    """Return the name of a column in Unicode NFC."""
    return unicodedata.normalize("NFC", name)
