"""Which columns of the raw interaction tables are user, item, split and timestamp, and whether their types fit."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from tru_core.errors import DataError
from workflows.ingest.problems import NOTHING_WRITTEN, missing_column
from workflows.ingest.raw_files import RawData, TableFile
from workflows.ingest.settings import IN_SETTINGS, ColumnNames

ID_TYPES = ("integer", "string", "float", "decimal", "binary")
_DEFAULTS = {
    "tru": ("user_id", "item_id", ("split", "x_label")),
    "mmrec": ("userID", "itemID", ("x_label", "split")),
    "recbole": ("user_id", "item_id", ("split", "x_label")),
}


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are read. None: the data has no such column."""

    user: str
    item: str
    split: str | None
    timestamp: str | None

    @property
    def present(self) -> list[str]:
        return [name for name in (self.user, self.item, self.split, self.timestamp) if name is not None]


def find_columns(raw: RawData, names: ColumnNames) -> Columns:
    """Find the columns of the interaction tables and compare the tables with each other.

    Raises:
        DataError: A column is missing or has a type that cannot mean what it should, or two files differ.
    """
    user, item, splits = _DEFAULTS[raw.layout]
    first = raw.tables[0]
    chosen = Columns(
        user=_require(first, names.user or user),
        item=_require(first, names.item or item),
        split=_require(first, names.split) if names.split else _first_of(first, splits),
        timestamp=_require(first, names.timestamp) if names.timestamp else _first_of(first, ("timestamp",)),
    )
    for table in raw.tables:
        for name in (chosen.user, chosen.item):
            if name in table.columns:
                _check_type(table, name, ID_TYPES)
    if chosen.split:
        _check_type(first, chosen.split, ("integer", "string"))
    if chosen.timestamp:
        _check_type(first, chosen.timestamp, ("integer", "string", "float", "decimal", "time"))
    for table in raw.tables[1:]:
        for name in chosen.present:
            expected, found = type_family(first.columns[name]), table.columns.get(name)
            is_id = name in (chosen.user, chosen.item)  # all types of ids are read as text
            if found is None or (type_family(found) != expected and not is_id):
                raise DataError(
                    f"{table.key} and {first.key} differ: column {name} is {first.columns[name]} in {first.key} and "
                    f"{found or 'missing'} in {table.key}. {NOTHING_WRITTEN} Give all files the same columns and types."
                )
    return chosen


def _first_of(table: TableFile, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in table.columns), None)


def _require(table: TableFile, name: str) -> str:
    if name not in table.columns:
        fix = f"Rename the column, or name it under `columns` {IN_SETTINGS}."
        raise missing_column(table.key, list(table.columns), wanted=name, is_text=table.is_text, fix=fix)
    return name


def _check_type(table: TableFile, name: str, allowed: tuple[str, ...]) -> None:
    if type_family(table.columns[name]) not in allowed:
        raise wrong_type(table.key, name, kind=table.columns[name], allowed=allowed)


def wrong_type(file: str, column: str, *, kind: pa.DataType, allowed: tuple[str, ...]) -> DataError:
    """The error about a column whose type cannot mean what it should."""
    found = str(kind).partition("<")[0] if pa.types.is_nested(kind) else kind
    return DataError(
        f"{file}, column {column}: expected type {' or '.join(allowed)}, found {found}. {NOTHING_WRITTEN} "
        f"Cast the column."
    )


def type_family(kind: pa.DataType) -> str:
    """integer, float, decimal, string, binary or time; of a dictionary that of its values; else the type's own name."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests: dict[str, Callable[[pa.DataType], bool]] = {
        "integer": pa.types.is_integer,
        "float": pa.types.is_floating,
        "decimal": pa.types.is_decimal,
        "string": lambda kind: kind in (pa.string(), pa.large_string(), pa.string_view()),
        "binary": lambda kind: kind in (pa.binary(), pa.large_binary()),
        "time": lambda kind: pa.types.is_timestamp(kind) or pa.types.is_date(kind),
    }
    return next((name for name, test in tests.items() if test(kind)), str(kind))
