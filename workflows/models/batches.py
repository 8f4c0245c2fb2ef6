"""What stays of a batch of deletions when its plan is gone, and what a model version knows that was deleted since."""

import re
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from tru_core.errors import IntegrityError, MissingObjectError
from tru_core.settings import Settings
from workflows.models.publish import Version
from workflows.storage import ObjectStore, canonical_json, dataset_log, deletion_prefix, read_json, read_log

_BATCH_SNAPSHOT = re.compile(r"delete-([0-9a-f]{32})(?:-[0-9a-f]{16})?")


class BatchRecord(Settings):
    """A batch without anything of the subjects: no ids, no rows, no pairs.

    Attributes:
        created_at: UTC, ISO 8601: when it was planned.
        version: The model version that it starts from.
        snapshot_id: The snapshot that it starts from.
        changes_model, changes_data: Whether it needs a new version, and a new snapshot.
        minimum_waived: Why it has fewer requests than policy asks for; "" if it has as many.
    """

    schema_version: Literal[1] = 1
    batch_id: str
    model: str
    dataset: str
    created_at: str
    version: PositiveInt
    snapshot_id: str
    changes_model: bool
    changes_data: bool
    num_requests: NonNegativeInt
    minimum_waived: str = ""


def batch_key(model: str, batch_id: str, name: str) -> str:
    """A JSON object of a batch."""
    return f"{deletion_prefix(model, batch_id)}/{name}.json"


def snapshot_id_of(batch_id: str) -> str:
    """The id of the snapshot that a batch makes."""
    return f"delete-{batch_id}"


def batch_of(snapshot_id: str) -> str | None:
    """The batch that made a snapshot; None if none did."""
    match = _BATCH_SNAPSHOT.fullmatch(snapshot_id)
    return match[1] if match else None


def write_batch_record(store: ObjectStore, record: BatchRecord) -> None:
    """Write a batch's record, or leave the one that is there."""
    key = batch_key(record.model, record.batch_id, "batch")
    store.put_if_absent(key, canonical_json(record.model_dump(mode="json"), where=key))


def read_batch_record(store: ObjectStore, model: str, batch_id: str) -> BatchRecord | None:
    """Read a batch's record; None if this model has no such batch.

    Raises:
        IntegrityError: If it is damaged.
    """
    key = batch_key(model, batch_id, "batch")
    try:
        return BatchRecord.model_validate(read_json(store, key))
    except MissingObjectError:
        return None
    except ValidationError as error:
        raise IntegrityError(f"{key} is no record of a deletion batch. Restore it from a backup.") from error


def snapshot_ids(store: ObjectStore, dataset: str) -> list[str]:
    """The published snapshots of a data set, oldest first."""
    return [str(line.entry.get("snapshot_id")) for line in read_log(store, dataset_log(dataset))]


def place_of(snapshot_id: str, ids: list[str]) -> int | None:
    """Where a snapshot stands in the log; None if it was not published.

    A batch's snapshot is published under another id than planned where another batch came between.
    """
    if snapshot_id in ids:
        return ids.index(snapshot_id)
    batch_id = batch_of(snapshot_id)
    places = [place for place, other in enumerate(ids) if batch_id is not None and batch_of(other) == batch_id]
    return places[0] if places else None


def snapshots_since(store: ObjectStore, model: str, version: Version) -> list[str]:
    """Snapshots published since a version's own which took something away that the version may know.

    Batches of the same model that named nothing it was trained on do not count; another model's always do.
    """
    ids = snapshot_ids(store, version.dataset)
    place = place_of(version.snapshot_id, ids)
    later = ids if place is None else ids[place + 1 :]
    return [snapshot_id for snapshot_id in later if _may_be_known(store, model, snapshot_id)]


def _may_be_known(store: ObjectStore, model: str, snapshot_id: str) -> bool:
    batch_id = batch_of(snapshot_id)
    if batch_id is None:
        return False
    record = read_batch_record(store, model, batch_id)
    return record is None or record.changes_model
