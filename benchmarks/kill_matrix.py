"""Kill deletions everywhere and see what is left: requests lost, versions published twice, receipts for nothing.

    python benchmarks/kill_matrix.py --kills 200 --storage /tmp/kills
    python benchmarks/kill_matrix.py --kills 200 --storage s3://bucket/prefix --endpoint-url http://127.0.0.1:8333

Every trial starts from the same small world (60 users, a trained model, requests that make two batches), kills the
run with SIGKILL before, within or after one of its writes, or at a random time, or kills a worker of it; sometimes it
kills the next run too. Then the run is started again until it ends, and everything is compared with a run that nothing
interrupted. The first kills are spread evenly over all writes, so that every stage is met; the others are random.

Figures: ``kills``, ``lost_requests``, ``double_publications``, ``receipts_unpublished``, ``end_state_equal`` (1 or 0).
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch._dynamo  # an optimizer would import it in every child anew, for longer than the rest of a run takes
from kill_points import Point, wrap_stores
from machine import write_figures

from tests import deletion_world
from tests.tiny_snapshot import item_id, user_id
from tru_core.errors import TransientError, TruError
from tru_core.unlearning.paper.algorithm_one import AlgorithmOneSettings
from workflows.config.job import JobConfig
from workflows.config.unlearn import UnlearnConfig
from workflows.data.request_tables import parse_requests
from workflows.deletions.receipts.log import read_issued
from workflows.deletions.runner import run_deletions
from workflows.models.publish import read_versions
from workflows.running import runs
from workflows.running.results import Results
from workflows.storage import ObjectStore, StorageConfig, dataset_log, open_store, read_log
from workflows.tasks import WorkerTask

REQUESTS = (
    f"r1,user,{user_id(3)},",
    f"r2,item,,{item_id(7)}",
    f"r3,user,{deletion_world.NOT_THERE},",
    f"r4,user,{user_id(4)},",
    f"r5,user,{user_id(3)},",
)
MAX_RESTARTS = 2  # of a lost worker, as scaling.max_failures
LOST_WORKER = 86  # exit code of a run whose worker was lost too often


@dataclass(frozen=True)
class Kill:
    """What is killed, and when.

    Attributes:
        victim: ``driver``, with its workers, or ``worker`` alone.
        point: The write at which it dies; None: at a random time.
    """

    victim: str
    point: Point | None
    after_seconds: float = 0.0


# --- one run in a process of its own ------------------------------------------------------------


def forked(body: Callable[[], int], *, kill_after: float | None = None) -> int:
    """Run a function in a child process; its exit code, or minus the signal that killed it."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = body()
        except TruError as error:
            code = LOST_WORKER if isinstance(error, TransientError) else error.exit_code
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        except Exception:  # noqa: BLE001 - the child must never return into the parent's code
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def worker_in_a_process(point: Point | None, note: Path) -> Callable[..., Results]:
    """A ``run_task`` whose worker is a process of its own, started again when it is lost; the first one may die."""
    left = [point]

    def run_task(task: WorkerTask, *, show_progress: bool) -> Results:
        for _ in range(MAX_RESTARTS + 1):
            own = left.pop() if left else None

            def body(own: Point | None = own) -> int:
                writes = wrap_stores(own)
                deletion_world.run_here(task, show_progress=show_progress)
                note.write_text(json.dumps(writes.stages))
                return 0

            code = forked(body)
            if code == -signal.SIGKILL:
                note.with_suffix(".killed").touch()
            if code == 0:
                return deletion_world.run_here(task, show_progress=show_progress)  # the results are in storage
        raise TransientError("workers were lost too often")

    return run_task


def run_once(job: JobConfig, kill: Kill | None, folder: Path) -> tuple[int, list[str], list[str], bool]:
    """One run of `tru delete run`: its exit code, the stages of its and its worker's writes, and whether one died."""
    driver, worker = folder / "driver.json", folder / "worker.json"
    for path in (driver, worker, worker.with_suffix(".killed")):
        path.unlink(missing_ok=True)
    point = kill.point if kill is not None else None

    def body() -> int:
        is_worker = kill is not None and kill.victim == "worker"
        writes = wrap_stores(None if is_worker else point)
        runs.run_task = worker_in_a_process(point, worker) if is_worker else deletion_world.run_here
        run_deletions(job, show_progress=False)
        driver.write_text(json.dumps(writes.stages))
        return 0

    is_timed = kill is not None and kill.point is None
    code = forked(body, kill_after=kill.after_seconds if kill is not None and is_timed else None)
    stages = [json.loads(path.read_text()) if path.exists() else [] for path in (driver, worker)]
    has_killed = code == -signal.SIGKILL or worker.with_suffix(".killed").exists()
    return code, stages[0], stages[1], has_killed


