"""Ray Tune over the settings of TRU: every combination of the job's lists, judged by validation and forget pairs.

Test pairs and Retrain take no part in the choice. A trial runs in one process, without Ray Train: at the size of
a search that is several times cheaper, and results do not depend on the number of workers. A sweep keeps numbers
only: models, checkpoints and Tune's own files can hold what is to be forgotten, and are deleted at its end.
"""

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray import tune

import tru_core.errors
from tru_core.artifact import sha256_hex
from tru_core.errors import ConfigError, TransientError
from tru_core.quoting import printable
from workflows.config.job import JobConfig
from workflows.config.unlearn import named_unlearn
from workflows.data.snapshot import current_snapshot_entry
from workflows.experiments.sweep.job_file import job_text, refuse_other_file, write_job_file
from workflows.experiments.sweep.trials import Trial, figures_of, list_trials, run_trial, trial_stage
from workflows.models.publish import current_version
from workflows.running.cluster import wait_for_cpus
from workflows.running.outcomes import recorded
from workflows.running.results import read_result
from workflows.running.runs import run_name
from workflows.storage import (
    ObjectStore,
    canonical_json,
    open_store,
    run_prefix,
    stage_result_key,
    write_json,
)
from workflows.tasks import WorkerTask, with_absolute_storage

Row = dict[str, Any]
TrialFunction = Callable[[dict[str, Any], dict[str, str]], None]


def _describe(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


class _Progress(tune.Callback):
    """One line on standard error for every trial that ends."""

    def __init__(self, trials: list[Trial]) -> None:
        self._settings = {trial.name: _describe(trial.settings) for trial in trials}
        self._num_ended = 0

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        found = trial.last_result
        if "error" in found:
            self._say(trial, f"failed: {found['error_kind']}: {found['error']}")
            return
        self._say(
            trial,
            f"score {found['score']:.4f}, validation recall@20 {found['valid_recall20']:.4f}, "
            f"forget recall@20 {found['forget_recall20']:.4f}, {found['seconds']:.1f} s",
        )

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._say(trial, "failed: it was lost")

    def _say(self, trial: Any, ending: str) -> None:
        self._num_ended += 1
        stamp = time.strftime("%H:%M:%S", time.gmtime())
        of_all = f"{self._num_ended}/{len(self._settings)}"
        sys.stderr.write(f"{stamp} trial {of_all}: {self._settings[trial.config['trial']]}: {printable(ending)}\n")


def _error_of(result: tune.Result) -> dict[str, str]:
    """Why a trial ended without a result."""
    metrics = result.metrics or {}
    if result.error is None and "error" in metrics:
        return {"error": metrics["error"], "error_kind": metrics["error_kind"]}
    cause = type(result.error).__name__
    return {"error": f"it was lost ({cause}). Run the same sweep again.", "error_kind": "TransientError"}


def _run_trials(
    trials: list[Trial], task: WorkerTask, store: ObjectStore, *, function: TrialFunction, show_progress: bool
) -> dict[str, dict[str, str]]:
    """Run trials on Ray Tune, then delete what Tune wrote. Results are in storage.

    Returns:
        By name, the errors of those that failed.
    """
    scaling, folder = task.job.scaling, f"{run_prefix(task.run_id)}/tune"
    wait_for_cpus(scaling.model_copy(update={"num_workers": 1}))
    filesystem, base = store.filesystem()
    tasks = {
        trial.name: task.model_copy(
            update={"job": with_absolute_storage(trial.job), "stages": [trial_stage(trial)]}
        ).model_dump_json()
        for trial in trials
    }
    # Ctrl-C ends the sweep instead of being taken for its regular end, Tune prints nothing on standard output
    # (which its verbose=0 alone does not mean), and keeps no files of figures.
    os.environ |= {
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(function, tasks=tasks), {"CPU": scaling.threads_per_worker}),
        param_space={"trial": tune.grid_search(list(tasks))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=task.job.sweep.max_concurrent_trials,
            reuse_actors=True,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name=secrets.token_hex(8),
            storage_path=f"{base}/{folder}",
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=scaling.max_failures),
            callbacks=[_Progress(trials)] if show_progress else [],
            verbose=0,
        ),
    )
    try:
        results = tuner.fit()
        errors = {trial.name: _error_of(results[number]) for number, trial in enumerate(trials)}
        return {name: error for name, error in errors.items() if not store.exists(stage_result_key(task.run_id, name))}
    finally:
        for info in store.list(folder):
            store.delete(info.key)
        if filesystem.get_file_info(f"{base}/{folder}").type == pyarrow.fs.FileType.Directory:
            filesystem.delete_dir(f"{base}/{folder}")


def _name_of(trial: Any) -> str:
    return trial.config["trial"]


