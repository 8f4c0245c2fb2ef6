"""A task -> a Ray Train run of N workers, and its results. Ray Train starts, watches and restarts workers; no more.

Workers read their own buckets: Ray Train's own splitting gives each worker equally many rows and
drops the rest. Checkpoints are ours (``workflows.running.checkpoints``), so a restart resumes from the
newest whole one and nothing half-written is ever read.
"""

import logging
import secrets
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig
from ray.train import ScalingConfig as RayScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

import tru_core.errors
from tru_core.collective import Collective, LocalCollective, TorchCollective
from tru_core.errors import TransientError, TruError
from tru_core.fit import TrainingState
from workflows.failures import own_error
from workflows.running.cluster import wait_for_cpus
from workflows.running.interrupts import handlers_kept
from workflows.running.progress import follow, open_board
from workflows.running.results import Results
from workflows.running.worker import TaskRun
from workflows.storage import ObjectStore, open_store, read_json, run_prefix, write_json
from workflows.tasks import WorkerTask, with_absolute_storage

WorkerLoop = Callable[[dict[str, Any]], Results]


def _errors_folder(run_id: str, attempt: str) -> str:
    return f"{run_prefix(run_id)}/worker-errors/{attempt}"


def worker_loop(config: dict[str, Any]) -> Results:
    """Run a task inside one Ray Train worker; see :func:`run_in_worker`."""
    return run_in_worker(config)


def run_in_worker(config: dict[str, Any], after_epoch: Callable[[str, TrainingState], None] | None = None) -> Results:
    """Run a task as one worker of the process group that Ray Train has set up.

    Args:
        config: ``task`` (JSON), ``attempt``, ``threads``, ``board`` (an actor to tell progress to, or None).
        after_epoch: Called after each epoch's checkpoint is whole.
    """
    task = WorkerTask.model_validate_json(config["task"])
    torch.set_num_threads(config["threads"])
    is_alone = not dist.is_initialized() or dist.get_world_size() == 1
    collective: Collective = LocalCollective() if is_alone else TorchCollective()

    def on_progress(stage: str, state: TrainingState, max_epochs: int) -> None:
        if collective.rank == 0 and config["board"] is not None:
            config["board"].tell.remote(stage, state.epoch, max_epochs, state.history[-1])
        if after_epoch is not None:
            after_epoch(stage, state)

    store = open_store(task.job.storage)
    folder = _errors_folder(task.run_id, config["attempt"])
    if store.list(folder):
        # A restart cannot mend what is wrong with the input. Ending well uses up no further restart; the driver raises.
        return {}
    try:
        return TaskRun(task, collective, on_progress).run()
    except TransientError:
        raise
    except TruError as error:
        write_json(store, f"{folder}/{collective.rank:05d}.json", {"kind": type(error).__name__, "text": str(error)})
        raise


def _read_error(store: ObjectStore, key: str) -> TruError:
    record = read_json(store, key)
    kind = getattr(tru_core.errors, record["kind"], TransientError)
    return kind(record["text"])


def _raise_recorded_error(store: ObjectStore, folder: str) -> None:
    """Raise what a worker raised first in rank order, if one did."""
    for info in store.list(folder):
        raise _read_error(store, info.key)


def _training_error(task: WorkerTask, error: ray.train.TrainingFailedError) -> TruError:
    """Why Ray Train gave up: a part of the cluster, or errors of workers, which can follow from a lost worker."""
    own = own_error(error)
    if isinstance(error, ray.train.ControllerError):
        return TransientError(f"run {task.run_id}: Ray Train could not start or steer the workers. {own or ''}".strip())
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    last = str(failures[0]).strip().splitlines()[-1:] or [type(failures[0]).__name__]
    cause = own or f"{last[0][:300]}. Whole checkpoints are kept. Run the same command again: it resumes."
    times = task.job.scaling.max_failures + 1
    return TransientError(f"run {task.run_id}: workers were lost {times} times. Nothing was published. {cause}")


def run_task(task: WorkerTask, *, loop: WorkerLoop = worker_loop, show_progress: bool = True) -> Results:
    """Run a task on as many workers as its job asks for. Needs a connection to Ray.

    Raises:
        TruError: What a worker raised, as it raised it.
        TransientError: If workers were lost more often than ``scaling.max_failures`` allows.
    """
    scaling = task.job.scaling
    wait_for_cpus(scaling)
    store, attempt = open_store(task.job.storage), secrets.token_hex(8)
    filesystem, base = store.filesystem()
    board = open_board() if show_progress else None
    trainer = TorchTrainer(
        loop,
        train_loop_config={
            "task": task.model_copy(update={"job": with_absolute_storage(task.job)}).model_dump_json(),
            "attempt": attempt,
            "threads": scaling.threads_per_worker,
            "board": board,
        },
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=RayScalingConfig(
            num_workers=scaling.num_workers, resources_per_worker={"CPU": scaling.threads_per_worker}
        ),
        run_config=RunConfig(
            name=attempt,
            storage_path=f"{base}/{run_prefix(task.run_id)}/ray",
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=scaling.max_failures, controller_failure_limit=2),
        ),
    )
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    try:
        with follow(board), handlers_kept():  # Ray Train sets a handler for Ctrl-C, exits like a success and keeps it
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        _raise_recorded_error(store, _errors_folder(task.run_id, attempt))
        raise _training_error(task, error) from error
    finally:
        if board is not None:
            ray.kill(board)
    _raise_recorded_error(store, _errors_folder(task.run_id, attempt))
    if not isinstance(result.return_value, dict):
        raise TransientError(f"run {task.run_id} ended without results. Run the same command again: it resumes.")
    return result.return_value
