"""The body of one worker: bucket files in, stages of ``tru_core`` run, checkpoints and results out.

This is the seam between the outer ring and the algorithm. It knows storage and the core, not Ray:
``workflows.running.jobs`` runs it inside Ray Train, tests run it inside plain processes.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tru_core.artifact import sha256_hex
from tru_core.audits.injection import Planting, plant
from tru_core.backbones import BACKBONES, Backbone, BackboneInputs
from tru_core.collective import Collective
from tru_core.errors import ConfigError, DataError
from tru_core.fit import OnEpoch, TrainingState, fit, parameter_values, set_parameters
from tru_core.interactions import IntArray
from tru_core.unlearning.method import Tools
from tru_core.unlearning.methods import METHODS
from tru_core.unlearning.problem import Problem, evaluate, make_problem
from tru_core.unlearning.residue import ResidueProbe, make_probe
from tru_core.unlearning.tru import unlearn
from tru_core.unlearning.tru_settings import TRUSettings
from workflows.config.parsing import parse
from workflows.data.snapshot import read_manifest
from workflows.running.checkpoints import (
    agree,
    drop_folder,
    fresh_suffix,
    local_rows,
    read_newest_checkpoint,
    write_checkpoint,
)
from workflows.running.measuring import (
    JUDGE_SEED,
    cost_figures,
    forget_batches,
    inside_figures,
    judge,
    outcome_figures,
    pack_lists,
    sampled_lists,
    warm_up,
)
from workflows.running.shadow_models import Look, ShadowSettings, train_shadow, write_look
from workflows.running.worker_data import load_data, read_batches, read_request
from workflows.storage import (
    FileEntry,
    ObjectStore,
    canonical_json,
    open_store,
    put_file,
    read_json,
    read_verified,
    run_prefix,
    stage_result_key,
    write_json,
)
from workflows.storage.keys import run_about_key, snapshot_id_of_manifest, stage_lists_key
from workflows.storage.state_files import parse_state_manifest, read_state, write_state
from workflows.tasks import Stage, WorkerTask

OnProgress = Callable[[str, TrainingState, int], None]
Results = dict[str, dict[str, Any]]

log = logging.getLogger(__name__)


def note_run(store: ObjectStore, task: WorkerTask) -> None:
    """Say in storage what data a run is of, before it writes anything else: a purge goes by that."""
    key = run_about_key(task.run_id)
    about = {"dataset": task.job.dataset, "snapshot_id": snapshot_id_of_manifest(task.snapshot.key)}
    store.put_if_absent(key, canonical_json(about, where=key))


def max_rounds(settings: TRUSettings) -> int:
    """Say after how many rounds of steps, or epochs of Algorithm 1, TRU ends at the latest."""
    if settings.paper_literal:
        return settings.epochs
    return -(-settings.reverse_steps // settings.round_steps)


def ignore_progress(stage: str, state: TrainingState, max_epochs: int) -> None:
    """Tell nobody how far a stage is."""


class TaskRun:
    """One worker's run of a task: what its stages share, loaded once."""

    def __init__(
        self,
        task: WorkerTask,
        collective: Collective,
        on_progress: OnProgress = ignore_progress,
        *,
        store: ObjectStore | None = None,
    ) -> None:
        self.task, self.collective, self.on_progress = task, collective, on_progress
        self.store = open_store(task.job.storage) if store is None else store
        self.dtype = torch.float64 if task.job.precision == "float64" else torch.float32
        self.data = load_data(
            self.store,
            read_manifest(self.store, task.snapshot),
            collective,
            dtype=self.dtype,
            standardised=task.job.feature_scaling == "standardised",
        )
        self.planting: Planting | None = None
        if task.planting is not None:
            self.planting = plant(self.data.shard, task.planting, collective)
            self.data = replace(self.data, shard=self.planting.shard)

    def run(self) -> Results:
        """Run the stages that have no result yet; return every stage's result by name."""
        if self.collective.rank == 0:
            note_run(self.store, self.task)
        results: Results = {}
        for stage in self.task.stages:
            key = stage_result_key(self.task.run_id, stage.name)
            if agree(int(self.collective.rank == 0 and self.store.exists(key)), self.collective):
                results[stage.name] = read_json(self.store, key)
            else:
                results[stage.name] = self._run_stage(stage, results)
                if self.collective.rank == 0:
                    write_json(self.store, key, results[stage.name])
            if self.collective.rank == 0:
                drop_folder(self.store, f"{self._folder(stage)}/checkpoints")
        return results

    def _folder(self, stage: Stage) -> str:
        return f"{run_prefix(self.task.run_id)}/{stage.name}"

    @cached_property
    def problem(self) -> Problem:
        """The request against this worker's data; where the task forgets nothing, an empty one."""
        if self.planting is None:
            request, expected = read_request(self.store, self.task, self.data.shard, self.collective)
        else:
            request, expected = self.planting.request, None
        return make_problem(
            self.data.shard,
            request,
            self.data.item_neighbours,
            self.collective,
            dtype=self.dtype,
            expected_num_forget=expected,
        )

    @cached_property
    def probe(self) -> ResidueProbe:
        """The pairs on which every system's residue is judged."""
        return make_probe(self.problem, seed=JUDGE_SEED)

    def new_model(self, seed: int, *, user_rows: IntArray | None = None) -> Backbone:
        """Build the job's backbone with its initial values, of all of this worker's users or of some rows."""
        job, shard = self.task.job, self.data.shard
        inputs = BackboneInputs(
            user_rows=shard.user_rows if user_rows is None else user_rows,
            num_users=self.data.manifest.num_users,  # planted rows change no other initial value
            num_items=shard.num_items,
            features=self.data.features,
            seed=seed,
            dtype=self.dtype,
        )
        return BACKBONES[job.backbone.name](inputs, job.backbone.parsed())

    def _identity(self) -> dict[str, Any]:
        """What a saved model must agree in with the job, to be loaded."""
        job, manifest = self.task.job, self.data.manifest
        return {
            "backbone": {"name": job.backbone.name, "settings": job.backbone.parsed().model_dump(mode="json")},
            "precision": job.precision,
            "feature_scaling": job.feature_scaling,
            "dataset": manifest.dataset,
            "num_users": self.data.shard.num_users,
            "num_items": self.data.shard.num_items,
        }

    def load_model(self, entry: FileEntry) -> Backbone:
        """Load a saved model's shared tensors and this worker's rows.

        Raises:
            DataError: If the model is of another backbone, other settings or another data set.
            IntegrityError: If a file differs from its digest.
        """
        manifest = parse_state_manifest(read_verified(self.store, entry), entry.key)
        for key, wanted in self._identity().items():
            if manifest.meta.get(key) != wanted:
                raise DataError(
                    f"{entry.key}: the saved model has {key} {manifest.meta.get(key)!r}, the job {wanted!r}. "
                    "Nothing was changed. Use the job file and the data set that the model was trained with."
                )
        model = self.new_model(self.task.job.fit.seed)
        rows = local_rows(model, self.data.shard)
        tensors = read_state(self.store, manifest, local_rows=rows, collective=self.collective)
        set_parameters(model, {name.removeprefix("parameters/"): value for name, value in tensors.items()})
        return model

    def _save_model(self, stage: Stage, model: Backbone) -> FileEntry:
        values = {f"parameters/{name}": value for name, value in parameter_values(model).items()}
        return write_state(
            self.store,
            f"{self._folder(stage)}/model-{fresh_suffix(self.collective)}",
            values,
            local_rows=local_rows(model, self.data.shard),
            meta=self._identity() | {"snapshot_id": self.data.manifest.snapshot_id, "stage": stage.name},
            collective=self.collective,
        )

    def _source(self, stage: Stage, results: Results) -> Backbone:
        if stage.source is None:
            return self.new_model(self.task.job.fit.seed)
        if "model" in results.get(stage.source, {}):
            return self.load_model(FileEntry.model_validate(results[stage.source]["model"]))
        if self.task.original is None:
            raise ConfigError(f"stage {stage.name} starts from {stage.source}, which no earlier stage has made")
        return self.load_model(self.task.original)

    def _checkpoints(self, stage: Stage, model: Backbone) -> tuple[TrainingState | None, OnEpoch]:
        """Where an interrupted run of a stage stood, and what keeps where this one stands."""
        rows, folder = local_rows(model, self.data.shard), f"{self._folder(stage)}/checkpoints"
        resumed = read_newest_checkpoint(
            self.store,
            folder,
            rows=rows,
            collective=self.collective,
            on_damaged=lambda key: log.warning("checkpoint %s is damaged; the one before is used", key),
        )

        def keep(state: TrainingState) -> None:
            write_checkpoint(self.store, folder, state, rows=rows, collective=self.collective)

        return resumed, keep

    def _run_stage(self, stage: Stage, results: Results) -> dict[str, Any]:
        problem = self.problem
        has_subjects = len(problem.request.users) + len(problem.request.items) > 0
        if not problem.num_forget and (stage.retained_only or (stage.kind == "unlearn" and not has_subjects)):
            raise DataError("the request names no training interaction of this snapshot: there is nothing to forget")
        if stage.kind == "evaluate":
            model = self._source(stage, results)
            return {"seconds": 0.0} | self._figures(model, edges_in=stage.edges_in)
        if stage.kind == "original":
            model = self._source(stage, results)
            with torch.no_grad():
                users, items = model.embeddings(problem.graph_with)
            inside = inside_figures(model, None, problem.graph_with, self.collective)
            return {"seconds": 0.0, "history": []} | inside | self._judged(stage, users, items)
        if stage.kind == "method":
            return self._run_method(stage, results)
        if stage.kind == "shadow":
            return self._run_shadow(stage)
        model = self.new_model(self.task.job.fit.seed) if stage.kind == "fit" else self._source(stage, results)
        resumed, keep = self._checkpoints(stage, model)
        settings = self.task.job
        max_epochs = max_rounds(settings.unlearn) if stage.kind == "unlearn" else settings.fit.max_epochs

        def on_epoch(state: TrainingState) -> None:
            keep(state)
            self.on_progress(stage.name, state, max_epochs)

        if stage.kind == "unlearn":
            state = unlearn(model, problem, settings.unlearn, state=resumed, on_epoch=on_epoch)
        else:
            state = fit(
                model,
                problem.graph_without if stage.retained_only else problem.graph_with,
                self.data.shard,
                problem.retain if stage.retained_only else self.data.shard.train,
                settings.fit,
                valid=problem.valid if stage.retained_only else self.data.shard.valid,
                state=resumed,
                on_epoch=on_epoch,
            )
        return {
            "seconds": state.seconds,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "history": state.history,
            "model": self._save_model(stage, model).model_dump(mode="json"),
        } | self._figures(model, edges_in=stage.kind == "fit" and not stage.retained_only)

    def _run_method(self, stage: Stage, results: Results) -> dict[str, Any]:
        """Run a method on the model that a stage starts from, and measure all that a comparison asks for."""
        job, problem = self.task.job, self.problem
        method = METHODS[stage.method]
        settings = parse(method.settings_type, stage.settings, where=f"settings of {stage.method}")
        original = self._source(stage, results)
        before = None if stage.source is None else parameter_values(original)
        resumed, keep = self._checkpoints(stage, original)
        seconds_aside = 0.0
        max_epochs = stage.settings.get("epochs") or job.fit.max_epochs
        if isinstance(settings, TRUSettings):
            max_epochs = max_rounds(settings)

        def on_epoch(state: TrainingState) -> None:
            nonlocal seconds_aside
            started = time.perf_counter()
            keep(state)
            self.on_progress(stage.name, state, max_epochs)
            seconds_aside += time.perf_counter() - started

        tools = Tools(new_model=self.new_model, fit=job.fit, state=resumed, on_epoch=on_epoch)
        batches = read_batches(self.task, problem) if stage.method != "retrain" else [problem.request]
        warm_up()
        candidate = forget_batches(
            method, original, batches, problem, settings, tools, neighbours=self.data.item_neighbours
        )
        inside = inside_figures(candidate.model, before, problem.graph_without, self.collective)
        figures = cost_figures(candidate, seconds_aside=seconds_aside) | inside
        if stage.keeps and candidate.model is not None:
            figures["model"] = self._save_model(stage, candidate.model).model_dump(mode="json")
        elif stage.keeps:
            figures["look"] = self._save_look(stage, Look((candidate.users, candidate.items)))
        return figures | self._judged(stage, candidate.users, candidate.items)

    def _run_shadow(self, stage: Stage) -> dict[str, Any]:
        """Train one of an audit's shadow models and keep a look at it."""
        asked = parse(ShadowSettings, stage.settings, where=stage.name)
        look, figures = train_shadow(
            asked, self.problem, self.data.item_neighbours, new_model=self.new_model, settings=self.task.job.fit
        )
        return figures | {"look": self._save_look(stage, look, members_sha256=figures["members_sha256"])}

    def _save_look(self, stage: Stage, look: Look, *, members_sha256: str = "") -> dict[str, Any]:
        entry = write_look(
            self.store,
            f"{self._folder(stage)}/look-{fresh_suffix(self.collective)}",
            look,
            user_rows=self.data.shard.user_rows,
            meta={"snapshot_id": self.data.manifest.snapshot_id, "members_sha256": members_sha256},
            collective=self.collective,
        )
        return entry.model_dump(mode="json")

    def _judged(self, stage: Stage, users: Tensor, items: Tensor) -> dict[str, Any]:
        """Measure output vectors, and keep the lists that they give to a sample of retained users."""
        key = stage_lists_key(self.task.run_id, stage.name, fresh_suffix(self.collective))
        body = pack_lists(sampled_lists(users, items, self.problem))
        entry = FileEntry(key=key, size_bytes=len(body), sha256=sha256_hex(body))
        if self.collective.rank == 0:
            put_file(self.store, key, body)
        return judge(users, items, self.problem, self.probe) | {"lists": entry.model_dump(mode="json")}

    def _figures(self, model: Backbone, *, edges_in: bool) -> dict[str, Any]:
        figures: dict[str, Any] = outcome_figures(evaluate(model, self.problem, edges_in=edges_in))
        figures["num_forget"] = self.problem.num_forget
        if not self.problem.num_forget:
            figures = {name: value for name, value in figures.items() if not name.startswith("forget")}
        return figures
