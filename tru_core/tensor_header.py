"""The header of a safetensors file, read by our own parser before anything else opens the file.

The format's own reader accepts a header that names a tensor twice. This one refuses it, and whatever else would leave
it open which bytes a name stands for.
"""

import json

from tru_core.errors import IntegrityError

MAX_HEADER_BYTES = 16 * 2**20


def read_header(body: bytes, *, key: str) -> tuple[dict[str, object], int]:
    """The fields of a header by tensor name (and ``__metadata__``), and where the data begins.

    Args:
        key: Where the bytes come from, for messages.

    Raises:
        IntegrityError: If the header is truncated, too long, not JSON, or holds a name twice.
    """
    length = int.from_bytes(body[:8], "little") if len(body) >= 8 else -1
    if not 0 < length <= min(MAX_HEADER_BYTES, len(body) - 8):
        raise IntegrityError(
            f"{key}: expected a safetensors header of at most {MAX_HEADER_BYTES} bytes inside a file of "
            f"{len(body)} bytes, found a length of {length}. The file was not opened; restore it or use an older one."
        )

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise IntegrityError(f"{key}: the header names a tensor or a field twice. The file was not opened.")
        return dict(pairs)

    try:
        header = json.loads(body[8 : 8 + length], object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{key}: the safetensors header is not JSON. The file was not opened.") from error
    if not isinstance(header, dict):
        raise IntegrityError(f"{key}: the safetensors header is no JSON object. The file was not opened.")
    return header, 8 + length
