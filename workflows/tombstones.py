"""Tombstones of a data set: keyed digests of what was deleted, which every import consults.

They stay when the data is gone, so that a deleted user, item or interaction cannot come back with the next raw data.
Consent given anew is an event with an epoch; what happened after it is admitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tru_core.keys import IdentityKey
from workflows.requests import DeletionRequest, Kind
from workflows.storage import ObjectStore


@dataclass(frozen=True)
class Tombstone:
    """Something deleted.

    Attributes:
        digest: Keyed digest of the subject.
        user_digest, item_digest: Of an interaction only, those of its two sides; "" else.
        at: When the deletion was asked for: UTC, ISO 8601. A later consent admits what happens after it.
    """

    kind: Kind
    digest: str
    at: str
    user_digest: str = ""
    item_digest: str = ""


@dataclass(frozen=True)
class TombstoneIndex:
    """What is deleted, to look up."""

    def __len__(self) -> int:
        raise NotImplementedError

    def blocks(self, kind: Kind, digest: str, at_time: datetime | None = None) -> bool:
        """Whether a subject must stay out.

        Args:
            at_time: When what is to come in happened; None where that is not known: then any consent after the newest
                deletion admits it.
        """
        raise NotImplementedError


def tombstones_of(requests: Sequence[DeletionRequest], key: IdentityKey) -> list[Tombstone]:
    """The tombstones of requests with a time of receipt."""
    raise NotImplementedError


def add_tombstones(store: ObjectStore, dataset: str, tombstones: Sequence[Tombstone], *, batch_id: str) -> bool:
    """Write the tombstones of a batch. Writing them again changes nothing.

    Returns:
        True if this call wrote them.

    Raises:
        ConflictError: The batch has other tombstones already.
    """
    raise NotImplementedError


def read_tombstones(store: ObjectStore, dataset: str) -> TombstoneIndex:
    """Read and verify all tombstones of a data set. An empty index if there are none."""
    raise NotImplementedError
