"""The one JSON encoding of a value, and a reader that takes nothing else.

A digest or a signature covers bytes. Where a value has one encoding only, the bytes and the value say the same.
"""

import json
from collections.abc import Hashable
from typing import Any

from tru_core.errors import IntegrityError, NumericsError

_MAX_DEPTH = 64
_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def canonical_json(value: Any, *, where: str) -> bytes:
    """The one encoding of a JSON value: sorted keys, no spaces, UTF-8. ``where`` is named in errors.

    Raises:
        NumericsError: If the value holds NaN or an infinity.
    """
    try:
        text = _ENCODER.encode(value)
    except ValueError as error:
        raise NumericsError(f"{where} was to hold a number that JSON cannot: {error}. Nothing was written.") from error
    return text.encode()


def read_canonical_json(body: bytes, *, where: str) -> Any:
    """Read JSON that is in its one encoding: no other spacing, order, number format, escape or repeated name.

    Raises:
        IntegrityError: If it is not JSON, or JSON in another encoding.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated)
        _check_depth(value)
        is_canonical = canonical_json(value, where=where) == body
    except (ValueError, RecursionError, NumericsError) as error:
        raise IntegrityError(f"{where} is not the JSON that was written: {error}. It was not used.") from error
    if not is_canonical:
        raise IntegrityError(
            f"{where} is JSON in another encoding than the one that this program writes (sorted names, no spaces): "
            "it was changed, or sent through a program that writes JSON anew. It was not used. Get the original file."
        )
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names: list[Hashable] = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name stands twice in one object")
    return dict(pairs)


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(inner, depth + 1)
