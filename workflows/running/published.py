"""A published version, read from a storage into this process: vectors and recommendations, without Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tru_core.backbones import BACKBONES, Backbone, BackboneInputs
from tru_core.collective import LocalCollective
from tru_core.errors import DataError, IntegrityError, MissingObjectError, PolicyError
from tru_core.fit import set_parameters
from tru_core.graph import build_graph
from tru_core.interactions import IntArray, Request, make_request, split_by_request
from tru_core.ranking import BLOCK_USERS, top_items
from workflows.config.parsing import parse
from workflows.data.snapshot import SnapshotManifest, read_manifest, read_vocabulary
from workflows.models.publish import Version, read_versions
from workflows.running.checkpoints import local_rows
from workflows.running.worker_data import WorkerData, load_data
from workflows.storage import FileEntry, ObjectStore, dataset_log, read_log, read_verified
from workflows.storage.existing import require_model
from workflows.storage.state_files import StateManifest, parse_state_manifest, read_state

_ALONE = LocalCollective()


@dataclass(frozen=True)
class PublishedModel:
    """A published version in this process.

    Attributes:
        version: Its entry of the model's log.
        snapshot: The data that it stands for.
        model: The backbone with its values.
        users, items: float [row, dim], output vectors by vocabulary row. A score is their inner product.
    """

    version: Version
    snapshot: SnapshotManifest
    model: Backbone
    users: Tensor
    items: Tensor
    _store: ObjectStore
    _data: WorkerData

    @cached_property
    def user_ids(self) -> dict[str, int]:
        """The row of each user's outside id. Deleted users have none."""
        return _rows_by_id(self._store, self.snapshot.user_vocabulary)

    @cached_property
    def item_ids(self) -> dict[int, str]:
        """The outside id of each item's row. Deleted items have none."""
        return {row: item for item, row in _rows_by_id(self._store, self.snapshot.item_vocabulary).items()}

    def top_items(self, user_rows: IntArray, *, k: int) -> IntArray:
        """Rank items for some users; items of their training pairs and deleted items are never listed.

        Args:
            user_rows: int64 [user].
            k: Length of a list, at least 1.

        Returns:
            int64 [user, k], item rows, best first; -1 where no item is left.

        Raises:
            DataError: If a row is no user's.
        """
        rows = np.asarray(user_rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.snapshot.num_users:
            raise DataError(f"user rows outside 0..{self.snapshot.num_users - 1} were asked for. Nothing was ranked.")
        distinct, places = np.unique(rows, return_inverse=True)
        gone = np.asarray(self.snapshot.deleted_item_rows, dtype=np.int64)
        lists: list[IntArray] = []
        for start in range(0, len(distinct), BLOCK_USERS):
            block = distinct[start : start + BLOCK_USERS]
            listed = top_items(self.users, self.items, block, self._data.shard.train, k=k + len(gone))
            lists += [row[(row >= 0) & ~np.isin(row, gone)][:k] for row in listed]
        padded = [np.append(row, np.full(k - len(row), -1)) for row in lists]
        return np.array(padded, dtype=np.int64).reshape(-1, k)[places]

    def recommend(self, user_ids: Sequence[str], *, k: int) -> list[list[str]]:
        """The outside ids of the best items of some users, best first; those that they had in training are left out.

        Raises:
            DataError: If an id is no user's of the snapshot. The message does not quote it.
        """
        missing = [place for place, user in enumerate(user_ids) if user not in self.user_ids]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(user_ids)} ids are no users of snapshot {self.snapshot.snapshot_id}, the "
                f"first at place {missing[0]}: never imported, or deleted. Nothing was ranked."
            )
        rows = np.array([self.user_ids[user] for user in user_ids], dtype=np.int64)
        return [[self.item_ids[item] for item in row if item >= 0] for row in self.top_items(rows, k=k).tolist()]