# --- worlds -------------------------------------------------------------------------------------


def make_base(job: JobConfig, folder: Path) -> None:
    """Train and submit in a child process: the parent must never have run a backward pass when it forks."""

    def body() -> int:
        runs.run_task = deletion_world.run_here
        store = open_store(job.storage)
        deletion_world.write_tiny_snapshot(store)
        runs.train(job)
        text = deletion_world.HEADER + "".join(f"{line}\n" for line in REQUESTS)
        deletion_world.ledger_of(job).submit(parse_requests(text.encode(), name="requests"), source="requests")
        return 0

    deletion_world.make_keys(folder / "keys")
    if forked(body) != 0:
        raise SystemExit("the small world could not be made")


def copy_objects(source: ObjectStore, target: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda info: target.put_if_absent(info.key, source.read(info.key)), source.list("")))


def drop_objects(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda info: store.delete(info.key), store.list("")))


def in_place(job: JobConfig, name: str) -> JobConfig:
    """The job on another store beside its own."""
    storage = job.storage.model_copy(update={"url": f"{job.storage.url.rpartition('/')[0]}/{name}"})
    return job.model_copy(update={"storage": storage})


# --- judging ------------------------------------------------------------------------------------


def first_difference(found: str, expected: str) -> str:
    """Where two texts differ first, with what stands around."""
    pairs = zip(found, expected, strict=False)
    place = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(found), len(expected)))
    around = slice(max(0, place - 120), place + 240)
    return f"...{found[around]!r}... where ...{expected[around]!r}... was expected"


def count_lost(job: JobConfig) -> int:
    """Requests that did not end with a receipt, their own or that of the one that they repeat."""
    found = {request.request_id: request for request in deletion_world.ledger_of(job).requests()}
    expected = {line.split(",")[0] for line in REQUESTS}
    done = {
        request_id
        for request_id, request in found.items()
        if request.state == "receipted"
        or (request.state == "duplicate" and found[request.duplicate_of].state == "receipted")
    }
    return len(expected - done)


def count_double(store: ObjectStore, job: JobConfig) -> int:
    """Versions and snapshots that one batch published more than once, and batches with two receipts."""
    versions = Counter(version.job_digest for version in read_versions(store, job.model))
    snapshots = Counter(line.entry["snapshot_id"][:39] for line in read_log(store, dataset_log(job.dataset)))
    receipts = Counter(issued.batch_id for issued in read_issued(store, job.model))
    return sum(number - 1 for counter in (versions, snapshots, receipts) for number in counter.values())


def count_unpublished(store: ObjectStore, job: JobConfig) -> int:
    """Receipts whose model version or snapshot is not published."""
    manifests = {version.manifest.sha256 for version in read_versions(store, job.model)}
    snapshots = {line.entry["snapshot_id"] for line in read_log(store, dataset_log(job.dataset))}
    count = 0
    for issued in read_issued(store, job.model):
        said = deletion_world.predicate_of(issued.envelope)
        is_published = said["model_after"]["manifest"]["sha256"] in manifests
        count += not (is_published and said["data_after"]["snapshot_id"] in snapshots)
    return count


# --- the matrix ---------------------------------------------------------------------------------


