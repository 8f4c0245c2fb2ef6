"""Raw files are read in parts, and no part's border changes what is read or how its rows are numbered."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem

import workflows.ingest.feature_rows
import workflows.ingest.item_graph
import workflows.ingest.raw_tables
from tests.ingest_sources import features
from tru_core.errors import DataError
from workflows.ingest.feature_rows import load_matrix
from workflows.ingest.item_graph import Neighbours, add_neighbours, unit_rows
from workflows.ingest.layouts import TableFile, find_raw_data
from workflows.ingest.raw_tables import plan_pieces, read_piece, read_tables
from workflows.storage.local import LocalStore

LOCAL = LocalFileSystem()


def _text(folder: Path, body: bytes) -> TableFile:
    (folder / "interactions.csv").write_bytes(body)
    return find_raw_data(LocalStore(folder), "auto").tables[0]


@pytest.mark.parametrize("block_bytes", [64, 2**20])
def test_rows_of_text_are_numbered_through_all_blocks(
    tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows.ingest.raw_tables, "TEXT_BLOCK_BYTES", block_bytes)
    lines = [f'{row},"a, ""quoted"" {"x" * (row % 9)}",{row * 2}' for row in range(300)]
    table = _text(tmp_path, b"\xef\xbb\xbfuser_id,title,item_id\r\n" + "\r\n\r\n".join(lines).encode())
    parts = list(read_tables(LOCAL, table, columns=["item_id", "user_id"]))
    assert (len(parts) > 1) == (block_bytes == 64)
    assert np.concatenate([rows for _, rows in parts]).tolist() == list(range(300))
    assert pa.concat_tables([part for part, _ in parts]).to_pydict() == {
        "item_id": [str(row * 2) for row in range(300)],
        "user_id": [str(row) for row in range(300)],
    }


def test_a_ragged_line_far_down_is_named_by_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflows.ingest.raw_tables, "TEXT_BLOCK_BYTES", 64)
    lines = [f"{row},{row}" for row in range(200)]
    lines[150] = "1,2,3"
    table = _text(tmp_path, ("user_id,item_id\n" + "\n".join(lines)).encode())
    with pytest.raises(
        DataError, match=r"expected 2 cells in every line, found fewer or more in line 152 \(1 in all\)"
    ):
        list(read_tables(LOCAL, table, columns=["user_id"]))


def test_bytes_that_are_no_text_are_refused_without_being_quoted(tmp_path: Path) -> None:
    table = _text(tmp_path, b"user_id,item_id\n" + b"1,2\n" * 400_000 + b"secret-\xff\xfe,3\n")
    with pytest.raises(DataError, match="a line cannot be read") as caught:
        list(read_tables(LOCAL, table, columns=["user_id"]))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("rows_per_task", [1, 7, 40, 10**6])
def test_pieces_of_a_parquet_file_hold_every_row_once(tmp_path: Path, rows_per_task: int) -> None:
    values = list(range(100))
    pq.write_table(
        pa.table({"user_id": values, "item_id": values}), tmp_path / "interactions.parquet", row_group_size=40
    )
    tables = find_raw_data(LocalStore(tmp_path), "auto").tables
    pieces = plan_pieces(tables, rows_per_task)
    parts = [part for piece in pieces for part in read_piece(LOCAL, tables[0], piece, columns=["user_id"])]
    assert np.concatenate([rows for _, rows in parts]).tolist() == values
    assert pa.concat_tables([part for part, _ in parts]).column(0).to_pylist() == values
    assert len(pieces) == {1: 100, 7: 12, 40: 3, 10**6: 3}[rows_per_task]


@pytest.mark.parametrize("read_bytes", [1, 40, 100, 2**20])
def test_matrix_rows_of_scattered_items_are_found_in_any_number_of_reads(
    tmp_path: Path, read_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows.ingest.feature_rows, "_READ_BYTES", read_bytes)
    (tmp_path / "features").mkdir()
    pq.write_table(pa.table({"user_id": [1], "item_id": [1]}), tmp_path / "interactions.parquet")
    for dtype in ("<f4", ">f8", "<f2"):
        values = features(5, num_items=60).astype(dtype)
        values[33, 2] = np.nan
        np.save(tmp_path / "features" / "image.npy", values)
        source = find_raw_data(LocalStore(tmp_path), "auto").features[0]
        wanted = [0, 3, 4, 5, 17, 33, 59]
        assert source.npy is not None
        loaded = load_matrix(LocalStore(tmp_path), source, source.npy, pa.array([str(item) for item in wanted]))
        np.testing.assert_array_equal(loaded.values, values[wanted])
        assert [(problem.unit, problem.rows) for problem in loaded.problems] == [("index", (33,))]
        assert loaded.num_source_rows == 60


@pytest.mark.parametrize("slab_bytes", [1, 200, 5000])
def test_slabs_of_the_item_graph_change_nothing(slab_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(features(6, num_items=50), None)

    def graph() -> Neighbours:
        best = add_neighbours(Neighbours.none(), rows[:20], rows[:20], first_row=0, first_column=0, num_others=4)
        return add_neighbours(best, rows[:20], rows[20:], first_row=0, first_column=20, num_others=4)

    expected = graph()
    monkeypatch.setattr(workflows.ingest.item_graph, "_SLAB_BYTES", slab_bytes)
    found = graph()
    for name in ("rows", "columns", "similarity"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