def read_published(
    store: ObjectStore, model: str, *, number: int | None = None, forgotten: Request | None = None
) -> PublishedModel:
    """Read a published version and compute its vectors on the data that it stands for.

    Args:
        number: Which version; None: the one that serves.
        forgotten: What it forgot and its snapshot still holds: only ``tru unlearn`` makes such a version.

    Raises:
        MissingObjectError: If there is no such model or version, or its files or its snapshot's were purged.
        IntegrityError: If a file differs from its digest.
        PolicyError: If it forgot pairs that its snapshot still holds and ``forgotten`` does not say which: with their
            edges in the graph its vectors would still know them.
    """
    require_model(store, model, where="the published model")
    versions = read_versions(store, model)
    if number is not None and not 1 <= number <= len(versions):
        raise MissingObjectError(f"model {model} has versions 1 to {len(versions)}, and no version {number}.")
    version = versions[-1 if number is None else number - 1]
    if forgotten is None and _was_drawn(versions, version):
        raise PolicyError(
            f"version {version.version} of model {model} forgot pairs that snapshot {version.snapshot_id} still holds: "
            f"`tru unlearn` tries a method out and deletes no data. Say what it forgot, read another version, or "
            f"delete for good with `tru delete run`."
        )
    snapshot = read_manifest(store, _snapshot_entry(store, version))
    state = parse_state_manifest(read_verified(store, version.manifest), version.manifest.key)
    dtype = torch.float64 if state.meta.get("precision") == "float64" else torch.float32
    is_standardised = state.meta.get("feature_scaling") == "standardised"
    data = load_data(store, snapshot, _ALONE, dtype=dtype, standardised=is_standardised)
    backbone = _load(store, state, data, where=version.manifest.key, dtype=dtype)
    request = make_request() if forgotten is None else forgotten
    _, retained = split_by_request(data.shard.train, data.shard, request)
    gone = np.union1d(np.asarray(snapshot.deleted_item_rows, dtype=np.int64), request.items)
    graph = build_graph(retained, data.shard, data.item_neighbours, _ALONE, deleted_items=gone, dtype=dtype)
    with torch.no_grad():
        users, items = backbone.embeddings(graph)
    return PublishedModel(version, snapshot, backbone, users, items, store, data)


def _was_drawn(versions: Sequence[Version], version: Version) -> bool:
    """Whether a version forgot something that its snapshot still holds: it forgot, on the snapshot of its parent."""
    while version.rollback_of is not None:
        version = versions[version.rollback_of - 1]
    if version.method == "fit" or version.parent_version is None:
        return False
    return versions[version.parent_version - 1].snapshot_id == version.snapshot_id


def _snapshot_entry(store: ObjectStore, version: Version) -> FileEntry:
    for line in read_log(store, dataset_log(version.dataset)):
        if line.entry.get("snapshot_id") == version.snapshot_id:
            return FileEntry.model_validate(line.entry["manifest"])
    raise MissingObjectError(
        f"data set {version.dataset} has no snapshot {version.snapshot_id}, for which version {version.version} stands."
    )


def _load(store: ObjectStore, state: StateManifest, data: WorkerData, *, where: str, dtype: torch.dtype) -> Backbone:
    """Build the backbone that a saved state names, with its values."""
    about = state.meta.get("backbone")
    if not isinstance(about, dict) or about.get("name") not in BACKBONES:
        raise IntegrityError(f"{where} does not name a backbone that this program knows. It was not used.")
    kind, shard = BACKBONES[about["name"]], data.shard
    settings = parse(kind.settings_type, about.get("settings", {}), where=where)
    inputs = BackboneInputs(
        user_rows=shard.user_rows,
        num_users=shard.num_users,
        num_items=shard.num_items,
        features=data.features,
        seed=0,  # every value is read
        dtype=dtype,
    )
    model = kind(inputs, settings)
    tensors = read_state(store, state, local_rows=local_rows(model, shard), collective=_ALONE)
    set_parameters(model, {name.removeprefix("parameters/"): value for name, value in tensors.items()})
    return model


def _rows_by_id(store: ObjectStore, entry: FileEntry) -> dict[str, int]:
    ids, rows = read_vocabulary(store, entry)
    return dict(zip(ids, rows.tolist(), strict=True))
