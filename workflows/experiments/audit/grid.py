"""The runs behind an audit, listed and named by content before any of them starts.

The Original and the Retrains are the very runs that ``train`` and ``compare`` make, under the same names: neither
trains what the other has. What only an audit needs (models that methods leave, shadow models, a training on planted
data) lies under names of its own. A run that has a result is not run again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tru_core.audits.injection import PlantingSettings
from tru_core.errors import ConfigError
from workflows.config.audit import CONTROLS, AuditCandidate
from workflows.config.compare import ORIGINAL, RETRAIN
from workflows.config.job import JobConfig
from workflows.experiments.audit.scope import AuditScope
from workflows.experiments.compare.grid import Grid, GridRun, compared_stage, measured_run, retrain_stage
from workflows.running.measuring import JUDGE_SEED, MEASURES_VERSION
from workflows.running.results import read_result
from workflows.running.runs import job_settings, run_name, training_task
from workflows.storage import ObjectStore
from workflows.tasks import Fit, Forget, Shadow, Stage, WorkerTask


@dataclass(frozen=True)
class AuditGrid:
    """Every run that must have a result before an audit can examine anything.

    Attributes:
        original: The training of the Original; None where a published version stands for it.
        retrains: By seed.
        candidates: By title; those without a run (controls, published versions) are left out.
        shadows: In groups, in the order of their numbers.
        planted: The training on planted data; None without the injection audit.
        planted_candidates: By title, what methods make of it.
    """

    original: GridRun | None
    retrains: dict[int, GridRun]
    candidates: dict[str, GridRun]
    shadows: list[GridRun]
    planted: GridRun | None = None
    planted_candidates: dict[str, GridRun] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The same runs as one grid: trainings first, then Retrains, then the rest."""
        trainings = [run for run in (self.original, self.planted) if run is not None]
        retrained = {run.key: run for run in (*self.retrains.values(), *self.candidates.values())}
        return Grid(trainings=trainings, runs=[*retrained.values(), *self.planted_candidates.values(), *self.shadows])


def planting_of(job: JobConfig, scope: AuditScope) -> PlantingSettings | None:
    """What the injection audit plants: users where users are deleted, else single interactions.

    Raises:
        ConfigError: If items are deleted.
    """
    if job.audit.injection is None:
        return None
    if scope.regime == "item":
        raise ConfigError(
            "audit.injection plants users or interactions and says nothing of deleted items. Nothing was started. "
            "Leave it out, or audit another forget set."
        )
    return PlantingSettings(regime=scope.regime, **job.audit.injection.model_dump())


def list_audit(job: JobConfig, scope: AuditScope, store: ObjectStore) -> AuditGrid:
    """List the runs that a job's audit is made of.

    Raises:
        ConfigError: If the injection audit does not go with the request, or a candidate's seed is a reference's.
    """
    original = None
    if scope.original is None:
        task = training_task(job, scope.snapshot)
        original = GridRun(job.backbone.name, forget="", method=ORIGINAL, seed=job.fit.seed, task=task)
    seeds = job.audit.reference_seeds(job.fit.seed)
    retrains = {seed: _retrain(job, scope, store, original, seed) for seed in seeds}
    asked = [] if scope.candidate is not None else job.audit.candidates
    candidates = {
        candidate.title: run
        for candidate in asked
        if (run := _candidate(job, scope, store, original, candidate, seeds)) is not None
    }
    planted, planted_candidates = _planted(job, scope, asked)
    return AuditGrid(original, retrains, candidates, _shadow_groups(job, scope), planted, planted_candidates)


def _named(job: JobConfig, scope: AuditScope, word: str, *parts: Any) -> str:
    """A run's name from the job, the data and the request: the drawn one or a batch's."""
    request = None if scope.request is None else scope.request.sha256
    forget = "forget" if scope.request is None else "fit"
    return run_name(word, job_settings(job, "fit", forget), scope.snapshot.sha256, request, *parts)


def _task(job: JobConfig, scope: AuditScope, run_id: str, stages: Sequence[Stage]) -> WorkerTask:
    return WorkerTask(
        job=job,
        run_id=run_id,
        snapshot=scope.snapshot,
        stages=list(stages),
        forget=None if scope.request is not None else job.forget,
        request=scope.request,
        original=scope.original,
    )