def _row(trial: Trial, store: ObjectStore, run_id: str, error: dict[str, str] | None) -> Row:
    """A trial's line in the table: its settings, and its figures or its error."""
    row: Row = {"trial": trial.name} | trial.settings
    figures: Row = error or figures_of(read_result(store, stage_result_key(run_id, trial.name)))
    columns = ("valid_recall20", "forget_recall20", "score", "seconds", "epochs", "best_epoch", "error", "error_kind")
    return row | {name: figures.get(name) for name in columns}


def _drop_states(store: ObjectStore, run_id: str, trials: list[Trial]) -> None:
    """Delete the models and checkpoints of trials; what is left of each is its result."""
    for trial in trials:
        folder = f"{run_prefix(run_id)}/{trial.name}"
        for info in store.list(folder):
            if info.key != stage_result_key(run_id, trial.name):
                store.delete(info.key)


def best_of(rows: list[Row]) -> Row:
    """The row of the highest score; of equal scores, rounding apart, the one with the better validation recall."""
    finished = [row for row in rows if row["error"] is None]
    return max(finished, key=lambda row: (round(row["score"], 9), row["valid_recall20"]))


def _raise_common_error(rows: list[Row]) -> None:
    if any(row["error"] is None for row in rows):
        return
    kinds = {row["error_kind"] for row in rows}
    kind = getattr(tru_core.errors, kinds.pop(), TransientError) if len(kinds) == 1 else TransientError
    raise kind(f"all {len(rows)} trials failed. The first: {rows[0]['error']}")


def sweep(
    job: JobConfig, *, best_job_path: Path, show_progress: bool = True, function: TrialFunction = run_trial
) -> dict[str, Any]:
    """Try every combination of the job's sweep lists on the version that serves; write the best as a job file.

    Publishes nothing. A repeated sweep takes the results of finished trials as they are.

    Args:
        best_job_path: Where the job file goes. A file with other content there is not replaced.
        function: What Ray Tune runs for each trial.

    Returns:
        ``trials``: a line for each, in the order of the lists, failed ones with ``error``; ``best``: the line of the
        highest score, of equals that of the better validation recall; ``method``, and ``swept``: the names of its
        settings that were tried; ``num_failed``, ``best_job``, ``trials_file``.

    Raises:
        ConfigError: If there are too many combinations, or the file cannot be written.
        ConflictError: If another file is there.
        TruError: What all trials failed with; TransientError if their errors differ.
    """
    store = open_store(job.storage)
    manifest, entry = current_snapshot_entry(store, job.dataset)
    start = current_version(store, job.model)
    grid = job.sweep.lists
    fixed = {name: value for name, value in named_unlearn(job.unlearn).items() if name not in {*grid, "gate"}}
    kept = job.model_dump(mode="json", include={"dataset", "precision", "feature_scaling", "backbone", "fit", "forget"})
    run_id = run_name("sweep", kept, fixed, grid, entry.sha256, start.manifest.sha256)

    def body() -> dict[str, Any]:
        trials = list_trials(job)
        comment = f"The best setting of {run_id} ({len(trials)} trials), judged by validation and forget pairs."
        texts = {trial.name: job_text(trial.job, comment=comment) for trial in trials}
        refuse_other_file(best_job_path, set(texts.values()))
        if not best_job_path.absolute().parent.is_dir():
            raise ConfigError(f"{best_job_path}: its folder does not exist. Nothing was started. Make it first.")
        task = WorkerTask(job=job, run_id=run_id, snapshot=entry, stages=[], forget=job.forget, original=start.manifest)
        pending = [trial for trial in trials if not store.exists(stage_result_key(run_id, trial.name))]
        errors: dict[str, dict[str, str]] = {}
        if pending:
            errors = _run_trials(pending, task, store, function=function, show_progress=show_progress)
        rows = [_row(trial, store, run_id, errors.get(trial.name)) for trial in trials]
        _drop_states(store, run_id, trials)
        _raise_common_error(rows)
        best = best_of(rows)
        num_failed = sum(row["error"] is not None for row in rows)
        table = {
            "version": start.version,
            "snapshot_id": manifest.snapshot_id,
            "trials": rows,
            "best": best,
            "num_failed": num_failed,
        }
        # Failed trials are tried again by the next attempt, so a table with one of them is not the last word.
        digest = sha256_hex(canonical_json(table, where="trials"))[:16]
        name = f"trials-{digest}.json" if num_failed else "trials.json"
        written = write_json(store, f"{run_prefix(run_id)}/{name}", table)
        write_job_file(best_job_path, texts[best["trial"]])
        about = {"method": job.unlearn.method, "swept": list(grid)}
        return table | about | {"best_job": str(best_job_path.absolute()), "trials_file": written.key}

    return recorded(store, run_id, "sweep", body)
