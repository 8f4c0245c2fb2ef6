"""Find and describe the raw files of the three layouts. Reads headers only.

``tru``      ``interactions.parquet`` (or .csv, or several in ``interactions/``) with user_id, item_id and optionally
             split or x_label, timestamp; ``features/<modality>.npy`` (row i belongs to item_id i) or
             ``features/<modality>.parquet`` (item_id, list columns); ``users.parquet``, ``items.parquet`` as id maps.
``mmrec``    MMRec: ``<name>.inter`` with userID, itemID, x_label; ``<modality>_feat.npy``;
             ``u_id_mapping.csv``, ``i_id_mapping.csv`` as id maps.
``recbole``  RecBole's atomic files: ``<name>.inter`` (or ``<name>.train.inter``, ``.valid``, ``.test``) with
             user_id:token, item_id:token; ``<name>.item``, whose float_seq columns are modalities;
             ``<name>.user`` (and a ``.item`` without modalities) as id map.
"""

import re
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.fs as pafs

from tru_core.errors import DataError, MissingObjectError
from workflows.data.bounded_parquet import read_bounded
from workflows.data.snapshot import TEST, TRAIN, VALID
from workflows.ingest.gates import NpyFacts, check_npy, check_parquet, check_text, check_width, open_raw
from workflows.ingest.problems import NOTHING_WRITTEN, missing_column
from workflows.storage import ObjectStore, check_key

Layout = Literal["tru", "mmrec", "recbole"]
Float = Literal["float16", "float32", "float64"]

_TRU_TABLE = re.compile(r"interactions(\.(parquet|csv|tsv)|[-/][^/]+\.(parquet|csv|tsv))")
_TRU_FEATURE = re.compile(r"features/([^/]+)\.(npy|parquet)")
_MMREC_FEATURE = re.compile(r"([^/]+)_feat\.npy")
_ATOMIC_TABLE = re.compile(r"([^/]+?)(\.(train|valid|test))?\.inter")
_ATOMIC_PARTS = {None: None, "train": TRAIN, "valid": VALID, "test": TEST}
_FLOATS_BY_WIDTH: dict[str, Float] = {"2": "float16", "4": "float32", "8": "float64"}
_ID_MAPS = {
    "tru": (("users.parquet", "items.parquet"), ("user_id", "item_id")),
    "mmrec": (("u_id_mapping.csv", "i_id_mapping.csv"), ("userID", "itemID")),
}


@dataclass(frozen=True)
class TableFile:
    """A raw table. ``columns`` maps names to types; in text files every type is string."""

    key: str
    path: str
    columns: dict[str, pa.DataType]
    row_group_rows: tuple[int, ...] = ()  # parquet only
    delimiter: str = ""  # text only
    num_header_lines: int = 0
    float_lists: dict[str, int] | None = None  # RecBole's float_seq columns and their number of values
    part: int | None = None  # the split that a file name says
    compression: str = ""  # of a text file: gzip, zstd or none

    @property
    def is_text(self) -> bool:
        return self.delimiter != ""


@dataclass(frozen=True)
class FeatureSource:
    """The features of one modality: a .npy matrix (row i belongs to item id i), or a list column beside ids."""

    modality: str
    key: str
    path: str
    num_columns: int
    dtype: Float
    npy: NpyFacts | None = None
    table: TableFile | None = None
    column: str = ""
    id_column: str = ""


@dataclass(frozen=True)
class IdMap:
    """A table that lists all valid ids of one side."""

    table: TableFile
    column: str


@dataclass(frozen=True)
class RawData:
    """All files of a source. Columns of the tables are found later, by the names that the layout uses."""

    layout: Layout
    tables: tuple[TableFile, ...]
    features: tuple[FeatureSource, ...]
    user_map: IdMap | None
    item_map: IdMap | None


