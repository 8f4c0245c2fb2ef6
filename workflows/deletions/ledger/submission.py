"""What a submission makes of requests: which are new, and the state that each starts in."""

import unicodedata
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tru_core.errors import ConfigError, ConflictError
from tru_core.identity import IdentityKey
from workflows.config.ledger import LedgerConfig
from workflows.data.requests import DeletionRequest
from workflows.deletions.ledger.book import Book
from workflows.deletions.ledger.deadlines import acknowledge_by, deadline_of, utc_text
from workflows.deletions.ledger.entries import Change, HoldRecord
from workflows.deletions.ledger.payloads import subject_digest
from workflows.deletions.ledger.records import LedgerRequest
from workflows.deletions.ledger.states import DONE_STATES, OPEN_STATES, State

_SHOWN = 5
_GRACE = timedelta(days=1)  # clocks differ
_SET_BY_ENTRY = frozenset({"submitted_at", "state_since", "batch_id", "outcome", "num_attempts"})
_TAKING: tuple[State, ...] = tuple(
    state for state in OPEN_STATES if state != "received"
)  # who is not verified stands in nobody's way


@dataclass(frozen=True)
class Earlier:
    """The request that already asks for a subject, or asked for it."""

    request_id: str
    state: State
    received_time: str


def check_policy(requests: Sequence[DeletionRequest], config: LedgerConfig, now: datetime, source: str) -> None:
    """Check what the job's policy asks of every request.

    Raises:
        ConfigError: Naming line and field: no time of receipt or one in the future, no UUID, no known regulation.
    """
    problems = []
    for request in requests:
        where = f"{request.where}, column"
        if request.received_time is None and config.received_time == "required":
            problems.append(f"{where} received_time: is empty; ledger.received_time asks for it")
        if request.received_time is not None and datetime.fromisoformat(request.received_time) > now + _GRACE:
            problems.append(f"{where} received_time: is in the future")
        if config.request_id_format == "uuid" and not _is_uuid(request.request_id):
            problems.append(f"{where} request_id: expected a UUID; ledger.request_id_format asks for it")
        if request.regulation is not None and request.regulation.lower() not in config.table:
            problems.append(f"{where} regulation: expected one of {', '.join(sorted(config.table))}")
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; ... ({len(problems)} in all)" if len(problems) > _SHOWN else "")
        raise ConfigError(f"{source}: {shown}. Nothing was written. Mend the file and submit it again.")


def split_known(
    requests: Sequence[DeletionRequest],
    book: Book,
    digests: Mapping[str, str],
    *,
    source: str,
    default_regulation: str,
) -> list[DeletionRequest]:
    """The requests that are not known yet, each once.

    Raises:
        ConflictError: A request id is known, or stands there twice, with another body.
    """
    known = book.find({request.request_id for request in requests})
    fresh: dict[str, DeletionRequest] = {}
    lines = []
    for request in requests:
        earlier = known.get(request.request_id)
        if earlier is not None:
            is_same = _same_body(request, digests[request.request_id], earlier, default_regulation)
        else:
            is_same = fresh.setdefault(request.request_id, request) == request
        if not is_same:
            lines.append(request.where)
    if lines:
        shown = ", ".join(lines[:_SHOWN]) + (f", ... ({len(lines)} in all)" if len(lines) > _SHOWN else "")
        raise ConflictError(
            f"{source} {shown}, column request_id: the ledger has this request id with another body. Nothing was "
            "written. Give the new request an id of its own."
        )
    return list(fresh.values())


def _same_body(request: DeletionRequest, digest: str, earlier: LedgerRequest, default_regulation: str) -> bool:
    if request.received_time is None:
        is_same_time = not earlier.is_time_stated
    else:
        is_same_time = earlier.is_time_stated and earlier.received_time == request.received_time
    regulation = (request.regulation or default_regulation).lower()
    return is_same_time and (request.kind, digest, regulation) == (
        earlier.kind,
        earlier.subject_digest,
        earlier.regulation,
    )


def describe(
    requests: Sequence[DeletionRequest],
    digests: Mapping[str, str],
    *,
    key: IdentityKey,
    config: LedgerConfig,
    now: datetime,
) -> list[LedgerRequest]:
    """New requests as the ledger keeps them: received, without payloads yet."""
    regulations, now_text = config.table, utc_text(now)
    times: dict[tuple[str, str], tuple[str, str]] = {}
    rows = []
    for request in requests:
        received = request.received_time or now_text
        name = (request.regulation or config.default_regulation).lower()
        if (received, name) not in times:
            start = datetime.fromisoformat(received)
            answer_by = acknowledge_by(start, regulations[name])
            deadline = utc_text(deadline_of(start, regulations[name]))
            times[received, name] = deadline, "" if answer_by is None else utc_text(answer_by)
        digest = digests[request.request_id]
        rows.append(_row(request, digest, key, times[received, name], received=received, regulation=name, now=now_text))
    return rows


