"""The ledger as it stands: a compacted snapshot, and on top of it what later entries changed."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tru_core.errors import IntegrityError
from workflows.deletions.ledger.compaction import Compacted, Shards
from workflows.deletions.ledger.entries import Change, EntryKind, LedgerEntry
from workflows.deletions.ledger.records import DOUBT_LEVELS, Hold, LedgerRequest
from workflows.deletions.ledger.rows import DIGEST_COLUMNS, ROW_SCHEMA, table_of
from workflows.deletions.ledger.states import TRANSITIONS, State
from workflows.storage import ObjectStore
from workflows.storage.chain import Link

_NEW = {"batch_id": "", "outcome": "", "reason": "", "duplicate_of": "", "num_attempts": 0}
_FOR_LIFE = frozenset(
    {"kind", *DIGEST_COLUMNS, "submitted_at", "received_time", "is_time_stated", "regulation", "payload"}
)


class Book:
    """What the entries read so far add up to. It changes by :meth:`apply` only."""

    def __init__(self, store: ObjectStore, base: Compacted | None = None) -> None:
        self.store = store
        self.link = Link() if base is None else Link(base.seq, base.sha256)
        self.base = None if base is None else Shards(store, base)
        self.changed: dict[str, LedgerRequest] = {}
        self.num_entries = 0  # since the snapshot
        self.counts: Counter[State] = Counter({} if base is None else base.counts)
        self.holds: dict[str, Hold] = {}
        self.consents: dict[str, str] = {} if base is None else dict(base.consents)
        self.taken: set[str] = set() if base is None else set(base.taken)
        self.swept_at = "" if base is None else base.swept_at
        self.settled: dict[str, Hold] = {}
        for hold in [] if base is None else base.holds:
            self.holds[hold["hold_id"]] = Hold(**hold)  # type: ignore[arg-type]
        for hold in [] if base is None else base.settled:
            self.settled[hold["hold_id"]] = Hold(**hold)  # type: ignore[arg-type]

    # --- looking things up ---

    def find(self, request_ids: Iterable[str]) -> dict[str, LedgerRequest]:
        """Those of the requests that are known, by id."""
        wanted = list(request_ids)
        found = {request_id: self.changed[request_id] for request_id in wanted if request_id in self.changed}
        if self.base is not None:
            found |= self.base.find(request_id for request_id in wanted if request_id not in found)
        return found

    def columns(self, names: Sequence[str] = ROW_SCHEMA.names) -> pa.Table:
        """Some columns of all requests, in no certain order; ``request_id`` must be one of them."""
        new = table_of((vars(request) for request in self.changed.values()), names)
        if self.base is None:
            return new
        base = self.base.table(names)
        if self.changed:
            is_old = pc.is_in(base.column("request_id"), value_set=pa.array(self.changed, type=pa.string()))
            base = base.filter(pc.invert(is_old))
        return pa.concat_tables([base, new])

    def table(self, states: Collection[State] | None = None) -> pa.Table:
        """All requests, or those in some states, in no certain order."""
        table = self.columns()
        if states is None:
            return table
        return table.filter(pc.is_in(table.column("state"), value_set=pa.array(states, type=pa.string())))

    def of_subjects(self, digests: Collection[str], states: Collection[State]) -> pa.Table:
        """The requests in some states that ask for one of the subjects."""
        wanted = pa.array([bytes.fromhex(digest) for digest in digests], type=ROW_SCHEMA.field("subject_digest").type)
        table = self.table(states)
        return table.filter(pc.is_in(table.column("subject_digest"), value_set=wanted))

    def repeating(self, request_ids: Collection[str]) -> pa.Table:
        """The duplicates of some requests."""
        if not self.counts["duplicate"]:
            return ROW_SCHEMA.empty_table()
        table = self.table(("duplicate",))
        return table.filter(pc.is_in(table.column("duplicate_of"), value_set=pa.array(request_ids, type=pa.string())))

    def covered_by(self, hold: Hold, states: Collection[State]) -> pa.Table:
        """The requests in some states that a hold covers."""
        table = self.table(states)
        if hold.level == "dataset":
            return table
        if hold.level == "submission":
            return table.filter(pc.starts_with(table.column("payload"), f"{hold.digest}-"))
        if hold.level == "unknown":
            return self.of_subjects(hold.digest.split(","), states)
        digest = pa.scalar(bytes.fromhex(hold.digest), type=ROW_SCHEMA.field("subject_digest").type)
        is_named = [pc.equal(table.column(name), digest).combine_chunks().fill_null(False) for name in DIGEST_COLUMNS]
        return table.filter(pc.or_(pc.or_(is_named[0], is_named[1]), is_named[2]))

    def holds_on(self, request: LedgerRequest) -> list[Hold]:
        """The holds that cover a request."""
        return [hold for hold in self.holds.values() if hold.covers(request)]

    def is_settled(self, request: LedgerRequest) -> bool:
        """Whether a person has said that what a request asks for is meant, though the data set may not know it."""
        return any(hold.covers(request) for hold in self.settled.values())

    # --- changing ---

    def apply(self, link: Link, entry: LedgerEntry, changes: Sequence[Change]) -> None:
        """Take an entry in.

        Args:
            changes: All of the entry, each with the fields that all get.

        Raises:
            IntegrityError: It makes a transition that no rule allows, or changes a request that is not there.
        """
        if changes:
            self._apply_changes(changes, entry, link.seq)
        if entry.hold is not None:
            hold = entry.hold
            self.holds[hold.hold_id] = Hold(hold.hold_id, hold.level, hold.digest, hold.reason, entry.at)
        if entry.released_hold_id:
            released = self.holds.pop(entry.released_hold_id, None)
            if released is not None and released.level in DOUBT_LEVELS:
                self.settled[released.hold_id] = released
        for consent in entry.consents:
            self.consents[consent.digest] = max(self.consents.get(consent.digest, ""), consent.received_time)
        if entry.file_digest:
            self.taken.add(entry.file_digest)
        if entry.sweep is not None:
            self.swept_at = entry.at
        self.link = link
        self.num_entries += 1

    def _apply_changes(self, changes: Sequence[Change], entry: LedgerEntry, seq: int) -> None:
        before = self.find(change["request_id"] for change in changes)
        after = {}
        for change in changes:
            request_id = change["request_id"]
            old = before.get(request_id)
            if (old is None) != (entry.kind == "submit") or request_id in after:
                raise _broken(seq, request_id, "is new twice, or was never submitted")
            new = _submitted(change, entry) if old is None else _changed(old, change, entry, seq)
            if old is None or new.state != old.state:
                start = "received" if old is None else old.state
                if not is_legal(start, new.state, entry.kind):
                    raise _broken(seq, request_id, f"goes from {start} to {new.state}, which no rule allows")
                self.counts[new.state] += 1
                if old is not None:
                    self.counts[old.state] -= 1
            after[request_id] = new
        self.changed |= after

    def rebase(self, base: Compacted) -> None:
        """Take a snapshot of what is known now for all that is known."""
        self.base = Shards(self.store, base)
        self.changed = {}
        self.num_entries = 0


def is_legal(before: State, after: State, kind: EntryKind) -> bool:
    """Whether an entry of a kind may bring a request from one state to another.

    A submission and a verification go on from ``verified`` at once: it is passed through within the entry.
    """
    if before == after == "received":
        return kind == "submit"
    if before == "received" and kind in ("submit", "verify"):
        return after in TRANSITIONS["verified"]
    return after in TRANSITIONS[before]


def _submitted(change: Change, entry: LedgerEntry) -> LedgerRequest:
    try:
        fields: dict[str, Any] = {"user_digest": "", "item_digest": ""} | _NEW | change
        return LedgerRequest(**fields, submitted_at=entry.at, state_since=entry.at)
    except TypeError:
        raise IntegrityError("an entry of the ledger submits a request without all of its fields.") from None


def _changed(old: LedgerRequest, change: Change, entry: LedgerEntry, seq: int) -> LedgerRequest:
    if _FOR_LIFE & change.keys():
        raise _broken(seq, old.request_id, "gets another subject or time of receipt")
    state = change.get("state", old.state)
    if state == old.state:
        return replace(old, **change)
    num_attempts = old.num_attempts + (state == "processing")
    return replace(old, **{"reason": ""} | change, state_since=entry.at, num_attempts=num_attempts)


def _broken(seq: int, request_id: str, problem: str) -> IntegrityError:
    return IntegrityError(
        f"ledger entry {seq}: request {request_id} {problem}. The history is not used. Find out which program wrote it."
    )
