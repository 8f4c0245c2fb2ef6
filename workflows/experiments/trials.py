"""The trials of a sweep: one for every combination of the job's lists, each run in one process.

Ray Tune only starts trials and hears of them: what one does is the stage ``unlearn`` of the same body that a worker
of Ray Train runs.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ray import tune

from tru_core.artifact import sha256_hex
from tru_core.collective import LocalCollective
from tru_core.errors import ConfigError, TransientError, TruError
from tru_core.fit import TrainingState
from tru_core.unlearning.problem import candidate_score
from tru_core.unlearning.tru_settings import TRUSettings
from workflows.config.job import JobConfig
from workflows.running.worker import TaskRun
from workflows.storage import canonical_json
from workflows.tasks import WorkerTask

SWEPT: tuple[str, ...] = (
    "gate_weight",
    "branch_scaling",
    "module_share",
    "reverse_learning_rate",
    "shared_learning_rate",
)


@dataclass(frozen=True)
class Trial:
    """One combination of settings.

    Attributes:
        name: By content; the trial's results lie under it in the run's folder.
        settings: The swept settings and their values.
        job: The job file with these settings.
    """

    name: str
    settings: dict[str, float | bool]
    job: JobConfig


def _without_effect(settings: Mapping[str, float | bool], unlearn: TRUSettings) -> set[str]:
    """Name the swept settings that change nothing beside the others: measured, see :class:`SweepConfig`."""
    if unlearn.paper_literal:
        return {"shared_learning_rate"}
    moves = settings["shared_learning_rate"] > 0
    repairs = unlearn.repairs(moves_shared=moves)
    return (set() if repairs else {"branch_scaling"}) | (set() if moves else {"gate_weight"})


def _combine(job: JobConfig) -> list[dict[str, float | bool]]:
    """Every combination of the job's lists; of those that mean the same, the first."""
    lists = [getattr(job.sweep, name) for name in SWEPT]
    found: dict[tuple[Any, ...], dict[str, float | bool]] = {}
    for values in itertools.product(*lists):
        settings = dict(zip(SWEPT, values, strict=True))
        idle = _without_effect(settings, job.unlearn)
        found.setdefault(tuple(None if name in idle else settings[name] for name in SWEPT), settings)
    return list(found.values())


def list_trials(job: JobConfig) -> list[Trial]:
    """Combine the job's lists, the last one fastest. What means the same is tried once, as it stands first.

    Raises:
        ConfigError: If there are more combinations than ``sweep.max_trials``.
    """
    combinations = _combine(job)
    if len(combinations) > job.sweep.max_trials:
        sizes = ", ".join(f"{name} {len(set(getattr(job.sweep, name)))}" for name in SWEPT)
        raise ConfigError(
            f"sweep: the lists combine to {len(combinations)} trials ({sizes}), sweep.max_trials allows "
            f"{job.sweep.max_trials}. Nothing was started. Shorten a list or raise sweep.max_trials."
        )
    trials = []
    for settings in combinations:
        unlearn = job.unlearn.model_copy(update=settings | {"gate": settings["gate_weight"] > 0})
        digest = sha256_hex(canonical_json(unlearn.model_dump(mode="json"), where="sweep"))
        trial_job = job.model_copy(update={"unlearn": unlearn})
        trials.append(Trial(name=f"trial-{digest[:16]}", settings=settings, job=trial_job))
    return trials


def run_trial(config: dict[str, Any], tasks: dict[str, str]) -> None:
    """Unlearn with one combination of settings; tell Tune how far it is after every epoch, and at the end the recalls.

    What trying again cannot mend is reported, not raised: Tune tries again what raises or dies.

    Args:
        config: ``trial``, the trial's name.
        tasks: The task of every trial, as JSON.
    """
    task = WorkerTask.model_validate_json(tasks[config["trial"]])
    torch.set_num_threads(task.job.scaling.threads_per_worker)
    try:
        result = TaskRun(task, LocalCollective(), _report_epoch).run()[task.stages[0].name]
    except TransientError:
        raise
    except TruError as error:
        tune.report({"error": str(error), "error_kind": type(error).__name__})
        return
    tune.report(figures_of(result))


def figures_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep looks at in a trial's result: nothing of test pairs."""
    names = ("valid_recall20", "forget_recall20", "seconds", "epochs", "best_epoch")
    score = candidate_score(result["valid_recall20"], result["forget_recall20"])
    return {"score": score} | {name: result[name] for name in names}


def _report_epoch(stage: str, state: TrainingState, max_epochs: int) -> None:
    whole = {"epochs": state.epoch, "best_epoch": state.best_epoch, "seconds": state.seconds}
    tune.report(state.history[-1] | whole)
