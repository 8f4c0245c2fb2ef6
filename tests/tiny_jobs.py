"""A job on the tiny data set that takes seconds. No Ray: plain processes import this quickly."""

from pathlib import Path
from typing import Any

import yaml

from workflows.config.job import JobConfig
from workflows.config.parsing import parse
from workflows.config.unlearn import UnlearnConfig
from workflows.config.yaml_reader import load_yaml
from workflows.running.results import Results
from workflows.running.runs import forget_stage, kept_model
from workflows.storage import FileEntry, ObjectStore, StorageConfig, dataset_log, read_log
from workflows.tasks import Fit, Forget, Stage, WorkerTask

FIT_EPOCHS, UNLEARN_ROUNDS = 4, 3
JOB = f"""
dataset: tiny
model: tiny-mgcn
precision: float64
backbone:
  name: mgcn
  settings: {{embedding_size: 8}}
fit: {{max_epochs: {FIT_EPOCHS}, batch_size: 96, learning_rate: 1e-2}}
unlearn: {{batch_size: 96, reverse_steps: {2 * UNLEARN_ROUNDS}, repair: true, max_quality_loss: 1.0}}
forget: {{regime: user, share: 0.1, seed: 4}}
"""
COMPARISON: list[Stage] = [
    Fit(name="original"),
    Forget(name="edges", method="edge_deletion"),
    forget_stage(UnlearnConfig.model_validate(yaml.safe_load(JOB)["unlearn"])),
    Forget(name="retrain", method="retrain", source=None),
]


def tiny_job(storage: StorageConfig | str, folder: Path, **changes: dict[str, Any] | str) -> JobConfig:
    """The job as a user would write it, with blocks changed key by key.

    Args:
        folder: Where the job file is written.
    """
    (folder / "job.yaml").write_text(JOB)
    values = load_yaml(folder / "job.yaml")
    values["storage"] = storage if isinstance(storage, str) else storage.model_dump(mode="json")
    for name, change in changes.items():
        values[name] = values.get(name, {}) | change if isinstance(change, dict) else change
    return parse(JobConfig, values, where="the tiny job")


def comparison_task(store: ObjectStore, job: JobConfig, run_id: str = "compare-tiny", **changes: Any) -> WorkerTask:
    """Original, edges deleted only, TRU and Retrain as one task."""
    snapshot = FileEntry.model_validate(read_log(store, dataset_log(job.dataset))[-1].entry["manifest"])
    fields = {"stages": COMPARISON, "forget": job.forget} | changes
    return WorkerTask(job=job, run_id=run_id, snapshot=snapshot, **fields)


def without_seconds(results: Results) -> dict[str, dict[str, Any]]:
    """What must be equal in two runs that mean the same: not the time, and not where the models lie."""
    return {
        stage: {n: value for n, value in result.to_json().items() if n not in ("seconds", "seconds_before", "model")}
        for stage, result in results.items()
    }


def flat(value: Any, name: str = "") -> dict[str, float]:
    """Numbers by their place, so that one comparison with a tolerance tells which differ."""
    if isinstance(value, dict):
        return {key: number for part, inner in value.items() for key, number in flat(inner, f"{name}/{part}").items()}
    if isinstance(value, list):
        return flat(dict(enumerate(value)), name)
    return {name: value}


def model_entry(results: Results, stage: str) -> FileEntry:
    """Where the model of a stage lies."""
    return kept_model(results[stage], stage)
