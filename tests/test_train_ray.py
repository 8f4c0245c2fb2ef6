"""Real Ray Train runs: the number of workers decides nothing, a lost worker costs time, errors arrive as raised."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ray_loops import loop_killed_twice, loop_that_says_when_it_trains, loop_with_bad_data_on_worker_1
from tests.tiny_jobs import FIT_EPOCHS, UNLEARN_ROUNDS, comparison_task, flat, tiny_job, without_seconds
from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.collective import LocalCollective
from tru_core.errors import DataError, TransientError
from workflows.running import jobs
from workflows.running.results import Results
from workflows.running.worker import TaskRun
from workflows.storage.local import LocalStore
from workflows.tasks import WorkerTask

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def fresh_task(folder: Path, **scaling: Any) -> WorkerTask:
    """The comparison on a data set of its own, in a store of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    store = LocalStore(folder / "store")
    write_tiny_snapshot(store)
    return comparison_task(store, tiny_job(store.url, folder, scaling=scaling))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What one worker finds, without Ray."""
    return TaskRun(fresh_task(tmp_path_factory.mktemp("alone"), num_workers=1), LocalCollective()).run()


def assert_same(found: Results, expected: Results) -> None:
    assert flat(without_seconds(found)) == pytest.approx(flat(without_seconds(expected)), rel=1e-9, abs=1e-12)


def test_losses_sensitivities_and_metrics_do_not_depend_on_the_number_of_workers(
    alone: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four against one; the tests below have two."""
    told: dict[str, Any] = {}

    @contextmanager
    def listen(board: Any) -> Iterator[None]:
        import ray

        yield
        told.update(ray.get(board.read.remote()))

    monkeypatch.setattr(jobs, "follow", listen)
    found = jobs.run_task(fresh_task(tmp_path, num_workers=4))
    assert_same(found, alone)

    history = found["tru"].history
    assert {name.partition("/")[0] for name in history[-1]} >= {"residue_auc", "sensitivity", "scale", "chosen"}
    assert found["tru"].num_forget == history[0]["num_rows_visited"]
    assert history[0]["num_rows_visited"] > 0
    assert found["original"].epochs == FIT_EPOCHS
    assert {name: (stage["epoch"], stage["max_epochs"]) for name, stage in told.items()} == {
        "original": (FIT_EPOCHS, FIT_EPOCHS),
        "tru": (found["tru"].epochs, UNLEARN_ROUNDS),
        "retrain": (FIT_EPOCHS, FIT_EPOCHS),
    }
    assert told["tru"]["numbers"] == history[-1]


def test_a_worker_killed_while_training_and_while_unlearning_costs_time_only(alone: Results, tmp_path: Path) -> None:
    task = fresh_task(tmp_path, num_workers=2, max_failures=2)
    found = jobs.run_task(task, loop=loop_killed_twice, show_progress=False)
    notes = sorted(path.name for path in (tmp_path / "diary").iterdir())
    assert [name for name in notes if name.startswith("killed")] == ["killed-in-original", "killed-in-tru"]
    assert sum(name.startswith("start-of-rank-1") for name in notes) == 3
    assert_same(found, alone)


def test_an_error_of_one_worker_arrives_as_raised_without_using_up_the_restarts(tmp_path: Path) -> None:
    task = fresh_task(tmp_path, num_workers=2, max_failures=5)
    with pytest.raises(DataError, match=r"^row 17 of original is bad in epoch 1$"):
        jobs.run_task(task, loop=loop_with_bad_data_on_worker_1, show_progress=False)
    starts = [path.name for path in (tmp_path / "diary").iterdir() if path.name.startswith("start-of-rank-0")]
    assert len(starts) <= 2
    assert not LocalStore(tmp_path / "store").exists(f"runs/{task.run_id}/original/result.json")


def test_ctrl_c_interrupts_and_the_same_task_goes_on_with_another_number_of_workers(
    alone: Results, tmp_path: Path
) -> None:
    task = fresh_task(tmp_path, num_workers=2)
    handler = signal.getsignal(signal.SIGINT)

    def press_ctrl_c() -> None:
        stop = time.monotonic() + 120
        while not (tmp_path / "diary" / "training").exists() and time.monotonic() < stop:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press_ctrl_c)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        jobs.run_task(task, loop=loop_that_says_when_it_trains, show_progress=False)
    presser.join()
    assert signal.getsignal(signal.SIGINT) == handler

    original = LocalStore(tmp_path / "store").read(f"runs/{task.run_id}/original/result.json")
    again = task.model_copy(update={"job": tiny_job(task.job.storage, tmp_path, scaling={"num_workers": 1})})
    found = jobs.run_task(again, show_progress=False)
    assert_same(found, alone)
    assert LocalStore(tmp_path / "store").read(f"runs/{task.run_id}/original/result.json") == original


def test_more_workers_than_the_cluster_has_room_for_is_an_error_that_shows_what_is_there(
    tmp_path: Path,
) -> None:
    task = fresh_task(tmp_path, num_workers=5, threads_per_worker=3, start_timeout_seconds=0.5)
    with pytest.raises(TransientError, match=r"5 workers of 3 CPUs \(15 CPUs\); the cluster has 4 after") as caught:
        jobs.run_task(task, show_progress=False)
    assert caught.value.exit_code == 7
