"""An import of real and small data sets: known counts, equal layouts, no dependence on blocks, whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import workflows.ingest.buckets
from tests.ingest_sources import (
    FIRST_USER,
    NUM_ITEMS,
    features,
    interactions,
    write_lists,
    write_mmrec,
    write_recbole,
    write_text,
    write_tru,
)
from tru_core.errors import IntegrityError, MissingObjectError, TransientError
from workflows.data.snapshot import (
    TEST,
    TRAIN,
    VALID,
    SnapshotManifest,
    current_snapshot,
    manifest_files,
    read_features,
    read_interactions,
    read_item_graph,
    read_vocabulary,
)
from workflows.ingest import IngestConfig, import_dataset
from workflows.storage import ObjectStore, StorageConfig, dataset_log
from workflows.storage.local import LocalStore

if TYPE_CHECKING:
    from workflows.storage.s3 import S3Store

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def real_data() -> Path:
    """The folder of real data sets: ``../shared/data`` beside the repository, or ``TRU_DATA``."""
    folder = Path(os.environ.get("TRU_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "tiktok" / "interactions.parquet").is_file():
        pytest.fail(f"{folder} holds no tiktok/interactions.parquet: set TRU_DATA to the folder of the real data sets")
    return folder


def _digests(manifest: SnapshotManifest) -> dict[str, str]:
    """The digest of every file by its place in the snapshot."""
    return {file.key.split(manifest.snapshot_id)[1]: file.sha256 for file in manifest_files(manifest)}


def test_tiktok_has_the_counts_that_its_authors_give(real_data: Path, local_store: LocalStore) -> None:
    manifest = import_dataset(str(real_data / "tiktok"), local_store, "tiktok")
    assert current_snapshot(local_store, "tiktok") == manifest
    assert (manifest.num_users, manifest.num_items) == (9308, 6710)
    assert (manifest.counts.train, manifest.counts.valid, manifest.counts.test) == (59541, 3051, 6130)
    assert {name: count for name, count in manifest.report.items() if count} == {
        "rows_read": 68722,
        "cold_users": 10,
        "cold_items": 465,
    }
    raw = pq.read_table(real_data / "tiktok" / "interactions.parquet")
    table = read_interactions(local_store, manifest, range(manifest.num_user_buckets))
    columns = ("user_id", "item_id", "x_label")
    expected = np.stack([raw.column(name).to_numpy().astype(np.int64) for name in columns])
    found = np.stack([table.user_rows, table.item_rows, table.split.astype(np.int64)])
    np.testing.assert_array_equal(found[:, np.lexsort(found[::-1])], expected[:, np.lexsort(expected[::-1])])
    for modality in ("visual", "acoustic"):
        own = read_features(local_store, manifest, modality, range(manifest.num_item_buckets))
        np.testing.assert_array_equal(own, np.load(real_data / "tiktok" / "features" / f"{modality}.npy"))
        assert own.dtype == np.float16
    ids, rows = read_vocabulary(local_store, manifest.item_vocabulary)
    assert ids == [str(row) for row in range(6710)]
    assert rows.tolist() == list(range(6710))


def test_a_real_item_graph_equals_the_brute_force_over_all_pairs(real_data: Path, local_store: LocalStore) -> None:
    manifest = import_dataset(str(real_data / "tiktok"), local_store, "tiktok", IngestConfig(num_neighbours=5))
    raw = np.load(real_data / "tiktok" / "features" / "visual.npy").astype(np.float64)
    unit = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    rows, neighbours, similarity = read_item_graph(local_store, manifest, "visual")
    assert rows.tolist() == np.repeat(np.arange(6710), 5).tolist()
    assert np.all(neighbours[::5] == np.arange(6710))
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 2)
    expected = -np.sort(-np.partition(cosine, -5, axis=1)[:, -5:], axis=1)
    expected[:, 0] = 1
    np.testing.assert_allclose(similarity.reshape(-1, 5), expected, atol=1e-6)
    np.testing.assert_allclose(cosine[rows, neighbours].reshape(-1, 5)[:, 1:], expected[:, 1:], atol=1e-6)


def _write_csv(folder: Path) -> Path:
    write_tru(folder)
    (folder / "interactions.parquet").unlink()
    columns = interactions()
    columns["x_label"] = [("train", "valid", "test")[part] for part in columns["x_label"]]
    columns["split"] = columns.pop("x_label")
    write_text(folder / "interactions.csv", columns, delimiter=",", line_end="\r\n")
    body = (folder / "interactions.csv").read_bytes().replace(b"\r\n", b"\r\n\r\n", 3).replace(b",", b" , ", 20)
    (folder / "interactions.csv").write_bytes(b"\xef\xbb\xbf" + body + b"   \r\n")
    return folder


def _write_lists(folder: Path) -> Path:
    """The features as lists beside item ids, in any order."""
    write_tru(folder, modalities=())
    order = np.random.default_rng(0).permutation(NUM_ITEMS)
    for number, modality in enumerate(("image", "text")):
        rows = features(4 + number)[order].tolist()
        write_lists(folder, rows, items=order.tolist(), name=modality)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "csv": _write_csv,
    "lists": _write_lists,
    "mmrec": write_mmrec,
    "recbole": lambda folder: write_recbole(folder, in_parts=False),
    "recbole in parts": lambda folder: write_recbole(folder, in_parts=True),
}


@pytest.mark.parametrize("layout", list(WRITERS))
def test_every_layout_gives_the_same_snapshot(layout: str, tmp_path: Path, local_store: LocalStore) -> None:
    raw = tmp_path / "raw"
    expected = import_dataset(str(write_tru(tmp_path / "tru")), local_store, "tru")
    raw.mkdir()
    found = import_dataset(str(WRITERS[layout](raw)), local_store, "other")
    assert len(_digests(expected)) == 2 + 16 + 2 * 8 + 2 * 8
    assert _digests(found) == _digests(expected)
    assert found.report == expected.report
    assert found.counts == expected.counts


@pytest.mark.parametrize(
    ("split", "is_shuffled"), [("given", False), ("random", False), ("time", False), ("random", True)]
)
def test_blocks_and_their_order_change_nothing(
    split: Any, is_shuffled: bool, tmp_path: Path, local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_shuffled:
        monkeypatch.setattr(workflows.ingest.buckets, "ROWS_PER_PARTITION", 100)
    draw = np.random.default_rng(4)
    num_rows = 600
    columns: dict[str, Any] = {
        "user_id": draw.integers(0, 40, num_rows),
        "item_id": draw.integers(0, 30, num_rows),
        "split": draw.integers(0, 3, num_rows),
        "timestamp": 1_600_000_000 + draw.integers(1, 50, num_rows),
    }
    whole = pa.table(columns)
    shuffled = whole.take(draw.permutation(num_rows))
    one, four, files = tmp_path / "one", tmp_path / "four", tmp_path / "files"
    for folder in (one, four, files):
        (folder / "features").mkdir(parents=True)
        np.save(folder / "features" / "image.npy", features(6, num_items=30))
    pq.write_table(whole, one / "interactions.parquet")
    pq.write_table(shuffled, four / "interactions.parquet", row_group_size=400)
    for number in range(3):
        pq.write_table(shuffled.slice(number * 200, 200), files / f"interactions-{number}.parquet")
    settings = IngestConfig(split=split, split_seed=3, num_user_buckets=5, num_item_buckets=3)
    first = import_dataset(str(one), local_store, "one", settings)
    assert first.report["duplicates_dropped"] + first.report["repeats_dropped"] > 0
    others = (("again", one, 150), ("four", four, 150), ("files", files, 10**6))
    for name, source, rows_per_task in others[1:2] if is_shuffled else others:
        other = import_dataset(
            str(source), local_store, name, settings.model_copy(update={"rows_per_task": rows_per_task})
        )
        assert _digests(other) == _digests(first), name
        assert other.report == first.report
        assert other.counts == first.counts


def test_a_random_split_is_made_where_none_is_given_and_leaves_nobody_cold(
    tmp_path: Path, local_store: LocalStore
) -> None:
    columns = interactions()
    del columns["x_label"], columns["timestamp"]
    source = write_tru(tmp_path / "raw", columns)
    manifest = import_dataset(str(source), local_store, "small", IngestConfig(split_seed=9))
    assert (manifest.split.kind, manifest.split.seed) == ("random", 9)
    assert (manifest.counts.train, manifest.counts.valid, manifest.counts.test) == (60, 20, 20)
    table = read_interactions(local_store, manifest, range(16))
    for user in range(20):
        own = table.split[table.user_rows == user]
        assert sorted(own.tolist()) == [TRAIN, TRAIN, TRAIN, VALID, TEST]


def test_a_split_by_time_puts_the_last_interaction_into_test(tmp_path: Path, local_store: LocalStore) -> None:
    source = write_tru(tmp_path / "raw")
    manifest = import_dataset(str(source), local_store, "small", IngestConfig(split="time"))
    columns = interactions()
    last = {(columns["user_id"][row] - FIRST_USER, columns["item_id"][row]) for row in range(4, 100, 5)}
    table = read_interactions(local_store, manifest, range(16))
    is_test = table.split == TEST
    assert set(zip(table.user_rows[is_test].tolist(), table.item_rows[is_test].tolist(), strict=True)) == last


def test_data_without_features_and_with_text_ids_is_imported(tmp_path: Path, local_store: LocalStore) -> None:
    users = [f"ü-{user}" for user in range(4)]
    write_text(tmp_path / "raw" / "interactions.csv", {"user_id": users * 2, "item_id": ["b", "a"] * 4}, delimiter=";")
    manifest = import_dataset(str(tmp_path / "raw"), local_store, "small")
    assert (manifest.num_users, manifest.num_items, manifest.features, manifest.item_graphs) == (4, 2, {}, {})
    assert read_vocabulary(local_store, manifest.item_vocabulary)[0] == ["a", "b"]
    assert read_vocabulary(local_store, manifest.user_vocabulary)[0] == users


def test_standardised_neighbours_differ_from_raw_ones_and_keep_the_features(
    tmp_path: Path, local_store: LocalStore
) -> None:
    source = write_tru(tmp_path / "raw")
    skewed = features(4) + np.array([50, 0, 0, 0], dtype=np.float32)
    np.save(source / "features" / "image.npy", skewed)
    graphs = {}
    for kind in ("raw", "standardised"):
        settings = IngestConfig(neighbour_features=kind, num_neighbours=3)  # pyright: ignore[reportArgumentType]
        manifest = import_dataset(str(source), local_store, kind, settings)
        np.testing.assert_array_equal(read_features(local_store, manifest, "image", range(8)), skewed)
        graphs[kind] = read_item_graph(local_store, manifest, "image")
    unit = (skewed - skewed.mean(axis=0)) / skewed.std(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rows, neighbours, similarity = graphs["standardised"]
    np.testing.assert_allclose((unit[rows] * unit[neighbours]).sum(axis=1), similarity, atol=1e-5)
    assert (graphs["raw"][1] != neighbours).any()


class _FailingStore(LocalStore):
    """A store that refuses to write some keys."""

    def __init__(self, folder: Path, part: str) -> None:
        super().__init__(folder)
        self._part = part

    def put_if_absent(self, key: str, body: bytes) -> bool:
        if self._part in key:
            raise TransientError(f"cannot write {key}: the disk is full.")
        return super().put_if_absent(key, body)


@pytest.mark.parametrize(
    "part", ["interactions/bucket-00007", "features/text/bucket-00003", "item_graph", "manifest.json"]
)
def test_an_import_that_stops_half_way_leaves_no_data_set_and_says_so(part: str, tmp_path: Path) -> None:
    store = _FailingStore(tmp_path / "store", part)
    with pytest.raises(TransientError) as caught:
        import_dataset(str(write_tru(tmp_path / "raw")), store, "small")
    message = str(caught.value)
    assert type(caught.value) is TransientError
    assert (
        "the disk is full. The import stopped before its end: data set small has no manifest and no log entry"
        in message
    )
    assert "datasets/small/snapshots/" in message
    assert "Failed to" not in message  # Ray's own advice
    assert store.list(dataset_log("small")) == []
    with pytest.raises(MissingObjectError):
        current_snapshot(store, "small")
    whole = import_dataset(str(tmp_path / "raw"), LocalStore(tmp_path / "store"), "small")
    assert current_snapshot(store, "small") == whole


def test_a_switch_that_lets_ray_unpickle_stops_the_import(
    tmp_path: Path, local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR", "1")
    with pytest.raises(IntegrityError, match="RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR"):
        import_dataset(str(write_tru(tmp_path / "raw")), local_store, "small")
    assert local_store.list("") == []


@pytest.mark.s3
def test_an_import_from_and_to_s3_equals_the_one_on_disk(
    tmp_path: Path, local_store: LocalStore, seaweed_config: StorageConfig, seaweed_store: "S3Store"
) -> None:
    source = write_tru(tmp_path / "raw")
    write_lists(source, features(3).tolist(), name="audio")
    expected = import_dataset(str(source), local_store, "small", IngestConfig(rows_per_task=30))
    for path in source.rglob("*"):
        if path.is_file():
            seaweed_store.put_if_absent(f"raw/{path.relative_to(source).as_posix()}", path.read_bytes())
    raw = seaweed_config.model_copy(update={"url": f"{seaweed_config.url}/raw"})
    found = import_dataset(raw, seaweed_store, "small", IngestConfig(rows_per_task=30))
    assert _digests(found) == _digests(expected)
    assert current_snapshot(seaweed_store, "small") == found
    store: ObjectStore = seaweed_store
    np.testing.assert_array_equal(read_features(store, found, "audio", range(8)), features(3))
