"""What a command changes, decided from the ledger as it stands; nothing is written here.

Each function is called again when somebody else wrote first, so it depends on its arguments alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tru_core.errors import ConfigError, ConflictError, MissingObjectError
from workflows.config.ledger import LedgerConfig
from workflows.deletions.ledger.book import Book
from workflows.deletions.ledger.deadlines import extended_deadline, utc_text
from workflows.deletions.ledger.entries import Change, HoldRecord
from workflows.deletions.ledger.records import Hold, LedgerRequest
from workflows.deletions.ledger.rows import requests_of
from workflows.deletions.ledger.states import CANCELLABLE_STATES, TRANSITIONS, WAITING_STATES, State, check_transition
from workflows.deletions.ledger.submission import place, queue_or_hold

_LEDGERS_OWN: tuple[State, ...] = ("verified", "duplicate")
_ENDED_UNDONE: tuple[State, ...] = ("denied", "cancelled", "failed_terminal")


@dataclass(frozen=True)
class Decision:
    """What an entry is to say: the fields of each request, those that all get, and the entry's own details."""

    changes: list[Change] = field(default_factory=list)
    common: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def require(book: Book, request_ids: Iterable[str]) -> list[LedgerRequest]:
    """The requests of some ids, each once, in their order.

    Raises:
        MissingObjectError: If one is not known.
    """
    wanted = list(dict.fromkeys(request_ids))
    found = book.find(wanted)
    missing = [request_id for request_id in wanted if request_id not in found]
    if missing:
        more = f" ({len(missing)} in all)" if len(missing) > 1 else ""
        raise MissingObjectError(
            f"the ledger has no deletion request {missing[0]}{more}. Nothing was written. List what there is with "
            "`tru delete list`."
        )
    return [found[request_id] for request_id in wanted]


def decide_advance(
    book: Book,
    request_ids: Iterable[str],
    to: State,
    *,
    batch_id: str,
    reason: str,
    outcome: Mapping[str, str],
) -> Decision | None:
    """Bring requests into a state; None if all are there already. Raises as :meth:`Ledger.advance`."""
    moving = []
    for request in require(book, request_ids):
        if request.state == to and batch_id in ("", request.batch_id):
            continue
        where = f"deletion request {request.request_id}"
        check_transition(request.state, to, where=where)
        if to in _LEDGERS_OWN or (request.state == "duplicate" and to != "cancelled"):
            raise ConflictError(
                f"{where} is {request.state}; whether it becomes {to} follows from verification, from holds and from "
                "the request that it repeats. Nothing was written. Verify it, or cancel what it repeats."
            )
        moving.append(request)
    if not moving:
        return None
    if to in ("held", "queued"):  # whichever a hold in force says: it may have come or gone since the caller looked
        common = {"batch_id": batch_id} if batch_id else {}
        own = [{"request_id": request.request_id} | queue_or_hold(request, book) for request in moving]
        return Decision([change | {"reason": change["reason"] or reason} for change in own], common)
    common = {"state": to} | ({"batch_id": batch_id} if batch_id else {}) | ({"reason": reason} if reason else {})
    changes: list[Change] = []
    for request in moving:
        own = {"outcome": outcome[request.request_id]} if request.request_id in outcome else {}
        changes.append({"request_id": request.request_id} | own)
    if to not in _ENDED_UNDONE:
        return Decision(changes, common)
    promoted = promote(book, [request.request_id for request in moving])
    if not promoted:
        return Decision(changes, common)
    return Decision([common | change for change in changes] + promoted)


def promote(book: Book, request_ids: Sequence[str]) -> list[Change]:
    """Let the first duplicate of each request that ends undone take its place; the others now repeat that one."""
    groups: dict[str, list[LedgerRequest]] = {}
    for request in requests_of(book.repeating(request_ids)):
        if request.request_id not in request_ids:
            groups.setdefault(request.duplicate_of, []).append(request)
    changes: list[Change] = []
    for _, group in sorted(groups.items()):
        first, *others = sorted(group, key=_by_receipt)
        changes.append({"request_id": first.request_id} | queue_or_hold(first, book))
        for other in others:
            reason = f"the same is asked for by {first.request_id}"
            changes.append({"request_id": other.request_id, "duplicate_of": first.request_id, "reason": reason})
    return changes


