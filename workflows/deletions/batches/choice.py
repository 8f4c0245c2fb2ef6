"""Which requests make the next batch, and the name under which a scheduler submits it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from workflows.config.delete import DeleteConfig
from workflows.config.job import JobConfig
from workflows.deletions.batches.purge import UNFINISHED_STATES, deferred_and_due
from workflows.deletions.ledger import Ledger, LedgerRequest
from workflows.deletions.ledger.waiting import waits_until
from workflows.models.publish import read_versions
from workflows.running.runs import run_name
from workflows.storage import ObjectStore


@dataclass(frozen=True)
class Choice:
    """The requests of the next batch.

    Attributes:
        request_ids: Nearest deadline first. Empty: there is nothing to do now.
        minimum_waived: ``deadline`` or ``asked`` where they are fewer than policy asks for; "" else.
        num_waiting: Due requests that wait until there are enough of them.
    """

    request_ids: list[str]
    minimum_waived: str = ""
    num_waiting: int = 0


def choose(due: Sequence[LedgerRequest], policy: DeleteConfig, *, now: datetime, is_asked: bool) -> Choice:
    """Choose the requests of the next batch.

    Args:
        due: Nearest deadline first.
        now: With a time zone.
        is_asked: The operator asked for a batch now, however small.
    """
    waived = ""
    if due and (until := waits_until(due, policy)) is not None:
        if until < now:
            waived = "deadline"
        elif is_asked:
            waived = "asked"
        else:
            return Choice([], num_waiting=len(due))
    return Choice([request.request_id for request in due[: policy.max_requests]], waived)


def submission_id(store: ObjectStore, job: JobConfig, ledger: Ledger, *, now: datetime, is_asked: bool = False) -> str:
    """Name what a run would do now: equal as long as nothing has changed, "" if there is nothing to do.

    Ray refuses a submission id that it has seen, so a second tick of a scheduler is harmless. A batch that failed or
    was interrupted gives another id: it counts how often a request was taken.

    Args:
        is_asked: The operator wants a batch now, however few requests are due.
    """
    due = ledger.due(now)
    chosen = choose(due, job.delete, now=now, is_asked=is_asked).request_ids
    unfinished = ledger.requests(UNFINISHED_STATES)
    num_to_purge = deferred_and_due(store, job, ledger, now=now)
    if not chosen and not unfinished and not num_to_purge:
        return ""
    attempts = {request.request_id: request.num_attempts for request in due}
    asked = sorted([request_id, attempts[request_id]] for request_id in chosen)
    open_ones = sorted([request.request_id, request.state, request.num_attempts] for request in unfinished)
    versions = read_versions(store, job.model)
    serving = versions[-1].version if versions else 0
    return run_name("delete", job.dataset, job.model, serving, asked, open_ones, num_to_purge)
