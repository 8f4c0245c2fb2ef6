"""The identity of a model: one digest over names, types, shapes and values, whatever number of workers wrote it.

A model lies in one file of shared tensors and in files of rows. In a file of rows, tensor ``rows/<table>`` says which
rows of ``<table>`` the file holds. Here the rows are put in order again, so that one worker and four that wrote the
same values give the same digest. The bytes of each file are a matter of its own SHA-256.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tru_core.canonical import canonical_json
from tru_core.errors import IntegrityError
from tru_core.tensor_header import read_header

_ROWS = "rows/"
_METADATA = "__metadata__"
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
_BITS |= {"I64": 64, "U64": 64, "F64": 64}


@dataclass(frozen=True)
class RawTensor:
    """A tensor as bytes in a file, which nothing has interpreted.

    Attributes:
        data: uint8 [number of bytes].
    """

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


def read_raw_tensors(body: bytes, *, key: str) -> tuple[dict[str, RawTensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Raises:
        IntegrityError: If the header is damaged, names anything twice, or does not stand for every byte once.
    """
    header, begin = read_header(body, key=key)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise IntegrityError(f"{key}: the metadata in the safetensors header is no text by name. It was not used.")
    data, spans, found = np.frombuffer(body, dtype=np.uint8)[begin:], [], {}
    for name, field in header.items():
        dtype, shape, start, end = _check_field(field, f"{key}: tensor {name[:80]!r}")
        spans.append((start, end))
        found[name] = RawTensor(dtype, shape, data[start:end])
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise IntegrityError(f"{key}: the tensors do not fill the file byte by byte. It was not used.")
        position = end
    if position != len(data):
        raise IntegrityError(f"{key}: {len(data) - position} bytes belong to no tensor. The file was not used.")
    return found, metadata


def model_digest(files: Sequence[tuple[str, bytes]]) -> str:
    """The digest of a model that lies in these files, given as key and bytes: 64 hexadecimal digits.

    Raises:
        IntegrityError: If a file is damaged, a tensor or a row stands in two files, or types and shapes do not fit.
    """
    whole: dict[str, RawTensor] = {}
    parts: dict[str, list[tuple[NDArray[np.int64], RawTensor]]] = {}
    metadata: dict[str, str] = {}
    for key, body in files:
        tensors, described = read_raw_tensors(body, key=key)
        metadata |= described
        for name, tensor in tensors.items():
            rows = tensors.get(_ROWS + name.rpartition("/")[2])
            if name.startswith(_ROWS):
                continue
            if rows is not None:
                parts.setdefault(name, []).append((_row_numbers(rows, key), tensor))
            elif name in whole:
                raise IntegrityError(f"{key}: tensor {name[:80]!r} stands in another file too. Nothing was used.")
            else:
                whole[name] = tensor
    if whole.keys() & parts.keys():
        raise IntegrityError("a table lies in one file whole and in another by rows. Nothing was used.")
    return _digest(whole | {name: _join_rows(name, found) for name, found in parts.items()}, metadata)


def _digest(tensors: Mapping[str, RawTensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(canonical_json(["tru.model", 1, dict(metadata)], where="a model's digest"))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(canonical_json([name, tensor.dtype, list(tensor.shape)], where="a model's digest"))
        digest.update(np.ascontiguousarray(tensor.data).data)
    return digest.hexdigest()


def _check_field(field: object, where: str) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape and byte range of a tensor."""
    if not isinstance(field, dict) or field.keys() != {"dtype", "shape", "data_offsets"}:
        raise IntegrityError(f"{where} is not described by dtype, shape and data_offsets. It was not used.")
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if dtype not in _BITS or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise IntegrityError(f"{where} has a type, shape or place that means nothing. It was not used.")
    size = _BITS[dtype] // 8
    for length in shape:
        size *= length
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise IntegrityError(f"{where} needs {size} bytes and has another range. It was not used.")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _row_numbers(tensor: RawTensor, key: str) -> NDArray[np.int64]:
    if tensor.dtype != "I64" or len(tensor.shape) != 1:
        raise IntegrityError(f"{key}: row numbers are {tensor.dtype} {list(tensor.shape)}, expected one axis of I64.")
    return np.frombuffer(tensor.data.tobytes(), dtype="<i8")


def _join_rows(name: str, parts: Sequence[tuple[NDArray[np.int64], RawTensor]]) -> RawTensor:
    """A table from the parts of it that several files hold, by row number."""
    kinds = {(tensor.dtype, tensor.shape[1:]) for _, tensor in parts}
    if len(kinds) != 1 or any(tensor.shape[:1] != (len(rows),) for rows, tensor in parts):
        raise IntegrityError(f"table {name[:80]!r}: the files do not agree in type or shape. Nothing was used.")
    dtype, shape = kinds.pop()
    rows = np.concatenate([rows for rows, _ in parts])
    if len(np.unique(rows)) != len(rows):
        raise IntegrityError(f"table {name[:80]!r}: a row stands in two places. Nothing was used.")
    width = _BITS[dtype] // 8 * int(np.prod(shape, dtype=np.int64))
    data = np.concatenate([tensor.data.reshape(len(found), width) for found, tensor in parts])
    order = np.argsort(rows, kind="stable")
    numbers = hashlib.sha256(rows[order].astype("<i8").tobytes()).hexdigest()
    return RawTensor(f"{dtype} rows {numbers}", (len(rows), *shape), data[order].reshape(-1))
