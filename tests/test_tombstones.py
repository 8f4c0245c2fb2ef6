"""What was deleted does not come back: tombstones, consents given anew, the gate of an import, the sweep."""

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.ingest_sources import FIRST_USER, interactions, write_tru
from tests.ledger_world import KEY, NOW, SECRET, request
from tests.tiny_snapshot import item_id, user_id, write_tiny_snapshot
from tru_core.errors import ConfigError, IntegrityError
from tru_core.identity import IdentityKey
from workflows.data.requests import DeletionRequest
from workflows.data.snapshot import (
    SnapshotManifest,
    current_snapshot,
    manifest_files,
    read_interactions,
    read_vocabulary,
)
from workflows.data.tombstone_sweep import requests_again, sweep_dataset
from workflows.data.tombstones import (
    MAX_INLINE_ROWS,
    add_consents,
    add_tombstones,
    read_tombstones,
    tombstoned_datasets,
    tombstones_of,
)
from workflows.ingest import IngestConfig, import_dataset
from workflows.key_files import KeysConfig
from workflows.storage import ObjectStore
from workflows.storage.local import LocalStore

DAY = timedelta(days=1)


@pytest.fixture
def store(local_store: LocalStore) -> ObjectStore:
    return local_store


@pytest.fixture
def keys(tmp_path: Path) -> KeysConfig:
    folder = tmp_path / "keys"
    folder.mkdir()
    file = folder / "identity.key"
    file.touch(mode=0o600)
    file.write_text(KEY.secret.hex())
    return KeysConfig(folder=str(folder))


def delete(store: ObjectStore, *requests: DeletionRequest, dataset: str = "tiny", batch_id: str = "b1") -> bool:
    return add_tombstones(store, dataset, tombstones_of(requests, KEY, now=NOW), batch_id=batch_id)


def consent(store: ObjectStore, *requests: DeletionRequest, dataset: str = "tiny") -> int:
    return add_consents(store, dataset, tombstones_of(requests, KEY, now=NOW))


# --- the index ----------------------------------------------------------------------------------


def test_a_tombstone_blocks_its_subject_and_nobody_else(store: ObjectStore) -> None:
    assert len(read_tombstones(store, "tiny")) == 0
    assert delete(store, request("r1", user="u1"), request("r2", item="i1"), request("r3", user="u2", item="i2"))
    index = read_tombstones(store, "tiny")
    assert len(index) == 3
    assert index.blocks("user", KEY.digest("user", "u1"))
    assert index.blocks("item", KEY.digest("item", "i1"))
    assert index.blocks("interaction", KEY.digest("interaction", "u2", "i2"))
    assert not index.blocks("user", KEY.digest("user", "u2"))
    assert not index.blocks("item", KEY.digest("user", "u1"))
    assert tombstoned_datasets(store) == ["tiny"]
    assert len(read_tombstones(store, "other")) == 0


def test_the_same_batch_twice_and_many_at_once_write_its_tombstones_once(store: ObjectStore) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        written = list(pool.map(lambda n: delete(store, request("r1", user="u1"), batch_id=f"b{n % 4}"), range(16)))
    assert sum(written) == 4
    assert not delete(store, request("r1", user="u1"), batch_id="b2")
    assert len(store.list("tombstones/tiny/log")) == 4


def test_tombstones_hold_no_outside_id_and_no_key(store: ObjectStore) -> None:
    delete(store, *(request(f"r{n}", user=f"{SECRET}-{n}") for n in range(MAX_INLINE_ROWS + 10)))
    delete(store, request("r", user=f"{SECRET}-u", item=f"{SECRET}-i"), batch_id="b2")
    everything = b"".join(info.key.encode() + store.read(info.key) for info in store.list(""))
    assert SECRET.encode() not in everything
    assert KEY.secret.hex().encode() not in everything
    assert len(read_tombstones(store, "tiny")) == MAX_INLINE_ROWS + 11


