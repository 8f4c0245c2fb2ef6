"""Reading a ledger: from the newest compacted snapshot and the entries since, or all of it from the first entry."""

from tru_core.errors import ConfigError, IntegrityError, MissingObjectError
from workflows.deletions.ledger.book import Book
from workflows.deletions.ledger.compaction import Compacted, read_compacted
from workflows.deletions.ledger.entries import LedgerEntry, changes_of, parse_entry
from workflows.deletions.ledger.records import HistoryLine, LedgerHead
from workflows.deletions.ledger.rows import ROW_SCHEMA
from workflows.storage import ObjectStore
from workflows.storage.chain import ChainEntry, Link, list_chain, read_chain
from workflows.storage.object_keys import ledger_chain

SNAPSHOT_LABEL = "snapshot"


def read_book(store: ObjectStore, model: str, *, key_id: str) -> Book:
    """The ledger as it stands.

    Raises:
        IntegrityError: An entry was altered, removed, reordered or spliced in.
        ConfigError: A newer program wrote it, or its digests were made with another identity key.
    """
    chain = ledger_chain(model)
    listing = list_chain(store, chain)
    start = listing.newest(SNAPSHOT_LABEL)
    book, entries = Book(store), []
    if start is not None:
        entries = read_chain(store, chain, listing, start=start)
        try:
            book = Book(store, _compacted(store, chain, entries[0]))
        except MissingObjectError:
            start = None  # deleted by a later compaction, or lost: the entries say the same
    if start is None:
        entries = read_chain(store, chain, listing)
    for entry in entries:
        apply_entry(book, chain, entry, key_id=key_id)
    return book


def apply_entry(book: Book, chain: str, entry: ChainEntry, *, key_id: str | None) -> None:
    """Take one entry into a book. Raises as :func:`read_book`; a ``key_id`` of None is not compared."""
    parsed = parse_entry(entry, chain)
    if key_id is not None and parsed.key_id != key_id:
        raise ConfigError(
            f"{chain}: entry {entry.link.seq} was written with identity key {parsed.key_id}, this one is {key_id}. "
            "Nothing was written. Restore the earlier key: with another one no subject is recognised."
        )
    book.apply(entry.link, parsed, changes_of(parsed, book.store))


def _compacted(store: ObjectStore, chain: str, entry: ChainEntry) -> Compacted:
    """The snapshot that an entry names. IntegrityError if it is not of the entries before."""
    parsed = parse_entry(entry, chain)
    if parsed.snapshot is None:
        raise IntegrityError(f"{chain}: entry {entry.link.seq} is marked as a snapshot and names none.")
    found = read_compacted(store, parsed.snapshot)
    if Link(found.seq, found.sha256) != Link(entry.link.seq - 1, entry.prev_hash):
        raise IntegrityError(f"{parsed.snapshot.key} is of another history than the entry that names it.")
    return found


def verify_ledger(store: ObjectStore, model: str) -> LedgerHead:
    """Read every entry and body, replay them, and compare the newest compacted snapshot with the result.

    Raises:
        IntegrityError: Something was altered, removed, reordered or spliced in; the message names it.
        ConfigError: A newer program wrote an entry.
    """
    chain = ledger_chain(model)
    listing = list_chain(store, chain)
    newest = listing.newest(SNAPSHOT_LABEL)
    book = Book(store)
    for entry in read_chain(store, chain, listing):
        if entry.link.seq == newest:
            _compare(Book(store, _compacted(store, chain, entry)), book, chain)
        apply_entry(book, chain, entry, key_id=None)
    return LedgerHead(book.link.seq, book.link.sha256)


def _compare(compacted: Book, replayed: Book, chain: str) -> None:
    order = [("request_id", "ascending")]
    tables = [book.table().select(ROW_SCHEMA.names).sort_by(order) for book in (compacted, replayed)]
    rest = [
        (+book.counts, book.holds, book.consents, book.taken, book.swept_at, book.link)
        for book in (compacted, replayed)
    ]
    if not tables[0].equals(tables[1]) or rest[0] != rest[1]:
        raise IntegrityError(
            f"{chain}: the compacted snapshot after entry {replayed.link.seq} is not what the entries add up to. "
            "Delete the snapshot's objects: it is made again from the entries."
        )


def read_history(store: ObjectStore, model: str, request_id: str) -> list[HistoryLine]:
    """Everything that happened to a request, from all entries. Raises as :func:`verify_ledger`."""
    chain = ledger_chain(model)
    lines: list[HistoryLine] = []
    for entry in read_chain(store, chain, list_chain(store, chain)):
        parsed = parse_entry(entry, chain)
        lines += _lines(parsed, entry.link.seq, request_id, store)
    return lines


def _lines(entry: LedgerEntry, seq: int, request_id: str, store: ObjectStore) -> list[HistoryLine]:
    return [
        HistoryLine(
            seq=seq,
            at=entry.at,
            kind=entry.kind,
            state=change.get("state", ""),
            reason=change.get("reason", "") or entry.reason,
            batch_id=change.get("batch_id", ""),
        )
        for change in changes_of(entry, store)
        if change["request_id"] == request_id
    ]
