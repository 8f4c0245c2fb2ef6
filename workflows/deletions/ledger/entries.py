"""What one entry of the ledger's log says: which fields of which requests change, and why."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from tru_core.errors import IntegrityError
from tru_core.settings import Settings
from workflows.deletions.ledger.deadlines import utc_text
from workflows.deletions.ledger.records import HoldLevel
from workflows.deletions.ledger.rows import ROW_SCHEMA, read_table, rows_of, table_of, write_table
from workflows.storage import FileEntry, ObjectStore
from workflows.storage.chain import ChainEntry
from workflows.storage.object_keys import ledger_body_key

EntryKind = Literal[
    "submit", "verify", "advance", "cancel", "extend", "hold", "release", "reconsent", "sweep", "snapshot"
]
MAX_INLINE_CHANGES = 20

Change = dict[str, Any]


class HoldRecord(Settings):
    """A hold that is placed."""

    hold_id: str
    level: HoldLevel
    digest: str
    reason: str


class Consent(Settings):
    """A subject that consented anew. The ledger notes it; the data set's tombstones admit what came after."""

    request_id: str
    digest: str
    received_time: str


class SweepRecord(Settings):
    """What a sweep found: identities in the data set's snapshot that were deleted before."""

    dataset: str
    snapshot_id: str
    num_hits: int = Field(ge=0)


class LedgerEntry(Settings):
    """One entry, without what the chain puts in.

    Attributes:
        key_id: Which identity key made the digests.
        at: When it was written: UTC, ISO 8601.
        attempt_id: This entry's alone, so that a writer can tell its own.
        common: Fields that all changed requests get.
        changes: One for each request, with the fields that it alone gets; where they are many, ``body`` holds them.
        reason, source: Why, and from which file; neither names anybody.
        file_digest: Keyed digest of a file that was taken whole.
        snapshot: The manifest of a compacted snapshot of all entries before this one.
    """

    kind: EntryKind
    key_id: str
    at: str
    attempt_id: str
    common: dict[str, Any] = Field(default_factory=dict)
    changes: list[Change] = Field(default_factory=list)
    body: FileEntry | None = None
    reason: str = ""
    source: str = ""
    file_digest: str = ""
    hold: HoldRecord | None = None
    released_hold_id: str = ""
    consents: list[Consent] = Field(default_factory=list)
    sweep: SweepRecord | None = None
    snapshot: FileEntry | None = None


def draft(kind: EntryKind, key_id: str, now: datetime) -> LedgerEntry:
    """An entry that says nothing yet."""
    return LedgerEntry(kind=kind, key_id=key_id, at=utc_text(now), attempt_id=secrets.token_hex(16))


def with_changes(
    entry: LedgerEntry, store: ObjectStore, model: str, *, changes: Sequence[Change], common: Mapping[str, Any]
) -> LedgerEntry:
    """The entry with changes: in it where they are few, else in a body that is written now."""
    if len(changes) <= MAX_INLINE_CHANGES:
        return entry.model_copy(update={"changes": list(changes), "common": dict(common)})
    used = set().union(*changes)
    columns = [name for name in ROW_SCHEMA.names if name in used]
    body = write_table(store, ledger_body_key(model, entry.attempt_id), table_of(changes, columns))
    return entry.model_copy(update={"body": body, "common": dict(common)})


def with_common(changes: Sequence[Change], common: Mapping[str, Any]) -> list[Change]:
    """The changes with the fields that all get. What a change does not say is None in a body's table."""
    return [{**common, **{name: value for name, value in change.items() if value is not None}} for change in changes]


def changes_of(entry: LedgerEntry, store: ObjectStore) -> list[Change]:
    """All changes of an entry, each with the fields that all get. IntegrityError if the body is damaged."""
    changes = entry.changes if entry.body is None else rows_of(read_table(store, entry.body))
    full = with_common(changes, entry.common)
    known = set(ROW_SCHEMA.names)
    if not all(known >= change.keys() and isinstance(change.get("request_id"), str) for change in full):
        raise IntegrityError("an entry of the ledger changes fields that no request has. It was not used.")
    return full


def parse_entry(link: ChainEntry, chain: str) -> LedgerEntry:
    """Check a chain entry's fields. IntegrityError if it is none of a ledger."""
    try:
        return LedgerEntry.model_validate(link.fields)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise IntegrityError(
            f"{chain}: entry {link.link.seq} is no entry of a ledger: {where}: {problem['msg']}."
        ) from None
