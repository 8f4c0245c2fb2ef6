"""Parquet is read in little memory, whatever the footer and the pages of a file claim."""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workflows.data.bounded_parquet
from tests.forged_parquet import (
    DELTA_LENGTH_BYTE_ARRAY,
    FLOAT,
    INT64,
    RLE_DICTIONARY,
    ForgedPage,
    entry,
    forged,
    i32,
    run_of_levels,
    varint,
)
from tru_core.errors import DataError, TruError
from workflows.data.bounded_parquet import read_bounded

BILLION = 10**9
ZEROS = bytes(8)


def _written(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def _read(body: bytes, *columns: str, **options: int) -> pa.Table:
    return pa.Table.from_batches(list(read_bounded(body, columns=columns, name="a.parquet", **options)))


def _repeated(value: str, times: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, dtype=np.int32)), pa.array([value]))


_INDICES = bytes([0]) + varint(BILLION << 1)  # a run of a billion times the first entry of the dictionary
_ONES = run_of_levels(1, BILLION)
_LIST_LEVELS = (6).to_bytes(4, "little") + varint(1 << 1) + b"\0" + varint((2**20 - 1) << 1) + b"\1"

HOSTILE = {
    "one long cell in many rows": _written(pa.table({"user_id": _repeated("x" * 800_000, 2_500)}), compression="zstd"),
    "a cell of 300 kB, once": _written(pa.table({"user_id": ["a", "x" * 300_000]}), use_dictionary=False),
    "a page that claims two gigabytes": forged(
        [ForgedPage(run_of_levels(1, 2) + entry(b"a") * 2, 2, num_bytes=2**31 - 1)], num_rows=2
    ),
    "a page that is a gigabyte of zeros": forged([ForgedPage(bytes(2**28) + bytes(2**20), 2**20)], num_rows=2**20),
    "a dictionary that claims a billion entries": forged(
        [ForgedPage(entry(b"a"), BILLION, is_dictionary=True), ForgedPage(_ONES + _INDICES, 5, RLE_DICTIONARY)],
        num_rows=5,
    ),
    "ten rows in the footer and a billion in a page": forged(
        [ForgedPage(entry(b"a"), 1, is_dictionary=True), ForgedPage(_ONES + _INDICES, BILLION, RLE_DICTIONARY)],
        num_rows=10,
    ),
    "a billion long cells, as the footer says": forged(
        [
            ForgedPage(entry(b"a" * 70_000), 1, is_dictionary=True),
            ForgedPage(_ONES + _INDICES, BILLION, RLE_DICTIONARY),
        ],
        num_rows=BILLION,
    ),
    "lengths without end": forged(
        [
            ForgedPage(
                run_of_levels(1, 5) + varint(2**28) + varint(1) + varint(2**28) + bytes(3), 5, DELTA_LENGTH_BYTE_ARRAY
            )
        ],
        num_rows=5,
    ),
    "a header that says its size twice": forged(
        [
            ForgedPage(
                run_of_levels(1, 2) + entry(b"a") * 2, 2, num_bytes=2**31 - 1, extra=bytes([0x06, 4]) + varint(40)
            )
        ],
        num_rows=2,
    ),
    "a negative number of rows": forged([ForgedPage(run_of_levels(1, 2) + ZEROS, 2)], num_rows=-2, num_values=2),
    "more rows than there are numbers": forged(
        [ForgedPage(run_of_levels(1, 2) + ZEROS, 2)], num_rows=2**62, num_values=2, total_rows=2**62
    ),
    "rows that the whole does not have": forged([ForgedPage(run_of_levels(1, 2) + ZEROS, 2)], num_rows=2, total_rows=9),
}
HOSTILE_LISTS = {
    "a billion values in one list": forged(
        [
            ForgedPage(bytes(4), 1, is_dictionary=True),
            ForgedPage(_ONES + _ONES + _INDICES, BILLION, RLE_DICTIONARY),
        ],
        num_rows=1,
        num_values=BILLION,
        kind=FLOAT,
        is_list=True,
    ),
    "many pages of a million values each": forged(
        [
            ForgedPage(bytes(4), 1, is_dictionary=True),
            *[ForgedPage(_LIST_LEVELS + run_of_levels(1, 2**20) + _INDICES, 2**20, RLE_DICTIONARY)] * 400,
        ],
        num_rows=400,
        num_values=400 * 2**20,
        kind=FLOAT,
        is_list=True,
    ),
}

_READ_ALL = """
import json, resource, sys
from pathlib import Path
from tru_core.errors import TruError
from workflows.data.bounded_parquet import read_bounded
found = {}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        for batch in read_bounded(path.read_bytes(), columns=[path.suffix[1:]], name="a.parquet"):
            pass
        found[path.stem] = "read"
    except TruError as error:
        found[path.stem] = str(error)
print(json.dumps([found, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "ray" in sys.modules]))
"""


def test_hostile_files_are_refused_in_little_memory_and_without_ray(tmp_path: Path) -> None:
    for name, body in HOSTILE.items():
        (tmp_path / f"{name}.user_id").write_bytes(body)
    for name, body in HOSTILE_LISTS.items():
        (tmp_path / f"{name}.vector").write_bytes(body)
    result = subprocess.run([sys.executable, "-c", _READ_ALL, tmp_path], capture_output=True, text=True, check=True)
    found, grown_mib, has_ray = json.loads(result.stdout)
    assert set(found) == {*HOSTILE, *HOSTILE_LISTS}
    for name, message in found.items():
        assert message.startswith("a.parquet"), name
        assert "Nothing was written." in message
        assert len(message) < 400
    assert grown_mib < 200
    assert not has_ray


