"""`tru delete run`: everything that is due becomes batches; each a new model version, a new snapshot and receipts.

One run at a time works on a data set (:mod:`workflows.storage.run_lock`). It first finishes what an interrupted run
began: a batch that took effect is completed from its plan, one that did not is planned again from the same requests,
which gives the same batch with the same files, checkpoints and results. Then it purges what earlier runs had to defer
or left behind, and makes batches of what is due. The steps of one batch and their order:
:mod:`workflows.deletions.batches.steps`.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tru_core.errors import PolicyError, TruError
from workflows.config.job import JobConfig
from workflows.config.unlearn import check_publishable
from workflows.data.requests import slow_digest
from workflows.deletions.batches.attempts import AuditFunction
from workflows.deletions.batches.choice import choose, submission_id
from workflows.deletions.batches.purge import UNFINISHED_STATES, purge
from workflows.deletions.batches.steps import (
    find_plan,
    is_in_effect,
    plan_requests,
    prepare,
    publish_model,
)
from workflows.deletions.batches.work import Work, utc_now
from workflows.deletions.finish import DoneBatch, finish
from workflows.deletions.ledger import Ledger, SubmitReport, open_ledger
from workflows.deletions.ledger.doubts import find_doubtful
from workflows.deletions.ledger.request_files import open_request_file
from workflows.deletions.ledger.submit_file import submit_requests
from workflows.deletions.receipts.issue import keep_states
from workflows.experiments.audit.gate import audit_batch
from workflows.key_files import load_identity_key, load_signing_key
from workflows.running import runs
from workflows.running.outcomes import recorded
from workflows.storage import open_store
from workflows.storage.run_lock import hold_lease

Figures = dict[str, Any]
Connect = Callable[[], AbstractContextManager[Any]]

_SUBJECTS_PER_HOLD = 1000


@dataclass
class _Progress:
    """What a run has done so far.

    Attributes:
        set_aside: Requests that policy does not let be carried out, by id, with the error that says why.
        num_held: Requests that were held while their batch was made.
    """

    done: list[DoneBatch] = field(default_factory=list)
    set_aside: dict[str, TruError] = field(default_factory=dict)
    num_waiting: int = 0
    num_held: int = 0


def run_deletions(
    job: JobConfig,
    requests: Path | None = None,
    *,
    is_asked: bool = False,
    show_progress: bool = True,
    connect: Connect = nullcontext,
    audit: AuditFunction = audit_batch,
    run_id: str = "",
) -> Figures:
    """Carry out every deletion that is due. With nothing to do, nothing changes.

    Killed at any moment and started again, it ends in the state of a run that nothing interrupted. How it ended is kept
    under ``runs/<run_id>``, whichever way it ended.

    Args:
        requests: A file of requests to submit first; its batch is not kept waiting for more requests.
        is_asked: The operator wants a batch now, however few requests are due.
        connect: Makes a connection to Ray, when something is to be trained.
        run_id: The name under which the outcome is kept, for whoever submitted this run; "" follows from what is due.

    Returns:
        ``num_requests`` of this run by outcome, ``batches`` with the figures of each and, of the last one, the same
        figures beside it; ``num_waiting`` requests that wait until there are enough; ``states`` of the whole ledger;
        ``failed`` where some requests were left and others were done.

    Raises:
        ConfigError: What the job's method leaves cannot be published, a key or the request file cannot be read, or a
            field is malformed.
        DataError: A column is missing or unknown.
        ConflictError: Another run is at work, a request id stands for something else, or another version was published.
        PolicyError: Nothing could be done because of holds, verification or the share that policy allows.
        AuditError: No model passed its audit, or the workers found another number of interactions than the planner.
    """
    check_publishable(job.unlearn)
    identity, signing = load_identity_key(job.keys), load_signing_key(job.keys)
    store = open_store(job.storage)

    def body() -> Figures:
        ledger = open_ledger(store, job.model, identity, config=job.ledger)
        submitted = None
        if file is not None:
            parsed = file.parse()
            if not parsed:
                return {"num_requests": {}, "batches": [], "num_interactions": 0}
            submitted = submit_requests(
                ledger,
                parsed,
                store=store,
                dataset=job.dataset,
                key=identity,
                config=job.ledger,
                file_name=file.name,
            )
            _check_processable(ledger, [request.request_id for request in parsed], file.name, why=submitted.hold)
        progress = _Progress()
        with hold_lease(store, job.dataset, lease_seconds=job.delete.lease_seconds) as lease:
            ledger.refresh()
            work = Work(store, job, ledger, lease, identity, signing, audit, connect, show_progress)
            _finish_interrupted(work, progress)
            purge(store, job, ledger, lease, now=utc_now())
            _take_due(work, progress, is_asked=is_asked or file is not None)
        if progress.num_held and not progress.done:
            raise PolicyError(
                f"all {progress.num_held} requests that were due are held since. Nothing was published; they are kept. "
                f"`tru delete list --state held` names them; `tru delete release ID --reason TEXT` releases a hold."
            )
        return _figures(ledger, progress, submitted)

    file = open_request_file(requests) if requests is not None else None
    if file is not None:
        settings = job.model_dump(mode="json", exclude={"storage", "scaling", "sweep", "forget", "keys"})
        run_id = run_id or runs.run_name("delete", settings, slow_digest(file.body, salt=job.model.encode()))
    elif not run_id:
        ledger = open_ledger(store, job.model, identity, config=job.ledger)
        run_id = submission_id(store, job, ledger, now=utc_now(), is_asked=is_asked)
        run_id = run_id or f"delete-{job.model}-nothing-due"
    hidden = file.name if file is not None else ""
    return recorded(store, run_id, "delete run", body, error_of=first_error, hidden=hidden)


def run_purge(job: JobConfig) -> Figures:
    """Delete what still holds deleted rows and may go now, such as models whose days of grace are over.

    Raises:
        ConflictError: Another run is at work.
    """
    identity = load_identity_key(job.keys)
    store = open_store(job.storage)

    def body() -> Figures:
        with hold_lease(store, job.dataset, lease_seconds=job.delete.lease_seconds) as lease:
            ledger = open_ledger(store, job.model, identity, config=job.ledger)
            items = purge(store, job, ledger, lease, now=utc_now())
        counts = Counter(item.outcome for item in items)
        return {"purge": dict(sorted(counts.items())), "items": [asdict(item) for item in items]}

    return recorded(store, f"delete-purge-{job.model}", "delete purge", body)


def name_submission(job: JobConfig) -> Figures:
    """Name what is due, for a scheduler that submits it once; "" if nothing is due."""
    store = open_store(job.storage)
    ledger = open_ledger(store, job.model, load_identity_key(job.keys), config=job.ledger)
    return {"submission_id": submission_id(store, job, ledger, now=utc_now())}


def first_error(figures: Figures) -> TruError | None:
    """The error of a run that did some requests and left others."""
    failed = figures.get("failed", [])
    return PolicyError(failed[0]["message"]) if failed else None


def _check_processable(ledger: Ledger, request_ids: list[str], source: str, *, why: str) -> None:
    """Refuse where not one request of a file may be carried out now.

    Args:
        why: For what reason the file is held; "" if it is not.

    Raises:
        PolicyError: If all are held, or come from requesters who were not verified.
    """
    states = Counter(request.state for request in ledger.find_many(request_ids).values())
    if set(states) <= {"held", "received"}:
        found = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        raise PolicyError(
            f"{source}: no request may be carried out now ({found}{why and ': '}{why}). They are kept, and nothing was "
            "deleted. Release the holds with `tru delete release ID --reason TEXT`, or verify the requesters with "
            "`tru delete verify-request ID`."
        )


# --- batches ------------------------------------------------------------------------------------


def _finish_interrupted(work: Work, progress: _Progress) -> None:
    """Complete the batches that a run left: from their plans where they took effect, else from their requests."""
    members: dict[str, list[Any]] = {}
    for request in work.ledger.requests(UNFINISHED_STATES):
        members.setdefault(request.batch_id, []).append(request)
    for batch_id, requests in sorted(members.items()):
        plan = find_plan(work.store, work.job.model, batch_id)
        if plan is not None and is_in_effect(work, plan, {request.state for request in requests}):
            progress.done.append(finish(work, plan))
            continue
        request_ids = [request.request_id for request in requests]
        work.advance(request_ids, "queued", reason="its run was interrupted before anything was published")
        waived = plan.minimum_waived if plan is not None else "interrupted"
        _carry_out(work, progress, request_ids, waived)


def _take_due(work: Work, progress: _Progress, *, is_asked: bool) -> None:
    while True:
        now = utc_now()
        due = [request for request in work.ledger.due(now) if request.request_id not in progress.set_aside]
        choice = choose(due, work.job.delete, now=now, is_asked=is_asked)
        progress.num_waiting = choice.num_waiting
        if not choice.request_ids:
            return
        _carry_out(work, progress, choice.request_ids, choice.minimum_waived)


def _carry_out(work: Work, progress: _Progress, request_ids: list[str], waived: str) -> None:
    """Make one batch of requests and finish it. Where a hold is placed meanwhile, it goes on without the held ones."""
    while request_ids:
        held = work.ledger.held(request_ids)
        if held:
            request_ids, waived = _hold_back(work, progress, request_ids, held), waived or "hold"
            continue
        if _hold_doubtful(work, request_ids):
            continue
        planning = plan_requests(work, request_ids, minimum_waived=waived)
        for request_id in planning.too_large:
            progress.set_aside[request_id] = _too_large(work, planning.too_large)
        plan = planning.plan
        if plan is None:
            return
        request_ids = plan.request_ids
        work.advance(request_ids, "processing", batch_id=plan.batch_id)
        try:
            keep_states(work.store, plan)
            attempt = prepare(work, plan)
            held = work.ledger.held(request_ids)
            if not held and attempt is not None:
                publish_model(work, plan, attempt)
        except TruError as error:
            work.lease.check()  # without the lease the requests are another run's business
            work.ledger.advance(request_ids, "failed_retryable", batch_id=plan.batch_id, reason=type(error).__name__)
            raise
        if not held:
            progress.done.append(finish(work, plan))
            return
        request_ids, waived = _hold_back(work, progress, request_ids, held), waived or "hold"


def _hold_doubtful(work: Work, request_ids: list[str]) -> bool:
    """Hold what the data set does not know, where a person has to look at it first. Whether anything was held."""
    found = work.ledger.find_many(request_ids)
    open_ones = [request_id for request_id in request_ids if not work.ledger.is_settled(found[request_id])]
    doubtful = find_doubtful(
        work.store,
        work.job.dataset,
        work.ledger.payloads(open_ones),
        key=work.identity,
        config=work.job.ledger,
    )
    for reason, requests in doubtful:
        digests = sorted({found[request.request_id].subject_digest for request in requests})
        for start in range(0, len(digests), _SUBJECTS_PER_HOLD):
            work.lease.check()
            work.ledger.hold("unknown", ",".join(digests[start : start + _SUBJECTS_PER_HOLD]), reason=reason)
    return bool(doubtful)


def _hold_back(work: Work, progress: _Progress, request_ids: list[str], held: set[str]) -> list[str]:
    """Give the held requests back, and queue the others again. Returns these."""
    work.advance(sorted(held), "held", reason="a hold was placed while its batch was made")
    rest = [request_id for request_id in request_ids if request_id not in held]
    states = work.ledger.find_many(rest)
    work.advance(
        [r for r in rest if states[r].state == "processing"], "queued", reason="its batch goes on without others"
    )
    progress.num_held += len(held)
    return rest


def _too_large(work: Work, request_ids: list[str]) -> PolicyError:
    return PolicyError(
        f"{len(request_ids)} requests ({', '.join(request_ids[:5])}) name, each alone, more than "
        f"{work.job.delete.max_share:.1%} of the training interactions (delete.max_share). They stay queued; the "
        f"others were carried out. Set delete.on_large: retrain in the job file, or raise delete.max_share."
    )


def _figures(ledger: Ledger, progress: _Progress, submitted: SubmitReport | None) -> Figures:
    outcomes = Counter(request.outcome for done in progress.done for request in done.plan.requests)
    batches = [done.figures for done in progress.done]
    figures: Figures = {
        "num_requests": dict(sorted(outcomes.items())),
        "num_interactions": sum(done.plan.num_interactions for done in progress.done),
        "num_waiting": progress.num_waiting,
        "num_held": progress.num_held,
        "states": dict(sorted(ledger.counts().items())),
        "batches": batches,
    }
    if submitted is not None:
        figures["submitted"] = {"new": dict(sorted(submitted.states.items())), "known": submitted.num_known}
    if progress.set_aside:
        errors = {str(error): error for error in progress.set_aside.values()}
        figures["failed"] = [
            {"error": type(error).__name__, "message": text, "exit_code": error.exit_code}
            for text, error in errors.items()
        ]
    return figures | (batches[-1] if batches else {})