def test_consent_given_anew_admits_what_comes_after_it(store: ObjectStore) -> None:
    digest = KEY.digest("user", "u1")
    delete(store, request("r1", user="u1", received="2026-03-01T00:00:00+00:00"))
    assert consent(store, request("c1", user="u1", received="2026-03-05T00:00:00+00:00")) == 1
    assert consent(store, request("c1", user="u1", received="2026-03-05T00:00:00+00:00")) == 0
    index = read_tombstones(store, "tiny")
    consented = datetime(2026, 3, 5, tzinfo=UTC)
    assert index.blocks("user", digest, consented)
    assert index.blocks("user", digest, consented - DAY)
    assert not index.blocks("user", digest, consented + timedelta(seconds=1))
    assert not index.blocks("user", digest)
    assert (index.epoch("user", digest), index.admitted_after("user", digest)) == (1, consented)
    delete(store, request("r2", user="u1", received="2026-03-07T00:00:00+00:00"), batch_id="b2")
    index = read_tombstones(store, "tiny")
    assert index.blocks("user", digest)
    assert index.blocks("user", digest, NOW)
    consent(store, request("c2", user="u1", received="2026-03-09T00:00:00+00:00"))
    index = read_tombstones(store, "tiny")
    assert index.epoch("user", digest) == 2
    assert not index.blocks("user", digest, NOW)


def test_deletion_and_consent_are_ordered_by_receipt_and_not_by_when_they_are_written(store: ObjectStore) -> None:
    consent(store, request("c1", user="u1", received="2026-03-05T00:00:00+00:00"))
    delete(store, request("r1", user="u1", received="2026-03-01T00:00:00+00:00"))
    assert not read_tombstones(store, "tiny").blocks("user", KEY.digest("user", "u1"), NOW)
    consent(store, request("c2", user="u2", received="2026-03-01T00:00:00+00:00"))
    delete(store, request("r2", user="u2", received="2026-03-05T00:00:00+00:00"), batch_id="b2")
    assert read_tombstones(store, "tiny").blocks("user", KEY.digest("user", "u2"), NOW)


def test_removed_tombstones_are_found(store: ObjectStore) -> None:
    delete(store, request("r1", user="u1"))
    delete(store, request("r2", user="u2"), batch_id="b2")
    store.delete(store.list("tombstones/tiny/log")[-1].key)
    with pytest.raises(IntegrityError, match="entries were removed from its end"):
        read_tombstones(store, "tiny")


# --- the gate of an import ----------------------------------------------------------------------


