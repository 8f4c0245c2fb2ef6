"""A job on the tiny data set, and its Original trained in this process and published."""

from pathlib import Path
from typing import Any

import torch

from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.collective import LocalCollective
from workflows.config.job import JobConfig, parse
from workflows.data.snapshot import current_snapshot_entry
from workflows.models.publish import publish_version
from workflows.running.runs import kept_model, run_name
from workflows.running.worker import TaskRun
from workflows.storage import ObjectStore, open_store
from workflows.tasks import Fit, WorkerTask

JOB: dict[str, Any] = {
    "dataset": "tiny",
    "model": "tiny-mgcn",
    "backbone": {"settings": {"embedding_size": 16}},
    "fit": {"max_epochs": 8, "batch_size": 128, "learning_rate": 1e-2},
    "forget": {"share": 0.1},
    "unlearn": {"batch_size": 128, "reverse_steps": 4},
}


def make_job(storage: Path | str | dict[str, Any], **parts: Any) -> JobConfig:
    where = str(storage) if isinstance(storage, Path) else storage
    return parse(JobConfig, {"storage": where} | JOB | parts, where="test")


def publish_original(job: JobConfig) -> ObjectStore:
    """Write the tiny data set, train on it without Ray and publish version 1."""
    store = open_store(job.storage)
    manifest = write_tiny_snapshot(store, job.dataset)
    run_id = run_name("train", "tiny")
    stage = Fit(name="original")
    task = WorkerTask(job=job, run_id=run_id, snapshot=current_snapshot_entry(store, job.dataset)[1], stages=[stage])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = TaskRun(task, LocalCollective()).run()[stage.name]
    torch.set_num_threads(threads)
    publish_version(
        store,
        job.model,
        manifest=kept_model(result, run_id),
        parent_version=None,
        method="fit",
        dataset=job.dataset,
        snapshot_id=manifest.snapshot_id,
        run_id=run_id,
        job_digest=run_id,
    )
    return store
