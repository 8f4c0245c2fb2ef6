"""``tru audit``: train what is missing, examine each candidate, say passed, failed or inconclusive with all evidence.

First the runs of :mod:`workflows.experiments.audit.grid` (Original, Retrains, candidates, shadow models, a training on
planted data), side by side as Ray tasks; then one task for each candidate, which compares whole systems in one process.
Both are named by content: an audit that is killed and started again costs only what is missing. Publishes nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tru_core.artifact import sha256_hex
from tru_core.audits.base import AUDIT_VERSION
from tru_core.collective import LocalCollective
from tru_core.errors import AuditError, IntegrityError, TransientError, TruError
from workflows.config.audit import CONTROLS, AuditCandidate
from workflows.config.compare import ORIGINAL, RETRAIN
from workflows.config.job import JobConfig
from workflows.config.unlearn import own_seeds
from workflows.experiments.audit.case import BROKEN, ExamineSettings, Kept, check_attacks, examine
from workflows.experiments.audit.grid import AuditGrid, list_audit, planting_of
from workflows.experiments.audit.output import FORMATS, write_output
from workflows.experiments.audit.scope import AuditScope, scope_of
from workflows.experiments.compare.grid import Grid, GridRun
from workflows.experiments.compare.grid_runs import RunFunction, run_alone, run_missing
from workflows.output_files import check_outputs
from workflows.running.outcomes import recorded
from workflows.running.results import read_result
from workflows.running.runs import run_name
from workflows.running.worker import TaskRun, note_run
from workflows.storage import (
    FileEntry,
    ObjectStore,
    canonical_json,
    open_store,
    read_json,
    stage_result_key,
    write_json,
)
from workflows.tasks import WorkerTask

Figures = dict[str, Any]
_NAME = "audit"


class Examination(WorkerTask):
    """What is asked of the process that examines a candidate: all that a worker reads, and no stage."""

    asked: ExamineSettings


def examine_alone(task_json: str, title: str, board: Any) -> dict[str, str]:
    """Examine one candidate in this process. What trying again cannot mend is returned, as by ``run_alone``.

    Args:
        title, board: As of :func:`workflows.experiments.compare.grid_runs.run_alone`; an examination tells nothing in
            between.
    """
    task = Examination.model_validate_json(task_json)
    torch.set_num_threads(task.job.scaling.threads_per_worker)
    try:
        _examine(task)
    except TransientError:
        raise
    except TruError as error:
        return {"kind": type(error).__name__, "text": str(error)}
    return {}


def _examine(task: Examination) -> None:
    """Carry out an examination, and write its result."""
    run = TaskRun(task.model_copy(update={"planting": None}), LocalCollective())
    planted = None if task.planting is None else TaskRun(task, LocalCollective())
    note_run(run.store, task)
    write_json(run.store, stage_result_key(task.run_id, _NAME), examine(run, task.asked, planted))


def _kept(store: ObjectStore, run: GridRun, name: str) -> Kept:
    """What a finished run kept."""
    result = read_result(store, run.key)
    return Kept(name=name, seed=run.seed, model=result.model, look=result.look)


def _shadow_entries(store: ObjectStore, grid: AuditGrid) -> list[FileEntry]:
    keys = [stage_result_key(run.task.run_id, stage.name) for run in grid.shadows for stage in run.task.stages]
    looks = [(key, read_result(store, key).look) for key in keys]
    for key, look in looks:
        if look is None:
            raise IntegrityError(f"{key} names nothing that was kept of a shadow model. Delete it and audit again.")
    return [look for _, look in looks if look is not None]


def _candidate_kept(
    store: ObjectStore, grid: AuditGrid, candidate: AuditCandidate, original: Kept, runs: dict[str, GridRun]
) -> Kept:
    kept = original if candidate.title not in runs else _kept(store, runs[candidate.title], candidate.title)
    broken = candidate.name if candidate.name in BROKEN else ""
    return kept.model_copy(update={"name": candidate.title, "broken": broken})


def _examinations(job: JobConfig, scope: AuditScope, grid: AuditGrid, store: ObjectStore) -> list[GridRun]:
    """One run for each candidate, named by all that it looks at."""
    if grid.original is not None:
        original = _kept(store, grid.original, ORIGINAL)
    else:
        original = Kept(name=ORIGINAL, seed=job.fit.seed, model=scope.original)
    base = ExamineSettings(
        original=original,
        candidate=original,
        retrains=[_kept(store, run, f"{RETRAIN}, seed {seed}") for seed, run in grid.retrains.items()],
        shadows=_shadow_entries(store, grid),
        attacks=job.audit.attacks,
        seed=job.audit.seed,
    )
    if scope.candidate is not None:
        published = Kept(name=scope.title, seed=job.fit.seed, model=scope.candidate)
        seeds = job.unlearn.fresh_seeds(scope.method)
        changes = {"candidate": published, "method": scope.method, "fresh_seeds": seeds}
        return [_examination(job, scope, base.model_copy(update=changes), None)]
    planting = None if grid.planted is None else planting_of(job, scope)
    found = []
    for candidate in job.audit.candidates:
        changes = {
            "candidate": _candidate_kept(store, grid, candidate, original, grid.candidates),
            "method": "" if candidate.name in CONTROLS else candidate.name,
            "is_retrained": candidate.seed is not None,
            "fresh_seeds": _fresh_seeds(job, candidate),
        }
        settings = base.model_copy(update=changes | _planted_kept(store, grid, candidate))
        found.append(_examination(job, scope, settings, planting))
    return found


def _fresh_seeds(job: JobConfig, candidate: AuditCandidate) -> list[int]:
    """Where a method draws fresh rows from a seed of its own, that one; the others take the training's."""
    return [] if candidate.name in CONTROLS else own_seeds(candidate.parsed(job.unlearn))


