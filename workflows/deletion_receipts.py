"""From a finished batch to its signed receipts."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from tru_core.claims import STANDING_LIMITS, claim_for
from tru_core.errors import IntegrityError
from tru_core.settings import Settings
from tru_core.statement import (
    AuditResult,
    BatchStatement,
    BatchTimes,
    Counts,
    DataState,
    MethodRecord,
    ModelState,
    ReceiptRequest,
    audit_result,
)
from tru_core.statement import PurgeItem as StatedItem
from workflows.batches import batch_key
from workflows.deletion_attempts import Attempt, published_attempt
from workflows.deletion_plan import BatchPlan
from workflows.deletion_steps import Work, snapshot_entry, utc_now
from workflows.ledger import LedgerRequest
from workflows.model_record import code_state, data_state, model_state
from workflows.publish import Version, read_versions
from workflows.purge import PurgeItem, purge_time
from workflows.receipt_log import issue_receipts
from workflows.snapshot import read_manifest
from workflows.storage import canonical_json, read_json

_WAIVED = {
    "deadline": "a deadline was near",
    "asked": "the operator asked for it",
    "hold": "requests were held while the batch was made",
    "interrupted": "an earlier run was interrupted",
}


class BatchStates(Settings):
    """Data and model before and after a batch, as its receipts state them."""

    data_before: DataState
    data_after: DataState
    model_before: ModelState
    model_after: ModelState


def keep_states(work: Work, plan: BatchPlan, version: Version, snapshot_id: str) -> BatchStates:
    """Write down the states that receipts need, or read what is there. Before the purge: it deletes files of both.

    Raises:
        IntegrityError: If a file differs from its digest.
    """
    store, key = work.store, batch_key(plan.model, plan.batch_id, "states")
    if not store.exists(key):
        before = read_versions(store, plan.model)[plan.version - 1]
        entry = snapshot_entry(store, plan.dataset, snapshot_id)
        model_before = model_state(store, before)
        states = BatchStates(
            data_before=data_state(plan.snapshot, read_manifest(store, plan.snapshot)),
            data_after=data_state(entry, read_manifest(store, entry)),
            model_before=model_before,
            model_after=model_before if version == before else model_state(store, version),
        )
        store.put_if_absent(key, canonical_json(states.model_dump(mode="json"), where=key))
    try:
        return BatchStates.model_validate(read_json(store, key))
    except ValidationError as error:
        raise IntegrityError(f"{key} does not hold the states of a batch. Restore it from a backup.") from error


def issue(
    work: Work, plan: BatchPlan, states: BatchStates, *, published: Version | None, items: Sequence[PurgeItem]
) -> int:
    """Write the receipts of a batch, or leave those that are there. Returns how many requests have one.

    Args:
        published: The version that the batch published; None if it needed none.
    """
    attempt = published_attempt(work.store, plan, published) if published is not None else None
    purged_at = purge_time(work.store, work.job, plan.batch_id)
    statement = BatchStatement(
        model=plan.model,
        dataset=plan.dataset,
        batch_id=plan.batch_id,
        times=BatchTimes(
            planned_at=plan.created_at,
            published_at=published.created_at if published is not None else None,
            purged_at=purged_at,
            issued_at=utc_now().isoformat(),
        ),
        forget_count=Counts(users=len(plan.rows.users), items=len(plan.rows.items), interactions=len(plan.rows.pairs)),
        retain_count=states.data_after.num_interactions,
        method=_method(attempt),
        claim=claim_for(attempt.method if attempt is not None else "none", _verdict(attempt)),
        audits=_audits(attempt),
        purge=[StatedItem(kind=i.kind, name=i.name, outcome=i.outcome, until=i.until, reason=i.reason) for i in items],
        code=code_state(),
        known_limits=_limits(plan, attempt),
        unsafe_single_writer=False,
        identity_key_id=work.identity.key_id,
        **dict(states),
    )
    found = work.ledger.find_many(plan.request_ids)
    outcomes = {request.request_id: request.outcome for request in plan.requests}
    requests = [_leaf(found[request_id], outcomes[request_id]) for request_id in plan.request_ids]
    issue_receipts(work.store, statement, requests, signing=work.signing, identity=work.identity)
    return len(requests)


def _leaf(request: LedgerRequest, outcome: Any) -> ReceiptRequest:
    return ReceiptRequest(
        request_id=request.request_id,
        kind=request.kind,
        subject_digest=request.subject_digest,
        outcome=outcome,
        regulation=request.regulation or None,
        received_time=request.received_time or None,
        verified_time=None,
        deadline=request.deadline or None,
    )


def _method(attempt: Attempt | None) -> MethodRecord:
    if attempt is None:
        return MethodRecord(name="none", settings={}, seeds={})
    return MethodRecord(name=attempt.method, settings=attempt.settings, seeds={"seed": attempt.seed})


def _verdict(attempt: Attempt | None) -> Any:
    return None if attempt is None else attempt.verdict


def _audits(attempt: Attempt | None) -> list[AuditResult]:
    if attempt is None or attempt.audit is None:
        return []
    findings: Any = attempt.audit["findings"]
    version: Any = attempt.audit["version"]
    return [audit_result(row, version=version) for row in findings]


def _limits(plan: BatchPlan, attempt: Attempt | None) -> list[str]:
    limits = list(STANDING_LIMITS)
    if attempt is None:
        limits.append("The model was not changed: it had not been trained on anything that was asked to be deleted.")
    if plan.minimum_waived:
        reason = _WAIVED.get(plan.minimum_waived, plan.minimum_waived)
        limits.append(f"The batch has fewer requests than policy asks for: {reason}.")
    return limits
