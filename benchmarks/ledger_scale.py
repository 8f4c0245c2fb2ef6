"""Does the deletion ledger keep its times when there are many requests?

    python benchmarks/ledger_scale.py --requests 1000000 --json FILE

Fills a ledger in a temporary folder by submissions of 100,000 requests of users, then asks: how long does the next
submission of 100,000 take, how long the same one again, how long does a fresh process need to open the ledger and to
list the nearest 50, to explain one request, to sum up, to find what is due; and how long does replaying the whole
history take. Targets: a submission under 20 seconds, listing and explaining under 2. Seconds are wall time; those named
cpu are of the process, which tells whether other work was on the machine. Of what is asked several times the median is
given. ``--reingest ROWS`` also imports that many raw rows with 1,000 deleted users among 50,000, and counts how many
pass the gate: any other number than 0 is an error.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import write_figures

from tru_core.identity import IdentityKey
from workflows.data.requests import DeletionRequest
from workflows.deletions.ledger import Ledger, open_ledger, verify_ledger
from workflows.storage import ObjectStore, open_store

PER_SUBMISSION = 100_000
KEY = IdentityKey(bytes(range(32)))
NUM_USERS, NUM_DELETED = 50_000, 1_000


def requests(start: int, number: int) -> list[DeletionRequest]:
    """Requests of different users, received over some weeks."""
    return [
        DeletionRequest(
            request_id=f"request-{row:09d}",
            kind="user",
            user_id=f"user-{row}",
            item_id="",
            received_time=f"2026-{1 + row % 3:02d}-{1 + row % 28:02d}T{row % 24:02d}:30:00+00:00",
            regulation="gdpr" if row % 3 else "ccpa",
            line=row,
        )
        for row in range(start, start + number)
    ]


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall seconds and seconds of this process's CPU."""
    start = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def fresh(store: ObjectStore) -> Ledger:
    """The ledger as another process would open it."""
    return open_ledger(store, "bench", KEY)


def ledger_figures(store: ObjectStore, num_requests: int, repeats: int) -> dict[str, float]:
    """Fill the ledger and ask everything."""
    now = datetime.now(UTC)
    for start in range(0, num_requests, PER_SUBMISSION):
        seconds, _ = timed(lambda start=start: fresh(store).submit(requests(start, PER_SUBMISSION), source="bench"))
        print(f"{start + PER_SUBMISSION:>9} requests: {seconds:.2f} s for the last {PER_SUBMISSION}", flush=True)
    new = requests(num_requests, PER_SUBMISSION)
    figures = dict(
        zip(
            ("submit_seconds", "submit_cpu_seconds"),
            timed(lambda: fresh(store).submit(new, source="bench")),
            strict=True,
        )
    )
    figures["submit_again_seconds"] = timed(lambda: fresh(store).submit(new, source="bench"))[0]
    some = [f"request-{row:09d}" for row in range(0, num_requests, max(1, num_requests // 1000))]
    asked: dict[str, Callable[[], Any]] = {
        "open": lambda: fresh(store),
        "list_50": lambda: fresh(store).requests(limit=50),
        "explain": lambda: fresh(store).find(some[len(some) // 2]),
        "summary": lambda: fresh(store).summary(now),
        "due_1000": lambda: fresh(store).due(now, limit=1000),
    }
    for name, call in asked.items():
        times = [timed(call) for _ in range(repeats)]
        figures[f"{name}_seconds"] = statistics.median(wall for wall, _ in times)
        figures[f"{name}_cpu_seconds"] = statistics.median(cpu for _, cpu in times)
    figures["advance_1000_seconds"] = timed(lambda: fresh(store).advance(some, "processing", batch_id="b"))[0]
    figures["verify_history_seconds"] = timed(lambda: verify_ledger(store, "bench"))[0]
    sizes = {
        name: sum(info.size_bytes for info in store.list(f"ledger/bench/{name}")) for name in ("snapshots", "bodies")
    }
    figures |= {f"{name}_bytes": float(size) for name, size in sizes.items()}
    figures["num_requests"] = float(sum(fresh(store).counts().values()))
    return figures


def reingest_figures(store: ObjectStore, folder: Path, num_rows: int) -> dict[str, float]:
    """Import raw rows of which some users are deleted; count what passed."""
    from workflows.config.job import ScalingConfig
    from workflows.data.snapshot import read_vocabulary
    from workflows.data.tombstones import add_tombstones, tombstones_of
    from workflows.ingest import import_dataset
    from workflows.key_files import KeysConfig
    from workflows.running.cluster import connected

    deleted = [f"user-{row}" for row in range(0, NUM_USERS, NUM_USERS // NUM_DELETED)]
    asked = [DeletionRequest(f"r{n}", "user", text, "", None, None, n) for n, text in enumerate(deleted)]
    add_tombstones(store, "earlier", tombstones_of(asked, KEY, now=datetime.now(UTC)), batch_id="bench")
    keys = folder / "keys"
    keys.mkdir()
    (keys / "identity.key").touch(mode=0o600)
    (keys / "identity.key").write_text(KEY.secret.hex())
    rng = np.random.default_rng(0)
    raw = folder / "raw"
    raw.mkdir()
    users = rng.integers(0, NUM_USERS, num_rows)
    table = pa.table(
        {"user_id": pa.array([f"user-{row}" for row in users]), "item_id": rng.integers(0, 5_000, num_rows)}
    )
    pq.write_table(table, raw / "interactions.parquet")
    with connected(ScalingConfig()):
        start = time.perf_counter()
        manifest = import_dataset(str(raw), store, "bench", keys=KeysConfig(folder=str(keys)))
        seconds = time.perf_counter() - start
    ids, _ = read_vocabulary(store, manifest.user_vocabulary)
    expected = int(np.isin(users, range(0, NUM_USERS, NUM_USERS // NUM_DELETED)).sum())
    return {
        "reingest_rows": float(num_rows),
        "reingest_seconds": seconds,
        "reingest_users_passed": float(len(set(ids) & set(deleted))),
        "reingest_rows_dropped": float(manifest.report["tombstoned_rows_dropped"]),
        "reingest_rows_expected": float(expected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=int, default=1_000_000, help="a multiple of 100,000; 0 leaves the ledger out"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reingest", type=int, default=0, metavar="ROWS")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        store = open_store(f"{temporary}/store")
        if arguments.requests:
            figures |= ledger_figures(store, arguments.requests, arguments.repeats)
        if arguments.reingest:
            figures |= reingest_figures(store, Path(temporary), arguments.reingest)
    for name, value in figures.items():
        print(f"{name:<28} {value:.3f}")
    if arguments.json:
        command = f"python benchmarks/ledger_scale.py --requests {arguments.requests} --reingest {arguments.reingest}"
        write_figures(arguments.json, "ledger_scale", command=command, figures=figures)
    if figures.get("reingest_users_passed"):
        raise SystemExit("deleted users passed the gate")


if __name__ == "__main__":
    main()
