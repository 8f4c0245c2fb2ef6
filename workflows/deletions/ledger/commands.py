"""What the commands on deletion requests do: a job and arguments in, figures out. No outside id is in any figure."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tru_core.errors import PolicyError, TruError
from tru_core.identity import IdentityKey
from workflows.data.ids import earlier_spellings
from workflows.data.requests import DeletionRequest
from workflows.data.tombstones import add_consents, read_tombstones, tombstones_of
from workflows.deletions.ledger import Ledger, LedgerRequest, State, open_ledger, verify_ledger
from workflows.deletions.ledger.deadlines import utc_text
from workflows.deletions.ledger.drop_folder import find_request_files
from workflows.deletions.ledger.job import LedgerJob
from workflows.deletions.ledger.pseudonyms import source_name, without_names
from workflows.deletions.ledger.queries import alert_of
from workflows.deletions.ledger.records import Hold, SubmitReport
from workflows.deletions.ledger.request_files import open_request_file
from workflows.deletions.ledger.states import DONE_STATES, DUE_STATES, NEXT_STEP, OPEN_STATES
from workflows.deletions.ledger.submit_file import submit_requests
from workflows.deletions.ledger.waiting import waits_until
from workflows.key_files import load_identity_key
from workflows.storage import ObjectStore, open_store

Figures = dict[str, Any]

POLICY_EXIT_CODE = PolicyError.exit_code
MAX_LINES_NAMED = 1000
_LINES_SHOWN = 10


class Desk:
    """A job's storage, identity key and ledger, opened together."""

    def __init__(self, job: LedgerJob) -> None:
        self.job = job
        self.key: IdentityKey = load_identity_key(job.keys)
        self.store: ObjectStore = open_store(job.storage)
        self.ledger: Ledger = open_ledger(self.store, job.model, self.key, config=job.ledger)
        self.now = datetime.now(UTC)


# --- taking requests in -------------------------------------------------------------------------


def submit(job: LedgerJob, path: Path, *, is_as_written: bool = False) -> Figures:
    """Take the requests of a file, or of every file of a drop folder that was not taken before.

    A file that is refused holds back no other: ``failed`` says which and why. ``unread`` names every file that was
    not looked into, and why. ``exit_code`` is that of the first of both that is a fault. Else it is 9 if a file is held
    because much of it is not known, or if nothing new can be carried out: requesters are not verified, or holds cover
    it.

    Args:
        is_as_written: Ids that the data set does not know, or that only look like one of its ids, are meant so.
    """
    desk = Desk(job)
    states: Counter[State] = Counter()
    figures: Figures = {"files_taken": 0, "files_taken_before": 0, "known": 0, "times_assumed": 0, "look_alikes": 0}
    figures |= {"ids_named": 0, "ids_known": 0, "deleted_before": 0}
    warnings: list[str] = []
    has_doubts = False
    places: dict[str, list[Figures]] = {"unknown": [], "renamed": []}
    failed: list[Figures] = []
    found, unread = find_request_files(path)
    for place in found:
        try:
            file = place.open()
            digest = desk.key.digest("interaction", "a file of requests", file.sha256)
            if path.is_dir() and desk.ledger.has_taken(digest):
                figures["files_taken_before"] += 1
                continue
            report = submit_requests(
                desk.ledger,
                file.parse(),
                store=desk.store,
                dataset=job.dataset,
                key=desk.key,
                config=job.ledger,
                file_name=file.name,
                file_digest=digest if path.is_dir() else "",
                is_as_written=is_as_written,
            )
        except TruError as error:
            if not path.is_dir():
                raise
            failed.append({"file": place.name, "error": str(error), "exit_code": error.exit_code})
            continue
        states.update(report.states)
        figures["files_taken"] += 1
        figures["known"] += report.num_known
        figures["times_assumed"] += report.num_times_assumed
        figures["look_alikes"] += report.num_look_alikes
        figures["ids_named"] += report.num_ids
        figures["ids_known"] += report.num_ids_known
        figures["deleted_before"] += report.num_gone
        warnings += _warnings(report)
        has_doubts |= report.hold != ""
        places["unknown"] += _at(report.source, report.unknown_lines)
        places["renamed"] += _at(report.source, report.renamed_lines)
    waiting = states["received"] + states["held"]
    is_stuck = waiting > 0 and waiting == sum(states.values()) and not figures["known"]
    left_out = [{"file": entry.file, "reason": entry.reason, "exit_code": entry.exit_code} for entry in unread]
    faults = [entry["exit_code"] for entry in (*failed, *left_out) if entry["exit_code"]]
    exit_code = faults[0] if faults else POLICY_EXIT_CODE if is_stuck or has_doubts else 0
    new = {"new": sum(states.values()), "by_state": dict(sorted(states.items()))}
    told = {"warnings": warnings} if warnings else {}
    return new | figures | places | told | {"failed": failed, "unread": left_out, "exit_code": exit_code}


