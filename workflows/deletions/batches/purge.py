"""Deleting what still holds deleted rows, item by item, with what became of each; and what is left, with its date.

Runs after a batch took effect, and again by every later `tru delete run` and `tru delete purge`, which do what was
deferred. Nothing is remembered between two purges: each finds by listing what is still there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from tru_core.errors import AccessError, IntegrityError, MissingObjectError
from workflows.config.job import JobConfig
from workflows.deletions.batches.purge_inventory import Kind, Remnant, list_remnants
from workflows.deletions.ledger import Ledger, State
from workflows.models.batches import batch_key
from workflows.storage import ObjectStore, append_log_entry, canonical_json, read_json, read_log
from workflows.storage.commands import doctor_command
from workflows.storage.object_keys import purge_log
from workflows.storage.run_lock import Lease

Outcome = Literal["purged", "not_found", "held", "deferred"]

UNFINISHED_STATES: tuple[State, ...] = ("processing", "published", "purged")
_PLANNED_STATES: tuple[State, ...] = (
    *UNFINISHED_STATES,
    "queued",
    "failed_retryable",
)  # the next run takes the same plan up again
_ENDED_STATES: tuple[State, ...] = ("published", "purged", "receipted", "denied", "failed_terminal", "cancelled")


@dataclass(frozen=True)
class PurgeItem:
    """One thing that held deleted rows, and what became of it.

    Attributes:
        kind: ``snapshot``, ``model_version``, ``other_model``, ``run`` (checkpoints, lists, shadow models, trials),
            ``batch`` (a plan by row), ``payload`` (the ids that requests named) or ``leftover`` (incomplete writes).
        name: The thing's own name; "" where nothing of the kind was found.
        outcome: ``held`` where a legal hold, the storage or another model's serving version stands against it.
        until: Of a deferred item, when it goes: UTC, ISO 8601.
    """

    kind: str
    name: str
    outcome: Outcome
    num_objects: int = 0
    size_bytes: int = 0
    until: str | None = None
    reason: str = ""


def purge(
    store: ObjectStore,
    job: JobConfig,
    ledger: Ledger,
    lease: Lease,
    *,
    now: datetime,
    batch_id: str = "",
    request_ids: Sequence[str] | None = None,
) -> list[PurgeItem]:
    """Delete all that holds rows deleted from the job's data set and may be deleted now.

    Args:
        now: With a time zone; decides what is still in its days of grace.
        batch_id: The batch whose purge this is: done a second time, it gives what the first time gave. "" for one
            that belongs to none and is noted only where it deleted something.
        request_ids: Requests whose outside ids go; None for those of all requests that ended.
    """
    noted = _line_of(store, job, batch_id)
    if noted is not None:
        return [PurgeItem(**item) for item in noted["items"]]
    lease.check()
    is_held = any(hold.level == "dataset" for hold in ledger.holds())
    open_batches = {request.batch_id for request in ledger.requests(_PLANNED_STATES)}
    remnants = list_remnants(store, job, open_batches=open_batches, now=now)
    planned = [] if is_held else _planned(store, job, batch_id, [r for r in remnants if _is_due(r, now)])
    items = [_delete(store, remnant, now=now, is_held=is_held) for remnant in remnants]
    items += [item for item in planned if (item.kind, item.name) not in {(i.kind, i.name) for i in items}]
    items += [PurgeItem(kind, "", "not_found") for kind in get_args(Kind) if kind not in {i.kind for i in items}]
    items.sort(key=lambda item: (item.kind, item.name))
    items.append(_drop_payloads(ledger, request_ids, is_held=is_held))
    items.append(_drop_leftovers(store, job, now=now))
    if batch_id or any(item.outcome == "purged" for item in items):
        _note(store, job, batch_id, items, now=now)
    return items


def deferred_and_due(store: ObjectStore, job: JobConfig, ledger: Ledger, *, now: datetime) -> int:
    """How many things that hold deleted rows could be deleted now."""
    open_batches = {request.batch_id for request in ledger.requests(_PLANNED_STATES)}
    remnants = list_remnants(store, job, open_batches=open_batches, now=now)
    return sum(_is_due(remnant, now) for remnant in remnants)


def _is_due(remnant: Remnant, now: datetime) -> bool:
    return bool(remnant.objects) and (remnant.until is None or remnant.until <= now)


def _planned(store: ObjectStore, job: JobConfig, batch_id: str, remnants: Sequence[Remnant]) -> list[PurgeItem]:
    """What a batch's purge set out to delete, as its first attempt wrote it before it deleted anything.

    An attempt that goes on after a crash no longer finds what the first one deleted.
    """
    items = [PurgeItem(r.kind, r.name, "purged", len(r.objects), _size_bytes(r)) for r in remnants]
    if not batch_id:
        return items
    key = batch_key(job.model, batch_id, "purge")
    store.put_if_absent(key, canonical_json([asdict(item) for item in items], where=key))
    return [PurgeItem(**item) for item in read_json(store, key)]


def _size_bytes(remnant: Remnant) -> int:
    return sum(info.size_bytes for info in remnant.objects)


def _delete(store: ObjectStore, remnant: Remnant, *, now: datetime, is_held: bool) -> PurgeItem:
    def ended(outcome: Outcome, reason: str = "", until: datetime | None = None) -> PurgeItem:
        text = None if until is None else _text(until)
        return PurgeItem(remnant.kind, remnant.name, outcome, len(remnant.objects), _size_bytes(remnant), text, reason)

    if is_held:
        return ended("held", "a legal hold covers the data set")
    if not remnant.objects:  # another model's, which is not ours to delete
        return ended("held", remnant.reason)
    if remnant.until is not None and remnant.until > now:
        return ended("deferred", remnant.reason, remnant.until)
    try:
        for info in remnant.objects:
            store.delete(info.key)
    except MissingObjectError:
        raise
    except AccessError as error:
        reason = f"the storage refuses to delete it ({type(error).__name__}): object lock, or a missing permission"
        return ended("held", reason)
    left = [info.key for info in remnant.objects if store.exists(info.key)]
    if left:
        raise IntegrityError(
            f"{left[0]} and {len(left) - 1} more were deleted and are still there. The purge is not done and no "
            f"receipt was written. Run `{doctor_command(store)}`, then the same command again."
        )
    return ended("purged")


def _drop_payloads(ledger: Ledger, request_ids: Sequence[str] | None, *, is_held: bool) -> PurgeItem:
    """Drop the outside ids of requests that ended, and of those that repeat them."""
    if is_held:
        return PurgeItem("payload", "", "held", reason="a legal hold covers the data set")
    ended = set(request_ids if request_ids is not None else _ids(ledger.requests(_ENDED_STATES)))
    repeats = [r.request_id for r in ledger.requests(("duplicate",)) if r.duplicate_of in ended]
    num_dropped = ledger.drop_payloads([*sorted(ended), *repeats])
    if request_ids is None:
        num_dropped += ledger.drop_orphans()
    else:  # of a batch: a second attempt says what the first one did
        num_dropped = len(ended) + len(repeats)
    return PurgeItem("payload", "", "purged" if num_dropped else "not_found", num_objects=num_dropped)


def _ids(requests: Iterable[Any]) -> list[str]:
    return [request.request_id for request in requests]


def _drop_leftovers(store: ObjectStore, job: JobConfig, *, now: datetime) -> PurgeItem:
    minutes = job.delete.leftover_minutes
    num_deleted = store.delete_leftovers(older_than_seconds=60 * minutes)
    if not minutes:
        return PurgeItem("leftover", "", "purged" if num_deleted else "not_found", num_objects=num_deleted)
    return PurgeItem(
        "leftover",
        "",
        "deferred",
        num_objects=num_deleted,
        until=_text(now + timedelta(minutes=minutes)),
        reason=f"{num_deleted} older than {minutes:g} minutes are removed; younger ones may be writes under way",
    )


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")


# --- the log of purges --------------------------------------------------------------------------


def purge_time(store: ObjectStore, job: JobConfig, batch_id: str) -> str | None:
    """When a batch's purge was done: UTC, ISO 8601; None if it was not."""
    line = _line_of(store, job, batch_id)
    return None if line is None else line["at"]


def _line_of(store: ObjectStore, job: JobConfig, batch_id: str) -> dict[str, Any] | None:
    lines = [line.entry for line in read_log(store, purge_log(job.dataset))] if batch_id else []
    return next((entry for entry in lines if entry["batch_id"] == batch_id), None)


def _note(store: ObjectStore, job: JobConfig, batch_id: str, items: Sequence[PurgeItem], *, now: datetime) -> None:
    entry = {
        "batch_id": batch_id,
        "model": job.model,
        "at": _text(now),
        "items": [asdict(item) for item in items],
    }
    number = len(read_log(store, purge_log(job.dataset))) + 1
    while not append_log_entry(store, purge_log(job.dataset), number=number, entry=entry):
        number += 1
