"""Making the model that has forgotten a batch: unlearned; if the audit refuses that, more strongly; at last retrained.

Every attempt writes under run ids and prefixes of its own, and its record is written last. A run that was killed takes
the records that are there and goes on with the attempt that has none. Nothing here is published.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

from pydantic import JsonValue, ValidationError

from tru_core.errors import AuditError, IntegrityError
from tru_core.receipts.claims import EXACT_METHODS
from tru_core.settings import Settings
from workflows.config.job import JobConfig
from workflows.config.unlearn import UnlearnConfig
from workflows.deletions.batches.plan import BatchPlan
from workflows.models.batches import batch_key
from workflows.models.publish import Version
from workflows.running import runs
from workflows.running.results import read_result
from workflows.storage import FileEntry, ObjectStore, read_json, stage_result_key, write_json
from workflows.tasks import Fit, Stage, WorkerTask

Name = Literal["unlearn", "stronger", "retrain"]
Figures = dict[str, Any]
AuditFunction = Callable[..., dict[str, Any]]
"""``(store, job, *, original, candidate, snapshot, request, show_progress)`` to the audit's verdict and findings."""


class Attempt(Settings):
    """A candidate model and what the audit said of it.

    Attributes:
        method: What the version log and the receipt call it: its name in ``tru_core.unlearning.methods``.
        settings: Of the method.
        seed: From which it drew.
        run_id, stage: Where its result lies.
        audit: What the audit said: ``verdict``, ``findings``, ``version``; None where there was none.
    """

    name: Name
    method: str
    settings: dict[str, JsonValue]
    seed: int
    run_id: str
    stage: str
    manifest: FileEntry
    audit: dict[str, JsonValue] | None

    @property
    def verdict(self) -> str | None:
        """The audit's verdict; None where there was none."""
        return None if self.audit is None else str(self.audit["verdict"])

    def is_good_enough(self, job: JobConfig) -> bool:
        """Whether policy lets it be published. An exact method, such as training from scratch, needs no audit."""
        accepted = {"required": ("passed",), "not_failed": ("passed", "inconclusive")}
        return self.method in EXACT_METHODS or self.audit is None or self.verdict in accepted[job.delete.audit]


def attempt_names(job: JobConfig, plan: BatchPlan) -> list[Name]:
    """What is tried, in this order."""
    if plan.method == "retrain":
        return ["retrain"]
    names: list[Name] = ["unlearn"]
    for fallback in job.delete.on_refused if job.delete.audit != "off" else ():
        if fallback == "stop":
            break
        if fallback == "retrain" or job.delete.stronger:
            names.append(fallback)
    return names


def make_candidate(
    store: ObjectStore,
    job: JobConfig,
    plan: BatchPlan,
    *,
    snapshot: FileEntry,
    audit: AuditFunction,
    show_progress: bool,
) -> Attempt:
    """Make a model that policy lets be published, or take the one that an interrupted run made.

    Args:
        snapshot: The snapshot without the batch's rows: what a retraining trains on.
        audit: Asked where policy requires an audit.

    Raises:
        AuditError: If no attempt passed. The attempts are recorded; the same batch is not tried again in vain.
    """
    request = write_json(store, batch_key(plan.model, plan.batch_id, "request"), plan.rows.model_dump(mode="json"))
    verdicts = []
    for name in attempt_names(job, plan):
        attempt = read_attempt(store, plan, name)
        if attempt is None:
            task = _task(job, plan, name, snapshot=snapshot, request=request)
            attempt = _carry_out(store, job, plan, name, task, audit=audit, show_progress=show_progress)
            write_json(store, _attempt_key(plan, name), attempt.model_dump(mode="json"))
        if attempt.is_good_enough(job):
            return attempt
        verdicts.append(f"{name}: {attempt.verdict}")
    raise AuditError(
        f"batch {plan.batch_id}: no model passed the audit ({', '.join(verdicts)}). Nothing was published: version "
        f"{plan.version} still serves, and the requests stay due. Add stronger or retrain to delete.on_refused, change "
        f"delete.stronger or the block audit of the job file, and run the same command again."
    )