def _retrain(job: JobConfig, scope: AuditScope, store: ObjectStore, original: GridRun | None, seed: int) -> GridRun:
    """A Retrain: the run that ``compare`` makes, or one beside it where that one was made before models were kept."""
    seeded = job.model_copy(update={"fit": job.fit.model_copy(update={"seed": seed})})
    needs = original if seed == job.fit.seed else None
    stage = retrain_stage(needs)
    if scope.request is None:
        run = measured_run(needs, seeded, job.backbone.name, scope.snapshot, (RETRAIN, stage))
    else:
        task = _task(seeded, scope, _named(seeded, scope, "audit-grid", JUDGE_SEED, MEASURES_VERSION), [stage])
        run = GridRun(job.backbone.name, scope.label, RETRAIN, seed, task, needs)
    if store.exists(run.key):
        made = read_result(store, run.key)
        if made.model is None and made.look is None:
            return _renamed(run, "retrain-kept")
    return run


def _renamed(run: GridRun, name: str) -> GridRun:
    task = run.task.model_copy(update={"stages": [run.stage.model_copy(update={"name": name})]})
    return GridRun(run.backbone, run.forget, run.method, run.seed, task, run.needs)


def _method_stage(job: JobConfig, candidate: AuditCandidate) -> Forget:
    """What a method leaves is kept: ``compare`` measures it and drops it, so this is a run of its own."""
    stage = compared_stage(candidate.name, candidate.parsed(job.unlearn), where=candidate.title)
    return stage.model_copy(update={"name": f"kept-{stage.name}", "keeps": True})


def _candidate(
    job: JobConfig,
    scope: AuditScope,
    store: ObjectStore,
    original: GridRun | None,
    candidate: AuditCandidate,
    seeds: list[int],
) -> GridRun | None:
    if candidate.name in CONTROLS and candidate.seed is None:
        return None
    if candidate.seed is not None:
        if candidate.seed in seeds:
            raise ConfigError(
                f"audit.candidates: {candidate.title}: seed {candidate.seed} is a reference's too: it would be held "
                f"against itself. Nothing was started. Choose a seed other than {', '.join(map(str, seeds))}."
            )
        return _retrain(job, scope, store, original, candidate.seed)
    stage = _method_stage(job, candidate)
    if scope.request is None:
        return measured_run(original, job, job.backbone.name, scope.snapshot, (candidate.title, stage))
    task = _task(job, scope, _named(job, scope, "audit-grid", JUDGE_SEED, MEASURES_VERSION), [stage])
    return GridRun(job.backbone.name, scope.label, candidate.title, job.fit.seed, task, original)


def _shadow_groups(job: JobConfig, scope: AuditScope) -> list[GridRun]:
    """Groups of shadow models: one start of a process loads the data for all of a group."""
    asked, settings = job.audit, job.audit.shadow_settings(job.fit)
    shadow_job = job.model_copy(update={"fit": settings.model_copy(update={"seed": 0})})
    run_id = _named(shadow_job, scope, "shadow", asked.seed)
    groups = []
    for start in range(0, asked.shadows, asked.shadow_group):
        numbers = range(start, min(start + asked.shadow_group, asked.shadows))
        stages = [_shadow_stage(number, asked.shadows, asked.seed) for number in numbers]
        title = f"shadow models {numbers.start + 1} to {numbers.stop} of {asked.shadows}"
        task = _task(shadow_job, scope, run_id, stages)
        groups.append(GridRun(job.backbone.name, scope.label, title, asked.seed, task))
    return groups


def _shadow_stage(number: int, num_shadows: int, seed: int) -> Shadow:
    name = f"shadow-{number:04d}-of-{num_shadows}"
    return Shadow(name=name, number=number, num_shadows=num_shadows, seed=seed)


def _planted(
    job: JobConfig, scope: AuditScope, asked: list[AuditCandidate]
) -> tuple[GridRun | None, dict[str, GridRun]]:
    """The training on planted data, and what each method makes of it."""
    planting = planting_of(job, scope)
    if planting is None or not asked:
        return None, {}
    run_id = run_name("planted", job_settings(job, "fit"), scope.snapshot.sha256, planting.model_dump(mode="json"))

    def run(title: str, stage: Stage, needs: GridRun | None) -> GridRun:
        task = WorkerTask(job=job, run_id=run_id, snapshot=scope.snapshot, stages=[stage], planting=planting)
        forget = "" if needs is None else "planted data"
        return GridRun(job.backbone.name, forget, title, job.fit.seed, task, needs)

    training = run(f"{ORIGINAL} on planted data", Fit(name="original"), None)
    methods = [candidate for candidate in asked if candidate.name not in CONTROLS and candidate.seed is None]
    return training, {c.title: run(c.title, _method_stage(job, c), training) for c in methods}
