"""The raw files of a source, described by their headers: tables, features, id maps, and what is not used."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from workflows.ingest.gates import NpyFacts

Layout = Literal["tru", "mmrec", "recbole"]
Float = Literal["float16", "float32", "float64"]


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
    part: int | None = None  # the split that a file or folder name says
    compression: str = ""  # text only: gzip, zstd or none

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
    more: tuple[TableFile, ...] = ()  # further parts of the table


@dataclass(frozen=True)
class IdMap:
    """A table, in one file or several parts, that lists all valid ids of one side."""

    tables: tuple[TableFile, ...]
    column: str

    @property
    def key(self) -> str:
        """The table's name in messages: that of its first file."""
        return self.tables[0].key


@dataclass(frozen=True)
class UnusedFile:
    """A file of the source, or several of one kind, that the import does not read, and why.

    The name is as it stands in the source: it may hold control characters, which the printing side neutralises.
    """

    file: str
    reason: str
    num_files: int = 1


@dataclass(frozen=True)
class RawData:
    """All files of a source. Columns of the tables are found later, by the names that the layout uses."""

    layout: Layout
    tables: tuple[TableFile, ...]
    features: tuple[FeatureSource, ...]
    user_map: IdMap | None
    item_map: IdMap | None
    unused: tuple[UnusedFile, ...] = ()
