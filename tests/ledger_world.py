"""Requests, a key and a clock for tests of the ledger. Outside ids are easy to find where they must not be."""

from datetime import UTC, datetime, timedelta

from tru_core.identity import IdentityKey
from workflows.config.ledger import LedgerConfig
from workflows.data.requests import DeletionRequest, Kind
from workflows.deletions.ledger import Ledger, open_ledger
from workflows.storage import ObjectStore

KEY = IdentityKey(bytes(range(32)))
MODEL = "tiny-model"
NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
RECEIVED = "2026-03-01T09:30:00+00:00"
SECRET = "canary-987654321"


class Clock:
    """A clock that goes one second further whenever somebody looks."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def user_request(number: int, **fields: object) -> DeletionRequest:
    """Request ``r<number>`` to forget a user of its own."""
    return request(f"r{number}", user=f"{SECRET}-{number}", **fields)


def request(
    request_id: str,
    *,
    user: str = "",
    item: str = "",
    received: str | None = RECEIVED,
    regulation: str | None = None,
    line: int = 2,
    is_verified: bool | None = None,
) -> DeletionRequest:
    """A request of the kind that its ids say."""
    kind: Kind = "interaction" if user and item else "user" if user else "item"
    return DeletionRequest(
        request_id=request_id,
        kind=kind,
        user_id=user,
        item_id=item,
        received_time=received,
        regulation=regulation,
        line=line,
        is_verified=is_verified,
    )


def a_ledger(store: ObjectStore, *, config: LedgerConfig | None = None, clock: Clock | None = None) -> Ledger:
    """The ledger as it stands in the store."""
    return open_ledger(store, MODEL, KEY, config=config, clock=clock or Clock())


def states(ledger: Ledger) -> dict[str, str]:
    """The state of every request."""
    return {found.request_id: found.state for found in ledger.requests()}


def log_bytes(store: ObjectStore) -> bytes:
    """All bytes and keys of a ledger but its payloads."""
    infos = [info for info in store.list("") if "/payloads/" not in info.key]
    return b"\n".join(info.key.encode() + store.read(info.key) for info in infos)