def _warnings(report: SubmitReport) -> list[str]:
    """What the sender of a file should look at, in sentences."""
    texts = []
    if report.unknown_lines:
        where = _lines_of(report, report.unknown_lines)
        texts.append(f"{where}: the data set does not know an id that is named there")
    if report.renamed_lines:
        where = _lines_of(report, report.renamed_lines)
        texts.append(f"{where}, column request_id: it holds the id of its subject; the ledger keeps a pseudonym for it")
    return [*texts, f"{report.source} is held: {report.hold}"] if report.hold else texts


def _lines_of(report: SubmitReport, lines: Sequence[int]) -> str:
    """A file and the first of some of its lines, rows or requests."""
    more = f", ... ({len(lines)} in all)" if len(lines) > _LINES_SHOWN else ""
    word = report.unit if len(lines) == 1 else f"{report.unit}s"
    return f"{report.source} {word} {', '.join(map(str, lines[:_LINES_SHOWN]))}{more}"


def _at(source: str, lines: Sequence[int]) -> list[Figures]:
    """The lines of a file, if there are any."""
    return [{"file": source, "lines": list(lines[:MAX_LINES_NAMED]), "total": len(lines)}] if lines else []


def reconsent(job: LedgerJob, path: Path) -> Figures:
    """Note that the subjects of a file consented anew: in the ledger, and in the data set's tombstones.

    ``deleted_before`` of the figures says how many of them were deleted: for the others a consent changes nothing.
    """
    desk = Desk(job)
    requests = open_request_file(path).parse()
    index = read_tombstones(desk.store, job.dataset)
    stones = tombstones_of(requests, desk.key, now=desk.now)
    earlier = [stone for stone in tombstones_of(_as_spelled_before(requests), desk.key, now=desk.now) if stone in index]
    num_deleted = sum(stone in index for stone in [*stones, *earlier])
    nameless = without_names(requests, desk.key)
    num_new = desk.ledger.reconsent(nameless, source=source_name(path.name, requests, desk.key))
    num_written = add_consents(desk.store, job.dataset, [*stones, *earlier])
    figures = {"consents": len(requests), "deleted_before": num_deleted}
    return figures | {"new": num_new, "written_to_tombstones": num_written}


def _as_spelled_before(requests: Sequence[DeletionRequest]) -> list[DeletionRequest]:
    """The requests with the spellings of their ids under which earlier versions kept tombstones."""
    return [
        replace(request, user_id=user, item_id=item)
        for request in requests
        for user in (request.user_id, *earlier_spellings(request.user_id))
        for item in (request.item_id, *earlier_spellings(request.item_id))
        if (user, item) != (request.user_id, request.item_id)
    ]


# --- looking ------------------------------------------------------------------------------------


def list_requests(job: LedgerJob, states: Sequence[State], *, limit: int, is_checked: bool) -> Figures:
    """The requests, nearest deadline first. ``is_checked`` reads and verifies the whole history first."""
    desk = Desk(job)
    figures: Figures = {}
    if is_checked:
        head = verify_ledger(desk.store, job.model)
        figures |= {"verified_entries": head.seq, "head_sha256": head.sha256}
    by_state = desk.ledger.counts()
    total = sum(number for state, number in by_state.items() if not states or state in states)
    found = desk.ledger.requests(states or None, limit=limit)
    return figures | {
        "requests": [_line(request, desk.now) for request in found],
        "total": total,
        "by_state": dict(sorted(by_state.items())),
    }


def summarise(job: LedgerJob) -> Figures:
    """How the ledger stands, in numbers and times."""
    desk = Desk(job)
    return desk.ledger.summary(desk.now)


