"""Carrying out the runs of a comparison: side by side in processes of their own, or one after the other on workers.

A run that fails does not take the others with it. What needs its model fails with it; the rest goes on.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import ray
import ray.exceptions
import torch

import tru_core.errors
from tru_core.collective import LocalCollective
from tru_core.errors import TransientError, TruError
from tru_core.fit import TrainingState
from tru_core.quoting import printable
from workflows.config.job import ScalingConfig
from workflows.experiments.compare.grid import Grid, GridRun, work_order
from workflows.failures import own_error
from workflows.running.cluster import wait_for_cpus
from workflows.running.jobs import run_task
from workflows.running.progress import follow, open_board
from workflows.running.results import read_result
from workflows.running.runs import kept_model
from workflows.running.worker import TaskRun
from workflows.storage import ObjectStore, read_json
from workflows.tasks import WorkerTask, with_absolute_storage

RunFunction = Callable[[str, str, Any], dict[str, str]]


def run_alone(task_json: str, title: str, board: Any) -> dict[str, str]:
    """Carry out a task in this process. What trying again cannot mend is returned, since Ray tries again what dies.

    Args:
        title: What progress calls the run.
        board: An actor to tell progress to, or None.

    Returns:
        Nothing, the result being in storage; or the error, as ``kind`` and ``text``.
    """
    task = WorkerTask.model_validate_json(task_json)
    torch.set_num_threads(task.job.scaling.threads_per_worker)

    def on_progress(stage: str, state: TrainingState, max_epochs: int) -> None:
        if board is not None:
            board.tell.remote(title, state.epoch, max_epochs, state.history[-1])

    try:
        TaskRun(task, LocalCollective(), on_progress).run()
    except TransientError:
        raise
    except TruError as error:
        return {"kind": type(error).__name__, "text": str(error)}
    return {}


@dataclass
class _Work:
    """Where the runs of a comparison stand.

    Attributes:
        done: Keys of the results that are there.
    """

    store: ObjectStore
    pending: list[GridRun]
    num_all: int
    show_progress: bool
    done: set[str]
    errors: dict[str, TruError] = field(default_factory=dict)
    num_ended: int = 0

    def end(self, run: GridRun, error: TruError | None = None) -> None:
        """Note how a run ended and say so."""
        self.num_ended += 1
        if error is None:
            self.done.add(run.key)
        else:
            self.errors[run.key] = error
        if self.show_progress:
            stamp = time.strftime("%H:%M:%S", time.gmtime())
            ending = _describe(read_json(self.store, run.key)) if error is None else f"failed: {_name_and_text(error)}"
            line = printable(f"{run.title}: {ending}")
            sys.stderr.write(f"{stamp} run {self.num_ended}/{self.num_all}: {line}\n")

    def ready(self) -> list[GridRun]:
        """The pending runs whose model to start from is there."""
        return [run for run in self.pending if run.needs is None or run.needs.key in self.done]

    def drop_hopeless(self) -> None:
        """End the runs whose training failed."""
        for run in list(self.pending):
            if run.needs is not None and (error := self.errors.get(run.needs.key)) is not None:
                self.pending.remove(run)
                self.end(run, type(error)(f"it has no Original to start from: {error}"))

    def whole_task(self, run: GridRun) -> WorkerTask:
        """A run's task, with the model that it starts from."""
        if run.needs is None:
            return run.task
        entry = kept_model(read_result(self.store, run.needs.key), run.needs.task.run_id)
        return run.task.model_copy(update={"original": entry})


def _name_and_text(error: TruError) -> str:
    return f"{type(error).__name__}: {error}"


def _describe(result: dict[str, Any]) -> str:
    figures = {"validation recall@20": "valid_recall20", "forget recall@20": "forget_recall20"}
    texts = [f"{title} {result[name]:.4f}" for title, name in figures.items() if name in result]
    texts += [result["verdict"]] if "verdict" in result else []
    return ", ".join([*texts, f"{result['seconds']:.1f} s"])


