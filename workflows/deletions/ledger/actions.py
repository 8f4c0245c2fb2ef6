"""What commands do to requests that are there: hold, release, cancel, verify, extend; and the sweep of the data set."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tru_core.errors import AuditError, ConfigError, ConflictError, MissingObjectError
from workflows.data.tombstone_sweep import requests_again, sweep_dataset
from workflows.data.tombstones import read_tombstones
from workflows.deletions.ledger.commands import Desk, Figures
from workflows.deletions.ledger.deadlines import utc_text
from workflows.deletions.ledger.doubts import examine, refuse_alike
from workflows.deletions.ledger.job import LedgerJob
from workflows.deletions.ledger.payloads import subject_digest
from workflows.deletions.ledger.pseudonyms import without_names
from workflows.deletions.ledger.queries import sweep_state
from workflows.deletions.ledger.records import HoldLevel
from workflows.deletions.ledger.request_files import open_request_file


def hold_request(job: LedgerJob, request_id: str, *, level: str, reason: str) -> Figures:
    """Place a hold on what a request asks to forget, or on the user or the item that it names."""
    desk = Desk(job)
    request = desk.ledger.find(request_id)
    places: dict[str, tuple[HoldLevel, str]] = {
        "subject": (request.kind, request.subject_digest),
        "user": ("user", request.user_digest),
        "item": ("item", request.item_digest),
    }
    kind, digest = places[level]
    if not digest:
        raise ConfigError(f"request {request_id} is of kind {request.kind} and names no {level}. Nothing was written.")
    return _hold(desk, kind, digest, hold_id="", reason=reason)


def hold_dataset(job: LedgerJob, *, reason: str) -> Figures:
    """Place a hold on the whole data set."""
    return _hold(Desk(job), "dataset", "", hold_id="", reason=reason)


def hold_subjects(job: LedgerJob, path: Path, *, reason: str) -> Figures:
    """Place a hold on each subject of a file of requests; its request ids become the holds' ids."""
    desk = Desk(job)
    requests = without_names(open_request_file(path).parse(), desk.key)
    examination = examine(desk.store, job.dataset, requests, key=desk.key)
    refuse_alike(examination, path.name)
    holds = [
        _hold(desk, request.kind, subject_digest(request, desk.key), hold_id=request.request_id, reason=reason)
        for request in requests
    ]
    unknown = sorted(request.line for request in examination.unknown)
    known = {"ids_named": examination.num_ids, "ids_known": examination.num_known, "unknown_lines": unknown}
    return {"holds": len(holds), "held": desk.ledger.counts().get("held", 0)} | known


def _hold(desk: Desk, level: HoldLevel, digest: str, *, hold_id: str, reason: str) -> Figures:
    hold = desk.ledger.hold(level, digest, reason=reason, hold_id=hold_id)
    held = desk.ledger.counts().get("held", 0)
    return {"hold_id": hold.hold_id, "level": hold.level, "held": held}


def release(job: LedgerJob, name: str, *, reason: str) -> Figures:
    """Release a hold by its own id, or the one that was placed on what a request names."""
    desk = Desk(job)
    holds = {hold.hold_id: hold for hold in desk.ledger.holds()}
    if name not in holds:
        request = desk.ledger.find_many([name]).get(name)
        covering = [] if request is None else [h for h in holds.values() if h.level != "dataset" and h.covers(request)]
        if not covering:
            known = ", ".join(sorted(holds)[:5]) or "none"
            raise MissingObjectError(
                f"no hold is named so, and none covers a request of this id alone; holds in force: {known}. Nothing "
                "was written."
            )
        if len(covering) > 1:
            names = ", ".join(hold.hold_id for hold in covering)
            raise ConflictError(f"request {name} is covered by several holds: {names}. Nothing was written. Name one.")
        name = covering[0].hold_id
    num_changed = desk.ledger.release(name, reason=reason)
    return {"hold_id": name, "changed": num_changed, "held": desk.ledger.counts().get("held", 0)}


def cancel(job: LedgerJob, request_ids: Sequence[str], *, reason: str) -> Figures:
    """Take requests back."""
    return {"changed": Desk(job).ledger.cancel(request_ids, reason=reason)}


def verify(job: LedgerJob, request_ids: Sequence[str]) -> Figures:
    """Say that requesters are who they claim to be."""
    return {"by_state": dict(sorted(Desk(job).ledger.verify(request_ids).items()))}


def extend(job: LedgerJob, request_ids: Sequence[str], *, reason: str, until: str | None) -> Figures:
    """Move deadlines."""
    try:
        time = None if until is None else datetime.fromisoformat(until)
    except ValueError:
        time = None
    if until is not None and (time is None or time.tzinfo is None):
        raise ConfigError(
            "--until: expected ISO 8601 with a time zone, such as 2026-03-01T09:30:00Z. Nothing was written."
        )
    ledger = Desk(job).ledger
    num_changed = ledger.extend(request_ids, reason=reason, until=time)
    return {"changed": num_changed, "deadlines": {name: ledger.find(name).deadline for name in request_ids[:20]}}


# --- sweeping -----------------------------------------------------------------------------------


def sweep(job: LedgerJob, *, is_queued: bool) -> Figures:
    """Look for what was deleted in the data set's current snapshot.

    Hits give exit code 6, or become new deletion requests with ``is_queued``.
    """
    desk = Desk(job)
    index = read_tombstones(desk.store, job.dataset)
    index.require_key(desk.key, f"data set {job.dataset}")
    found = sweep_dataset(desk.store, job.dataset, index, desk.key)
    figures: Figures = {"snapshot_id": found.snapshot_id, "tombstones": len(index), "hits": found.counts}
    num_hits = len(found)
    desk.ledger.note_sweep(job.dataset, found.snapshot_id, num_hits=num_hits)
    if num_hits and is_queued:
        requests = requests_again(found, desk.key, now=desk.now)
        report = desk.ledger.submit(requests, source="sweep", is_repeat=True)
        figures |= {"queued": dict(sorted(report.states.items())), "known": report.num_known}
    figures["sweep"] = sweep_state(utc_text(desk.now), desk.now, job.ledger.sweep_every_days)
    return figures | {"exit_code": AuditError.exit_code if num_hits and not is_queued else 0}
