"""Strategies of receipts and public key files that are nearly valid; changed statements are signed anew."""

import base64
import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.near_valid import mutated, texts, values
from tests.receipt_samples import SIGNING, receipts
from tru_core.canonical import canonical_json
from tru_core.errors import TruError
from tru_core.receipts.envelope import sign_payload

_RECEIPT = receipts()[0]


@st.composite
def receipt_files(draw: st.DrawFn) -> bytes:
    """A receipt of which a value is another one: in the file, or in the statement, which is signed anew."""
    value = json.loads(_RECEIPT)
    if draw(st.integers(0, 9)) == 0:
        return draw(mutated(st.just(_RECEIPT)))
    if draw(st.booleans()):
        payload = json.loads(base64.b64decode(value["envelope"]["payload"]))
        packed = _packed(_with_another_value(draw, payload))
        value["envelope"] = sign_payload(draw(mutated(st.just(packed))), SIGNING).model_dump(mode="json")
    else:
        value = _with_another_value(draw, value)
    return draw(mutated(st.just(_packed(value))))


def _packed(value: Any) -> bytes:
    try:
        return canonical_json(value, where="test")
    except (TruError, ValueError):  # no canonical form: as a careless writer has it
        return json.dumps(value).encode()


def _with_another_value(draw: st.DrawFn, value: Any) -> Any:
    """The same JSON value with another value, name or entry at one place, or without one."""
    value = copy.deepcopy(value)
    inner = value
    while True:
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not places:
            return value
        place = draw(st.sampled_from(places))
        if isinstance(inner[place], dict | list) and inner[place] and draw(st.integers(0, 3)):
            inner = inner[place]
            continue
        kind = draw(st.sampled_from(("replace", "replace", "remove", "add")))
        if kind == "remove":
            del inner[place]
        elif kind == "add" and isinstance(inner, dict):
            inner[draw(texts)] = draw(values)
        else:
            inner[place] = draw(values)
        return value


@st.composite
def public_key_files(draw: st.DrawFn, pem: bytes) -> bytes:
    """A public key below lines that may be limits."""
    limits = (
        "not-after: 2099-01-01T00:00:00+00:00",
        "Not-After: 2020-01-01T00:00:00Z",
        "not-after: 2099-01-01",
        "not-after",
    )
    lines = draw(st.lists(st.sampled_from((*limits, "# a remark", "")) | st.text(max_size=20), max_size=3))
    text = "\n".join([*lines, ""]).encode(errors="replace")
    return draw(mutated(st.just(text + pem)))