def due(job: LedgerJob, *, limit: int) -> Figures:
    """What is open, overdue first, with alerts at 50, 80 and 100 % of the time; and whether a sweep is late."""
    desk = Desk(job)
    summary = desk.ledger.summary(desk.now)
    found = desk.ledger.requests(OPEN_STATES, limit=limit)
    return {
        "requests": [_line(request, desk.now) for request in found],
        "total": summary["num_open"],
        "alerts": summary["alerts"],
        "nearest_deadline": summary["nearest_deadline"],
        "days_to_deadline": summary["days_to_deadline"],
        "sweep": summary["sweep"],
        "advice": _sweep_advice(summary["sweep"]),
    }


def _sweep_advice(sweep: Figures) -> str:
    """What to do where the newest sweep is too old; "" where it is not."""
    if not sweep["is_late"]:
        return ""
    if sweep["age_days"] is None:
        return "The data set has never been swept: run `tru delete sweep`."
    return f"The data set was last swept {sweep['age_days']} days ago: run `tru delete sweep`."


def explain(job: LedgerJob, request_id: str, *, with_history: bool) -> Figures:
    """Where a request is, why, and what happens next."""
    desk = Desk(job)
    request = desk.ledger.find(request_id)
    holds = [hold for hold in desk.ledger.holds() if hold.covers(request)] if request.state in OPEN_STATES else []
    figures = _line(request, desk.now) | {
        "why": request.reason or _why(request),
        "next": _next(desk, request, holds),
        "received_time": request.received_time,
        "is_time_stated": request.is_time_stated,
        "submitted_at": request.submitted_at,
        "acknowledge_by": request.acknowledge_by or None,
        "num_attempts": request.num_attempts,
        "duplicate_of": request.duplicate_of or None,
        "holds": [{"hold_id": hold.hold_id, "level": hold.level, "reason": hold.reason} for hold in holds],
    }
    if with_history:
        figures["history"] = [asdict(line) for line in desk.ledger.history(request_id)]
    return figures


def _line(request: LedgerRequest, now: datetime) -> Figures:
    is_open = request.state in OPEN_STATES
    return {
        "request_id": request.request_id,
        "kind": request.kind,
        "state": request.state,
        "since": request.state_since,
        "regulation": request.regulation,
        "deadline": request.deadline,
        "alert": alert_of(request, now) if is_open else "",
        "batch_id": request.batch_id or None,
        "outcome": request.outcome or None,
    }


def _why(request: LedgerRequest) -> str:
    if request.state == "queued":
        return "it is verified, no hold covers it, and no batch has taken it yet"
    if request.state in ("processing", *DONE_STATES):
        return f"batch {request.batch_id} took it" if request.batch_id else "a batch took it"
    return "no reason was given"


def _next(desk: Desk, request: LedgerRequest, holds: Sequence[Hold]) -> str:
    """What happens next, with the command that a person may have to give."""
    if request.state == "duplicate":
        original = desk.ledger.find(request.duplicate_of)
        covering = [hold for hold in desk.ledger.holds() if hold.covers(original)]
        return f"{NEXT_STEP['duplicate']} {original.request_id} is {original.state}. {_next(desk, original, covering)}"
    if request.state == "received":
        return f"{NEXT_STEP['received']} `tru delete verify-request {shlex.quote(request.request_id)}`."
    if request.state == "held":
        commands = [f"`tru delete release {shlex.quote(hold.hold_id)} --reason WHY`" for hold in holds]
        return f"{NEXT_STEP['held']} {', '.join(commands)}".strip() + ("." if commands else "")
    if request.state in DUE_STATES:
        return _wait(desk) or NEXT_STEP[request.state]
    return NEXT_STEP[request.state]


def _wait(desk: Desk) -> str:
    """Until when a due request waits, where policy makes it wait for others; "" where the next run takes it."""
    due, sizes = desk.ledger.due(desk.now), desk.job.delete
    until = waits_until(due, sizes) if due else None
    if until is None or until < desk.now:
        return ""
    return (
        f"It waits until there are {sizes.min_requests} due requests ({len(due)} now) or until {utc_text(until)}, when "
        f"the nearest deadline among them is {sizes.deadline_margin_days:g} days ahead (delete.min_requests, "
        f"delete.deadline_margin_days). The first `tru delete run` from then on takes it; `tru delete run --now` does "
        f"not wait."
    )
