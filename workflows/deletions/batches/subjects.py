"""What requests name in a data set: outside ids to rows, and how many interactions each row or pair stands for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tru_core.interactions import IntArray
from workflows.data.deletion import buckets_named, is_named, pair_keys
from workflows.data.known_ids import look_up
from workflows.data.requests import DeletionRequest, Kind
from workflows.data.snapshot import TRAIN, SnapshotManifest, read_interactions
from workflows.storage import ObjectStore
from workflows.tasks import RequestRows


@dataclass(frozen=True)
class Subject:
    """What a request names, by row: None where it names none, or the data set does not know the id."""

    kind: Kind
    user_row: int | None
    item_row: int | None

    @property
    def is_known(self) -> bool:
        """Whether the data set knows every id of the request."""
        return (self.kind == "item" or self.user_row is not None) and (self.kind == "user" or self.item_row is not None)


@dataclass(frozen=True)
class Counts:
    """Interactions that a batch names: by subject, where they overlap, and each once.

    ``train_rows`` are training interactions as the files hold them, ``train_pairs`` distinct ones.
    ``train_by_subject`` are a subject's own of ``train_rows``.
    """

    by_subject: dict[Subject, int]
    train_by_subject: dict[Subject, int]
    rows: int
    train_rows: int
    train_pairs: int


def is_found(subject: Subject, counts: Counts) -> bool:
    """A user or item is found if the data set knows it, a single interaction if it is there."""
    return subject.is_known and (subject.kind != "interaction" or counts.by_subject.get(subject, 0) > 0)


def rows_of(subjects: Sequence[Subject]) -> RequestRows:
    """Known subjects together. Their training pairs are not counted yet."""
    known = [subject for subject in subjects if subject.is_known]
    pairs = {(s.user_row, s.item_row) for s in known if s.user_row is not None and s.item_row is not None}
    return RequestRows(
        users=sorted({s.user_row for s in known if s.kind == "user" and s.user_row is not None}),
        items=sorted({s.item_row for s in known if s.kind == "item" and s.item_row is not None}),
        pairs=sorted(pairs),
        num_train_pairs=0,
    )


# --- ids to rows --------------------------------------------------------------------------------


def find_subjects(store: ObjectStore, snapshot: SnapshotManifest, requests: Sequence[DeletionRequest]) -> list[Subject]:
    """Find what each request names, in the requests' order."""
    found = look_up(store, snapshot, requests)
    return [Subject(request.kind, found.user_row(request), found.item_row(request)) for request in requests]


# --- counting -----------------------------------------------------------------------------------


def count_named(store: ObjectStore, snapshot: SnapshotManifest, asked: RequestRows) -> Counts:
    """Count what a request names, bucket by bucket; buckets that can hold nothing of it are not read."""
    users, items = np.asarray(asked.users, dtype=np.int64), np.asarray(asked.items, dtype=np.int64)
    pairs = pair_keys(asked, snapshot.num_items)
    by_user, by_item, by_pair = (np.zeros((2, len(wanted)), dtype=np.int64) for wanted in (users, items, pairs))
    num_rows, num_train_rows, num_train_pairs = 0, 0, 0
    for bucket in buckets_named(asked, snapshot.num_user_buckets):
        table = read_interactions(store, snapshot, [bucket])
        keys = table.user_rows * snapshot.num_items + table.item_rows
        for row, chosen in enumerate((slice(None), table.split == TRAIN)):
            by_user[row] += _occurrences(users, table.user_rows[chosen])
            by_item[row] += _occurrences(items, table.item_rows[chosen])
            by_pair[row] += _occurrences(pairs, keys[chosen])
        named = is_named(table, asked, snapshot.num_items)
        is_train = named & (table.split == TRAIN)
        num_rows += int(named.sum())
        num_train_rows += int(is_train.sum())
        num_train_pairs += len(np.unique(keys[is_train]))
    subjects = [Subject("user", row, None) for row in asked.users]
    subjects += [Subject("item", None, row) for row in asked.items]
    subjects += [Subject("interaction", key // snapshot.num_items, key % snapshot.num_items) for key in pairs.tolist()]
    both, train = np.concatenate([by_user, by_item, by_pair], axis=1).tolist()
    return Counts(
        by_subject=dict(zip(subjects, both, strict=True)),
        train_by_subject=dict(zip(subjects, train, strict=True)),
        rows=num_rows,
        train_rows=num_train_rows,
        train_pairs=num_train_pairs,
    )


def _occurrences(wanted: IntArray, values: IntArray) -> NDArray[np.int64]:
    """How often each of the sorted ``wanted`` numbers stands among the values."""
    hits = values[np.isin(values, wanted)]
    return np.bincount(np.searchsorted(wanted, hits), minlength=len(wanted))
