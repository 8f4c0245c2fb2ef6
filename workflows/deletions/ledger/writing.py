"""Writing to a ledger: decide, append, and if somebody else was first, read on and decide again."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from tru_core.errors import ConflictError, MissingObjectError, TransientError
from workflows.deletions.ledger.book import Book
from workflows.deletions.ledger.compaction import read_compacted, write_compacted
from workflows.deletions.ledger.decisions import Decision
from workflows.deletions.ledger.entries import Change, EntryKind, LedgerEntry, draft, with_changes, with_common
from workflows.deletions.ledger.reading import SNAPSHOT_LABEL, apply_entry
from workflows.storage import ObjectStore
from workflows.storage.chain import append, read_next
from workflows.storage.object_keys import ledger_chain, ledger_snapshot_prefix, ledger_snapshots_prefix

COMPACT_AFTER_CHANGES = 10_000
COMPACT_AFTER_ENTRIES = 200
_MAX_ATTEMPTS = 1000


@dataclass(frozen=True)
class Writer:
    """Where to write, and what every entry says of its writer."""

    store: ObjectStore
    model: str
    key_id: str
    clock: Callable[[], datetime]

    @property
    def chain(self) -> str:
        """The ledger's chain."""
        return ledger_chain(self.model)


def refresh(writer: Writer, book: Book) -> None:
    """Read what others wrote since."""
    while (entry := read_next(writer.store, writer.chain, book.link)) is not None:
        apply_entry(book, writer.chain, entry, key_id=writer.key_id)


def write(writer: Writer, book: Book, kind: EntryKind, decide: Callable[[], Decision | None]) -> Decision | None:
    """Write what ``decide`` says, which reads the book as it then stands. None if it says that nothing is to be done.

    Raises:
        TransientError: Others were first a thousand times.
    """
    for _ in range(_MAX_ATTEMPTS):
        refresh(writer, book)
        decision = decide()
        if decision is None:
            return None
        entry = draft(kind, writer.key_id, writer.clock()).model_copy(update=decision.details)
        entry = with_changes(entry, writer.store, writer.model, changes=decision.changes, common=decision.common)
        if _append(writer, book, entry, with_common(decision.changes, decision.common)):
            compact_if_large(writer, book)
            return decision
        if entry.body is not None:
            writer.store.delete(entry.body.key)
    raise TransientError(
        f"{writer.chain}: others wrote first {_MAX_ATTEMPTS} times. Nothing was written by this call. Run it again."
    )


def _append(writer: Writer, book: Book, entry: LedgerEntry, changes: Sequence[Change]) -> bool:
    label = SNAPSHOT_LABEL if entry.kind == "snapshot" else ""
    fields = entry.model_dump(mode="json", exclude_defaults=True)
    written = append(writer.store, writer.chain, fields, before=book.link, label=label)
    if written is None:
        return False
    book.apply(written.link, entry, changes)
    return True


def compact_if_large(writer: Writer, book: Book) -> None:
    """Write a compacted snapshot if much has changed since the last one, or leave it to the next writer."""
    if len(book.changed) >= COMPACT_AFTER_CHANGES or book.num_entries >= COMPACT_AFTER_ENTRIES:
        with suppress(MissingObjectError, ConflictError):  # what the caller wrote stands whatever becomes of this
            compact(writer, book)


def compact(writer: Writer, book: Book) -> bool:
    """Write a compacted snapshot of the book and let the log name it. False if somebody wrote an entry meanwhile."""
    attempt_id = f"{book.link.seq:08d}-{secrets.token_hex(8)}"
    manifest = write_compacted(
        writer.store,
        writer.model,
        attempt_id,
        table=book.table(),
        link=book.link,
        counts=+book.counts,
        holds=book.holds.values(),
        settled=book.settled.values(),
        consents=book.consents,
        taken=book.taken,
        swept_at=book.swept_at,
    )
    entry = draft("snapshot", writer.key_id, writer.clock()).model_copy(update={"snapshot": manifest})
    if not _append(writer, book, entry, []):
        _delete_below(writer.store, ledger_snapshot_prefix(writer.model, attempt_id))
        return False
    book.rebase(read_compacted(writer.store, manifest))
    _delete_older(writer, attempt_id)
    return True


def _delete_older(writer: Writer, attempt_id: str) -> None:
    """Delete all snapshots but this one and the one before it, which a slow reader may still be at."""
    prefix = ledger_snapshots_prefix(writer.model)
    names = sorted({info.key[len(prefix) + 1 :].partition("/")[0] for info in writer.store.list(prefix)})
    for name in [name for name in names if name < attempt_id][:-1]:
        _delete_below(writer.store, ledger_snapshot_prefix(writer.model, name))


def _delete_below(store: ObjectStore, prefix: str) -> None:
    for info in store.list(prefix):
        store.delete(info.key)
