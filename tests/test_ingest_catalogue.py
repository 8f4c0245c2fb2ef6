"""Rows 1 to 23 of the catalogue of bad inputs: what an import says, its exit code, and that it wrote nothing."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ingest_sources import (
    FIRST_USER,
    NUM_ITEMS,
    NUM_USERS,
    features,
    interactions,
    write_lists,
    write_text,
    write_tru,
)
from tru_core.errors import ConflictError, DataError, IntegrityError, MissingObjectError, TruError
from workflows.data.snapshot import SnapshotManifest, read_features, read_interactions, read_vocabulary
from workflows.ingest import ColumnNames, IngestConfig, import_dataset
from workflows.storage import ObjectStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

Refuse = Callable[..., str]
Accept = Callable[..., SnapshotManifest]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A sound source in layout tru."""
    return write_tru(tmp_path / "raw")


@pytest.fixture
def accept(source: Path, local_store: ObjectStore) -> Accept:
    """Import the source with some settings."""
    return lambda **settings: import_dataset(str(source), local_store, "small", IngestConfig(**settings))


@pytest.fixture
def refuse(accept: Accept, local_store: ObjectStore) -> Refuse:
    """Import the source with some settings, see it fail, and return the message."""

    def run(error: type[TruError] = DataError, **settings: Any) -> str:
        with pytest.raises(TruError) as caught:
            accept(**settings)
        assert type(caught.value) is error
        message = str(caught.value)
        assert not re.search(rf"{FIRST_USER // 100}\d\d", message), "a user id stands in the message"
        assert "Nothing was written." in message
        assert local_store.list("") == []
        return message

    return run


def _rewrite(source: Path, change: Callable[[dict[str, list[Any]]], Any]) -> None:
    columns = interactions()
    change(columns)
    pq.write_table(pa.table(columns), source / "interactions.parquet")


def _without(row: int) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        for cells in columns.values():
            del cells[row]

    return change


@pytest.mark.parametrize("kind", ["truncated", "csv renamed", "empty"])
def test_row_1_a_file_that_is_no_whole_parquet(source: Path, refuse: Refuse, kind: str) -> None:
    path = source / "interactions.parquet"
    body = {"truncated": path.read_bytes()[:-100], "csv renamed": b"user_id,item_id\n1,2\n", "empty": b""}[kind]
    path.write_bytes(body)
    message = refuse()
    assert f"interactions.parquet: {len(body)} bytes, expected the parquet magic b'PAR1'" in message


def test_row_2_a_corrupt_page_names_its_row_group_and_is_not_tried_for_long(source: Path, refuse: Refuse) -> None:
    columns = interactions()
    path = source / "interactions.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=50, compression="snappy", use_dictionary=False)
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    body = bytearray(path.read_bytes())
    body[start + 30 : start + 60] = bytes(30)
    path.write_bytes(body)
    started = time.monotonic()
    assert "interactions.parquet, row group 2: a page is damaged" in refuse()
    assert time.monotonic() - started < 30


def test_row_3_a_renamed_column_is_named_with_the_nearest(source: Path, refuse: Refuse, accept: Accept) -> None:
    _rewrite(source, lambda columns: columns.update(userid=columns.pop("user_id")))
    message = refuse()
    assert "expected a column user_id, found none in 4 columns. Did you mean column 4 of 4?" in message
    assert accept(columns=ColumnNames(user="userid")).num_users == NUM_USERS


def test_row_3_a_split_that_is_asked_for_must_be_there(source: Path, refuse: Refuse) -> None:
    _rewrite(source, lambda columns: (columns.pop("x_label"), columns.pop("timestamp")))
    assert "expected a column split or x_label, found none in 2 columns" in refuse(split="given")
    assert (
        "expected a column timestamp, found none in 2 columns. Nothing was written. The split by time needs it"
        in refuse(split="time")
    )


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("user_id", True, "expected type integer or string or float or decimal or binary, found bool"),
        ("item_id", [1], "expected type integer or string or float or decimal or binary, found list."),
        ("x_label", 0.5, "expected type integer or string, found double"),
        ("timestamp", False, "expected type integer or string or float or decimal or time, found bool"),
    ],
)
def test_row_4_a_wrong_type_is_named(source: Path, refuse: Refuse, column: str, value: Any, expected: str) -> None:
    _rewrite(source, lambda columns: columns.update({column: [value] * len(columns[column])}))
    message = refuse()
    assert message.startswith(f"interactions.parquet, column {column}: ")
    assert expected in message


