"""Tensors as safetensors bytes with digests. No pickle goes in or out.

safetensors runs no code when read, but it is not tamper-evident: it accepts a flipped weight and a
header that names a tensor twice. So bytes are checked against their SHA-256 before they are opened,
and the header is read by our own parser first.
"""

import hashlib
from collections.abc import Mapping

import safetensors
import safetensors.torch
from torch import Tensor

from tru_core.errors import IntegrityError
from tru_core.tensor_header import read_header


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


def unpack_tensors(body: bytes, *, key: str) -> dict[str, Tensor]:
    """Read safetensors bytes whose digest the caller has checked.

    Args:
        key: Where the bytes come from, for messages.

    Raises:
        IntegrityError: If the header is truncated, too long, not JSON or holds a name twice, or the
            data does not fill the file.
    """
    read_header(body, key=key)
    try:
        return safetensors.torch.load(body)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a dtype that PyTorch has no name for
        raise IntegrityError(
            f"{key}: not a whole safetensors file ({error}). Nothing was loaded; restore it or use an older one."
        ) from error