def _row(
    request: DeletionRequest,
    digest: str,
    key: IdentityKey,
    times: tuple[str, str],
    *,
    received: str,
    regulation: str,
    now: str,
) -> LedgerRequest:
    is_pair = request.kind == "interaction"
    return LedgerRequest(
        request_id=request.request_id,
        kind=request.kind,
        state="received",
        state_since=now,
        subject_digest=digest,
        user_digest=key.digest("user", request.user_id) if is_pair else digest if request.kind == "user" else "",
        item_digest=key.digest("item", request.item_id) if is_pair else digest if request.kind == "item" else "",
        submitted_at=now,
        received_time=received,
        is_time_stated=request.received_time is not None,
        regulation=regulation,
        deadline=times[0],
        acknowledge_by=times[1],
        batch_id="",
        outcome="",
        reason="",
        duplicate_of="",
        num_attempts=0,
        payload="",
    )


def first_changes(
    rows: Sequence[LedgerRequest],
    book: Book,
    is_verified: Mapping[str, bool],
    payload_of: Mapping[str, str],
    *,
    is_repeat: bool,
    hold: HoldRecord | None = None,
) -> list[Change]:
    """What an entry says of new requests: all their fields, in the state that each starts in.

    Args:
        hold: On all of them, placed by the same entry.
    """
    verified = sorted((row for row in rows if is_verified[row.request_id]), key=_by_receipt)
    placed = {change["request_id"]: change for change in place(verified, book, is_repeat=is_repeat)}
    changes = []
    for row in rows:
        own = {name: value for name, value in vars(row).items() if name not in _SET_BY_ENTRY}
        start = placed.get(row.request_id, {"state": "received", "reason": "the requester is not verified"})
        if hold is not None and start["state"] == "queued":
            start = start | {"state": "held", "reason": f"hold {hold.hold_id}: {hold.reason}"}
        changes.append(own | start | {"payload": payload_of[row.request_id]})
    return changes


def _by_receipt(request: LedgerRequest) -> tuple[datetime, str]:
    return datetime.fromisoformat(request.received_time), request.request_id


def place(requests: Sequence[LedgerRequest], book: Book, *, is_repeat: bool = False) -> list[Change]:
    """The state that verified requests go on to: queued, held or duplicate.

    Args:
        requests: Known to be verified, in the order of their receipt.
        is_repeat: Queue also what was forgotten before, because it is back in the data.
    """
    earlier = _earlier(requests, book)
    changes: list[Change] = []
    for request in requests:
        same = earlier.get(request.subject_digest)
        if same is not None and same.request_id != request.request_id:
            is_open = same.state in OPEN_STATES
            if is_open or not (is_repeat or _has_consented_since(same, request, book)):
                reason = "the same is asked for by" if is_open else "the same was forgotten for"
                change = {
                    "state": "duplicate",
                    "reason": f"{reason} {same.request_id}",
                    "duplicate_of": same.request_id,
                }
                changes.append({"request_id": request.request_id} | change)
                continue
        changes.append({"request_id": request.request_id} | queue_or_hold(request, book))
        earlier[request.subject_digest] = Earlier(request.request_id, "queued", request.received_time)
    return changes


def queue_or_hold(request: LedgerRequest, book: Book) -> Change:
    """The fields of a request that is to be carried out, unless a hold covers it."""
    holds = book.holds_on(request) if book.holds else []
    if holds:
        return {"state": "held", "reason": f"hold {holds[0].hold_id}: {holds[0].reason}", "duplicate_of": ""}
    return {"state": "queued", "reason": "", "duplicate_of": ""}


def _earlier(requests: Sequence[LedgerRequest], book: Book) -> dict[str, Earlier]:
    """For each subject the request that is open, else the newest that is done."""
    found: dict[str, Earlier] = {}
    table = book.of_subjects({request.subject_digest for request in requests}, (*_TAKING, *DONE_STATES))
    columns = [table.column(name).to_pylist() for name in ("subject_digest", "request_id", "state", "received_time")]
    for digest, request_id, state, received in zip(*columns, strict=True):
        other = found.get(digest.hex())
        one = Earlier(request_id, state, received)
        if other is None or _rank(one) > _rank(other):
            found[digest.hex()] = one
    return found


def _rank(one: Earlier) -> tuple[bool, datetime, str]:
    return one.state in OPEN_STATES, datetime.fromisoformat(one.received_time), one.request_id


def _has_consented_since(done: Earlier, request: LedgerRequest, book: Book) -> bool:
    """Whether the subject consented anew between the deletion that was carried out and this request."""
    consent = book.consents.get(request.subject_digest)
    if consent is None:
        return False
    times = [datetime.fromisoformat(text) for text in (done.received_time, consent, request.received_time)]
    return times[0] < times[1] <= times[2]


def count_look_alikes(requests: Sequence[DeletionRequest]) -> int:
    """How many ids look like another one of the same side: equal after Unicode NFC, different in bytes."""
    count = 0
    for side in ("user_id", "item_id"):
        ids = {getattr(request, side) for request in requests}
        spellings = Counter(unicodedata.normalize("NFC", text) for text in ids if text)
        count += sum(number for number in spellings.values() if number > 1)
    return count


def subject_digests(requests: Sequence[DeletionRequest], key: IdentityKey) -> dict[str, str]:
    """The keyed digest of each request's subject, by request id."""
    return {request.request_id: subject_digest(request, key) for request in requests}


def new_submission_id(now: datetime) -> str:
    """A name for a submission's payloads. It begins with the time, so that what a crash left can be told by age."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:12]}"


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