def _planted_kept(store: ObjectStore, grid: AuditGrid, candidate: AuditCandidate) -> dict[str, Kept]:
    if grid.planted is None:
        return {}
    original = _kept(store, grid.planted, f"{ORIGINAL} on planted data")
    if candidate.seed is not None:  # Retrain never saw what was planted: its model of the real data stands for it
        return {"planted_original": original, "planted_candidate": original}
    return {
        "planted_original": original,
        "planted_candidate": _candidate_kept(store, grid, candidate, original, grid.planted_candidates),
    }


def _examination(job: JobConfig, scope: AuditScope, settings: ExamineSettings, planting: Any) -> GridRun:
    asked = settings.model_dump(mode="json")
    digest = sha256_hex(canonical_json([asked, AUDIT_VERSION], where="audit"))[:16]
    task = Examination(
        job=job,
        run_id=f"audit-{digest}",
        snapshot=scope.snapshot,
        stages=[],
        asked=settings,
        forget=None if scope.request is not None else job.forget,
        request=scope.request,
        planting=planting,
    )
    title = f"audit of {settings.candidate.name}"
    return GridRun(job.backbone.name, scope.label, title, job.fit.seed, task, result_name=_NAME)


def _raise_first(errors: dict[str, TruError], runs: Sequence[GridRun]) -> None:
    """An audit without one of its parts is no audit: a run that failed ends it. What is finished is kept."""
    for run in runs:
        if (error := errors.get(run.key)) is not None:
            more = f" And {len(errors) - 1} more." if len(errors) > 1 else ""
            raise type(error)(
                f"{run.title}: {error}{more} Nothing was judged. Finished runs are kept: the same command goes on."
            )


def verdict_error(figures: Figures) -> TruError | None:
    """The error of an audit that was not passed by every candidate, or None: exit code 6."""
    refused = [audit for audit in figures["audits"] if audit["verdict"] != "passed"]
    if not refused:
        return None
    named = "; ".join(f"{audit['candidate']}: {audit['verdict']}. {audit['reason']}" for audit in refused)
    return AuditError(f"{len(refused)} of {len(figures['audits'])} candidates did not pass. {named}")


def audit(
    job: JobConfig,
    *,
    outputs: Sequence[Path] = (),
    show_progress: bool = True,
    train: RunFunction = run_alone,
    examine: RunFunction = examine_alone,
) -> Figures:
    """Examine the candidates of a job's ``audit`` block. Needs a connection to Ray where something is missing.

    Args:
        outputs: Files for the report: JSON, Parquet, CSV, or HTML for a page to read.
        train, examine: What a Ray task does with a run.

    Returns:
        ``audits``: for each candidate what :func:`workflows.experiments.audit.case.examine` gives; and what it was
        about. The recorded outcome of an audit that somebody did not pass is an error, see :func:`verdict_error`.

    Raises:
        ConfigError: If an attack is unknown, or a file cannot be written.
        TruError: What the first run failed with.
    """
    check_outputs(outputs, FORMATS)
    check_attacks(job.audit.attacks)
    store = open_store(job.storage)
    scope = scope_of(job, store)
    grid = list_audit(job, scope, store)
    every = [*grid.grid.trainings, *grid.grid.runs]

    def carry_out(part: Grid, function: RunFunction, num_workers: int) -> None:
        scaling = job.scaling.model_copy(update={"num_workers": num_workers})
        errors = run_missing(
            part,
            store,
            scaling,
            max_concurrent_runs=job.audit.max_concurrent_runs,
            show_progress=show_progress,
            function=function,
        )
        _raise_first(errors, [*part.trainings, *part.runs])

    def body() -> Figures:
        carry_out(grid.grid, train, job.scaling.num_workers)
        runs = _examinations(job, scope, grid, store)
        carry_out(Grid(trainings=[], runs=runs), examine, 1)
        figures = _report(job, scope, [read_json(store, run.key) | {"result": run.key} for run in runs])
        for path in outputs:
            write_output(path, figures)
        return figures

    named = [sorted(run.key for run in every), job.audit.model_dump(mode="json"), AUDIT_VERSION]
    return recorded(store, run_name("audit-of", named), "audit", body, error_of=verdict_error)


def _report(job: JobConfig, scope: AuditScope, audits: list[Figures]) -> Figures:
    settings = {"backbone", "fit", "forget", "precision", "feature_scaling", "audit"}
    return {
        "dataset": job.dataset,
        "model": job.model,
        "backbone": job.backbone.name,
        "forget": scope.label,
        "settings": job.model_dump(mode="json", include=settings),
        "snapshot": scope.snapshot.model_dump(mode="json"),
        "audits": audits,
    }