def digests(manifest: SnapshotManifest) -> dict[str, str]:
    return {file.key.split(manifest.snapshot_id)[1]: file.sha256 for file in manifest_files(manifest)}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_import_without_the_deleted_equals_an_import_of_data_without_them(
    store: ObjectStore, keys: KeysConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = [str(FIRST_USER + n) for n in (0, 7, 19)]
    again, pair = str(FIRST_USER + 4), (str(FIRST_USER + 5), "7")
    time_of_again = datetime.fromtimestamp(1_600_000_000 + 4 * 1000 + 1, UTC)
    delete(store, *(request(f"r{n}", user=user) for n, user in enumerate(users)), dataset="old")
    delete(store, request("ri", item="3"), request("rp", user=pair[0], item=pair[1]), dataset="old", batch_id="b2")
    delete(store, request("ra", user=again, received="2020-01-01T00:00:00+00:00"), dataset="old", batch_id="b3")
    consent(store, request("ca", user=again, received=time_of_again.isoformat()), dataset="old")
    raw = interactions()
    rows = list(zip(*raw.values(), strict=True))
    assert (FIRST_USER + 5, 7) in {row[:2] for row in rows}
    kept = [
        row
        for row in rows
        if str(row[0]) not in users
        and row[1] != 3
        and (str(row[0]), str(row[1])) != pair
        and (str(row[0]) != again or row[3] > time_of_again.timestamp())
    ]
    write_tru(tmp_path / "all")
    write_tru(tmp_path / "kept", dict(zip(raw, map(list, zip(*kept, strict=True)), strict=True)))
    with caplog.at_level(logging.WARNING):
        found = import_dataset(str(tmp_path / "all"), store, "new", keys=keys)
    expected = import_dataset(str(tmp_path / "kept"), LocalStore(tmp_path / "clean"), "new")
    assert digests(found) == digests(expected)
    ids, _ = read_vocabulary(store, found.user_vocabulary)
    assert not set(users) & set(ids)
    assert again in ids
    dropped = {name: count for name, count in found.report.items() if name.startswith("tombstoned")}
    assert dropped == {
        "tombstoned_rows_dropped": len(rows) - len(kept),
        "tombstoned_users": 4,
        "tombstoned_items": 1,
        "tombstoned_interactions": 1,
    }
    assert found.report["rows_read"] == len(rows)
    assert sum(vars(found.counts).values()) == len(kept)
    assert "tombstoned_rows_dropped" in caplog.text
    assert not any(user in caplog.text for user in users)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_without_times_any_later_consent_admits_all(store: ObjectStore, keys: KeysConfig, tmp_path: Path) -> None:
    raw = interactions()
    del raw["timestamp"]
    write_tru(tmp_path / "raw", raw)
    back, gone = str(FIRST_USER), str(FIRST_USER + 1)
    delete(store, request("r1", user=back), request("r2", user=gone), dataset="old")
    consent(store, request("c1", user=back, received="2026-03-05T00:00:00+00:00"), dataset="old")
    manifest = import_dataset(str(tmp_path / "raw"), store, "new", keys=keys)
    ids, rows = read_vocabulary(store, manifest.user_vocabulary)
    assert (back in ids, gone in ids) == (True, False)
    table = read_interactions(store, manifest, range(manifest.num_user_buckets))
    assert Counter(table.user_rows.tolist())[int(rows[ids.index(back)])] == 5


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: (folder / "identity.key").unlink(), "does not exist"),
        (lambda folder: (folder / "identity.key").chmod(0o644), "has mode 0644, expected 0600"),
        (lambda folder: (folder / "identity.key").write_text("00" * 32), "were made with identity key"),
    ],
)
def test_an_import_into_a_store_with_tombstones_needs_their_key_before_it_starts(
    store: ObjectStore, keys: KeysConfig, tmp_path: Path, make: object, expected: str
) -> None:
    delete(store, request("r1", user="u1"), dataset="old")
    make(tmp_path / "keys")  # type: ignore[operator]
    before = store.list("")
    with pytest.raises(ConfigError, match=expected) as caught:
        import_dataset(str(tmp_path), store, "new", keys=keys)
    assert caught.value.exit_code == 2
    assert store.list("") == before


def test_a_data_set_that_is_named_for_its_tombstones_must_have_some(
    store: ObjectStore, keys: KeysConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="data set 'old' has none"):
        import_dataset(str(tmp_path), store, "new", IngestConfig(tombstones=["old"]), keys=keys)


# --- the sweep ----------------------------------------------------------------------------------


def test_a_sweep_counts_what_is_back_and_asks_for_its_deletion_again(store: ObjectStore) -> None:
    snapshot = write_tiny_snapshot(store)
    table = read_interactions(store, current_snapshot(store, "tiny"), range(snapshot.num_user_buckets))
    user, item = int(table.user_rows[0]), int(table.item_rows[0])
    absent = next(n for n in range(40) if n not in table.item_rows[table.user_rows == user])
    delete(
        store,
        request("r1", user=user_id(3)),
        request("r2", item=item_id(5)),
        request("r3", user=user_id(user), item=item_id(item)),
        request("r4", user=user_id(user), item=item_id(absent)),
        request("r5", user="long-gone"),
        request("r6", user=user_id(8)),
    )
    consent(store, request("c6", user=user_id(8), received="2026-03-05T00:00:00+00:00"))
    found = sweep_dataset(store, "tiny", read_tombstones(store, "tiny"), KEY)
    assert found.counts == {"users": 1, "items": 1, "interactions": 1}
    assert user_id(3) not in repr(found)
    again = requests_again(found, KEY, now=NOW)
    assert {(r.kind, r.user_id, r.item_id) for r in again} == {
        ("user", user_id(3), ""),
        ("item", "", item_id(5)),
        ("interaction", user_id(user), item_id(item)),
    }
    assert [r.request_id for r in again] == [r.request_id for r in requests_again(found, KEY, now=NOW)]
    assert not any(text in r.request_id for r in again for text in ("user", "item"))


def test_a_sweep_with_another_key_is_refused(store: ObjectStore) -> None:
    delete(store, request("r1", user="u1"))
    with pytest.raises(ConfigError, match="nobody who was deleted would be recognised"):
        read_tombstones(store, "tiny").require_key(IdentityKey(b"x" * 32), "data set tiny")
