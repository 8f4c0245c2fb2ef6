"""The runs of a comparison, listed and named by content before any of them starts.

Runs on one backbone, forget set and seed are stages of one named run: they answer the same question about the same
Original. Which other methods or seeds the job file asks for is no part of a name, so that adding one costs only
what is new.
"""

from dataclasses import dataclass

from tru_core.artifact import sha256_hex
from tru_core.settings import Settings
from workflows.config.compare import (
    ORIGINAL,
    RETRAIN,
    CompareBackbone,
    CompareMethod,
    refuse_duplicates,
)
from workflows.config.job import JobConfig
from workflows.config.unlearn import UnlearnConfig, named_settings
from workflows.running.measuring import JUDGE_SEED, MEASURES_VERSION
from workflows.running.runs import job_settings, run_name, training_task
from workflows.storage import FileEntry, canonical_json, stage_result_key
from workflows.tasks import Forget, Measure, Stage, WorkerTask


@dataclass(frozen=True)
class GridRun:
    """One run of a comparison, or the training of an Original.

    Attributes:
        backbone, forget, method: Labels; ``forget`` is empty for a training.
        seed: Seed of Original and Retrain.
        task: What the workers do, in one stage or in several that belong together.
        needs: The training whose model it starts from; None where it starts from nothing.
        result_name: Under what its result lies; "": under its last stage.
    """

    backbone: str
    forget: str
    method: str
    seed: int
    task: WorkerTask
    needs: "GridRun | None" = None
    result_name: str = ""

    @property
    def stage(self) -> Stage:
        """Its last stage: when that is done, all are."""
        return self.task.stages[-1]

    @property
    def key(self) -> str:
        """Where its result lies: that of its last stage."""
        return stage_result_key(self.task.run_id, self.result_name or self.stage.name)

    @property
    def title(self) -> str:
        """What progress and errors call it."""
        parts = [self.backbone, self.forget or "training", f"seed {self.seed}"]
        return f"{', '.join(parts)}: {self.method}"


@dataclass(frozen=True)
class Grid:
    """Every run of a comparison.

    Attributes:
        trainings: One Original for each backbone and seed.
        runs: What is measured, in the order of the table's rows.
    """

    trainings: list[GridRun]
    runs: list[GridRun]


def compared_methods(job: JobConfig) -> list[CompareMethod]:
    """The rows besides Original and Retrain: the job's methods and, where it asks for them, ablations.

    Raises:
        ConfigError: If an ablation is called as a method is, or the job's settings of TRU do not go with it.
    """
    methods = list(job.compare.methods)
    if job.compare.ablations:
        from tru_core.unlearning.ablations import ABLATIONS

        methods += [
            CompareMethod(name=ablation.method, label=label, settings=ablation.settings)
            for label, ablation in ABLATIONS.items()
        ]
        refuse_duplicates([ORIGINAL, RETRAIN, *(method.title for method in methods)], what="method")
    return methods


def compared_stage(method: str, settings: Settings, *, where: str) -> Forget:
    """A method's run to be compared, named by method and settings."""
    digest = sha256_hex(canonical_json(named_settings(method, settings), where=where))[:16]
    values = settings.model_dump(mode="json")
    return Forget(name=f"{method}-{digest}", method=method, settings=values, is_compared=True)


def _compared_stages(methods: list[CompareMethod], unlearn: UnlearnConfig, *, seed: int) -> list[tuple[str, Stage]]:
    """A labelled stage of a seed's runs for each row but Retrain's."""
    stages: list[tuple[str, Stage]] = [(ORIGINAL, Measure(name="original"))]
    for method in methods:
        stage = compared_stage(method.name, method.parsed(unlearn, seed=seed), where=method.title)
        stages.append((method.title, stage))
    return stages


def retrain_stage(needs: GridRun | None) -> Forget:
    """Retrain; its model is kept, because an audit holds every candidate against it."""
    source = "original" if needs else None
    return Forget(name="retrain", method="retrain", source=source, is_compared=True, keeps=True)


def measured_run(
    training: GridRun | None, job: JobConfig, title: str, snapshot: FileEntry, row: tuple[str, Stage]
) -> GridRun:
    """One measured run.

    Args:
        job: With the run's own backbone, seed and forget set.
        title: The backbone's label.
        row: The method's label, and what is done.
    """
    settings = job_settings(job, "fit", "forget")
    run_id = run_name("grid", settings, snapshot.sha256, {"judge": JUDGE_SEED, "measures": MEASURES_VERSION})
    task = WorkerTask(job=job, run_id=run_id, snapshot=snapshot, stages=[row[1]], forget=job.forget)
    label, seed = row[0], job.fit.seed
    return GridRun(backbone=title, forget=job.forget.label, method=label, seed=seed, task=task, needs=training)


def list_grid(job: JobConfig, snapshot: FileEntry) -> Grid:
    """List the runs that a job's comparison is made of.

    Raises:
        ConfigError: If the ablations do not go with the job's methods.
    """
    asked = job.compare
    methods = compared_methods(job)
    only_retrains = bool(asked.band_seeds) and not (asked.seeds or methods)
    seeds = asked.seeds or ([] if only_retrains else [job.fit.seed])
    with_band = [*seeds, *(seed for seed in asked.band_seeds if seed not in seeds)]
    if asked.band and len(with_band) == 1:
        with_band.append(with_band[0] + 1)
    stages = {seed: _compared_stages(methods, job.unlearn, seed=seed) for seed in seeds}
    own = CompareBackbone(name=job.backbone.name, settings=job.backbone.settings)
    trainings: list[GridRun] = []
    runs: list[GridRun] = []
    for backbone in asked.backbones or [own]:
        fit, title = backbone.fit_settings(job.fit), backbone.title
        parts = {seed: {"fit": fit.model_copy(update={"seed": seed})} for seed in with_band}
        jobs = {seed: job.model_copy(update=parts[seed] | {"backbone": backbone.recommender()}) for seed in with_band}
        trained = {
            seed: GridRun(title, forget="", method=ORIGINAL, seed=seed, task=training_task(jobs[seed], snapshot))
            for seed in seeds
        }
        trainings += trained.values()
        for forget in asked.forget or [job.forget]:
            asks = {seed: jobs[seed].model_copy(update={"forget": forget}) for seed in with_band}
            for row in zip(*stages.values(), strict=True):
                of_seed = zip(seeds, row, strict=True)
                runs += [measured_run(trained[seed], asks[seed], title, snapshot, stage) for seed, stage in of_seed]
            for seed in with_band if asked.retrain else []:
                training = trained.get(seed)
                runs.append(measured_run(training, asks[seed], title, snapshot, (RETRAIN, retrain_stage(training))))
    return Grid(trainings=trainings, runs=runs)


def work_order(grid: Grid) -> list[GridRun]:
    """What to start first: trainings, then the long Retrains, then everything else as listed."""
    retrains = [run for run in grid.runs if run.method == RETRAIN]
    return [*grid.trainings, *retrains, *(run for run in grid.runs if run.method != RETRAIN)]
