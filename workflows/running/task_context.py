"""What the stages of a task share on one worker: data, request, models and checkpoints, each loaded once."""

import logging
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from tru_core.audits.injection import Planting, plant
from tru_core.backbones import BACKBONES, Backbone, BackboneInputs
from tru_core.collective import Collective
from tru_core.errors import ConfigError, DataError
from tru_core.fit import OnEpoch, TrainingState, parameter_values, set_parameters
from tru_core.interactions import IntArray
from tru_core.measures.residue import ResidueProbe, make_probe
from tru_core.problem import Problem, make_problem
from workflows.data.snapshot import read_manifest
from workflows.running.checkpoints import fresh_suffix, local_rows, read_newest_checkpoint, write_checkpoint
from workflows.running.measuring import JUDGE_SEED
from workflows.running.results import Results
from workflows.running.shadow_models import Look, write_look
from workflows.running.worker_data import load_data, read_request
from workflows.storage import FileEntry, ObjectStore, open_store, read_verified, run_prefix
from workflows.storage.state_files import parse_state_manifest, read_state, write_state
from workflows.tasks import Forget, Measure, Stage, WorkerTask

log = logging.getLogger(__name__)


class TaskContext:
    """One worker's part of a task, whatever its stages do."""

    def __init__(
        self,
        task: WorkerTask,
        collective: Collective,
        *,
        store: ObjectStore | None = None,
    ) -> None:
        self.task, self.collective = task, collective
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

    def folder(self, stage: Stage) -> str:
        """Where a stage's files lie."""
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

    def save_model(self, stage: Stage, model: Backbone) -> FileEntry:
        """Keep a model, every worker its own rows. Returns the manifest's entry, on every worker."""
        values = {f"parameters/{name}": value for name, value in parameter_values(model).items()}
        return write_state(
            self.store,
            f"{self.folder(stage)}/model-{fresh_suffix(self.collective)}",
            values,
            local_rows=local_rows(model, self.data.shard),
            meta=self._identity() | {"snapshot_id": self.data.manifest.snapshot_id, "stage": stage.name},
            collective=self.collective,
        )

    def save_look(self, stage: Stage, look: Look, *, members_sha256: str = "") -> FileEntry:
        """Keep a look at a system that is not kept whole."""
        return write_look(
            self.store,
            f"{self.folder(stage)}/look-{fresh_suffix(self.collective)}",
            look,
            user_rows=self.data.shard.user_rows,
            meta={"snapshot_id": self.data.manifest.snapshot_id, "members_sha256": members_sha256},
            collective=self.collective,
        )

    def source(self, stage: Forget | Measure, earlier: Results) -> Backbone:
        """The model that a stage starts from.

        Raises:
            ConfigError: If there is none.
        """
        if stage.source is None:
            return self.new_model(self.task.job.fit.seed)
        made = earlier[stage.source].model if stage.source in earlier else None
        if made is not None:
            return self.load_model(made)
        if self.task.original is None:
            raise ConfigError(f"stage {stage.name} starts from {stage.source}, which no earlier stage has made")
        return self.load_model(self.task.original)

    def checkpoints(self, stage: Stage, model: Backbone) -> tuple[TrainingState | None, OnEpoch]:
        """Where an interrupted run of a stage stood, and what keeps where this one stands."""
        rows, folder = local_rows(model, self.data.shard), f"{self.folder(stage)}/checkpoints"
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
