"""Planning a deletion batch: outside ids to rows, what each request names, and whether policy allows it.

Nothing is written here. The planner counts the training pairs by itself, from the bucket files; the
workers must find as many.
"""

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from tru_core.artifact import sha256_hex
from tru_core.errors import ConfigError, PolicyError
from tru_core.interactions import IntArray
from tru_core.settings import Settings
from workflows.config import JobConfig
from workflows.publish import Version
from workflows.requests import DeletionRequest, Kind
from workflows.snapshot import TRAIN, SnapshotManifest, read_interactions, read_vocabulary
from workflows.snapshot_deletion import buckets_named, is_named, pair_keys
from workflows.storage import FileEntry, ObjectStore, canonical_json
from workflows.tasks import RequestRows

Outcome = Literal["published", "not_found"]

log = logging.getLogger(__name__)


class PlannedRequest(Settings):
    """One request of a batch, without the ids it names.

    Attributes:
        outcome: What it is when the batch is done: ``not_found`` if the data set holds nothing of it.
        body_digest: Tells whether another request under the same id asks for the same.
        num_interactions: Interactions that it names, of train, valid and test.
    """

    request_id: str
    kind: Kind
    outcome: Outcome
    body_digest: str
    num_interactions: NonNegativeInt
    received_time: str | None
    regulation: str | None


class BatchPlan(Settings):
    """Everything that is needed to carry a batch through, and to finish it after a crash.

    Attributes:
        batch_id: Digest of what decides the batch: its requests by row, the snapshot and the model version that it
            starts from, and the job's settings.
        created_at: UTC, ISO 8601. All that the batch writes bears this time, so that a repetition writes the same.
        version: The model version that it starts from.
        snapshot: The snapshot's manifest that it starts from. It holds the edges that the reverse step needs.
        rows: All requests together, by row.
        num_interactions: Interactions that leave the data set, each counted once.
        requests: Sorted by request id.
    """

    batch_id: str
    model: str
    dataset: str
    created_at: str
    version: PositiveInt
    original: FileEntry
    snapshot: FileEntry
    snapshot_id: str
    rows: RequestRows
    num_interactions: NonNegativeInt
    requests: list[PlannedRequest]

    @property
    def changes_data(self) -> bool:
        """Whether there is anything to take out of the data set."""
        return any(request.outcome == "published" for request in self.requests)

    @property
    def changes_model(self) -> bool:
        """Whether the model may know anything that is to be forgotten: training pairs, or subjects with rows."""
        return self.rows.num_train_pairs > 0 or bool(self.rows.users or self.rows.items)


@dataclass(frozen=True)
class _Subject:
    """What a request names, by row: None where it names none, or the data set does not know the id."""

    kind: Kind
    user_row: int | None
    item_row: int | None

    @property
    def is_known(self) -> bool:
        """Whether the data set knows every id of the request."""
        return (self.kind == "item" or self.user_row is not None) and (self.kind == "user" or self.item_row is not None)


@dataclass(frozen=True)
class _Counts:
    """Interactions that a batch names: by subject, where they overlap, and each once.

    ``train_rows`` are training interactions as the files hold them, ``train_pairs`` distinct ones.
    """

    by_subject: dict[_Subject, int]
    rows: int
    train_rows: int
    train_pairs: int


def plan_batch(
    store: ObjectStore,
    job: JobConfig,
    requests: Sequence[DeletionRequest],
    digests: Sequence[str],
    *,
    start: Version,
    snapshot: SnapshotManifest,
    entry: FileEntry,
    source: str,
) -> BatchPlan:
    """Say what a batch of new requests is to do.

    Args:
        requests: Sorted by request id.
        digests: Of the requests' bodies, in the same order.
        start: The version that serves.
        snapshot, entry: The current snapshot and its manifest's entry.
        source: What to call the request file in warnings.

    Raises:
        PolicyError: If the batch names too much of the training data.
        ConfigError: If the job would leave deleted users' rows in the model.
    """
    subjects = _resolve(store, snapshot, requests, source)
    counts = _count(store, snapshot, _rows_of(subjects))
    _check_policy(job, snapshot, counts)
    planned = [
        PlannedRequest(
            request_id=request.request_id,
            kind=request.kind,
            outcome="published" if _is_found(subject, counts) else "not_found",
            body_digest=digest,
            num_interactions=counts.by_subject.get(subject, 0),
            received_time=request.received_time,
            regulation=request.regulation,
        )
        for request, digest, subject in zip(requests, digests, subjects, strict=True)
    ]
    rows = _rows_of([subject for subject in subjects if _is_found(subject, counts)])
    return BatchPlan(
        batch_id=_batch_id(job, planned, subjects, entry, start.manifest),
        model=job.model,
        dataset=job.dataset,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=start.version,
        original=start.manifest,
        snapshot=entry,
        snapshot_id=snapshot.snapshot_id,
        rows=rows.model_copy(update={"num_train_pairs": counts.train_pairs}),
        num_interactions=counts.rows,
        requests=planned,
    )


def _is_found(subject: _Subject, counts: _Counts) -> bool:
    """A user or item is found if the data set knows it, a single interaction if it is there."""
    return subject.is_known and (subject.kind != "interaction" or counts.by_subject.get(subject, 0) > 0)


def _rows_of(subjects: Sequence[_Subject]) -> RequestRows:
    """Known subjects together. Their training pairs are not counted yet."""
    known = [subject for subject in subjects if subject.is_known]
    pairs = {(s.user_row, s.item_row) for s in known if s.user_row is not None and s.item_row is not None}
    return RequestRows(
        users=sorted({s.user_row for s in known if s.kind == "user" and s.user_row is not None}),
        items=sorted({s.item_row for s in known if s.kind == "item" and s.item_row is not None}),
        pairs=sorted(pairs),
        num_train_pairs=0,
    )


