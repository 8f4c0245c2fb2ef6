"""Questions about many requests: what is due, what is nearest, how things stand."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from workflows.deletions.ledger.book import Book
from workflows.deletions.ledger.deadlines import utc_text
from workflows.deletions.ledger.records import LedgerRequest
from workflows.deletions.ledger.states import DUE_STATES, OPEN_STATES, State

_COLUMNS = ("request_id", "state", "deadline")
ALERT_SHARES = (1.0, 0.8, 0.5)  # of the time that a regulation gives


def nearest(book: Book, states: Collection[State] | None, *, limit: int | None) -> list[LedgerRequest]:
    """Requests in some states, nearest deadline first, then by request id."""
    table = book.columns(_COLUMNS)
    return _requests_at(book, table.take(_rows_in(table, states)), limit)


def due_requests(book: Book, now: datetime, *, limit: int | None) -> list[LedgerRequest]:
    """What a batch may take, nearest deadline first, where the deadlines of duplicates count for what they repeat."""
    everything = book.columns((*_COLUMNS, "received_time", "duplicate_of"))
    table = everything.take(_rows_in(everything, DUE_STATES))
    table = table.filter(pc.less_equal(table.column("received_time"), utc_text(now)))
    earliest: dict[str, str] = {}
    if book.counts["duplicate"]:
        repeats = everything.take(_rows_in(everything, ("duplicate",)))
        for request_id, deadline in _pairs(repeats, "duplicate_of", "deadline"):
            earliest[request_id] = min(deadline, earliest.get(request_id, deadline))
    if earliest:
        pairs = _pairs(table, "request_id", "deadline")
        acted_by = pa.array([min(deadline, earliest.get(name, deadline)) for name, deadline in pairs], pa.string())
        table = table.set_column(table.column_names.index("deadline"), "deadline", acted_by)
    return [request for request in _requests_at(book, table, limit) if not book.holds_on(request)]


def _requests_at(book: Book, table: pa.Table, limit: int | None) -> list[LedgerRequest]:
    """The requests of a table with deadlines, nearest first. Only those that are wanted are unpacked whole."""
    ids = table.column("request_id").take(_nearest_places(table, limit)).to_pylist()
    found = book.find(ids)
    return [found[request_id] for request_id in ids]


def _rows_in(table: pa.Table, states: Collection[State] | None) -> pa.Array:
    """The places of the requests in some states."""
    if states is None:
        return pa.array(range(table.num_rows), pa.uint64())
    is_in = pc.is_in(table.column("state"), value_set=pa.array(states, type=pa.string()))
    return pc.indices_nonzero(is_in)


def _pairs(table: pa.Table, one: str, other: str) -> list[tuple[str, str]]:
    columns: list[list[Any]] = [table.column(name).to_pylist() for name in (one, other)]
    return list(zip(*columns, strict=True))


def _nearest_places(table: pa.Table, limit: int | None) -> pa.Array:
    """Places of the rows by deadline, then request id; only the first ``limit``, which is faster than to sort all."""
    keys = [("deadline", "ascending"), ("request_id", "ascending")]
    if limit is None or limit >= table.num_rows:
        return pc.sort_indices(table, sort_keys=keys)
    return pc.select_k_unstable(table, k=limit, sort_keys=keys) if limit else pa.array([], pa.uint64())


def summary(book: Book, now: datetime, *, sweep_every_days: int) -> dict[str, Any]:
    """How things stand, in numbers and times; no ids.

    ``by_state`` counts requests, ``oldest_age_days`` is of the oldest open one, ``days_to_deadline`` of the nearest
    open one (negative when overdue), ``alerts`` counts open ones by the share of their time that has gone by.
    """
    everything = book.columns((*_COLUMNS, "received_time"))
    table = everything.take(_rows_in(everything, OPEN_STATES))
    oldest, nearest_deadline = (pc.min(table.column(name)).as_py() for name in ("received_time", "deadline"))
    return {
        "by_state": {state: number for state, number in sorted(book.counts.items()) if number},
        "num_open": table.num_rows,
        "oldest_age_days": None if oldest is None else _days(now - datetime.fromisoformat(oldest)),
        "nearest_deadline": nearest_deadline,
        "days_to_deadline": None if nearest_deadline is None else _days(datetime.fromisoformat(nearest_deadline) - now),
        "alerts": count_alerts(table, now),
        "num_holds": len(book.holds),
        "sweep": sweep_state(book.swept_at, now, sweep_every_days),
        "num_entries": book.link.seq,
    }


def count_alerts(table: pa.Table, now: datetime) -> dict[str, int]:
    """How many requests have used at least 50, 80 or 100 % of their time, each counted once, at the highest."""
    times = [
        pc.cast(pc.utf8_slice_codeunits(table.column(name), 0, 19), pa.timestamp("s")).cast(pa.int64())
        for name in ("received_time", "deadline")
    ]
    length = pc.subtract(times[1], times[0])
    elapsed = pc.divide(pc.cast(pc.subtract(int(now.timestamp()), times[0]), pa.float64()), length.cast(pa.float64()))
    at_least = [pc.sum(pc.greater_equal(elapsed, share)).as_py() or 0 for share in ALERT_SHARES]
    return {
        "overdue": at_least[0],
        "used_80_percent": at_least[1] - at_least[0],
        "used_50_percent": at_least[2] - at_least[1],
    }


def alert_of(request: LedgerRequest, now: datetime) -> str:
    """``overdue``, ``used_80_percent``, ``used_50_percent`` or "" for a request that has time."""
    share = request.share_elapsed(now)
    names = ("overdue", "used_80_percent", "used_50_percent")
    return next((name for name, least in zip(names, ALERT_SHARES, strict=True) if share >= least), "")


def sweep_state(swept_at: str, now: datetime, every_days: int) -> dict[str, Any]:
    """When the data set was last swept for what was deleted, and whether that is too long ago."""
    age = None if not swept_at else now - datetime.fromisoformat(swept_at)
    return {
        "last": swept_at or None,
        "age_days": None if age is None else _days(age),
        "is_late": age is None or age > timedelta(days=every_days),
    }


def _days(time: timedelta) -> float:
    return round(time / timedelta(days=1), 2)
