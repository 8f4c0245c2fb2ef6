"""What a dataset snapshot's manifest says, and the rules it keeps."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tru_core.errors import ConfigError, DataError, IntegrityError
from workflows.storage import FileEntry, ObjectStore, check_name, read_verified, snapshots_prefix

SCHEMA_VERSION = 1
DEFAULT_NUM_USER_BUCKETS = 16
DEFAULT_NUM_ITEM_BUCKETS = 8


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitRule(_Frozen):
    """How interactions were split into train, valid and test."""

    kind: Literal["given", "random", "time"]
    seed: int


class SplitCounts(_Frozen):
    """Interactions in each part of the split."""

    train: int = Field(ge=0)
    valid: int = Field(ge=0)
    test: int = Field(ge=0)


class BucketEntry(_Frozen):
    """The interactions of one user bucket."""

    bucket: int = Field(ge=0)
    file: FileEntry
    num_rows: int = Field(ge=0)


class FeatureEntry(_Frozen):
    """The raw features of one modality: one file per item bucket, in bucket order."""

    num_columns: int = Field(ge=1)
    dtype: Literal["float16", "float32", "float64"]
    files: list[FileEntry]


class ItemGraphEntry(_Frozen):
    """The nearest items of each item in one modality: one file per item bucket, in bucket order."""

    num_neighbours: int = Field(ge=1)
    files: list[FileEntry]


class SnapshotManifest(_Frozen):
    """All that a snapshot holds.

    ``num_users`` and ``num_items`` are row capacities: a row is never reused, so they only grow.
    """

    kind: Literal["tru.dataset.snapshot"] = "tru.dataset.snapshot"
    schema_version: Literal[1] = SCHEMA_VERSION
    dataset: str
    snapshot_id: str
    parent_snapshot_id: str | None
    created_at: str  # UTC, ISO 8601
    num_users: int = Field(ge=0)
    num_items: int = Field(ge=0)
    num_user_buckets: int = Field(default=DEFAULT_NUM_USER_BUCKETS, ge=1)
    num_item_buckets: int = Field(default=DEFAULT_NUM_ITEM_BUCKETS, ge=1)
    split: SplitRule
    counts: SplitCounts
    user_vocabulary: FileEntry
    item_vocabulary: FileEntry
    interactions: list[BucketEntry]
    features: dict[str, FeatureEntry]
    item_graphs: dict[str, ItemGraphEntry]
    deleted_item_rows: list[int] = Field(default_factory=list)
    num_deleted_users: int = Field(default=0, ge=0)
    report: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Every bucket has its file, and every file lies with this data set's snapshots."""
        check_name(self.dataset)
        if [entry.bucket for entry in self.interactions] != list(range(self.num_user_buckets)):
            raise ValueError(f"interactions must name the buckets 0..{self.num_user_buckets - 1}, each once, in order")
        for what, entries in (("features", self.features), ("item_graphs", self.item_graphs)):
            for modality, entry in entries.items():
                if len(entry.files) != self.num_item_buckets:
                    raise ValueError(
                        f"{what}.{modality} must name one file for each of {self.num_item_buckets} buckets"
                    )
        num_rows = sum(entry.num_rows for entry in self.interactions)
        if num_rows != self.counts.train + self.counts.valid + self.counts.test:
            raise ValueError(f"counts do not add up to the {num_rows} rows of the buckets")
        folder = f"{snapshots_prefix(self.dataset)}/"
        for file in manifest_files(self):
            if not file.key.startswith(folder):
                raise IntegrityError(f"manifest of {self.dataset} names {file.key}, which lies outside {folder}.")
        return self


def item_bucket_range(num_items: int, num_item_buckets: int, bucket: int) -> range:
    """The item rows of a bucket. Contiguous; the last buckets are empty where items are few."""
    if not 0 <= bucket < num_item_buckets:
        raise DataError(f"item bucket {bucket} does not exist: there are {num_item_buckets}.")
    width = -(-num_items // num_item_buckets)
    return range(min(bucket * width, num_items), min((bucket + 1) * width, num_items))


def manifest_files(manifest: SnapshotManifest) -> list[FileEntry]:
    """Every file that a manifest names, without the manifest's own."""
    files = [manifest.user_vocabulary, manifest.item_vocabulary]
    files += [entry.file for entry in manifest.interactions]
    for entry in (*manifest.features.values(), *manifest.item_graphs.values()):
        files += entry.files
    return files


def read_manifest(store: ObjectStore, entry: FileEntry) -> SnapshotManifest:
    """Read the manifest of any snapshot. Raises as ``current_snapshot``."""
    body = read_verified(store, entry)
    try:
        version = _SchemaVersion.model_validate_json(body).schema_version
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{entry.key} has schema version {version}, this program reads {SCHEMA_VERSION}. Update the program."
            )
        return SnapshotManifest.model_validate_json(body)
    except ValidationError as error:
        raise IntegrityError(
            f"{entry.key} is no snapshot manifest: {_first_problem(error)}. It was not used."
        ) from error


class _SchemaVersion(BaseModel):
    schema_version: int


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