def test_a_file_that_a_library_would_read_in_gigabytes_is_named_with_what_is_too_large() -> None:
    for name, problem in {
        "one long cell in many rows": "row group 1, column user_id: expected cells of at most 64 KiB, found 781 KiB",
        "a cell of 300 kB, once": "column user_id, row 2: expected cells of at most 64 KiB, found 292 KiB",
        "a page that claims two gigabytes": "pages of 2047 MiB lie in",
        "a dictionary that claims a billion entries": "a dictionary claims 1000000000 values in 5 bytes",
        "ten rows in the footer and a billion in a page": "the footer says 10 values, its pages 1000000000",
        "lengths without end": "found one that can unpack to any size",
        "a header that says its size twice": "the header of page 1 is damaged",
        "a negative number of rows": "contradicts itself about its rows",
    }.items():
        with pytest.raises(DataError, match=problem):
            _read(HOSTILE[name], "user_id")
    with pytest.raises(DataError, match=r"lists of 7629 MiB lie in \d+ bytes"):
        _read(HOSTILE_LISTS["a billion values in one list"], "vector")


def _plain() -> pa.Table:
    rows = np.arange(2_100)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8_400, dtype=np.float32)), 4)
    return pa.table(
        {
            "number": pa.array(rows, mask=rows % 7 == 0),
            "text": pa.array([f"id-{row % 50}" for row in rows], pa.large_string()),
            "coded": pa.array([f"id-{row}" for row in rows]).dictionary_encode(),
            "vector": vector,
            "user.id": pa.array([str(row) for row in rows]),
            "flag": pa.array(rows % 2 == 0),
            "time": pa.array(rows, pa.timestamp("us", tz="UTC")),
        }
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "data_page_size": 1000, "row_group_size": 700},
        {"compression": "gzip", "data_page_version": "2.0"},
        {"compression": "lz4", "use_dictionary": False, "write_page_checksum": True},
        {"compression": "brotli", "dictionary_pagesize_limit": 2000, "write_batch_size": 50},
        {"compression": "none", "store_schema": False},
        {"use_dictionary": False, "column_encoding": {"number": "DELTA_BINARY_PACKED", "time": "PLAIN"}},
    ],
)
@pytest.mark.parametrize("batch_bytes", [2**13, 2**26])
def test_honest_files_are_read_as_they_are(options: dict, batch_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflows.data.bounded_parquet, "_BATCH_BYTES", batch_bytes)
    table = _plain()
    found = _read(_written(table, **options), "vector", "user.id", "coded", "text", "number", "flag", "time")
    assert found.num_rows == 2_100
    for name in found.column_names:
        assert found.column(name).to_pylist() == table.column(name).to_pylist(), name


def test_one_row_group_can_be_read_alone_and_empty_files_have_no_batch() -> None:
    body = _written(_plain(), row_group_size=700)
    batches = read_bounded(body, columns=["user.id"], name="a.parquet", row_group=2)
    assert [value for batch in batches for value in batch.column(0).to_pylist()] == [str(n) for n in range(1400, 2100)]
    assert list(read_bounded(_written(_plain().slice(0, 0)), columns=["number"], name="a.parquet")) == []


def test_rows_and_bytes_of_a_file_are_bounded_where_the_reader_keeps_them() -> None:
    body = _written(pa.table({"user_id": _repeated("x" * 10_000, 3_000)}))
    with pytest.raises(DataError, match=r"expected at most 100 rows, found 3000"):
        _read(body, "user_id", max_rows=100)
    with pytest.raises(DataError, match=r"unpacks to more than 8 MiB"):
        _read(body, "user_id", max_bytes=8 * 2**20)
    assert _read(body, "user_id", max_rows=3_000, max_bytes=2**25).num_rows == 3_000


def test_a_file_of_thousands_of_columns_costs_only_those_that_are_read() -> None:
    table = pa.table({f"c{number}": [number] for number in range(3_000)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert _read(_written(table), "c17").to_pylist() == [{"c17": 17}]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_forged_files_are_read_where_they_tell_the_truth() -> None:
    body = forged(
        [
            ForgedPage(entry(b"ab") + entry(b"c"), 2, is_dictionary=True),
            ForgedPage(run_of_levels(1, 5) + bytes([1]) + varint(5 << 1) + b"\1", 5, RLE_DICTIONARY),
        ],
        num_rows=5,
    )
    assert _read(body, "user_id").to_pydict() == {"user_id": ["c"] * 5}
    body = forged([ForgedPage(run_of_levels(1, 2) + bytes(15) + b"\1", 2)], num_rows=2, kind=INT64)
    assert _read(body, "user_id").to_pydict() == {"user_id": [0, 2**56]}
    assert i32(1, -1) == b"\x15\x01"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_an_error_of_ours_or_none(data: st.DataObject) -> None:
    body = bytearray(_FUZZED)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        _read(bytes(body), "text", "vector", "number")
    except TruError as error:
        assert len(str(error)) < 500


_FUZZED = _written(_plain().slice(0, 40), compression="none", write_statistics=False)
