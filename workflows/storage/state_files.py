"""Model states in storage: one file of shared tensors, one of rows for each worker, a manifest last.

Written by the workers together and read back by any number of workers: each picks the rows it owns.
A prefix without a manifest is a half-written state and is never read.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from tru_core.artifact import pack_tensors, sha256_hex, unpack_tensors
from tru_core.collective import Collective
from tru_core.errors import DataError, IntegrityError
from tru_core.interactions import IntArray
from tru_core.settings import Settings
from workflows.storage import (
    FileEntry,
    ObjectStore,
    canonical_json,
    manifest_key,
    put_file,
    read_verified,
    write_json,
)


class StateManifest(Settings):
    """What a saved state is made of.

    Attributes:
        shared: The tensors that every worker holds alike.
        rows: One file for each worker that wrote: its rows of local tables, and which rows they are.
        meta: What the state is: epoch, history, backbone, snapshot.
        meta_sha256: Digest of ``meta``. A checkpoint's manifest is found by its name, so nothing else vouches for it.
    """

    kind: Literal["tru.state"] = "tru.state"
    schema_version: Literal[1] = 1
    shared: FileEntry
    rows: list[FileEntry] = Field(min_length=1)
    meta: dict[str, Any]
    meta_sha256: str

    @model_validator(mode="after")
    def _meta_is_whole(self) -> "StateManifest":
        if _meta_digest(self.meta) != self.meta_sha256:
            raise ValueError("meta differs from its digest")
        return self


def _meta_digest(meta: Mapping[str, Any]) -> str:
    return sha256_hex(canonical_json(dict(meta), where="the meta of a model state"))


def _parameter(tensor_name: str) -> str:
    return tensor_name.rpartition("/")[2]


def gather_bytes(body: bytes, collective: Collective) -> list[bytes]:
    """Collect every worker's bytes, in rank order."""
    if not body:
        local = torch.zeros(0, dtype=torch.uint8)
    else:
        local = torch.frombuffer(bytearray(body), dtype=torch.uint8)
    return [part.numpy().tobytes() for part in collective.all_gather(local)]


def write_state(
    store: ObjectStore,
    prefix: str,
    tensors: Mapping[str, Tensor],
    *,
    local_rows: Mapping[str, IntArray],
    meta: Mapping[str, Any],
    collective: Collective,
) -> FileEntry:
    """Write a state together: every worker its rows, worker 0 the shared tensors and, last, the manifest.

    Args:
        prefix: A fresh key prefix, the same on every worker.
        tensors: By name; the part behind the last ``/`` is the parameter's name.
        local_rows: For each parameter whose rows stay with a worker, the rows held here.
        meta: JSON values, the same on every worker.

    Returns:
        The manifest's entry, on every worker.
    """
    local = {name: value for name, value in tensors.items() if _parameter(name) in local_rows}
    index = {f"rows/{name}": torch.from_numpy(np.asarray(rows)) for name, rows in local_rows.items()}
    body = pack_tensors(local | index)
    mine = put_file(store, f"{prefix}/rows-{collective.rank:05d}.safetensors", body)
    entries = [
        FileEntry.model_validate_json(part) for part in gather_bytes(mine.model_dump_json().encode(), collective)
    ]
    written = b""
    if collective.rank == 0:
        shared = {name: value for name, value in tensors.items() if name not in local}
        entry = put_file(store, f"{prefix}/shared.safetensors", pack_tensors(shared))
        manifest = StateManifest(shared=entry, rows=entries, meta=dict(meta), meta_sha256=_meta_digest(meta))
        written = write_json(store, manifest_key(prefix), manifest.model_dump(mode="json")).model_dump_json().encode()
    return FileEntry.model_validate_json(gather_bytes(written, collective)[0])


def parse_state_manifest(body: bytes, key: str) -> StateManifest:
    """Check a manifest's bytes.

    Raises:
        IntegrityError: If they are no manifest of a state.
    """
    try:
        return StateManifest.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{key} is no manifest of a model state. It was not used.") from error


def read_state(
    store: ObjectStore, manifest: StateManifest, *, local_rows: Mapping[str, IntArray], collective: Collective
) -> dict[str, Tensor]:
    """Read a state that any number of workers wrote: the shared tensors, and the wanted rows of local tables.

    Raises:
        DataError: If a wanted row is in no file: the model does not know it.
        IntegrityError: If a file differs from its digest.
    """
    tensors = unpack_tensors(read_verified(store, manifest.shared), key=manifest.shared.key)
    missing = {name: np.ones(len(rows), dtype=bool) for name, rows in local_rows.items()}
    first = collective.rank % len(manifest.rows)
    for entry in manifest.rows[first:] + manifest.rows[:first]:
        found = unpack_tensors(read_verified(store, entry), key=entry.key)
        for name, value in found.items():
            parameter = _parameter(name)
            if name.startswith("rows/") or parameter not in local_rows:
                continue
            held = found[f"rows/{parameter}"].numpy()
            wanted = local_rows[parameter]
            target = tensors.setdefault(name, value.new_zeros((len(wanted), *value.shape[1:])))
            _, here, there = np.intersect1d(wanted, held, assume_unique=True, return_indices=True)
            target[torch.from_numpy(here)] = value[torch.from_numpy(there)]
            missing[parameter][here] = False
        if not any(rows.any() for rows in missing.values()):
            break
    for parameter, rows in missing.items():
        if rows.any():
            raise DataError(
                f"{manifest.shared.key.rpartition('/')[0]}: table {parameter} lacks {int(rows.sum())} of "
                f"{len(rows)} wanted rows. The model was trained on another snapshot; train it on this one."
            )
    return tensors