def test_row_4_text_item_ids_cannot_name_rows_of_a_matrix(source: Path, refuse: Refuse) -> None:
    _rewrite(source, lambda columns: columns.update(item_id=[f"item-{item}" for item in columns["item_id"]]))
    assert "features/image.npy: row i belongs to item id i, but the item ids are text" in refuse()


@pytest.mark.parametrize("kind", ["type", "column"])
def test_row_5_two_files_that_differ_are_both_named(source: Path, refuse: Refuse, kind: str) -> None:
    columns = interactions()
    (source / "interactions.parquet").rename(source / "interactions-0.parquet")
    changed = {**columns, "x_label": [str(part) for part in columns["x_label"]]}
    if kind == "column":
        del changed["x_label"]
    pq.write_table(pa.table(changed), source / "interactions-1.parquet")
    message = refuse()
    assert "interactions-1.parquet and interactions-0.parquet differ: column x_label is int64" in message
    assert ("string" if kind == "type" else "missing") in message


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_row_6_rows_without_an_id_are_listed(source: Path, refuse: Refuse, column: str) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        for row in (3, 10, 11, 12, 20, 21, 99):
            columns[column][row] = None

    _rewrite(source, change)
    for rows_per_task in (1_000_000, 30):
        message = refuse(rows_per_task=rows_per_task)
        assert f"interactions.parquet, column {column}: expected an id in every row, found no id in" in message
        assert "rows 4, 11, 12, 13, 21 (7 in all)" in message


def test_row_7_rows_with_a_negative_id_are_listed(source: Path, refuse: Refuse) -> None:
    _rewrite(source, lambda columns: columns["item_id"].__setitem__(42, -1))
    assert "column item_id: expected ids from 0 on, found negative ids in row 43 (1 in all)" in refuse()


def test_row_8_ids_beyond_32_bits_stay_exact(source: Path, accept: Accept, local_store: ObjectStore) -> None:
    _rewrite(source, lambda columns: columns.update(user_id=[user + 2**40 for user in columns["user_id"]]))
    manifest = accept()
    ids, _ = read_vocabulary(local_store, manifest.user_vocabulary)
    assert ids == [str(FIRST_USER + 2**40 + user) for user in range(NUM_USERS)]


def test_row_8_an_item_id_beyond_32_bits_does_not_wrap_around_in_a_matrix(source: Path, refuse: Refuse) -> None:
    _rewrite(source, lambda columns: columns["item_id"].__setitem__(0, 2**32))
    assert f"expected {2**32 + 1} rows or more" in refuse()


def test_row_9_float_ids_are_taken_if_they_are_exact(source: Path, refuse: Refuse, accept: Accept) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        columns["user_id"] = [float(user) for user in columns["user_id"]]
        columns["user_id"][5:8] = [0.5, 1e20, float("nan")]

    _rewrite(source, change)
    assert "fractions, NaN or floats too large to be exact in rows 6, 7, 8 (3 in all)" in refuse()
    _rewrite(source, lambda columns: columns.update(user_id=[float(user) for user in columns["user_id"]]))
    assert accept().num_users == NUM_USERS


def test_row_10_duplicates_are_dropped_and_counted_or_refused(source: Path, refuse: Refuse, accept: Accept) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        for row, part, later in ((0, 0, 0), (1, 0, 0), (5, 0, 60), (10, 2, 0)):
            for name, cells in columns.items():
                cells.append(cells[row] + later if name == "timestamp" else part if name == "x_label" else cells[row])

    _rewrite(source, change)
    message = refuse(duplicates="error")
    # Of row 10 and its copy in test, the one in train stays; of row 5 the earlier one.
    assert "column user and item: expected each pair once" in message
    assert "rows 101, 102, 103, 104 (4 in all)" in message
    manifest = accept()
    assert manifest.report["duplicates_dropped"] == 2
    assert manifest.report["repeats_dropped"] == 1
    assert manifest.report["pairs_in_two_splits_dropped"] == 1
    assert manifest.report["rows_read"] == 104
    assert (manifest.counts.train, manifest.counts.valid, manifest.counts.test) == (60, 20, 20)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({7: 4_000_000_000}, "found times in the future in row 8 (1 in all)"),
        ({7: 1_600_000_000_000}, "(ratio 0.01), those in milliseconds in row 8 (1 in all)"),
        ({7: None}, "found none, or one that cannot be read in row 8 (1 in all)"),
    ],
)
def test_row_11_impossible_times_are_refused(
    source: Path, refuse: Refuse, cells: dict[int, Any], expected: str
) -> None:
    _rewrite(source, lambda columns: [columns["timestamp"].__setitem__(row, value) for row, value in cells.items()])
    message = refuse()
    assert message.startswith("interactions.parquet, column timestamp: ")
    assert expected in message