def run_missing(
    grid: Grid,
    store: ObjectStore,
    scaling: ScalingConfig,
    *,
    max_concurrent_runs: int | None,
    show_progress: bool,
    function: RunFunction = run_alone,
) -> dict[str, TruError]:
    """Carry out the runs that have no result yet.

    With one worker each run is a Ray task of its own, several at a time; a lost process is started again and goes on
    from its newest checkpoint. With more, runs take all workers in turn, those about one Original in one start.

    Args:
        max_concurrent_runs: Tasks at a time; None is as many as the cluster has CPUs for.
        function: What a Ray task does with a run.

    Returns:
        By the key of its result, why a run has none.

    Raises:
        TransientError: If the cluster has no room for a single run.
    """
    ordered = work_order(grid)
    done = {run.key for run in ordered if store.exists(run.key)}
    pending = [run for run in ordered if run.key not in done]
    work = _Work(store, pending, num_all=len(pending), show_progress=show_progress, done=done)
    if not pending:
        return {}
    wait_for_cpus(scaling)
    if scaling.num_workers > 1:
        _run_in_turn(work)
    else:
        limit = max_concurrent_runs or len(pending)
        _run_side_by_side(work, scaling, limit=limit, function=function)
    return work.errors


def _run_side_by_side(work: _Work, scaling: ScalingConfig, *, limit: int, function: RunFunction) -> None:
    remote = ray.remote(function).options(
        num_cpus=scaling.threads_per_worker,
        max_retries=scaling.max_failures,
        retry_exceptions=[TransientError],
    )
    board = open_board() if work.show_progress else None
    running: dict[Any, GridRun] = {}
    try:
        with follow(board):
            while work.pending or running:
                for run in work.ready():
                    if len(running) == limit:
                        break
                    task = work.whole_task(run)
                    task = task.model_copy(update={"job": with_absolute_storage(task.job)})
                    running[remote.remote(task.model_dump_json(), run.title, board)] = run
                    work.pending.remove(run)
                for reference in ray.wait(list(running), num_returns=1)[0]:
                    run = running.pop(reference)
                    if board is not None:
                        board.drop.remote(run.title)
                    work.end(run, _error_of(reference, scaling))
                    work.drop_hopeless()
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if board is not None:
            ray.kill(board)


def _error_of(reference: Any, scaling: ScalingConfig) -> TruError | None:
    """Why a Ray task ended without a result; None where it has one."""
    try:
        found: dict[str, str] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        own = own_error(error)
        if own is None:
            raise  # an error of the program itself
        return own
    except ray.exceptions.RayError as error:
        return TransientError(
            f"its process was lost {scaling.max_failures + 1} times, last by {type(error).__name__}. Whole checkpoints "
            "are kept. Run the same command again: it resumes from the newest one."
        )
    return getattr(tru_core.errors, found["kind"], TransientError)(found["text"]) if found else None


def _run_in_turn(work: _Work) -> None:
    """Give all workers to one run after the other, as stages of one task where they start from the same model."""

    def group(run: GridRun) -> tuple[str, str]:
        return run.task.run_id, "" if run.needs is None else run.needs.key

    # Trainings stay first: sorting keeps their place, since a task without a forget set is one.
    work.pending.sort(key=lambda run: (run.task.forget is not None, *group(run)))
    while work.pending:
        runs = list(next(groupby(work.pending, key=group))[1])
        stages = [stage for run in runs for stage in run.task.stages]
        error: TruError | None = None
        try:
            run_task(work.whole_task(runs[0]).model_copy(update={"stages": stages}), show_progress=work.show_progress)
        except TruError as raised:
            error = raised
        for run in runs:
            is_done = work.store.exists(run.key)
            if not is_done and error is None:
                error = TransientError(f"{run.title} ended without a result. Run the same command again.")
            work.pending.remove(run)
            work.end(run, None if is_done else error)
            if not is_done:
                break  # this stage failed; those after it were not tried yet
        work.drop_hopeless()
