"""Open the headers of raw files: what columns a table has, how wide a feature is. No row is read beyond the first."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from tru_core.errors import DataError
from workflows.data.bounded_parquet import read_bounded
from workflows.ingest.gates import check_npy, check_parquet, check_text, check_width, open_raw
from workflows.ingest.interaction_files import TablePart
from workflows.ingest.problems import NOTHING_WRITTEN, missing_column
from workflows.ingest.raw_files import FeatureSource, Float, TableFile
from workflows.ingest.suffixes import split_suffix

_NUM_READERS = 16  # headers that are read at the same time
_FLOATS_BY_WIDTH: dict[str, Float] = {"2": "float16", "4": "float32", "8": "float64"}


@dataclass(frozen=True)
class Folder:
    """Where the files of a source are opened."""

    filesystem: pafs.FileSystem
    base: str
    url: str

    def path(self, key: str) -> str:
        return f"{self.base}/{key}"


def open_tables(folder: Folder, parts: Sequence[TablePart]) -> list[TableFile]:
    """Read the headers of all parts of a table, in their order. Raises as ``open_table``, for the first wrong part."""
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        return list(pool.map(lambda part: open_table(folder, part.key, part=part.split), parts))


def open_table(folder: Folder, key: str, *, part: int | None = None, is_atomic: bool = False) -> TableFile:
    """Read the header of a table. The file's suffix says its kind and compression.

    Args:
        is_atomic: The header cells are RecBole's ``name:type``.

    Raises:
        DataError: The file breaks the rules of its kind.
        IntegrityError: It could run code when it is read.
    """
    path = folder.path(key)
    suffix = split_suffix(key.rpartition("/")[2])[1]
    if suffix is not None and suffix.kind == "parquet":
        facts = check_parquet(folder.filesystem, path, key=key)
        return TableFile(key, path, facts.columns, row_group_rows=facts.row_group_rows, part=part)
    compression = suffix.compression if suffix else ""
    text = check_text(folder.filesystem, path, key=key, compression=compression)
    names, float_lists = list(text.header), None
    if is_atomic:
        names = [token.partition(":")[0] for token in text.header]
        lists = [number for number, token in enumerate(text.header) if token.endswith(":float_seq")]
        float_lists = {names[number]: _first_width(text.first_cells, number, key, names[number]) for number in lists}
    columns = dict.fromkeys(names, pa.string())
    return TableFile(
        key, path, columns, (), text.delimiter, text.num_header_lines, float_lists, part, compression=compression
    )


def open_matrix(folder: Folder, key: str, modality: str) -> FeatureSource:
    """Read the header of a .npy file. Raises as ``check_npy``."""
    facts = check_npy(folder.filesystem, folder.path(key), key=key)
    return FeatureSource(
        modality, key, folder.path(key), facts.num_columns, _FLOATS_BY_WIDTH[facts.dtype[-1]], npy=facts
    )


def open_lists(folder: Folder, keys: Sequence[str], stem: str, *, id_column: str) -> list[FeatureSource]:
    """The list columns of a feature table: one is the modality that the file is named by, several name themselves.

    Args:
        keys: The file of the table, or its parts.

    Raises:
        DataError: The table has no column of item ids, or no column of lists of floats, or its parts differ.
    """
    tables = open_tables(folder, [TablePart(key, None) for key in keys])
    table, key = tables[0], tables[0].key
    if id_column not in table.columns:
        raise missing_column(key, list(table.columns), wanted=id_column, is_text=False, fix="Rename the column of ids.")
    lists = {name: kind for name, kind in table.columns.items() if _is_list(kind)}
    if not lists:
        raise DataError(f"{key}: expected a column of lists of floats, found none. {NOTHING_WRITTEN}")
    for other in tables[1:]:
        if any(other.columns.get(name) != table.columns[name] for name in (id_column, *lists)):
            raise DataError(
                f"{key} and {other.key} differ in their columns or types. {NOTHING_WRITTEN} Give all parts of the "
                f"table the same."
            )
    sources = []
    for name, kind in lists.items():
        if not pa.types.is_floating(kind.value_type):
            raise DataError(
                f"{key}, column {name}: expected lists of float16, float32 or float64, found {kind}. {NOTHING_WRITTEN} "
                f"Cast the column."
            )
        dtype = _FLOATS_BY_WIDTH[str(kind.value_type.bit_width // 8)]
        width = (
            check_width(kind.list_size, f"{key}, column {name}")
            if pa.types.is_fixed_size_list(kind)
            else _list_width(folder, tables, name)
        )
        modality = stem if len(lists) == 1 else name
        more = tuple(tables[1:])
        sources.append(FeatureSource(modality, key, table.path, width, dtype, None, table, name, id_column, more))
    return sources


def _first_width(cells: tuple[tuple[str, ...], ...], number: int, key: str, column: str) -> int:
    for row in cells:
        if number < len(row) and row[number].strip():
            return len(row[number].split())
    raise DataError(
        f"{key}, column {column}: expected lists of floats, found none in the first {len(cells)} rows. "
        f"{NOTHING_WRITTEN} Leave the column out if there is no such feature."
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _list_width(folder: Folder, tables: Sequence[TableFile], column: str) -> int:
    """The number of values in the first list that is there."""
    for table in tables:
        with open_raw(folder.filesystem, table.path, key=table.key) as file:
            for batch in read_bounded(file, columns=[column], name=table.key):
                widths = batch.column(0).value_lengths().drop_null()
                if len(widths):
                    return check_width(widths[0].as_py(), f"{table.key}, column {column}")
    raise DataError(f"{tables[0].key}, column {column}: expected lists of floats, found nulls only. {NOTHING_WRITTEN}")
