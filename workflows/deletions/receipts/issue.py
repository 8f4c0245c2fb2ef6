"""From a finished batch to its signed receipts."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from tru_core.errors import IntegrityError
from tru_core.receipts.claims import STANDING_LIMITS, claim_for
from tru_core.receipts.statement import (
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
from tru_core.receipts.statement import PurgeItem as StatedItem
from tru_core.settings import Settings
from workflows.data.ids import READING
from workflows.data.snapshot import read_manifest
from workflows.deletions.batches.attempts import Attempt, published_attempt
from workflows.deletions.batches.plan import BatchPlan
from workflows.deletions.batches.purge import PurgeItem, purge_time
from workflows.deletions.batches.steps import snapshot_entry
from workflows.deletions.batches.work import Work, utc_now
from workflows.deletions.ledger import LedgerRequest
from workflows.deletions.receipts.log import issue_receipts
from workflows.models.batches import batch_key
from workflows.models.model_record import code_state, data_state, model_state
from workflows.models.publish import Version, read_versions
from workflows.storage import ObjectStore, canonical_json, read_json

_WAIVED = {
    "deadline": "a deadline was near",
    "asked": "the operator asked for it",
    "hold": "requests were held while the batch was made",
    "interrupted": "an earlier run was interrupted",
}


class StatesBefore(Settings):
    """Data and model before a batch, as its receipts state them."""

    data: DataState
    model: ModelState


def keep_states(store: ObjectStore, plan: BatchPlan) -> None:
    """Write down what receipts say of the time before. To be called before anything is published or purged.

    Raises:
        IntegrityError: If a file differs from its digest.
    """
    key = _states_key(plan)
    if not store.exists(key):
        before = read_versions(store, plan.model)[plan.version - 1]
        data = data_state(plan.snapshot, read_manifest(store, plan.snapshot))
        states = StatesBefore(data=data, model=model_state(store, before))
        store.put_if_absent(key, canonical_json(states.model_dump(mode="json"), where=key))


def _states_key(plan: BatchPlan) -> str:
    return batch_key(plan.model, plan.batch_id, "before")


def _read_states(store: ObjectStore, plan: BatchPlan) -> StatesBefore:
    key = _states_key(plan)
    try:
        return StatesBefore.model_validate(read_json(store, key))
    except ValidationError as error:
        raise IntegrityError(f"{key} does not hold the states before a batch. Restore it from a backup.") from error


def issue(
    work: Work, plan: BatchPlan, *, published: Version | None, snapshot_id: str, items: Sequence[PurgeItem]
) -> int:
    """Write the receipts of a batch, or leave those that are there. Returns how many requests have one.

    Args:
        published: The version that the batch published; None if it needed none.
        snapshot_id: Of the snapshot that holds the result.
    """
    before = _read_states(work.store, plan)
    entry = snapshot_entry(work.store, plan.dataset, snapshot_id)
    data_after = data_state(entry, read_manifest(work.store, entry))
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
        retain_count=data_after.num_interactions,
        data_before=before.data,
        data_after=data_after,
        model_before=before.model,
        model_after=before.model if published is None else model_state(work.store, published),
        method=_method(attempt),
        claim=claim_for(attempt.method if attempt is not None else "none", _verdict(attempt)),
        audits=_audits(attempt),
        purge=[StatedItem(kind=i.kind, name=i.name, outcome=i.outcome, until=i.until, reason=i.reason) for i in items],
        code=code_state(),
        known_limits=[*_limits(plan, attempt), *_looked_through(work.store, plan)],
        unsafe_single_writer=work.store.unsafe_single_writer,
        identity_key_id=work.identity.key_id,
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


def _looked_through(store: ObjectStore, plan: BatchPlan) -> list[str]:
    """How ids were read and what was searched for them, where a request of the batch found nothing."""
    if all(request.outcome != "not_found" for request in plan.requests):
        return []
    snapshot = read_manifest(store, plan.snapshot)
    num_users = snapshot.num_users - snapshot.num_deleted_users
    num_items = snapshot.num_items - len(snapshot.deleted_item_rows)
    return [
        f"Not found means: ids were read by the rules {READING} (without blanks and quotes around them, 17.0 as 17). "
        f"They were compared with {num_users} user ids and {num_items} item ids of data set {plan.dataset}, snapshot "
        f"{plan.snapshot_id}, and for a single interaction with its interactions. Other data sets were not looked "
        "through."
    ]


def _limits(plan: BatchPlan, attempt: Attempt | None) -> list[str]:
    limits = list(STANDING_LIMITS)
    if attempt is None:
        limits.append("The model was not changed: it had not been trained on anything that was asked to be deleted.")
    if plan.minimum_waived:
        reason = _WAIVED.get(plan.minimum_waived, plan.minimum_waived)
        limits.append(f"The batch has fewer requests than policy asks for: {reason}.")
    return limits
