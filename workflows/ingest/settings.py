"""What an import may be told: layout, split, column names and the policies for imperfect data."""

from typing import Literal

from pydantic import Field

from tru_core.settings import Settings
from workflows.data.manifest import DEFAULT_NUM_ITEM_BUCKETS, DEFAULT_NUM_USER_BUCKETS


class ColumnNames(Settings):
    """Names of the columns of the interaction table, where they differ from the layout's own."""

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    split: str | None = None


class IngestConfig(Settings):
    """How raw tables become a snapshot.

    ``split``: ``auto`` takes the split of the data if it has one, else ``random``. ``random`` and ``time`` give
    every user with n >= 3 interactions max(1, round half up of 0.1 n) to valid and as many to test; users
    with fewer keep all in train.
    ``missing_feature``: an item without a feature row stops the import, or gets zeros and is counted.
    ``duplicates``: of interactions of one user and item the one in train, then the earliest, is kept and the rest
    counted, or the import stops.
    ``cold_users``: users without a train interaction are kept, dropped with their interactions, or stop the import.
    ``tombstones``: which data sets' deletions keep rows out: of ``all`` in the store, or of those named, where the ids
    of the others name other people and things.
    ``rows_per_task``: interactions of a parquet file that one task reads. It changes speed, never the result.
    """

    layout: Literal["auto", "tru", "mmrec", "recbole"] = "auto"
    split: Literal["auto", "given", "random", "time"] = "auto"
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    columns: ColumnNames = ColumnNames()
    missing_feature: Literal["error", "zero"] = "error"
    duplicates: Literal["drop", "error"] = "drop"
    cold_users: Literal["keep", "drop", "error"] = "keep"
    num_user_buckets: int = Field(default=DEFAULT_NUM_USER_BUCKETS, ge=1, le=65_536)
    num_item_buckets: int = Field(default=DEFAULT_NUM_ITEM_BUCKETS, ge=1, le=65_536)
    num_neighbours: int = Field(default=10, ge=1, le=1_000)
    neighbour_features: Literal["raw", "standardised"] = "raw"
    tombstones: Literal["all"] | list[str] = "all"
    rows_per_task: int = Field(default=1_000_000, ge=1)
