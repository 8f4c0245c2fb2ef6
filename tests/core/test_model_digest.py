"""A model's digest sees every change of content, and not how many workers wrote it."""

import json
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tru_core.artifact import pack_tensors, unpack_tensors
from tru_core.errors import IntegrityError
from tru_core.receipts.model_digest import model_digest

TABLE = torch.arange(24, dtype=torch.float32).reshape(6, 4)
SHARED = {"parameters/weight": torch.ones(2, 3), "parameters/bias": torch.zeros(2)}


def files(owners: Mapping[int, list[int]], table: Tensor = TABLE, **shared: Tensor) -> list[tuple[str, bytes]]:
    """A model as workers write it, each with the rows that it owns."""
    parts = [pack_tensors(SHARED | {f"parameters/{name}": value for name, value in shared.items()})]
    for rows in owners.values():
        parts.append(pack_tensors({"parameters/users": table[rows], "rows/users": torch.tensor(rows)}))
    return [(f"file-{place}", body) for place, body in enumerate(parts)]


ONE = {0: [0, 1, 2, 3, 4, 5]}


def with_header(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def test_one_worker_and_three_that_wrote_the_same_values_give_the_same_digest() -> None:
    assert model_digest(files(ONE)) == model_digest(files({0: [4, 0], 1: [5, 3, 1], 2: [2]}))


def test_any_other_value_name_type_shape_or_row_gives_another_digest() -> None:
    changed = TABLE.clone()
    changed[3, 2] += 1e-3
    found = [
        model_digest(files(ONE)),
        model_digest(files(ONE, changed)),
        model_digest(files(ONE, TABLE.double())),
        model_digest(files({0: [0, 1, 2, 3, 4]})),
        model_digest(files({0: [1, 0, 2, 3, 4, 5]}, TABLE[[1, 0, 2, 3, 4, 5]])),
        model_digest(files(ONE, bias=torch.ones(2))),
        model_digest(files(ONE, more=torch.ones(1))),
        model_digest(files(ONE, weight=torch.ones(3, 2))),
    ]
    assert len(set(found)) == len(found)


def test_metadata_is_part_of_the_digest() -> None:
    field = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    bodies = [
        with_header(json.dumps(field | more).encode(), b"x") for more in ({}, {"__metadata__": {"note": "sentinel"}})
    ]
    assert len({model_digest([("k", body)]) for body in bodies}) == 2


def test_every_flipped_byte_of_a_file_is_refused_or_gives_another_digest() -> None:
    (_, body), *_ = files(ONE)
    before = model_digest([("k", body)])
    for place in range(len(body)):
        changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        try:
            assert model_digest([("k", changed)]) != before
        except IntegrityError:
            continue


def test_a_name_that_the_formats_own_reader_would_take_twice_is_refused() -> None:
    field = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    with pytest.raises(IntegrityError, match="twice"):
        model_digest([("k", with_header(b'{"a":' + field + b',"a":' + field + b"}", b"x"))])


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}},  # a byte belongs to nothing
        {"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}},
        {"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}},
        {"a": {"dtype": "U8", "shape": [True, 2], "data_offsets": [0, 2]}},
        {"a": {"dtype": "Q9", "shape": [2], "data_offsets": [0, 2]}},
        {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2], "more": 1}},
        {"a": {"dtype": "U8", "shape": [2]}},
        {"a": 1},
        {"__metadata__": {"a": 1}, "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}},
        {  # two names for the same bytes
            "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
            "b": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
        },
    ],
)
def test_a_header_that_does_not_stand_for_every_byte_once_is_refused(header: dict[str, object]) -> None:
    with pytest.raises(IntegrityError):
        model_digest([("k", with_header(json.dumps(header).encode(), b"xy"))])


def test_a_row_or_a_tensor_in_two_files_is_refused() -> None:
    with pytest.raises(IntegrityError, match="row stands in two places"):
        model_digest(files({0: [0, 1], 1: [1, 2]}))
    shared = files(ONE)[:1]
    with pytest.raises(IntegrityError, match="stands in another file too"):
        model_digest([*shared, ("other", shared[0][1])])


def test_the_files_are_those_that_the_model_is_loaded_from() -> None:
    """The digest reads what ``unpack_tensors`` reads: the same names, whichever wrote them."""
    for key, body in files({0: [0, 1, 2], 1: [3, 4, 5]}):
        assert unpack_tensors(body, key=key)