def published_attempt(store: ObjectStore, plan: BatchPlan, version: Version) -> Attempt:
    """The attempt whose model a batch published.

    Raises:
        IntegrityError: If it has no record.
    """
    for name in get_args(Name):
        attempt = read_attempt(store, plan, name)
        if attempt is not None and attempt.run_id == version.run_id:
            return attempt
    raise IntegrityError(f"batch {plan.batch_id} published version {version.version}, but its attempt has no record.")


def read_attempt(store: ObjectStore, plan: BatchPlan, name: Name) -> Attempt | None:
    """Read the record of an attempt; None if there is none.

    Raises:
        IntegrityError: If it is damaged.
    """
    key = _attempt_key(plan, name)
    if not store.exists(key):
        return None
    try:
        return Attempt.model_validate(read_json(store, key))
    except ValidationError as error:
        raise IntegrityError(f"{key} is no record of an attempt. Restore it from a backup.") from error


def forget_attempt(store: ObjectStore, plan: BatchPlan, attempt: Attempt) -> None:
    """Drop the record and the result of an attempt whose model is damaged, so that the next run makes it anew."""
    store.delete(_attempt_key(plan, attempt.name))
    store.delete(stage_result_key(attempt.run_id, attempt.stage))


def attempt_figures(store: ObjectStore, attempt: Attempt) -> Figures:
    """What the workers measured of an attempt's model."""
    return read_result(store, stage_result_key(attempt.run_id, attempt.stage)).plain_figures()


def _attempt_key(plan: BatchPlan, name: Name) -> str:
    return batch_key(plan.model, plan.batch_id, f"attempt-{name}")


def _method(job: JobConfig, name: Name) -> UnlearnConfig:
    """How an attempt other than a retraining forgets."""
    return job.unlearn if name == "unlearn" else job.delete.stronger_method(job.unlearn)


def _task(job: JobConfig, plan: BatchPlan, name: Name, *, snapshot: FileEntry, request: FileEntry) -> WorkerTask:
    """What the workers do. Unlearning needs the snapshot with the rows, a retraining the one without."""
    run_id = f"deletion-{plan.batch_id}-{name}"
    if name == "retrain":
        return WorkerTask(job=job, run_id=run_id, snapshot=snapshot, stages=[Fit(name="retrain")])
    own = job.model_copy(update={"unlearn": _method(job, name)})
    stages: list[Stage] = [runs.forget_stage(own.unlearn)]
    return WorkerTask(
        job=own, run_id=run_id, snapshot=plan.snapshot, stages=stages, request=request, original=plan.original
    )


def _carry_out(
    store: ObjectStore,
    job: JobConfig,
    plan: BatchPlan,
    name: Name,
    task: WorkerTask,
    *,
    audit: AuditFunction,
    show_progress: bool,
) -> Attempt:
    [stage] = task.stages
    result = runs.results_of(store, task, show_progress=show_progress)[stage.name]
    manifest = runs.kept_model(result, task.run_id)
    found = None
    if job.delete.audit != "off" and name != "retrain":
        found = audit(
            store,
            task.job,
            original=plan.original,
            candidate=manifest,
            snapshot=plan.snapshot,
            request=task.request,
            show_progress=show_progress,
        )
    own = task.job.unlearn
    return Attempt(
        name=name,
        method="retrain" if name == "retrain" else own.method,
        settings=(job.fit if name == "retrain" else own.settings).model_dump(mode="json"),
        seed=job.fit.seed if name == "retrain" else own.setting("seed", job.fit.seed),
        run_id=task.run_id,
        stage=stage.name,
        manifest=manifest,
        audit=found,
    )
