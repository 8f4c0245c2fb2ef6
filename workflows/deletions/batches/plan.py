"""Planning a deletion batch: outside ids to rows, what each request names, and whether policy allows it.

Nothing is written here. The planner counts the training pairs by itself, from the bucket files; the
workers must find as many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
from pydantic import NonNegativeInt, PositiveInt

from tru_core.artifact import sha256_hex
from tru_core.errors import ConfigError, PolicyError
from tru_core.settings import Settings
from workflows.config.job import JobConfig
from workflows.config.unlearn import named_unlearn
from workflows.data.requests import DeletionRequest, Kind
from workflows.data.snapshot import SnapshotManifest
from workflows.deletions.batches.subjects import Counts, Subject, count_named, find_subjects, is_found, rows_of
from workflows.models.publish import Version
from workflows.storage import FileEntry, ObjectStore, canonical_json
from workflows.tasks import RequestRows

Outcome = Literal["published", "not_found"]


class PlannedRequest(Settings):
    """One request of a batch, without the ids it names.

    Attributes:
        outcome: What it is when the batch is done: ``not_found`` if the data set holds nothing of it.
        num_interactions: Interactions that it names, of train, valid and test.
    """

    request_id: str
    kind: Kind
    outcome: Outcome
    num_interactions: NonNegativeInt


class BatchPlan(Settings):
    """Everything that is needed to carry a batch through, and to finish it after a crash.

    Attributes:
        batch_id: Digest of what decides the batch: its requests by row, the snapshot and the model version that it
            starts from, and the job's settings.
        created_at: UTC, ISO 8601. All that the batch writes bears this time, so that a repetition writes the same.
        version: The model version that it starts from.
        snapshot: The snapshot's manifest that it starts from. It holds the edges that the reverse step needs.
        rows: All requests together, by row.
        num_interactions: Interactions that leave the data set, each counted once.
        requests: Sorted by request id.
        method: ``retrain`` for a batch that is too large to be unlearned, and for every one where the job says so.
        minimum_waived: Why it has fewer requests than policy asks for; "" if it has as many.
    """

    batch_id: str
    model: str
    dataset: str
    created_at: str
    version: PositiveInt
    original: FileEntry
    snapshot: FileEntry
    snapshot_id: str
    rows: RequestRows
    num_interactions: NonNegativeInt
    requests: list[PlannedRequest]
    method: Literal["unlearn", "retrain"]
    minimum_waived: str

    @property
    def request_ids(self) -> list[str]:
        """The ids of its requests, sorted."""
        return [request.request_id for request in self.requests]

    @property
    def changes_data(self) -> bool:
        """Whether there is anything to take out of the data set."""
        return any(request.outcome == "published" for request in self.requests)

    @property
    def changes_model(self) -> bool:
        """Whether the model may know anything that is to be forgotten: training pairs, or subjects with rows."""
        return self.rows.num_train_pairs > 0 or bool(self.rows.users or self.rows.items)


@dataclass(frozen=True)
class Planning:
    """What became of the requests that were to make a batch.

    Attributes:
        plan: The batch; None if policy allows none of them.
        too_large: Requests that name more, each alone, than policy allows. They are not in the batch.
    """

    plan: BatchPlan | None
    too_large: list[str]


def plan_batch(
    store: ObjectStore,
    job: JobConfig,
    requests: Sequence[DeletionRequest],
    *,
    start: Version,
    snapshot: SnapshotManifest,
    entry: FileEntry,
    minimum_waived: str = "",
) -> Planning:
    """Say what a batch is to do.

    Args:
        requests: By outside ids.
        start: The version that serves.
        snapshot, entry: The current snapshot and its manifest's entry.
        minimum_waived: Why there may be fewer than policy asks for.

    Raises:
        PolicyError: If the batch names too much of the training data.
        ConfigError: If the job would leave deleted users' rows in the model.
    """
    requests = sorted(requests, key=lambda request: request.request_id)
    subjects = find_subjects(store, snapshot, requests)
    counts = count_named(store, snapshot, rows_of(subjects))
    method = _method(job, snapshot, counts)
    if method is None:
        limit = job.delete.max_share * snapshot.counts.train
        large = [counts.train_by_subject.get(subject, 0) > limit for subject in subjects]
        if not any(large):
            raise PolicyError(_too_large(job, snapshot, counts.train_rows))
        rest = [request for request, is_large in zip(requests, large, strict=True) if not is_large]
        too_large = [request.request_id for request, is_large in zip(requests, large, strict=True) if is_large]
        if not rest:
            return Planning(None, too_large)
        planning = plan_batch(
            store, job, rest, start=start, snapshot=snapshot, entry=entry, minimum_waived=minimum_waived
        )
        return Planning(planning.plan, sorted(too_large + planning.too_large))
    planned = [
        PlannedRequest(
            request_id=request.request_id,
            kind=request.kind,
            outcome="published" if is_found(subject, counts) else "not_found",
            num_interactions=counts.by_subject.get(subject, 0),
        )
        for request, subject in zip(requests, subjects, strict=True)
    ]
    rows = rows_of([subject for subject in subjects if is_found(subject, counts)])
    plan = BatchPlan(
        batch_id=_batch_id(job, planned, subjects, entry, start),
        model=job.model,
        dataset=job.dataset,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=start.version,
        original=start.manifest,
        snapshot=entry,
        snapshot_id=snapshot.snapshot_id,
        rows=rows.model_copy(update={"num_train_pairs": counts.train_pairs}),
        num_interactions=counts.rows,
        requests=planned,
        method=method,
        minimum_waived=minimum_waived,
    )
    return Planning(plan, [])


def _batch_id(
    job: JobConfig,
    planned: Sequence[PlannedRequest],
    subjects: Sequence[Subject],
    snapshot: FileEntry,
    start: Version,
) -> str:
    """Name a batch by what decides it. Rows stand for the ids, from which a digest could be guessed back."""
    names = {"dataset", "model", "precision", "feature_scaling", "backbone", "fit", "unlearn"}
    settings: dict[str, Any] = job.model_dump(mode="json", include=names)
    settings["unlearn"] = named_unlearn(job.unlearn)
    settings["delete"] = job.delete.model_dump(mode="json", include={"audit", "on_refused", "on_large", "stronger"})
    if job.delete.audit != "off":
        settings["audit"] = job.audit.model_dump(mode="json")
    asked = [
        [request.request_id, request.kind, where.user_row, where.item_row]
        for request, where in zip(planned, subjects, strict=True)
    ]
    parts: list[Any] = [asked, snapshot.sha256, start.manifest.sha256, start.version, settings]
    parts.append(pa.__version__)  # another version may write other bytes under the batch's keys
    return sha256_hex(canonical_json(parts, where="batch id"))[:32]


# --- policy -----------------------------------------------------------------------------------------


def _method(job: JobConfig, snapshot: SnapshotManifest, counts: Counts) -> Literal["unlearn", "retrain"] | None:
    """How policy wants a batch to be forgotten; None if it is too large to be taken.

    Raises:
        ConfigError: If the job would leave deleted users' rows in the model.
        PolicyError: If nothing would be left to retain.
    """
    wanted: Literal["unlearn", "retrain"] = "retrain" if job.unlearn.method == "retrain" else "unlearn"
    if not counts.train_pairs:
        return wanted
    if not job.unlearn.setting("reset_subjects", True):
        raise ConfigError(
            "unlearn.reset_subjects: false leaves the rows of deleted users and items in the model; expected true for "
            "a deletion. Nothing was changed. Remove the setting from the job file."
        )
    if counts.train_rows >= snapshot.counts.train:
        raise PolicyError(
            f"the batch names all {snapshot.counts.train} training interactions of data set {job.dataset}: nothing "
            f"would be left to retain. Nothing was changed. Withdraw model {job.model} instead."
        )
    if wanted == "retrain" or counts.train_rows <= job.delete.max_share * snapshot.counts.train:
        return wanted
    return "retrain" if job.delete.on_large == "retrain" else None


def _too_large(job: JobConfig, snapshot: SnapshotManifest, num_rows: int) -> str:
    total = snapshot.counts.train
    return (
        f"the batch names {num_rows} of {total} training interactions ({num_rows / total:.1%}); delete.max_share "
        f"allows {job.delete.max_share:.1%}. Nothing was changed. So much is better forgotten by training anew: set "
        f"delete.on_large: retrain in the job file; to unlearn it all the same, raise delete.max_share."
    )