def _batch_id(
    job: JobConfig,
    planned: Sequence[PlannedRequest],
    subjects: Sequence[_Subject],
    snapshot: FileEntry,
    original: FileEntry,
) -> str:
    """Name a batch by what decides it. Rows stand for the ids, from which a digest could be guessed back."""
    settings = {"dataset", "model", "precision", "feature_scaling", "backbone", "fit", "unlearn"}
    asked = [
        [request.request_id, request.kind, where.user_row, where.item_row, request.received_time, request.regulation]
        for request, where in zip(planned, subjects, strict=True)
    ]
    parts: list[Any] = [asked, snapshot.sha256, original.sha256, job.model_dump(mode="json", include=settings)]
    parts.append(pa.__version__)  # another version may write other bytes under the batch's keys
    return sha256_hex(canonical_json(parts, where="batch id"))[:32]


# --- ids to rows --------------------------------------------------------------------------------


def _resolve(
    store: ObjectStore, snapshot: SnapshotManifest, requests: Sequence[DeletionRequest], source: str
) -> list[_Subject]:
    user_ids = {request.user_id for request in requests if request.kind != "item"}
    item_ids = {request.item_id for request in requests if request.kind != "user"}
    users, similar_users = _find_rows(store, snapshot.user_vocabulary, user_ids)
    items, similar_items = _find_rows(store, snapshot.item_vocabulary, item_ids)
    for request in requests:
        for column, value, similar in (
            ("user_id", request.user_id, similar_users),
            ("item_id", request.item_id, similar_items),
        ):
            if value in similar:
                log.warning(
                    "%s line %d, column %s: the data set has another id that looks the same (equal after Unicode NFC, "
                    "different bytes). Ids are compared byte for byte; that other one was not taken.",
                    source,
                    request.line,
                    column,
                )
    return [_Subject(r.kind, users.get(r.user_id), items.get(r.item_id)) for r in requests]


def _find_rows(store: ObjectStore, entry: FileEntry, wanted: set[str]) -> tuple[dict[str, int], set[str]]:
    """The rows of the wanted ids that are there, and those ids of which a look-alike is there."""
    if not wanted:
        return {}, set()
    ids, rows = read_vocabulary(store, entry)
    found = {text: int(row) for text, row in zip(ids, rows, strict=True) if text in wanted}
    spellings: dict[str, list[str]] = {}
    for text in wanted:
        spellings.setdefault(_normal(text), []).append(text)
    similar: set[str] = set()
    for text in ids:
        similar |= {other for other in spellings.get(_normal(text), ()) if other != text}
    return found, similar


def _normal(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


# --- counting and policy ------------------------------------------------------------------------


def _count(store: ObjectStore, snapshot: SnapshotManifest, asked: RequestRows) -> _Counts:
    """Count what a request names, bucket by bucket; buckets that can hold nothing of it are not read."""
    users, items = np.asarray(asked.users, dtype=np.int64), np.asarray(asked.items, dtype=np.int64)
    pairs = pair_keys(asked, snapshot.num_items)
    by_user, by_item, by_pair = (np.zeros(len(wanted), dtype=np.int64) for wanted in (users, items, pairs))
    num_rows, num_train_rows, num_train_pairs = 0, 0, 0
    for bucket in buckets_named(asked, snapshot.num_user_buckets):
        table = read_interactions(store, snapshot, [bucket])
        keys = table.user_rows * snapshot.num_items + table.item_rows
        by_user += _occurrences(users, table.user_rows)
        by_item += _occurrences(items, table.item_rows)
        by_pair += _occurrences(pairs, keys)
        named = is_named(table, asked, snapshot.num_items)
        is_train = named & (table.split == TRAIN)
        num_rows += int(named.sum())
        num_train_rows += int(is_train.sum())
        num_train_pairs += len(np.unique(keys[is_train]))
    by_subject = {_Subject("user", row, None): int(n) for row, n in zip(asked.users, by_user, strict=True)}
    by_subject |= {_Subject("item", None, row): int(n) for row, n in zip(asked.items, by_item, strict=True)}
    for key, number in zip(pairs.tolist(), by_pair.tolist(), strict=True):
        by_subject[_Subject("interaction", key // snapshot.num_items, key % snapshot.num_items)] = number
    return _Counts(by_subject, rows=num_rows, train_rows=num_train_rows, train_pairs=num_train_pairs)


def _occurrences(wanted: IntArray, values: IntArray) -> NDArray[np.int64]:
    """How often each of the sorted ``wanted`` numbers stands among the values."""
    hits = values[np.isin(values, wanted)]
    return np.bincount(np.searchsorted(wanted, hits), minlength=len(wanted))


def _check_policy(job: JobConfig, snapshot: SnapshotManifest, counts: _Counts) -> None:
    if not counts.train_pairs:
        return
    if not job.unlearn.reset_subjects:
        raise ConfigError(
            "unlearn.reset_subjects: false leaves the rows of deleted users and items in the model; expected true for "
            "a deletion. Nothing was changed. Remove the setting from the job file."
        )
    total, share = snapshot.counts.train, counts.train_rows / snapshot.counts.train
    if counts.train_rows >= total:
        raise PolicyError(
            f"the batch names all {total} training interactions of data set {job.dataset}: nothing would be left to "
            f"retain. Nothing was changed. Withdraw model {job.model} instead."
        )
    if share > job.delete.max_share:
        raise PolicyError(
            f"the batch names {counts.train_rows} of {total} training interactions ({share:.1%}); delete.max_share "
            f"allows {job.delete.max_share:.1%}. Nothing was changed. So much is better forgotten by training anew; "
            f"to unlearn it all the same, raise delete.max_share in the job file."
        )
