"""A log whose entries name the digest of the entry before, so that tampering shows.

An entry is a JSON object with ``seq``, ``prev_hash`` (SHA-256 of the bytes of the entry before; of the first entry 64
zeros), ``schema_version``, ``chain`` (whose log it is) and what its owner puts in. Who creates entry n+1 has won.

Beside the log lies a mark for each entry, an object whose name says the entry's digest. Without marks nobody could
tell that the newest entries were cut off, or that the newest one was altered. Who can write to the store can still cut
off entries together with their marks: only a head that is kept elsewhere, such as in a receipt, shows that.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tru_core.errors import ConfigError, IntegrityError, MissingObjectError
from workflows.storage import (
    ObjectStore,
    append_log_entry,
    canonical_json,
    count_log_entries,
    log_key,
    parse_log_entry,
    read_log_bodies,
)
from workflows.storage.object_keys import chain_log, chain_mark_key, chain_marks

SCHEMA_VERSION = 1
NO_HASH = "0" * 64
_MARK = re.compile(r"([0-9]{8})-([0-9a-f]{64})(?:\.([a-z]+))?")
_RESTORE = "The history is not used. Restore the object from a backup."


@dataclass(frozen=True)
class Link:
    """An entry's number and digest. Number 0 stands before the first entry."""

    seq: int = 0
    sha256: str = NO_HASH


@dataclass(frozen=True)
class ChainEntry:
    """One verified entry: its number and digest, the digest of the entry before, and what its owner put in."""

    link: Link
    prev_hash: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """The mark of an entry: its digest, and its label ("" for none)."""

    sha256: str
    label: str


@dataclass(frozen=True)
class Listing:
    """What there is of a chain: numbers 1 to ``num_entries``, and the marks by number."""

    num_entries: int
    marks: dict[int, Mark]

    def newest(self, label: str) -> int | None:
        """The number of the newest entry with a label."""
        return max((seq for seq, mark in self.marks.items() if mark.label == label), default=None)


def list_chain(store: ObjectStore, chain: str) -> Listing:
    """List a chain.

    Raises:
        IntegrityError: Entries were removed, in the middle or at the end, or a mark is none.
    """
    marks: dict[int, Mark] = {}
    prefix = chain_marks(chain)
    for info in store.list(prefix):  # before the log: a mark is written after its entry
        match = _MARK.fullmatch(info.key[len(prefix) + 1 :])
        if match is None:
            raise IntegrityError(f"{info.key} is no mark of chain {chain}. Find out who wrote it, and move it away.")
        seq, mark = int(match[1]), Mark(match[2], match[3] or "")
        if seq in marks:
            raise IntegrityError(
                f"chain {chain}: entry {seq} has two marks, so one of them was written by another program. {_RESTORE}"
            )
        marks[seq] = mark
    num_entries = count_log_entries(store, chain_log(chain))
    newest = max(marks, default=0)
    if newest > num_entries:
        raise IntegrityError(
            f"chain {chain}: entries were removed from its end: entry {newest} was written, the newest found is "
            f"{num_entries}. {_RESTORE}"
        )
    return Listing(num_entries, marks)


def read_chain(store: ObjectStore, chain: str, listing: Listing, *, start: int = 1) -> list[ChainEntry]:
    """Read the entries from number ``start`` on, and verify each and that they follow each other.

    Raises:
        IntegrityError: An entry was altered, removed, moved, or spliced in.
        ConfigError: A newer program wrote an entry.
    """
    before = Link() if start == 1 else None
    entries = []
    for seq, body in read_log_bodies(store, chain_log(chain), range(start, listing.num_entries + 1)):
        entry = _checked(chain, seq, body, before=before, mark=listing.marks.get(seq))
        entries.append(entry)
        before = entry.link
    return entries


def read_next(store: ObjectStore, chain: str, before: Link) -> ChainEntry | None:
    """Read and verify the entry that follows ``before``; None if there is none yet. Raises as :func:`read_chain`."""
    try:
        body = store.read(log_key(chain_log(chain), before.seq + 1))
    except MissingObjectError:
        return None
    return _checked(chain, before.seq + 1, body, before=before, mark=None)


def append(
    store: ObjectStore, chain: str, fields: Mapping[str, Any], *, before: Link, label: str = ""
) -> ChainEntry | None:
    """Write the entry that follows ``before``, then its mark.

    Args:
        fields: What the owner puts in. One of them must be this call's alone, such as an attempt's id.
        label: A word of a-z that makes the entry easy to find by its mark; "" for none.

    Returns:
        The entry, or None if somebody else wrote the one that follows: read on and decide again.
    """
    header = {"seq": before.seq + 1, "prev_hash": before.sha256, "schema_version": SCHEMA_VERSION, "chain": chain}
    entry = {**fields, **header}
    if not append_log_entry(store, chain_log(chain), number=before.seq + 1, entry=entry):
        return None
    digest = hashlib.sha256(canonical_json(entry, where=chain)).hexdigest()
    link = Link(before.seq + 1, digest)
    store.put_if_absent(chain_mark_key(chain, link.seq, digest, label), digest.encode())
    return ChainEntry(link, before.sha256, dict(fields))


def mend_mark(store: ObjectStore, chain: str, newest: Link) -> None:
    """Write the mark of the newest entry, which was read and verified, if its writer died before it. No label."""
    if newest.seq and newest.seq not in list_chain(store, chain).marks:
        store.put_if_absent(chain_mark_key(chain, newest.seq, newest.sha256, ""), newest.sha256.encode())


def _checked(chain: str, seq: int, body: bytes, *, before: Link | None, mark: Mark | None) -> ChainEntry:
    """Verify one entry. ``before`` is None where the entry before was not read."""
    key = log_key(chain_log(chain), seq)
    entry = parse_log_entry(body, key)
    digest = hashlib.sha256(body).hexdigest()
    is_marked_so = mark is None or mark.sha256 == digest
    version = entry.pop("schema_version", None)
    if isinstance(version, int) and version > SCHEMA_VERSION and is_marked_so:
        raise ConfigError(
            f"{key} has schema version {version}, this program reads {SCHEMA_VERSION}. Nothing was written. Update the "
            "program."
        )
    found_seq, found_chain, prev_hash = (entry.pop(name, None) for name in ("seq", "chain", "prev_hash"))
    if found_chain != chain:
        raise IntegrityError(f"{key} is an entry of another chain and was spliced in here. {_RESTORE}")
    if found_seq != seq:
        raise IntegrityError(f"{key} holds entry {found_seq}: entries were reordered. {_RESTORE}")
    if mark is not None and not is_marked_so:
        raise IntegrityError(f"{key} was altered: expected sha256 {mark.sha256}, found {digest}. {_RESTORE}")
    if before is not None and prev_hash != before.sha256:
        raise IntegrityError(
            f"{key} does not follow entry {before.seq}: one of the two was altered or spliced in. {_RESTORE}"
        )
    if version != SCHEMA_VERSION:
        raise IntegrityError(f"{key} has schema version {version}, expected {SCHEMA_VERSION}. {_RESTORE}")
    return ChainEntry(Link(seq, digest), str(prev_hash), entry)
