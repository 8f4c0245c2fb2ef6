"""Records of deletion requests: what became of each, written once under a key that its request id gives."""

from collections.abc import Sequence
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from tru_core.errors import ConflictError, IntegrityError, MissingObjectError
from tru_core.settings import Settings
from workflows.deletion_plan import Outcome
from workflows.requests import DeletionRequest, Kind
from workflows.storage import ObjectStore, canonical_json, read_json
from workflows.storage_keys import deletion_record_key


class DeletionRecord(Settings):
    """What became of one request. It names nobody: the ids that it asked for are gone.

    Attributes:
        version_before, version_after: Model versions; equal if the model had never seen what was asked for.
        snapshot_before, snapshot_after: Snapshots of the data set; equal if it held nothing of the batch.
        num_interactions: Interactions that this request named, of train, valid and test.
        planned_at, published_at, recorded_at: UTC, ISO 8601. ``published_at`` is None without a new version.
    """

    schema_version: Literal[1] = 1
    request_id: str
    kind: Kind
    outcome: Outcome
    body_digest: str
    batch_id: str
    model: str
    dataset: str
    version_before: PositiveInt
    version_after: PositiveInt
    snapshot_before: str
    snapshot_after: str
    num_interactions: NonNegativeInt
    received_time: str | None
    regulation: str | None
    planned_at: str
    published_at: str | None
    recorded_at: str


def read_record(store: ObjectStore, model: str, request_id: str) -> DeletionRecord | None:
    """What became of a request; None if it is new.

    Raises:
        IntegrityError: If the record is damaged.
    """
    key = deletion_record_key(model, request_id)
    try:
        return DeletionRecord.model_validate(read_json(store, key))
    except MissingObjectError:
        return None
    except ValidationError as error:
        raise IntegrityError(f"{key} is no record of a deletion request. Restore it from a backup.") from error


def check_bodies(
    requests: Sequence[DeletionRequest],
    digests: Sequence[str],
    records: Sequence[DeletionRecord | None],
    source: str,
) -> None:
    """Compare the requests of a file with what is recorded under their ids.

    Raises:
        ConflictError: If an id stands for something else there.
    """
    lines = [
        str(request.line)
        for request, digest, record in zip(requests, digests, records, strict=True)
        if record is not None and record.body_digest != digest
    ]
    if lines:
        shown = ", ".join(lines[:5]) + (f", ... ({len(lines)} in all)" if len(lines) > 5 else "")
        raise ConflictError(
            f"{source} line {shown}, column request_id: an earlier batch recorded this request id for something else. "
            f"Nothing was changed. Give the new request an id of its own."
        )


def write_record(store: ObjectStore, record: DeletionRecord) -> bool:
    """Write a record, or leave the one that is there. False if that one is of a request for something else."""
    key = deletion_record_key(record.model, record.request_id)
    if store.put_if_absent(key, canonical_json(record.model_dump(mode="json"), where=key)):
        return True
    found = read_record(store, record.model, record.request_id)
    return found is not None and found.body_digest == record.body_digest