def _by_receipt(request: LedgerRequest) -> tuple[datetime, str]:
    return datetime.fromisoformat(request.received_time), request.request_id


def decide_verify(book: Book, request_ids: Iterable[str]) -> Decision | None:
    """Let received requests go on; None if none of them waits for it. ConflictError for one that has ended."""
    waiting = []
    for request in require(book, request_ids):
        if request.state == "received":
            waiting.append(request)
        elif request.state in ("denied", "cancelled"):
            check_transition(request.state, "verified", where=f"deletion request {request.request_id}")
    return Decision(place(sorted(waiting, key=_by_receipt), book)) if waiting else None


def decide_cancel(book: Book, request_ids: Iterable[str], *, reason: str) -> Decision | None:
    """Take requests back. Raises as :meth:`Ledger.cancel`."""
    requests = require(book, request_ids)
    for request in requests:
        if request.state != "cancelled" and request.state not in CANCELLABLE_STATES:
            raise ConflictError(
                f"deletion request {request.request_id} is {request.state} and cannot be taken back. Nothing was "
                "written."
            )
    ids = [request.request_id for request in requests]
    return decide_advance(book, ids, "cancelled", batch_id="", reason=reason, outcome={})


def decide_extend(
    book: Book, request_ids: Iterable[str], config: LedgerConfig, *, reason: str, until: datetime | None
) -> Decision:
    """Move deadlines. Raises as :meth:`Ledger.extend`."""
    if not reason.strip():
        raise ConfigError("an extension needs a reason to tell the requester. Nothing was written. Add --reason.")
    changes = []
    for request in require(book, request_ids):
        where = f"deletion request {request.request_id}"
        if "cancelled" not in TRANSITIONS[request.state] and request.state != "processing":
            raise ConflictError(f"{where} is {request.state}: there is nothing to extend. Nothing was written.")
        regulation = config.table.get(request.regulation)
        if regulation is None:
            raise ConfigError(
                f"{where} was submitted under regulation {request.regulation}, which the job file does not have any "
                "more. Nothing was written. Put it back under ledger.regulations."
            )
        received, deadline = (datetime.fromisoformat(text) for text in (request.received_time, request.deadline))
        later = extended_deadline(received, deadline, regulation, until=until, where=where)
        changes.append({"request_id": request.request_id, "deadline": utc_text(later)})
    return Decision(changes, details={"reason": reason})


def decide_hold(book: Book, hold: HoldRecord) -> Decision | None:
    """Place a hold; None if it is there. What waits and is covered becomes held.

    Raises:
        ConflictError: If another hold has its id.
    """
    known = book.holds.get(hold.hold_id)
    if known is not None:
        if (known.level, known.digest) != (hold.level, hold.digest):
            raise ConflictError(f"hold {hold.hold_id} exists and covers something else. Nothing was written.")
        return None
    placed = Hold(hold.hold_id, hold.level, hold.digest, hold.reason, "")
    states: list[State] = [state for state in WAITING_STATES if "held" in TRANSITIONS[state]]
    covered = [request for request in requests_of(book.covered_by(placed, states)) if placed.covers(request)]
    changes: list[Change] = [{"request_id": request.request_id} for request in covered]
    common = {"state": "held", "reason": f"hold {hold.hold_id}: {hold.reason}"}
    return Decision(changes, common if changes else {}, {"hold": hold})


def decide_release(book: Book, hold_id: str, *, reason: str) -> Decision:
    """Release a hold; what no other hold covers is queued.

    Raises:
        MissingObjectError: If there is no such hold in force.
    """
    hold = book.holds.get(hold_id)
    if hold is None:
        known = ", ".join(sorted(book.holds)[:5]) or "none"
        raise MissingObjectError(f"no hold {hold_id} is in force; there are: {known}. Nothing was written.")
    changes: list[Change] = []
    for request in requests_of(book.covered_by(hold, ("held",))):
        others = [other for other in book.holds_on(request) if other.hold_id != hold_id]
        if others:
            changes.append(
                {"request_id": request.request_id, "reason": f"hold {others[0].hold_id}: {others[0].reason}"}
            )
        else:
            changes.append({"request_id": request.request_id, "state": "queued", "reason": ""})
    return Decision(changes, details={"released_hold_id": hold_id, "reason": reason})
