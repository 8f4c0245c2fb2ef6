"""Dying at a chosen write: what the kill matrix does to the process that it is about to lose. It wraps the stores.

Beats of the lease are not counted: they come from a thread of their own, at times of their own.
"""

import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from workflows.storage.local import LocalStore
from workflows.storage.s3 import S3Store

Moment = Literal["before", "within", "after"]

# The first that a key holds says what was at work. The longer ones first.
STAGES = {
    "/checkpoints/": "checkpoint",
    "/model-": "model files",
    "/result.json": "result",
    "/about.json": "result",
    "/plan.json": "plan",
    "/batch.json": "plan",
    "/request.json": "plan",
    "/attempt-": "attempt record",
    "/before.json": "states for receipts",
    "/purge.json": "purge",
    "purges/": "purge",
    "locks/": "lease",
    "ledger/": "ledger",
    "tombstones/": "tombstones",
    "receipts/": "receipts",
    "models/": "model log",
    "datasets/": "snapshot",
}


@dataclass(frozen=True)
class Point:
    """The write at which a process dies. ``number`` counts from 1."""

    number: int
    moment: Moment


@dataclass
class Writes:
    """The writes of this process so far, as stages of the work."""

    stages: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, key: str, *, is_delete: bool) -> int:
        """Count a write; its number, 0 for one that is not counted."""
        if "/beats/" in key:
            return 0
        with self.lock:
            self.stages.append("deleting" if is_delete else stage_of(key))
            return len(self.stages)


def stage_of(key: str) -> str:
    """What the work was at when it wrote a key."""
    if key.startswith("datasets/") and "/log/" in key:
        return "snapshot log"
    return next((stage for part, stage in STAGES.items() if part in key), "other")


def die() -> None:
    """Die as a lost machine does: no clean-up, no last word."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def wrap_stores(point: Point | None) -> Writes:
    """Count every write of this process from now on, and die at one of them. Cannot be undone: fork first."""
    writes = Writes()
    for kind in (LocalStore, S3Store):
        _wrap(kind, "put_if_absent", writes, point)
        _wrap(kind, "delete", writes, point)
    return writes


def _wrap(kind: Any, name: str, writes: Writes, point: Point | None) -> None:
    real = getattr(kind, name)

    def write(store: Any, key: str, *arguments: Any) -> Any:
        number = writes.next(key, is_delete=name == "delete")
        is_last = point is not None and number == point.number
        if is_last and point.moment == "before":
            die()
        if is_last and point.moment == "within":
            threading.Timer(random.uniform(0, 0.003), die).start()  # noqa: S311, no secret hangs on it
        result = real(store, key, *arguments)
        if is_last:
            die()
        return result

    setattr(kind, name, write)
