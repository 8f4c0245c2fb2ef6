"""Loops for Ray Train workers that misbehave on purpose. Workers import them from here."""

import os
import signal
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tru_core.errors import DataError
from tru_core.fit import TrainingState
from workflows.running.jobs import run_in_worker
from workflows.running.results import Results
from workflows.tasks import WorkerTask


def _diary(config: dict[str, Any]) -> Path:
    """A folder beside the task's store, where loops leave notes for the test."""
    folder = Path(WorkerTask.model_validate_json(config["task"]).job.storage.url).with_name("diary")
    folder.mkdir(exist_ok=True)
    return folder


def _note_start(config: dict[str, Any]) -> None:
    (_diary(config) / f"start-of-rank-{dist.get_rank()}-by-{os.getpid()}").touch()


def loop_killed_twice(config: dict[str, Any]) -> Results:
    """Worker 1 is killed once in ``original``, once in ``tru``, the moment an epoch's checkpoint is whole."""
    _note_start(config)

    def after_epoch(stage: str, state: TrainingState) -> None:
        mark = _diary(config) / f"killed-in-{stage}"
        if dist.get_rank() == 1 and (stage, state.epoch) in (("original", 2), ("tru", 1)) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return run_in_worker(config, after_epoch)


def loop_with_bad_data_on_worker_1(config: dict[str, Any]) -> Results:
    """Worker 1 alone finds bad data after its first epoch; worker 0 waits for it in vain."""
    _note_start(config)

    def after_epoch(stage: str, state: TrainingState) -> None:
        if dist.get_rank() == 1:
            raise DataError(f"row 17 of {stage} is bad in epoch {state.epoch}")

    return run_in_worker(config, after_epoch)


def loop_that_says_when_it_trains(config: dict[str, Any]) -> Results:
    """Leaves a note after the first epoch of ``tru``, then takes its time."""

    def after_epoch(stage: str, state: TrainingState) -> None:
        if (stage, state.epoch) == ("tru", 1):
            (_diary(config) / "training").touch()
            signal.sigtimedwait([], 600)

    return run_in_worker(config, after_epoch)


def loop_killed_while_deleting(config: dict[str, Any]) -> Results:
    """The worker is killed once, the moment its first checkpoint is whole."""
    mark = _diary(config) / "killed"

    def after_epoch(stage: str, state: TrainingState) -> None:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return run_in_worker(config, after_epoch)
