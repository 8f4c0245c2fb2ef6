"""The body of one worker: bucket files in, stages of ``tru_core`` run, checkpoints and results out.

This is the seam between the outer ring and the algorithm. It knows storage and the core, not Ray:
``workflows.running.jobs`` runs it inside Ray Train, tests run it inside plain processes.
"""

from tru_core.collective import Collective
from tru_core.fit import TrainingState
from workflows.running.checkpoints import agree, drop_folder
from workflows.running.results import Results, read_result, write_result
from workflows.running.stages import OnProgress, run_stage
from workflows.running.task_context import TaskContext
from workflows.storage import ObjectStore, canonical_json, stage_result_key
from workflows.storage.object_keys import run_about_key, snapshot_id_of_manifest
from workflows.tasks import WorkerTask


def note_run(store: ObjectStore, task: WorkerTask) -> None:
    """Say in storage what data a run is of, before it writes anything else: a purge goes by that."""
    key = run_about_key(task.run_id)
    about = {"dataset": task.job.dataset, "snapshot_id": snapshot_id_of_manifest(task.snapshot.key)}
    store.put_if_absent(key, canonical_json(about, where=key))


def ignore_progress(stage: str, state: TrainingState, max_epochs: int) -> None:
    """Tell nobody how far a stage is."""


class TaskRun(TaskContext):
    """One worker's run of a task."""

    def __init__(
        self,
        task: WorkerTask,
        collective: Collective,
        on_progress: OnProgress = ignore_progress,
        *,
        store: ObjectStore | None = None,
    ) -> None:
        super().__init__(task, collective, store=store)
        self.on_progress = on_progress

    def run(self) -> Results:
        """Run the stages that have no result yet; return every stage's result by name."""
        is_first = self.collective.rank == 0
        if is_first:
            note_run(self.store, self.task)
        results: Results = {}
        for stage in self.task.stages:
            key = stage_result_key(self.task.run_id, stage.name)
            if agree(int(is_first and self.store.exists(key)), self.collective):
                results[stage.name] = read_result(self.store, key)
            else:
                results[stage.name] = run_stage(self, stage, earlier=results, on_progress=self.on_progress)
                if is_first:
                    write_result(self.store, self.task.run_id, stage.name, results[stage.name])
            if is_first:
                drop_folder(self.store, f"{self.folder(stage)}/checkpoints")
        return results