def find_raw_data(source: ObjectStore, layout: Literal["auto"] | Layout, *, item_column: str | None = None) -> RawData:
    """Find the raw files of a source and check their headers.

    Args:
        item_column: The name of the item column in feature tables, where it is not the layout's own.

    Raises:
        MissingObjectError: The source has no file.
        DataError: It is in none of the layouts, or a file breaks the rules of its kind.
        IntegrityError: A file could run code when it is read.
    """
    filesystem, base = source.filesystem()
    keys = [info.key for info in source.list("")]
    if not keys:
        raise MissingObjectError(f"source {source.url} does not exist or is empty. {NOTHING_WRITTEN} Check the path.")
    chosen: Layout = _detect_layout(filesystem, base, keys, source.url) if layout == "auto" else layout
    folder = _Folder(filesystem, base, tuple(keys), source.url)
    if chosen == "recbole":
        raw = _find_recbole(folder, item_column or "item_id")
    else:
        raw = _find_tru(folder, item_column or "item_id") if chosen == "tru" else _find_mmrec(folder)
    names = [feature.modality for feature in raw.features]
    for name in names:
        check_key(name)
        if names.count(name) > 1:
            raise DataError(f"modality {name} is in two files. {NOTHING_WRITTEN} Remove one.")
    return raw


@dataclass(frozen=True)
class _Folder:
    filesystem: pafs.FileSystem
    base: str
    keys: tuple[str, ...]
    url: str


def _detect_layout(filesystem: pafs.FileSystem, base: str, keys: list[str], url: str) -> Layout:
    is_tru = any(_TRU_TABLE.fullmatch(key) for key in keys)
    atomic = [key for key in keys if _ATOMIC_TABLE.fullmatch(key)]
    if is_tru == bool(atomic):
        found = "both" if is_tru else "neither"
        raise DataError(
            f"source {url}: expected either interactions.parquet or .csv (layout tru) or a .inter file (layouts mmrec, "
            f"recbole), found {found} among {len(keys)} files. {NOTHING_WRITTEN} Name the layout in the job file."
        )
    if is_tru:
        return "tru"
    header = check_text(filesystem, f"{base}/{atomic[0]}", key=atomic[0]).header
    return "recbole" if any(":" in name for name in header) else "mmrec"


def _find_tru(folder: _Folder, item_column: str) -> RawData:
    tables = [_table(folder, key) for key in folder.keys if _TRU_TABLE.fullmatch(key)]
    features: list[FeatureSource] = []
    for key in folder.keys:
        match = _TRU_FEATURE.fullmatch(key)
        if match and match[2] == "npy":
            features.append(_npy_source(folder, key, match[1]))
        elif match:
            features += _list_sources(folder, key, match[1], item_column)
    return _raw_data(folder, "tru", tables, features)


def _find_mmrec(folder: _Folder) -> RawData:
    tables = [_table(folder, key) for key in _atomic_tables(folder)]
    matches = [(key, _MMREC_FEATURE.fullmatch(key)) for key in folder.keys]
    features = [_npy_source(folder, key, match[1]) for key, match in matches if match]
    return _raw_data(folder, "mmrec", tables, features)


def _find_recbole(folder: _Folder, item_column: str) -> RawData:
    parts = _atomic_tables(folder)
    tables = [_table(folder, key, part=part, is_atomic=True) for key, part in parts.items()]
    name = _ATOMIC_TABLE.sub(r"\1", tables[0].key)
    users = _optional_table(folder, f"{name}.user")
    items = _optional_table(folder, f"{name}.item")
    modalities = (items.float_lists or {}) if items else {}
    features = [
        FeatureSource(column, items.key, items.path, width, "float32", None, items, column, item_column)
        for column, width in modalities.items()
        if items and width
    ]
    user_map = IdMap(users, "user_id") if users and "user_id" in users.columns else None
    item_map = IdMap(items, item_column) if items and not features and item_column in items.columns else None
    return RawData("recbole", tuple(tables), tuple(features), user_map, item_map)


def _raw_data(folder: _Folder, layout: Layout, tables: list[TableFile], features: list[FeatureSource]) -> RawData:
    if not tables:
        raise MissingObjectError(
            f"source {folder.url} has no interaction table of layout {layout}. {NOTHING_WRITTEN} Check path and layout."
        )
    maps: list[IdMap | None] = []
    for key, column in zip(*_ID_MAPS[layout], strict=True):
        table = _table(folder, key) if key in folder.keys else None
        maps.append(IdMap(table, column) if table and column in table.columns else None)
    return RawData(layout, tuple(tables), tuple(features), maps[0], maps[1])


