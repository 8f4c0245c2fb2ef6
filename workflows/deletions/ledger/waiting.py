"""Until when due requests wait for more of them. The one rule, for making a batch and for explaining a request."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from workflows.config.batch_sizes import BatchSizes
from workflows.deletions.ledger.records import LedgerRequest


def waits_until(due: Sequence[LedgerRequest], sizes: BatchSizes) -> datetime | None:
    """The time from which due requests make a batch although they are too few; None where they are enough already.

    From then on the nearest of their deadlines is less than ``deadline_margin_days`` ahead.

    Args:
        due: What a batch may take; at least one request.
    """
    if len(due) >= sizes.min_requests:
        return None
    nearest = min(datetime.fromisoformat(request.deadline) for request in due)
    return nearest - timedelta(days=sizes.deadline_margin_days)
