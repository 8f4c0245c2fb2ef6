"""Finishing a batch that has taken effect: data, purge, receipts. Every step is harmless when it is done again."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from workflows.deletions.batches.attempts import attempt_figures, published_attempt
from workflows.deletions.batches.plan import BatchPlan
from workflows.deletions.batches.purge import PurgeItem, purge
from workflows.deletions.batches.steps import drop_plan, publish_data, version_of
from workflows.deletions.batches.work import Work, utc_now
from workflows.deletions.receipts.issue import issue
from workflows.models.publish import Version
from workflows.storage import ObjectStore

Figures = dict[str, Any]


@dataclass(frozen=True)
class DoneBatch:
    """A batch that is carried out, and what it did, for people and for machines."""

    plan: BatchPlan
    figures: Figures


def finish(work: Work, plan: BatchPlan) -> DoneBatch:
    """Do what is left when a batch has taken effect."""
    store, request_ids = work.store, plan.request_ids
    snapshot_id = publish_data(work, plan)
    published = version_of(store, plan)
    outcomes = {request.request_id: request.outcome for request in plan.requests}
    work.advance(request_ids, "published", batch_id=plan.batch_id, outcome=outcomes)
    items = purge(
        store, work.job, work.ledger, work.lease, now=utc_now(), batch_id=plan.batch_id, request_ids=request_ids
    )
    work.advance(request_ids, "purged", batch_id=plan.batch_id)
    num_receipts = issue(work, plan, published=published, snapshot_id=snapshot_id, items=items)
    work.advance(request_ids, "receipted", batch_id=plan.batch_id)
    figures = _figures(store, plan, published, snapshot_id=snapshot_id, items=items) | {"num_receipts": num_receipts}
    drop_plan(store, plan)
    return DoneBatch(plan, figures)


def _figures(
    store: ObjectStore, plan: BatchPlan, published: Version | None, *, snapshot_id: str, items: list[PurgeItem]
) -> Figures:
    figures: Figures = {
        "batch_id": plan.batch_id,
        "version": published.version if published is not None else plan.version,
        "parent_version": plan.version,
        "snapshot_id": snapshot_id,
        "num_interactions": plan.num_interactions,
        "minimum_waived": plan.minimum_waived,
        "purge": dict(sorted(Counter(item.outcome for item in items).items())),
    }
    if published is not None:
        attempt = published_attempt(store, plan, published)
        figures |= attempt_figures(store, attempt)
        figures |= {"attempt": attempt.name, "audit": attempt.verdict or "none"}
    return figures
