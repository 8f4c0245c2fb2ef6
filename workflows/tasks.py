"""What the driver asks of the workers, as checked values that travel as JSON."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt

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


class Fit(Settings):
    """Train the job's backbone from scratch on all of the snapshot's training pairs, and keep the model.

    Attributes:
        name: Unique in the task, as of every stage; results and models lie under it.
    """

    kind: Literal["fit"] = "fit"
    name: str


class Forget(Settings):
    """Run a method on a trained model.

    Attributes:
        method: Its name in ``tru_core.unlearning.methods``.
        settings: Its own, by name.
        source: The stage whose model it starts from, or ``original``: the task's. None, for a method that does not look
            at it: an untrained model.
        is_compared: Measure all that a comparison asks for, and take a request in the batches in which it comes.
            Otherwise measure recalls alone, and keep the model.
        keeps: For a compared one: keep the model, or the output vectors where there is no single one, for an audit.
    """

    kind: Literal["forget"] = "forget"
    name: str
    method: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    source: str | None = "original"
    is_compared: bool = False
    keeps: bool = False


class Measure(Settings):
    """Measure a model as it serves, with all edges in the graph, by all that a comparison asks for.

    Attributes:
        source: As of :class:`Forget`.
    """

    kind: Literal["measure"] = "measure"
    name: str
    source: str = "original"


class Shadow(Settings):
    """Train a shadow model of an audit, and keep its output vectors.

    Attributes:
        number: Which one, from 0.
        num_shadows: Of the whole set: each subject is in half of them.
        seed: The auditor's.
    """

    kind: Literal["shadow"] = "shadow"
    name: str
    number: NonNegativeInt
    num_shadows: PositiveInt
    seed: NonNegativeInt


Stage = Annotated[Fit | Forget | Measure | Shadow, Field(discriminator="kind")]
"""One step of a task."""


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