def test_row_11_a_time_that_is_no_time_is_refused(source: Path, refuse: Refuse) -> None:
    _rewrite(source, lambda columns: columns.update(timestamp=["2020-01-01"] * 99 + ["last week"]))
    assert "found none, or one that cannot be read in row 100 (1 in all)" in refuse()


@pytest.mark.parametrize(("name", "column"), [("users", "user_id"), ("items", "item_id")])
def test_row_12_ids_that_the_id_map_lacks_are_counted(source: Path, refuse: Refuse, name: str, column: str) -> None:
    ids = sorted(set(interactions()[column]))
    pq.write_table(pa.table({column: ids[1:]}), source / f"{name}.parquet")
    message = refuse()
    assert f"interactions.parquet, column {column}: expected ids that {name}.parquet lists" in message
    assert re.search(r"in rows \d+.* \(\d+ in all\)", message)


def test_row_13_items_without_features_are_refused_or_zero(
    source: Path, refuse: Refuse, accept: Accept, local_store: ObjectStore
) -> None:
    (source / "features" / "image.npy").unlink()
    rows: list[Any] = features(4).tolist()
    rows[2] = None
    write_lists(source, rows[:-1])
    message = refuse()
    assert f"features/image.parquet: expected image features of all {NUM_ITEMS} items" in message
    assert "found none for those of item rows 3, 12 (2 in all)" in message
    manifest = accept(missing_feature="zero")
    assert manifest.report["items_without_feature.image"] == 2
    found = read_features(local_store, manifest, "image", range(manifest.num_item_buckets))
    expected = features(4)
    expected[[2, 11]] = 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_row_14_feature_rows_without_an_item_are_counted(source: Path, accept: Accept, kind: str) -> None:
    if kind == "npy":
        np.save(source / "features" / "image.npy", features(4, num_items=NUM_ITEMS + 3))
    else:
        (source / "features" / "image.npy").unlink()
        write_lists(source, features(4, num_items=NUM_ITEMS + 3).tolist())
    report = accept().report
    assert report["feature_rows_without_item.image"] == 3
    assert report["feature_rows_without_item.text"] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_row_15_features_that_are_not_finite_are_listed(source: Path, refuse: Refuse, value: float) -> None:
    rows = features(5)
    rows[[4, 9], 2] = value
    np.save(source / "features" / "text.npy", rows)
    message = refuse()
    assert "features/text.npy, column text: expected finite numbers" in message
    assert "indices 4, 9 (2 in all)" in message


def test_row_16_zero_rows_and_constant_columns_are_counted(source: Path, accept: Accept) -> None:
    rows = features(5)
    rows[:, 3] = 0.25
    rows[6] = 0
    np.save(source / "features" / "text.npy", rows)
    report = accept().report
    assert report["zero_feature_rows.text"] == 1
    assert report["constant_feature_columns.text"] == 1
    assert report["zero_feature_rows.image"] == 0


def test_row_17_features_of_several_lengths_are_listed(source: Path, refuse: Refuse) -> None:
    (source / "features" / "image.npy").unlink()
    rows = features(4).tolist()
    rows[3] = rows[3][:-1]
    rows[8] = [*rows[8], 1.0]
    write_lists(source, rows)
    message = refuse()
    assert "features/image.parquet, column vector: expected 4 values, found fewer or more in rows 4, 9" in message


def test_row_18_a_matrix_with_too_few_rows_names_both_counts(source: Path, refuse: Refuse) -> None:
    np.save(source / "features" / "image.npy", features(4, num_items=NUM_ITEMS - 1))
    for missing_feature in ("error", "zero"):
        message = refuse(missing_feature=missing_feature)
        assert f"features/image.npy: expected {NUM_ITEMS} rows or more" in message
        assert f"found {NUM_ITEMS - 1}." in message


def test_row_19_a_truncated_matrix_is_named(source: Path, refuse: Refuse) -> None:
    path = source / "features" / "image.npy"
    path.write_bytes(path.read_bytes()[:-8])
    assert "features/image.npy: is truncated: its header says 12 x 4 of float32, that is 320 bytes" in refuse()


