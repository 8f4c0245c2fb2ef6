"""Weights in files: whole round trips, and every damage is named, never opened."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tru_core.artifact import pack_tensors, sha256_hex, unpack_tensors
from tru_core.errors import IntegrityError

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).view(2, 3),
    "a": torch.tensor([1.5, -2.0], dtype=torch.float64),
    "half": torch.ones(3, dtype=torch.float16),
    "rows": torch.tensor([3, 1], dtype=torch.int64),
    "steps": torch.tensor(7),
    "nothing": torch.zeros(0, 4),
}


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def test_a_round_trip_keeps_names_dtypes_shapes_and_bits() -> None:
    found = unpack_tensors(pack_tensors(TENSORS), key="k")
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_equal_tensors_give_equal_bytes_in_any_order_of_names() -> None:
    assert pack_tensors(TENSORS) == pack_tensors(dict(reversed(TENSORS.items())))


def test_the_bytes_see_a_change_of_name_value_shape_or_dtype() -> None:
    tensor = torch.arange(6.0)
    others = [{"a": tensor.view(2, 3)}, {"b": tensor}, {"a": tensor.double()}, {"a": tensor + 1e-6}, {}]
    digests = [pack_tensors(tensors) for tensors in [{"a": tensor}, *others]]
    assert len(set(digests)) == len(digests)


def test_the_digest_of_known_bytes() -> None:
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_transposed_table_is_packed_as_it_reads() -> None:
    tensor = torch.arange(6.0).view(2, 3).T
    assert torch.equal(unpack_tensors(pack_tensors({"a": tensor}), key="k")["a"], tensor)


def test_parameters_lose_their_graph_and_stay_trainable() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    assert not unpack_tensors(pack_tensors({"a": parameter}), key="k")["a"].requires_grad
    assert parameter.requires_grad


def test_tensors_that_share_memory_are_packed_whole() -> None:
    base = torch.arange(4.0)
    tensors = {"best": base, "current": base, "front": base[:2], "back": base[1:]}
    found = unpack_tensors(pack_tensors(tensors), key="k")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 50])
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(IntegrityError, match="weights/1"):
        unpack_tensors(pack_tensors(TENSORS)[:length], key="weights/1")


def test_a_file_cut_by_one_byte_or_with_one_too_many_is_refused() -> None:
    body = pack_tensors(TENSORS)
    for damaged in (body[:-1], body + b"\0"):
        with pytest.raises(IntegrityError):
            unpack_tensors(damaged, key="k")


def test_an_oversized_header_is_refused_before_it_is_parsed() -> None:
    header = b"{" + b" " * (16 * 2**20) + b"}"
    with pytest.raises(IntegrityError, match="header of at most"):
        unpack_tensors(with_header(header), key="k")
    with pytest.raises(IntegrityError, match="header of at most"):
        unpack_tensors((2**63).to_bytes(8, "little") + b"{}", key="k")


def test_a_tensor_named_twice_is_refused() -> None:
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    with pytest.raises(IntegrityError, match="twice"):
        unpack_tensors(with_header(b'{"a":' + entry + b',"a":' + entry + b"}", b"\0" * 4), key="k")


def test_a_field_named_twice_is_refused() -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,8]}}'
    with pytest.raises(IntegrityError, match="twice"):
        unpack_tensors(with_header(header, b"\0" * 8), key="k")


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"7",
        b'{"a":1}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"Q32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]}}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda header: header[:40].decode(errors="replace"),
)
def test_a_header_that_is_no_header_is_refused(header: bytes) -> None:
    with pytest.raises(IntegrityError):
        unpack_tensors(with_header(header, b"\0" * 4), key="k")


@settings(max_examples=120)
@given(st.data())
def test_a_flipped_bit_in_the_header_never_ends_in_another_error(data: st.DataObject) -> None:
    body = bytearray(pack_tensors(TENSORS))
    place = data.draw(st.integers(0, 8 + int.from_bytes(body[:8], "little") - 1))
    body[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unpack_tensors(bytes(body), key="k")
    except IntegrityError:
        return
    assert found  # opened, perhaps with another name, dtype or shape: the digest is what catches it
    assert sha256_hex(bytes(body)) != sha256_hex(pack_tensors(TENSORS))


@pytest.mark.parametrize(
    "body", [b"PK\x03\x04\x00\x00\x08\x08" + b"archive/data.pkl" * 20, b"\x80\x02}q\x00(X\x06" + b"w" * 200]
)
def test_a_legacy_file_of_pytorch_is_refused_unopened(body: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"model\.pt") as caught:
        unpack_tensors(body, key="model.pt")
    assert caught.value.exit_code == 8
