"""What a stage of a task gives: one typed result, made into JSON and read from it here alone."""

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from tru_core.errors import IntegrityError
from workflows.storage import FileEntry, ObjectStore, read_json, stage_result_key, write_json


class StageResult(BaseModel):
    """What a stage measured and where it left what it made. A stage sets what it has; the rest keeps its default.

    Attributes:
        seconds: Wall time of the training or the method, without checkpoints and measuring.
        seconds_before: The part of a method's time that no deletion pays.
        epochs: Epochs or rounds taken.
        best_epoch: The one whose model it is; None where the last one's is.
        history: A row of numbers for each epoch, round or batch.
        model: The manifest of the model, where it is kept whole.
        look: The manifest of its output vectors, where these are kept.
        members_sha256: Of a shadow model: who it knows.
        lists: The top-20 lists of a sample of retained users.
        num_forget: Interactions to be forgotten.
        residue: What the item vectors tell of who had them together, and by stratum.
        shifts, cka: How far each module moved, and how alike the branches are; None where there is no single model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seconds: float
    seconds_before: float = 0.0
    epochs: int = 0
    best_epoch: int | None = None
    history: list[dict[str, int | float]] = []
    model: FileEntry | None = None
    look: FileEntry | None = None
    members_sha256: str = ""
    lists: FileEntry | None = None
    test_recall20: float | None = None
    test_ndcg20: float | None = None
    valid_recall20: float | None = None
    forget_recall20: float | None = None
    forget_ndcg20: float | None = None
    num_forget: int | None = None
    residue: dict[str, JsonValue] | None = None
    shifts: dict[str, float] | None = None
    cka: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as it is kept: what its stage has set."""
        return self.model_dump(mode="json", exclude_unset=True)

    def plain_figures(self) -> dict[str, Any]:
        """The figures that a person reads: no history, no keys of files, nothing that its method does not say."""
        found = {name: value for name, value in self.to_json().items() if name not in ("history", "model")}
        if not self.seconds_before:
            found.pop("seconds_before", None)
        return {name: value for name, value in found.items() if value is not None}


Results = dict[str, StageResult]
"""The results of a task's stages, by name."""


def read_result(store: ObjectStore, key: str) -> StageResult:
    """Read what a stage left, of this version or an earlier one.

    Raises:
        IntegrityError: If it is no result of a stage.
    """
    try:
        return StageResult.model_validate(read_json(store, key))
    except ValidationError as error:
        raise IntegrityError(
            f"{key} is no result of a stage. Nothing was changed. Restore it from a backup, or delete it: the next run "
            "makes it anew."
        ) from error


def write_result(store: ObjectStore, run_id: str, stage: str, result: StageResult) -> None:
    """Keep what a stage gave. From then on it is never run again."""
    write_json(store, stage_result_key(run_id, stage), result.to_json())
