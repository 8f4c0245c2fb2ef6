"""What the steps of a run of deletions share: storage, ledger, lease, keys, and one way to bring requests further."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tru_core.identity import IdentityKey, SigningKey
from workflows.config.job import JobConfig
from workflows.deletions.batches.attempts import AuditFunction
from workflows.deletions.ledger import Ledger, State
from workflows.storage import ObjectStore
from workflows.storage.run_lock import Lease

ORDER: tuple[State, ...] = ("queued", "processing", "published", "purged", "receipted")
"""The way of a request through a batch."""


@dataclass(frozen=True)
class Work:
    """What the steps of a run share.

    Attributes:
        connect: Makes a connection to Ray, when something is to be trained.
        audit: Judges a candidate, where policy requires it.
    """

    store: ObjectStore
    job: JobConfig
    ledger: Ledger
    lease: Lease
    identity: IdentityKey
    signing: SigningKey
    audit: AuditFunction
    connect: Callable[[], AbstractContextManager[Any]]
    show_progress: bool

    def advance(
        self,
        request_ids: Iterable[str],
        to: State,
        *,
        batch_id: str = "",
        reason: str = "",
        outcome: Mapping[str, str] | None = None,
    ) -> None:
        """Bring requests into a state, if they are not there or further and the lease is still ours."""
        found = self.ledger.find_many(request_ids)
        done = ORDER[ORDER.index(to) :] if to in ORDER[2:] else ()
        left = [request_id for request_id, request in found.items() if request.state not in done]
        if left:
            self.lease.check()
            self.ledger.advance(left, to, batch_id=batch_id, reason=reason, outcome=outcome)


def utc_now() -> datetime:
    """The present, in whole seconds of UTC."""
    return datetime.now(UTC).replace(microsecond=0)
