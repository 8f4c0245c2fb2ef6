"""The trials of a sweep: one for every combination of the job's lists, each run in one process.

Ray Tune only starts trials and hears of them: what one does is the stage of ``tru unlearn``, in the same body that a
worker of Ray Train runs.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ray import tune

from tru_core.artifact import sha256_hex
from tru_core.collective import LocalCollective
from tru_core.errors import ConfigError, DataError, TransientError, TruError
from tru_core.fit import TrainingState
from tru_core.problem import candidate_score
from tru_core.unlearning.tru.settings import TRUSettings
from workflows.config.job import JobConfig
from workflows.config.unlearn import UnlearnConfig, named_unlearn
from workflows.running import runs
from workflows.running.results import StageResult
from workflows.running.worker import TaskRun
from workflows.storage import canonical_json
from workflows.tasks import Forget, WorkerTask


@dataclass(frozen=True)
class Trial:
    """One combination of settings.

    Attributes:
        name: By content; the trial's results lie under it in the run's folder.
        settings: The swept settings and their values.
        job: The job file with these settings.
    """

    name: str
    settings: dict[str, Any]
    job: JobConfig


def _without_effect(settings: Mapping[str, Any], unlearn: UnlearnConfig) -> set[str]:
    """Name the swept settings of TRU that change nothing beside the others: see :mod:`workflows.config.sweep`."""
    own = unlearn.settings
    if not isinstance(own, TRUSettings):
        return set()
    moves = settings.get("shared_learning_rate", own.shared_learning_rate or 0.0) > 0
    repairs = own.repairs(moves_shared=moves)
    return (set() if repairs else {"branch_scaling"}) | (set() if moves else {"gate_weight"})


def _combine(job: JobConfig) -> list[dict[str, Any]]:
    """Every combination of the job's lists; of those that mean the same, the first."""
    lists = job.sweep.lists
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for values in itertools.product(*lists.values()):
        settings = dict(zip(lists, values, strict=True))
        idle = _without_effect(settings, job.unlearn)
        found.setdefault(tuple(None if name in idle else settings[name] for name in lists), settings)
    return list(found.values())


def _with_trial(unlearn: UnlearnConfig, settings: Mapping[str, Any]) -> UnlearnConfig:
    """The job's method with a trial's settings; a gate of no weight is off."""
    changes = dict(settings)
    if "gate_weight" in settings and "gate" not in settings and unlearn.setting("gate", None) is not None:
        changes["gate"] = settings["gate_weight"] > 0
    return unlearn.with_settings(changes, where="sweep")


def list_trials(job: JobConfig) -> list[Trial]:
    """Combine the job's lists, the last one fastest. What means the same is tried once, as it stands first.

    Raises:
        ConfigError: If there is no list, or there are more combinations than ``sweep.max_trials``.
    """
    lists = job.sweep.lists
    if not lists:
        known = ", ".join(type(job.unlearn.settings).model_fields) or "none"
        raise ConfigError(
            f"sweep: no list says what to try of {job.unlearn.method}. Nothing was started. Give a list of values for "
            f"one of its settings: {known}."
        )
    combinations = _combine(job)
    if len(combinations) > job.sweep.max_trials:
        sizes = ", ".join(f"{name} {len(set(values))}" for name, values in lists.items())
        raise ConfigError(
            f"sweep: the lists combine to {len(combinations)} trials ({sizes}), sweep.max_trials allows "
            f"{job.sweep.max_trials}. Nothing was started. Shorten a list or raise sweep.max_trials."
        )
    trials = []
    for settings in combinations:
        unlearn = _with_trial(job.unlearn, settings)
        digest = sha256_hex(canonical_json(named_unlearn(unlearn), where="sweep"))
        trial_job = job.model_copy(update={"unlearn": unlearn})
        trials.append(Trial(name=f"trial-{digest[:16]}", settings=settings, job=trial_job))
    return trials


def trial_stage(trial: Trial) -> Forget:
    """What a trial does: the job's method with the trial's settings."""
    return runs.forget_stage(trial.job.unlearn).model_copy(update={"name": trial.name})


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


def figures_of(result: StageResult) -> dict[str, Any]:
    """What a sweep looks at in a trial's result: nothing of test pairs.

    Raises:
        DataError: If the request names no interaction: there is nothing to score.
    """
    valid, forget = result.valid_recall20, result.forget_recall20
    if valid is None or forget is None:
        raise DataError("the forget set names no training interaction: a sweep has nothing to score. Name another.")
    names = ("valid_recall20", "forget_recall20", "seconds", "epochs", "best_epoch")
    return {"score": candidate_score(valid, forget)} | {name: getattr(result, name) for name in names}


def _report_epoch(stage: str, state: TrainingState, max_epochs: int) -> None:
    whole = {"epochs": state.epoch, "best_epoch": state.best_epoch, "seconds": state.seconds}
    tune.report(state.history[-1] | whole)