def _atomic_tables(folder: _Folder) -> dict[str, int | None]:
    """The .inter files and the part of the split that their names say: one file, or one for each part."""
    matches = {key: match for key in folder.keys if (match := _ATOMIC_TABLE.fullmatch(key))}
    names = sorted({match[1] for match in matches.values()})
    parts = [match[3] for match in matches.values()]
    if len(names) > 1 or (len(parts) > 1 and None in parts):
        raise DataError(
            f"source {folder.url}: expected one .inter file, or <name>.train.inter, .valid.inter and .test.inter, "
            f"found {', '.join(matches)}. {NOTHING_WRITTEN} Put each data set into a folder of its own."
        )
    if not names:
        raise MissingObjectError(f"source {folder.url} has no .inter file. {NOTHING_WRITTEN} Check path and layout.")
    return {key: _ATOMIC_PARTS[match[3]] for key, match in matches.items()}


def _optional_table(folder: _Folder, key: str) -> TableFile | None:
    return _table(folder, key, is_atomic=True) if key in folder.keys else None


def _table(folder: _Folder, key: str, *, part: int | None = None, is_atomic: bool = False) -> TableFile:
    path = f"{folder.base}/{key}"
    if key.endswith(".parquet"):
        facts = check_parquet(folder.filesystem, path, key=key)
        return TableFile(key, path, facts.columns, row_group_rows=facts.row_group_rows, part=part)
    text = check_text(folder.filesystem, path, key=key)
    names, float_lists = list(text.header), None
    if is_atomic:
        names = [token.partition(":")[0] for token in text.header]
        lists = [number for number, token in enumerate(text.header) if token.endswith(":float_seq")]
        float_lists = {names[number]: _first_width(text.first_cells, number, key, names[number]) for number in lists}
    columns = dict.fromkeys(names, pa.string())
    return TableFile(key, path, columns, (), text.delimiter, text.num_header_lines, float_lists, part)


def _first_width(cells: tuple[tuple[str, ...], ...], number: int, key: str, column: str) -> int:
    for row in cells:
        if number < len(row) and row[number].strip():
            return len(row[number].split())
    raise DataError(
        f"{key}, column {column}: expected lists of floats, found none in the first {len(cells)} rows. "
        f"{NOTHING_WRITTEN} Leave the column out if there is no such feature."
    )


def _npy_source(folder: _Folder, key: str, modality: str) -> FeatureSource:
    path = f"{folder.base}/{key}"
    facts = check_npy(folder.filesystem, path, key=key)
    dtype = _FLOATS_BY_WIDTH[facts.dtype[-1]]
    return FeatureSource(modality, key, path, facts.num_columns, dtype, npy=facts)


def _list_sources(folder: _Folder, key: str, stem: str, id_column: str) -> list[FeatureSource]:
    """The list columns of a feature table: one is the modality that the file is named by, several name themselves."""
    table = _table(folder, key)
    if id_column not in table.columns:
        raise missing_column(key, list(table.columns), wanted=id_column, is_text=False, fix="Rename the column of ids.")
    lists = {name: kind for name, kind in table.columns.items() if _is_list(kind)}
    if not lists:
        raise DataError(f"{key}: expected a column of lists of floats, found none. {NOTHING_WRITTEN}")
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
            else _list_width(folder, table, name)
        )
        modality = stem if len(lists) == 1 else name
        sources.append(FeatureSource(modality, key, table.path, width, dtype, None, table, name, id_column))
    return sources


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _list_width(folder: _Folder, table: TableFile, column: str) -> int:
    """The number of values in the first list that is there."""
    with open_raw(folder.filesystem, table.path, key=table.key) as file:
        for batch in read_bounded(file, columns=[column], name=table.key):
            widths = batch.column(0).value_lengths().drop_null()
            if len(widths):
                return check_width(widths[0].as_py(), f"{table.key}, column {column}")
    raise DataError(f"{table.key}, column {column}: expected lists of floats, found nulls only. {NOTHING_WRITTEN}")
