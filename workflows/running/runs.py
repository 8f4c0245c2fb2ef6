"""The workflows train and unlearn: a job file -> tasks for the workers -> results and versions.

A run is named by what decides its content (job settings, snapshot, starting model), so running the
same command again gives the results that are there, resumes what was interrupted, and trains
nothing twice; ``compare`` finds the Original that ``train`` made. The number of workers is not
part of the name: results do not depend on it.
"""

from typing import Any

from tru_core.artifact import sha256_hex
from tru_core.errors import ConflictError, IntegrityError
from workflows.config.job import JobConfig
from workflows.config.unlearn import UnlearnConfig, check_publishable, named_unlearn
from workflows.data.snapshot import current_snapshot_entry
from workflows.models.publish import Version, current_version, publish_version, read_versions
from workflows.running.jobs import run_task
from workflows.running.outcomes import recorded
from workflows.running.results import Results, StageResult, read_result
from workflows.storage import (
    FileEntry,
    ObjectStore,
    canonical_json,
    open_store,
    stage_result_key,
)
from workflows.tasks import Fit, Forget, WorkerTask

Figures = dict[str, Any]


def run_name(command: str, *parts: Any) -> str:
    """Name a run by the digest of what decides its content."""
    return f"{command}-{sha256_hex(canonical_json(list(parts), where='run name'))[:16]}"


def job_settings(job: JobConfig, *names: str) -> dict[str, Any]:
    """The parts of a job that decide a model's content, with the named blocks."""
    settings = job.model_dump(mode="json", include={"dataset", "precision", "feature_scaling", "backbone", *names})
    return settings | ({"unlearn": named_unlearn(job.unlearn)} if "unlearn" in settings else {})


def results_of(store: ObjectStore, task: WorkerTask, *, show_progress: bool) -> Results:
    """The results of a task's stages: those that are there, or what the workers make now."""
    keys = [stage_result_key(task.run_id, stage.name) for stage in task.stages]
    if all(store.exists(key) for key in keys):
        return {stage.name: read_result(store, key) for stage, key in zip(task.stages, keys, strict=True)}
    return run_task(task, show_progress=show_progress)


def forget_stage(unlearn: UnlearnConfig) -> Forget:
    """Unlearning for a new version: results and model lie under the method's name."""
    return Forget(name=unlearn.method, method=unlearn.method, settings=unlearn.settings.model_dump(mode="json"))


def kept_model(result: StageResult, run_id: str) -> FileEntry:
    """The model that a stage left.

    Raises:
        IntegrityError: If its result names none.
    """
    if result.model is None:
        raise IntegrityError(f"run {run_id}: its result names no model. Delete the result and run the command again.")
    return result.model


def training_task(job: JobConfig, snapshot: FileEntry) -> WorkerTask:
    """The training of a job's Original."""
    return WorkerTask(
        job=job,
        run_id=run_name("train", job_settings(job, "fit"), snapshot.sha256),
        snapshot=snapshot,
        stages=[Fit(name="original")],
    )


def _check_data_is_current(store: ObjectStore, job: JobConfig, entry: FileEntry) -> None:
    """Refuse to publish what was trained on a snapshot that is current no more: it may know who was deleted since.

    Raises:
        ConflictError: If another snapshot is current.
    """
    manifest, current = current_snapshot_entry(store, job.dataset)
    if current != entry:
        raise ConflictError(
            f"data set {job.dataset}: snapshot {manifest.snapshot_id} became current during the training. The model "
            f"was trained on an earlier one and was not published: it may know what was deleted. Run the same command "
            f"again."
        )


def train(job: JobConfig, *, show_progress: bool = True) -> Figures:
    """Train the Original and publish it as a model version."""
    store = open_store(job.storage)
    manifest, entry = current_snapshot_entry(store, job.dataset)
    task = training_task(job, entry)

    def body() -> Figures:
        original = results_of(store, task, show_progress=show_progress)["original"]
        _check_data_is_current(store, job, entry)
        version = publish_version(
            store,
            job.model,
            manifest=kept_model(original, task.run_id),
            parent_version=None,
            method="fit",
            dataset=job.dataset,
            snapshot_id=manifest.snapshot_id,
            run_id=task.run_id,
            job_digest=task.run_id,
        )
        figures = original.plain_figures()
        del figures["num_forget"]  # an ordinary training forgets nothing
        return {"version": version.version} | figures

    return recorded(store, task.run_id, "train", body)


def _starting_version(store: ObjectStore, job: JobConfig, digest: str) -> Version:
    """The version that serves; or its parent, where this very job made the one that serves."""
    current = current_version(store, job.model)
    if current.job_digest == digest and current.parent_version is not None:
        return read_versions(store, job.model)[current.parent_version - 1]
    return current


def unlearn(job: JobConfig, *, show_progress: bool = True) -> Figures:
    """Draw the job's forget set, unlearn it from the version that serves, publish the next version.

    Raises:
        ConfigError: If what the job's method leaves cannot be published.
    """
    check_publishable(job.unlearn)
    store = open_store(job.storage)
    manifest, entry = current_snapshot_entry(store, job.dataset)
    digest = run_name("unlearn-job", job_settings(job, "fit", "forget", "unlearn"), entry.sha256)
    start = _starting_version(store, job, digest)
    task = WorkerTask(
        job=job,
        run_id=run_name("unlearn", digest, start.manifest.sha256),
        snapshot=entry,
        stages=[forget_stage(job.unlearn)],
        forget=job.forget,
        original=start.manifest,
    )

    def body() -> Figures:
        result = results_of(store, task, show_progress=show_progress)[job.unlearn.method]
        _check_data_is_current(store, job, entry)
        version = publish_version(
            store,
            job.model,
            manifest=kept_model(result, task.run_id),
            parent_version=start.version,
            method=job.unlearn.method,
            dataset=job.dataset,
            snapshot_id=manifest.snapshot_id,
            run_id=task.run_id,
            job_digest=digest,
        )
        figures = {"version": version.version, "parent_version": start.version}
        return figures | result.plain_figures()

    return recorded(store, task.run_id, "unlearn", body)
