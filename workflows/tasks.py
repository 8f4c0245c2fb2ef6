"""What the driver asks of the workers, as checked values that travel as JSON."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from tru_core.audits.injection import PlantingSettings
from tru_core.settings import Settings
from workflows.config.job import ForgetConfig, JobConfig
from workflows.storage import FileEntry, open_store
from workflows.storage.config import is_s3


class RequestRows(Settings):
    """A request by vocabulary rows, as the planner of a deletion writes it."""

    users: list[NonNegativeInt]
    items: list[NonNegativeInt]
    pairs: list[tuple[NonNegativeInt, NonNegativeInt]]
    num_train_pairs: NonNegativeInt
    """Training pairs that the request names, counted by the planner: the workers must find as many."""


class Stage(Settings):
    """One step of a task.

    Attributes:
        name: Unique in the task; results and models lie under it.
        kind: ``fit`` trains from scratch, ``unlearn`` runs TRU, ``evaluate`` only measures; ``method`` runs any
            method and ``original`` none, and both measure all that a comparison asks for. ``shadow`` trains a shadow
            model of an audit and keeps its output vectors; ``audit`` examines a candidate.
        retained_only: For ``fit``: train on the retained pairs (Retrain), not on all (Original).
        source: For all but ``fit``: the stage whose model it starts from, or ``original``. None, for a ``method``
            that does not look at it: an untrained model.
        edges_in: For ``evaluate``: leave the deleted edges in the graph, as ``original`` does.
        method: For ``method``: its name in ``tru_core.unlearning.methods``.
        settings: For ``method``: its settings by name; for ``shadow`` and ``audit``: what they are asked.
        keeps: For ``method``: keep the model, or the output vectors where there is no single one, for an audit.
    """

    name: str
    kind: Literal["fit", "unlearn", "evaluate", "method", "original", "shadow", "audit"]
    retained_only: bool = False
    source: str | None = "original"
    edges_in: bool = False
    method: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    keeps: bool = False


class WorkerTask(Settings):
    """What the workers of one run are asked to do. Travels to them as JSON.

    Attributes:
        job: The job file.
        run_id: Where checkpoints and results lie.
        snapshot: The data set's manifest.
        forget: How to draw the request, or None where nothing is forgotten.
        request: The request's file of rows, or None where it is drawn or nothing is forgotten.
        original: Manifest of the trained model to start from, or None where a stage ``original`` trains it.
        planting: What to plant in the data after it is read; the request is then all that is planted. None: nothing.
    """

    job: JobConfig
    run_id: str
    snapshot: FileEntry
    stages: list[Stage]
    forget: ForgetConfig | None = None
    request: FileEntry | None = None
    original: FileEntry | None = None
    planting: PlantingSettings | None = None


def with_absolute_storage(job: JobConfig) -> JobConfig:
    """Name the job's folder by its absolute path: workers have working directories of their own."""
    if is_s3(job.storage.url):
        return job
    storage = job.storage.model_copy(update={"url": open_store(job.storage).url})
    return job.model_copy(update={"storage": storage})