def test_row_20_a_matrix_of_objects_is_never_unpickled(source: Path, refuse: Refuse) -> None:
    np.save(source / "features" / "image.npy", np.array([[{}]] * NUM_ITEMS, dtype=object), allow_pickle=True)
    message = refuse(IntegrityError)
    assert IntegrityError.exit_code == 8
    assert "features/image.npy: holds Python objects" in message


@pytest.mark.parametrize("where", ["interactions.parquet", "features/image.parquet", "users.parquet"])
def test_row_21_an_extension_type_is_refused_before_ray_sees_it(source: Path, refuse: Refuse, where: str) -> None:
    metadata = {"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""}
    schema = pa.schema([("user_id", pa.int64()), pa.field("item_id", pa.binary(), metadata=metadata)])
    pq.write_table(pa.table([[1], [b"\x80\x04."]], schema=schema), source / where)
    message = refuse(IntegrityError)
    assert f"{where}: a column has an Arrow extension type" in message


@pytest.mark.parametrize("kind", ["parquet", "csv", "no train"])
def test_row_22_a_data_set_without_train_edges_is_refused(source: Path, refuse: Refuse, kind: str) -> None:
    if kind == "no train":
        _rewrite(source, lambda columns: columns.update(x_label=[1] * len(columns["x_label"])))
        assert "column x_label: expected interactions in train, found none among 100" in refuse()
        return
    empty: dict[str, list[Any]] = {name: [] for name in interactions()}
    if kind == "parquet":
        schema = pa.schema([(name, pa.int64()) for name in empty])
        pq.write_table(pa.table(empty, schema=schema), source / "interactions.parquet")
    else:
        (source / "interactions.parquet").unlink()
        write_text(source / "interactions.csv", empty, delimiter=",")
    assert f"interactions.{'csv' if kind == 'csv' else 'parquet'}: expected interactions, found 0 rows" in refuse()


def test_row_23_users_without_train_are_kept_dropped_or_refused(
    source: Path, refuse: Refuse, accept: Accept, local_store: ObjectStore
) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        for row in (10, 11, 12):  # the train rows of the third user
            columns["x_label"][row] = 1

    _rewrite(source, change)
    message = refuse(cold_users="error")
    assert "users without a train interaction: user row 3 (1 in all)" in message
    dropped = accept(cold_users="drop")
    assert (dropped.num_users, dropped.report["cold_users_dropped"]) == (NUM_USERS - 1, 1)
    assert (dropped.report["cold_users"], dropped.report["cold_user_rows_dropped"]) == (0, 5)
    ids, _ = read_vocabulary(local_store, dropped.user_vocabulary)
    assert str(FIRST_USER + 2) not in ids
    assert len(read_interactions(local_store, dropped, range(16)).user_rows) == 95
    kept = import_dataset(str(source), local_store, "kept", IngestConfig())
    assert (kept.num_users, kept.report["cold_users"], kept.report["cold_users_dropped"]) == (NUM_USERS, 1, 0)


def test_a_source_that_does_not_exist_is_refused(source: Path, refuse: Refuse) -> None:
    for path in sorted(source.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert "does not exist or is empty" in refuse(MissingObjectError)


def test_a_source_of_no_known_layout_is_refused(source: Path, refuse: Refuse) -> None:
    (source / "interactions.parquet").rename(source / "events.parquet")
    assert "expected either interactions.parquet or .csv" in refuse()


def test_a_line_with_too_few_cells_is_listed(source: Path, refuse: Refuse) -> None:
    (source / "interactions.parquet").unlink()
    lines = [f"{FIRST_USER + row},{row % NUM_ITEMS}" for row in range(50)]
    lines[13], lines[20] = str(FIRST_USER), f"{FIRST_USER},1,1"
    (source / "interactions.csv").write_text("user_id,item_id\n" + "\n".join(lines))
    assert (
        "interactions.csv: expected 2 cells in every line, found fewer or more in lines 15, 22 (2 in all)" in refuse()
    )


def test_a_data_set_that_exists_is_not_replaced(source: Path, accept: Accept, local_store: ObjectStore) -> None:
    accept()
    before = local_store.list("")
    _rewrite(source, _without(0))
    with pytest.raises(
        ConflictError, match=r"data set small exists already.*Nothing was written\. Import under another name"
    ):
        accept()
    assert local_store.list("") == before