def draw_kill(number: int, num_kills: int, sizes: dict[str, int], seconds: float, dice: random.Random) -> Kill:
    """Two thirds of the kills are spread evenly over the driver's writes; then workers, then random times."""
    moment: Any = dice.choice(["before", "within", "after"])
    spread = max(1, num_kills * 2 // 3)
    if number < spread:
        return Kill("driver", Point(1 + number * sizes["driver"] // spread, moment))
    if number % 2:
        return Kill("worker", Point(dice.randint(1, sizes["worker"]), moment))
    return Kill("driver", None, after_seconds=dice.uniform(0, seconds))


def run_matrix(storage: StorageConfig, folder: Path, *, num_kills: int, seed: int) -> dict[str, Any]:
    """Kill until ``num_kills`` processes died; the figures."""
    dice = random.Random(seed)  # noqa: S311, no secret hangs on it
    base = deletion_world.make_job(
        folder,
        storage=storage.model_copy(update={"url": f"{storage.url}/base"}),
        unlearn=UnlearnConfig(  # it has epochs, and so checkpoints, here too
            method="algorithm_one", settings=AlgorithmOneSettings(batch_size=256)
        ),
        delete=deletion_world.policy(min_requests=1, max_requests=3, lease_seconds=0.4),
    )
    make_base(base, folder)
    source = open_store(base.storage)
    whole = in_place(base, "whole")
    copy_objects(source, open_store(whole.storage))
    begun = time.monotonic()
    code, driver, _, _ = run_once(whole, None, folder)
    seconds = time.monotonic() - begun
    expected = deletion_world.end_state(whole)
    if code != 0 or count_lost(whole) or count_double(open_store(whole.storage), whole):
        raise SystemExit("the run that nothing interrupted did not end well: nothing to compare with")
    alone = in_place(base, "alone")
    copy_objects(source, open_store(alone.storage))
    _, _, worker, _ = run_once(alone, Kill("worker", Point(10**9, "after")), folder)
    sizes = {"driver": len(driver), "worker": len(worker)}

    figures: Counter[str] = Counter()
    unequal, met, number = [], Counter(), 0
    while figures["kills"] < num_kills:
        job = in_place(base, f"trial-{number}")
        store = open_store(job.storage)
        copy_objects(source, store)
        kill: Kill | None = draw_kill(number % num_kills, num_kills, sizes, seconds, dice)
        number += 1
        code, num_runs = -1, 0
        while code != 0 and num_runs < 6:
            code, _, _, has_killed = run_once(job, kill, folder)
            num_runs += 1
            if has_killed and kill is not None:
                figures["kills"] += 1
                figures[f"kills_{kill.victim}"] += 1
                if kill.point is not None:
                    stages = worker if kill.victim == "worker" else driver
                    met[stages[min(kill.point.number, len(stages)) - 1]] += 1
                figures["receipts_unpublished"] += count_unpublished(store, job)
            is_killed_again = has_killed and num_runs == 1 and dice.random() < 0.25
            kill = draw_kill(dice.randrange(num_kills), num_kills, sizes, seconds, dice) if is_killed_again else None
        figures["runs"] += num_runs
        figures["lost_requests"] += count_lost(job)
        figures["double_publications"] += count_double(store, job)
        figures["receipts_unpublished"] += count_unpublished(store, job)
        found = deletion_world.end_state(job)
        if code != 0 or found != expected:
            unequal.append(f"trial-{number - 1}")
            differing = [name for name in expected if found[name] != expected[name]]
            sys.stderr.write(f"trial {number - 1} ended otherwise: exit code {code}, differs in {differing}\n")
            for name in differing:
                sys.stderr.write(f"  {name}: {first_difference(found[name], expected[name])}\n")
        else:
            drop_objects(store)
        sys.stderr.write(f"{figures['kills']}/{num_kills} kills, {len(unequal)} unequal\n")
    for stage, count in sorted(met.items()):
        figures["kills_at_" + stage.replace(" ", "_")] = count
    keys = ("kills", "kills_driver", "kills_worker", "lost_requests", "double_publications", "receipts_unpublished")
    return {key: figures[key] for key in keys} | {"end_state_equal": int(not unequal)} | dict(figures)


def main() -> int:
    """Run the matrix; 0 if nothing was lost, doubled, unpublished or unequal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--storage", help="folder or s3://bucket/prefix; default a new folder that is deleted")
    parser.add_argument("--endpoint-url", help="S3 endpoint, where it is not AWS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures with the machine to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    url = f"{(options.storage or str(folder / 'stores')).rstrip('/')}/{os.getpid()}"
    begun = time.monotonic()
    try:
        storage = StorageConfig(url=url, endpoint_url=options.endpoint_url)
        figures = run_matrix(storage, folder, num_kills=options.kills, seed=options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures["seconds"] = round(time.monotonic() - begun, 1)
    print(json.dumps(figures, sort_keys=True))
    if options.json:
        write_figures(options.json, "kill_matrix", command="python " + " ".join(sys.argv), figures=figures)
    is_good = figures["end_state_equal"] and not (
        figures["lost_requests"] or figures["double_publications"] or figures["receipts_unpublished"]
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
