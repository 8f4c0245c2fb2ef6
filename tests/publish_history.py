"""Is the log of model versions linearizable? Records what publishers and readers saw, and checks it.

    python -m tests.publish_history --operations 10000 --storage s3://bucket/history --endpoint-url http://127.0.0.1:8333

Several threads publish and read, each with a client of its own, through a proxy that breaks every tenth request or so.
Every call is recorded with the times of its begin and end and with what it was told: ok, fail, or unknown (an error
that leaves open whether it happened).
"""

import argparse
import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from tru_core.errors import ConflictError, TruError
from workflows.models.publish import publish_version, read_versions
from workflows.storage import FileEntry, ObjectStore, StorageConfig, open_store
from workflows.storage import s3 as storage_s3
from workflows.testing.faults import CUT, DROP, DROP_ANSWER, FAIL_ANSWER, TWICE, Answer, Proxy, run_proxy

FAULTS: list[str | Answer] = [
    DROP,
    DROP_ANSWER,
    FAIL_ANSWER,
    TWICE,
    CUT,
    Answer(500, "InternalError"),
    Answer(503, "SlowDown"),
]


@dataclass(frozen=True)
class Publish:
    """An attempt to make ``value`` the entry of this number. Times are of one monotonic clock."""

    number: int
    value: str
    begun: float
    ended: float
    told: Literal["ok", "fail", "unknown"]


@dataclass(frozen=True)
class Read:
    """What a reader saw: the values of the log from its first entry on."""

    values: tuple[str, ...]
    begun: float
    ended: float


Operation = Publish | Read


def find_anomalies(history: Iterable[Operation], final: Sequence[str]) -> list[str]:
    """Say what in a history contradicts a log that grows at one moment for each entry and never changes.

    Values are unique, so the only open question is when each entry came to be. The earliest moment that everything
    allows is taken for one entry after the other: no earlier than its publisher began, than the entry before it, and
    than any read that did not see it began. It must not be later than the end of its publisher's call that said ok,
    and than the end of any call that saw it: a read of it, or an attempt at its number that was told fail.

    Args:
        final: The log's values when all had ended.
    """
    operations = list(history)
    reads = [operation for operation in operations if isinstance(operation, Read)]
    attempts = [operation for operation in operations if isinstance(operation, Publish)]
    anomalies = [f"a read saw {read.values}" for read in reads if read.values != tuple(final[: len(read.values)])]
    for attempt in attempts:
        is_there = attempt.number <= len(final) and final[attempt.number - 1] == attempt.value
        was_beaten = attempt.number <= len(final) and not is_there
        if (attempt.told == "ok" and not is_there) or (attempt.told == "fail" and not was_beaten):
            anomalies.append(f"{attempt.value} was told {attempt.told} for number {attempt.number}")
    publishers = {attempt.value: attempt for attempt in attempts}
    earliest = float("-inf")
    for number, value in enumerate(final, start=1):
        if value not in publishers:
            anomalies.append(f"number {number} holds {value}, which nobody published")
            continue
        publisher = publishers[value]
        before = [read.begun for read in reads if len(read.values) == number - 1]
        earliest = max([earliest, publisher.begun, *before])
        seen = [read.ended for read in reads if len(read.values) >= number]
        seen += [attempt.ended for attempt in attempts if attempt.number >= number and attempt.told == "fail"]
        latest = min([*seen, publisher.ended] if publisher.told == "ok" else [*seen, float("inf")])
        if earliest > latest:
            anomalies.append(f"number {number} must have come to be after {earliest:.6f} and before {latest:.6f}")
    return anomalies


def record(stores: Sequence[ObjectStore], model: str, *, num_operations: int) -> list[Operation]:
    """Let one thread for each store read and publish by turns, and record what each was told."""
    numbers = itertools.count()
    start = threading.Barrier(len(stores))

    def run(store: ObjectStore) -> list[Operation]:
        own: list[Operation] = []
        start.wait()
        while next(numbers) * 2 < num_operations:
            seen = _read(store, model)
            own += [seen] if seen else []
            own.append(_publish(store, model, parent=len(seen.values) if seen else 0))
        return own

    with ThreadPoolExecutor(len(stores)) as pool:
        return [operation for own in pool.map(run, stores) for operation in own]


def _read(store: ObjectStore, model: str) -> Read | None:
    begun = time.monotonic()
    try:
        values = tuple(version.run_id for version in read_versions(store, model))
    except TruError:
        return None  # it saw nothing
    return Read(values, begun, time.monotonic())


def _publish(store: ObjectStore, model: str, *, parent: int) -> Publish:
    value, begun, number = uuid.uuid4().hex, time.monotonic(), parent + 1
    told: Literal["ok", "fail", "unknown"] = "ok"
    try:
        number = publish_version(  # without a parent it may be a later one
            store,
            model,
            manifest=FileEntry(key=f"runs/{value}/manifest.json", size_bytes=1, sha256=f"{int(value, 16):064x}"),
            parent_version=parent or None,
            method="tru",
            dataset="history",
            snapshot_id="s",
            run_id=value,
            job_digest=value,
        ).version
    except ConflictError:
        told = "fail"
    except TruError:
        told = "unknown"
    return Publish(number, value, begun, time.monotonic(), told)


def breaks_some(proxy: Proxy, *, share: float, seed: int) -> None:
    """Let a proxy break about this share of all requests, each in a way drawn by chance."""
    draws = random.Random(seed)
    proxy.choose = lambda: draws.choice(FAULTS) if draws.random() < share else None


def check_history(
    config: StorageConfig,
    *,
    num_operations: int,
    num_threads: int = 4,
    operations_per_log: int = 60,
    share: float = 0.1,
) -> dict[str, int]:
    """Record and check histories of that many operations, on fresh logs, with faults. Gives counts."""
    figures = dict.fromkeys(("operations", "ok", "fail", "unknown", "reads", "logs", "anomalies"), 0)
    with run_proxy(str(config.endpoint_url)) as proxy:
        breaks_some(proxy, share=share, seed=7)
        broken = StorageConfig.model_validate(config.model_dump() | {"endpoint_url": proxy.url})
        stores = [open_store(broken) for _ in range(num_threads)]
        while figures["operations"] < num_operations:
            model = f"history-{uuid.uuid4().hex}"
            history = record(stores, model, num_operations=operations_per_log)
            final = [version.run_id for version in read_versions(open_store(config), model)]
            figures["logs"] += 1
            figures["operations"] += len(history)
            figures["anomalies"] += len(find_anomalies(history, final))
            for operation in history:
                figures["reads" if isinstance(operation, Read) else operation.told] += 1
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--endpoint-url", required=True)
    parser.add_argument("--fault-share", type=float, default=0.1, help="of all requests")
    arguments = parser.parse_args()
    storage_s3.FIRST_WAIT_SECONDS = 0.02
    config = StorageConfig(url=arguments.storage, endpoint_url=arguments.endpoint_url)
    figures = check_history(config, num_operations=arguments.operations, share=arguments.fault_share)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
