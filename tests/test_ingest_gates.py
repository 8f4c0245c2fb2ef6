"""A raw file is refused by its header alone: nothing in it is run, and no library builds objects from it."""

import base64
import io
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem

from tru_core.errors import DataError, IntegrityError, MissingObjectError, TruError
from workflows.ingest.gates import FORBIDDEN_SWITCHES, check_npy, check_parquet, check_text, refuse_pickle_switches

LOCAL = LocalFileSystem()


class _Marker:
    """An object whose pickle makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.path),))


def _parquet(path: Path, *, rows: int = 100) -> Path:
    pq.write_table(
        pa.table({"a": list(range(rows)), "b": [float(row) for row in range(rows)]}), path, row_group_size=40
    )
    return path


def test_a_sound_parquet_file_tells_its_columns_and_row_groups(tmp_path: Path) -> None:
    facts = check_parquet(LOCAL, str(_parquet(tmp_path / "a.parquet")), key="a.parquet")
    assert facts.columns == {"a": pa.int64(), "b": pa.float64()}
    assert facts.row_group_rows == (40, 40, 20)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "name", ["ray.data.arrow_pickled_object", "ray.data.arrow_tensor_v2", "arrow.py_extension_type", "anything.else"]
)
def test_a_parquet_file_with_any_extension_type_is_refused_unopened(tmp_path: Path, name: str, nested: bool) -> None:
    metadata = {"ARROW:extension:name": name, "ARROW:extension:metadata": "x"}
    field = pa.field("evil", pa.binary(), metadata=metadata)
    field = pa.field("outer", pa.struct([field])) if nested else field
    values = [{"evil": b"1"}] if nested else [b"1"]
    pq.write_table(pa.table([pa.array(values, type=field.type)], schema=pa.schema([field])), tmp_path / "a.parquet")
    with pytest.raises(
        IntegrityError, match=r"a\.parquet: a column has an Arrow extension type.*Nothing was written"
    ) as caught:
        check_parquet(LOCAL, str(tmp_path / "a.parquet"), key="a.parquet")
    assert caught.value.exit_code == 8


def test_a_schema_that_is_no_base64_is_refused(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "a.parquet")
    body = path.read_bytes()
    start = body.index(b"ARROW:schema") + len(b"ARROW:schema") + 3
    path.write_bytes(body[:start] + b"!!" + body[start + 2 :])
    with pytest.raises(IntegrityError, match="cannot be checked"):
        check_parquet(LOCAL, str(path), key="a.parquet")


def test_the_mark_is_found_wherever_it_stands_in_the_encoded_schema(tmp_path: Path) -> None:
    for pad in range(6):  # base64 encodes the same bytes in three ways, by their place
        schema = pa.schema(
            [pa.field("x" * (pad + 1), pa.int8()), pa.field("e", pa.int8(), metadata={"ARROW:extension:name": "t"})]
        )
        pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
        footer = (tmp_path / "a.parquet").read_bytes()
        assert b"ARROW:extension" not in footer
        assert base64.b64encode(b"ARROW:extension") not in footer or pad
        with pytest.raises(IntegrityError):
            check_parquet(LOCAL, str(tmp_path / "a.parquet"), key="a.parquet")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_parquet_footer_is_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    body = bytearray(_parquet(folder / "a.parquet").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(max(0, len(body) - 700), len(body) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.parquet").write_bytes(
        body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    )
    with suppress(DataError, IntegrityError):  # anything else fails the test
        check_parquet(LOCAL, str(folder / "a.parquet"), key="a.parquet")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_a_sound_npy_matrix_tells_where_its_rows_lie(tmp_path: Path, dtype: str) -> None:
    values = np.arange(12).reshape(3, 4).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    facts = check_npy(LOCAL, str(tmp_path / "a.npy"), key="a.npy")
    body = (tmp_path / "a.npy").read_bytes()[facts.data_offset :]
    assert (facts.num_rows, facts.num_columns) == (3, 4)
    np.testing.assert_array_equal(np.frombuffer(body, facts.dtype).reshape(3, 4), values)


def test_an_npy_file_of_objects_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    np.save(tmp_path / "a.npy", np.array([[_Marker(marker)]], dtype=object), allow_pickle=True)
    with pytest.raises(IntegrityError, match=r"a\.npy: holds Python objects.*Nothing was written") as caught:
        check_npy(LOCAL, str(tmp_path / "a.npy"), key="a.npy")
    assert caught.value.exit_code == 8
    assert not marker.exists()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.zeros((2, 3), dtype=np.int32), "int32"),
        (np.zeros((2, 3), dtype=np.complex64), "complex64"),
        (np.asfortranarray(np.zeros((2, 3))), "column by column"),
        (np.zeros((3, 0)), "found 0"),
        (np.zeros(2, dtype=[("a", "f4")]), "expected a matrix"),
    ],
)
def test_an_npy_file_that_is_no_matrix_of_floats_is_refused(tmp_path: Path, values: np.ndarray, problem: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=problem):
        check_npy(LOCAL, str(tmp_path / "a.npy"), key="a.npy")


def test_an_npy_header_of_absurd_size_is_refused_before_it_is_believed(tmp_path: Path) -> None:
    for header in (
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'",
        b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
        b"\x93NUMPY\x09\x00\x10\x00",
        b"",
    ):
        (tmp_path / "a.npy").write_bytes(header)
        with pytest.raises(DataError, match=r"a\.npy: \d+ bytes, expected the header"):
            check_npy(LOCAL, str(tmp_path / "a.npy"), key="a.npy")
    for shape, problem in {
        (2**60, 4): "is truncated",
        (2**63, 4): "found none that can be read",
        (-3, 4): "found none that can be read",
        (10**4000, 4): "found none that can be read",
        (1,) * 2000: "found 2000 dimensions",
        (3, 2**40): "expected 1 to 1000000 columns",
    }.items():
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
        (tmp_path / "a.npy").write_bytes(buffer.getvalue())
        with pytest.raises(DataError, match=problem) as caught:
            check_npy(LOCAL, str(tmp_path / "a.npy"), key="a.npy")
        assert len(str(caught.value)) < 400


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200))
def test_no_npy_header_makes_the_gate_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.npy"
    for start in (b"", b"\x93NUMPY\x01\x00\x76\x00", b"\x93NUMPY\x02\x00\x76\x00\x00\x00"):
        path.write_bytes(start + body)
        with pytest.raises(TruError):
            check_npy(LOCAL, str(path), key="a.npy")


def test_a_text_header_is_read_whatever_editor_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf\r\n user_id , "item_id"\r\n1,2\r\n\r\n3,4\r\n')
    facts = check_text(LOCAL, str(tmp_path / "a.csv"), key="a.csv")
    assert facts.header == ("user_id", "item_id")
    assert (facts.delimiter, facts.num_header_lines) == (",", 2)
    assert facts.first_cells == (("1", "2"), ("3", "4"))
    assert facts.quote == '"'


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "expected a header line, found 0 bytes"),
        (b"\n\n  \n", "expected a header line"),
        (b"PAR1" + bytes(20), "found binary data"),
        (b"a,b,a\n1,2,3\n", "columns 1 and 3 of 3 have the same name"),
        (b"a,b\n\xff\xfe,2\n", "expected UTF-8"),
    ],
)
def test_a_text_file_that_is_none_is_refused(tmp_path: Path, body: bytes, problem: str) -> None:
    (tmp_path / "a.csv").write_bytes(body)
    with pytest.raises(DataError, match=problem):
        check_text(LOCAL, str(tmp_path / "a.csv"), key="a.csv")


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError, match=r"a\.csv: does not exist"):
        check_text(LOCAL, str(tmp_path / "a.csv"), key="a.csv")


@pytest.mark.parametrize("name", FORBIDDEN_SWITCHES)
def test_switches_that_let_ray_unpickle_stop_the_import(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_pickle_switches()
    monkeypatch.setenv(name, "1")
    with pytest.raises(IntegrityError, match=name):
        refuse_pickle_switches()
