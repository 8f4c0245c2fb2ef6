"""Tensors as safetensors bytes with digests. No pickle goes in or out.

safetensors runs no code when read, but it is not tamper-evident: it accepts a flipped weight and a
header that names a tensor twice. So bytes are checked against their SHA-256 before they are opened,
and the header is read by our own parser first.
"""

import hashlib
import json
from collections.abc import Mapping

import safetensors
import safetensors.torch
from torch import Tensor

from tru_core.errors import IntegrityError

_MAX_HEADER_BYTES = 16 * 2**20


def sha256_hex(body: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Write tensors as safetensors bytes, names sorted: equal tensors give equal bytes.

    Tensors may share memory (the best values are the current ones after a good epoch): each is written whole.
    """
    plain, taken = {}, set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if memory in taken else tensor
        taken.add(memory)
    return safetensors.torch.save(plain)


def _check_header(body: bytes, key: str) -> None:
    length = int.from_bytes(body[:8], "little") if len(body) >= 8 else -1
    if not 0 < length <= min(_MAX_HEADER_BYTES, len(body) - 8):
        raise IntegrityError(
            f"{key}: expected a safetensors header of at most {_MAX_HEADER_BYTES} bytes inside a file of "
            f"{len(body)} bytes, found a length of {length}. The file was not opened; restore it or use an older one."
        )

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise IntegrityError(f"{key}: the header names a tensor or a field twice. The file was not opened.")
        return dict(pairs)

    try:
        json.loads(body[8 : 8 + length], object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{key}: the safetensors header is not JSON. The file was not opened.") from error


def unpack_tensors(body: bytes, *, key: str) -> dict[str, Tensor]:
    """Read safetensors bytes whose digest the caller has checked.

    Args:
        key: Where the bytes come from, for messages.

    Raises:
        IntegrityError: If the header is truncated, too long, not JSON or holds a name twice, or the
            data does not fill the file.
    """
    _check_header(body, key)
    try:
        return safetensors.torch.load(body)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a dtype that PyTorch has no name for
        raise IntegrityError(
            f"{key}: not a whole safetensors file ({error}). Nothing was loaded; restore it or use an older one."
        ) from error


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values: the identity of a model, whatever file holds it."""
    return sha256_hex(pack_tensors(tensors))
