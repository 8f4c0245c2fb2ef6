"""Checkpoints of a stage: each under a fresh prefix, whole when its manifest is there, newest whole one wins."""

import secrets
from collections.abc import Callable

import torch
from torch import Tensor

from tru_core.backbones import Backbone
from tru_core.collective import Collective
from tru_core.errors import IntegrityError, MissingObjectError
from tru_core.fit import TrainingState
from tru_core.interactions import IntArray, Shard
from workflows.storage import ObjectStore
from workflows.storage.state_files import gather_bytes, parse_state_manifest, read_state, write_state

KEPT_CHECKPOINTS = 2


def agree(number: int, collective: Collective) -> int:
    """Take worker 0's number, so that all workers decide alike whatever each of them sees in storage."""
    own = torch.tensor([number if collective.rank == 0 else 0], dtype=torch.int64)
    return int(collective.all_sum(own)[0])


def fresh_suffix(collective: Collective) -> str:
    """16 random hexadecimal digits, the same on every worker: a prefix that nobody wrote to before."""
    return f"{agree(secrets.randbits(62), collective):016x}"


def local_rows(model: Backbone, shard: Shard) -> dict[str, IntArray]:
    """The rows of each table that stays with this worker."""
    rows = {}
    for table, axis in model.anatomy.tables.items():
        if axis == "user":
            rows[table] = shard.user_rows
        elif axis == "item_block":
            rows[table] = model.held_items(table)
    return rows


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def list_checkpoints(store: ObjectStore, folder: str) -> list[str]:
    """Keys of the manifests of whole checkpoints, oldest first. Half-written ones have none."""
    return [info.key for info in store.list(folder) if info.key.endswith("/manifest.json")]


def drop_checkpoints(store: ObjectStore, manifests: list[str]) -> None:
    """Delete checkpoints, manifest first, so that one half-deleted is never taken for whole."""
    for key in manifests:
        store.delete(key)
        drop_folder(store, key.removesuffix("/manifest.json"))


def drop_folder(store: ObjectStore, folder: str) -> None:
    """Delete everything in a folder, manifests first; half-written checkpoints too."""
    keys = [info.key for info in store.list(folder)]
    for key in sorted(keys, key=lambda key: not key.endswith("/manifest.json")):
        store.delete(key)


def write_checkpoint(
    store: ObjectStore,
    folder: str,
    state: TrainingState,
    *,
    rows: dict[str, IntArray],
    collective: Collective,
) -> None:
    """Write a whole checkpoint together, then let worker 0 drop all but the newest ones."""
    tensors = {f"parameters/{name}": value for name, value in state.parameters.items()}
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    tensors |= {f"moments/{name}": value for name, value in state.moments.items()}
    numbers = {
        "epoch": state.epoch,
        "optimizer_steps": state.optimizer_steps,
        "best_epoch": state.best_epoch,
        "best_score": state.best_score,
        "seconds": state.seconds,
        "history": state.history,
    }
    prefix = f"{folder}/epoch-{state.epoch:06d}-{fresh_suffix(collective)}"
    write_state(store, prefix, tensors, local_rows=rows, meta=numbers, collective=collective)
    if collective.rank == 0:
        drop_checkpoints(store, list_checkpoints(store, folder)[:-KEPT_CHECKPOINTS])


def read_newest_checkpoint(
    store: ObjectStore,
    folder: str,
    *,
    rows: dict[str, IntArray],
    collective: Collective,
    on_damaged: Callable[[str], None],
) -> TrainingState | None:
    """Find the newest checkpoint that every worker can read whole; else the one before; else None.

    Damaged ones are dropped, lest they count as the newest.

    Args:
        on_damaged: Told the key of a checkpoint that some worker could not read whole.
    """
    keys = list_checkpoints(store, folder) if collective.rank == 0 else []
    for back in range(1, agree(len(keys), collective) + 1):
        own = keys[-back].encode() if collective.rank == 0 else b""
        key = gather_bytes(own, collective)[0].decode()
        state = _read(store, key, rows, collective)
        is_whole = torch.tensor([state is not None], dtype=torch.int64)
        if int(collective.all_sum(is_whole)[0]) == collective.world_size:
            return state
        on_damaged(key)
        if collective.rank == 0:
            drop_checkpoints(store, [key])
    return None


def _read(store: ObjectStore, key: str, rows: dict[str, IntArray], collective: Collective) -> TrainingState | None:
    try:
        manifest = parse_state_manifest(store.read(key), key)
        tensors = read_state(store, manifest, local_rows=rows, collective=collective)
    except (IntegrityError, MissingObjectError):
        return None
    return TrainingState(
        parameters=_named(tensors, "parameters/"),
        best=_named(tensors, "best/"),
        moments=_named(tensors, "moments/"),
        **manifest.meta,
    )
