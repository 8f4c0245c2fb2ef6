"""What every store does alike, and what stands on it: logs, verified files, keys."""

import errno
import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tru_core.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    IntegrityError,
    NumericsError,
    TransientError,
)
from workflows.storage import (
    FileEntry,
    ObjectInfo,
    ObjectStore,
    append_log_entry,
    check_key,
    check_name,
    dataset_log,
    deletion_prefix,
    features_key,
    interactions_key,
    item_graph_key,
    manifest_key,
    model_log,
    open_store,
    put_file,
    read_json,
    read_log,
    read_verified,
    run_prefix,
    snapshot_prefix,
    vocabulary_key,
    write_json,
)
from workflows.storage.local import LocalStore
from workflows.storage.s3 import S3Store
from workflows.testing import StoreContract


@pytest.fixture(params=["local", "moto", pytest.param("seaweed", marks=pytest.mark.s3)])
def any_store(request: pytest.FixtureRequest) -> ObjectStore:
    return request.getfixturevalue(f"{request.param}_store")


# --- the contract of every store ----------------------------------------------------------------


class TestEveryStore(StoreContract):
    @pytest.fixture(params=["local", "moto", pytest.param("seaweed", marks=pytest.mark.s3)])
    def store(self, request: pytest.FixtureRequest) -> ObjectStore:
        return request.getfixturevalue(f"{request.param}_store")


@pytest.mark.ray
@pytest.mark.s3
def test_a_ray_worker_uses_the_store_with_its_own_credentials(seaweed_store: S3Store, ray_session: None) -> None:
    import ray

    @ray.remote
    def write(store: ObjectStore) -> tuple[bool, bytes]:
        return store.put_if_absent("by/worker", b"1"), store.read("by/driver")

    seaweed_store.put_if_absent("by/driver", b"2")
    assert ray.get(write.remote(seaweed_store)) == (True, b"2")
    assert not seaweed_store.put_if_absent("by/worker", b"1")


# --- logs ---------------------------------------------------------------------------------------


def test_a_writer_cannot_make_a_gap(store: ObjectStore) -> None:
    with pytest.raises(IntegrityError, match="entry 1 does not exist"):
        append_log_entry(store, "log", number=2, entry={})
    for number in (0, -1, 100_000_000):
        with pytest.raises(IntegrityError, match="outside"):
            append_log_entry(store, "log", number=number, entry={})
    assert store.list("") == []


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("log/00000001.json.bak", b"{}"),
        ("log/old/00000001.json", b"{}"),
        ("log/٠٠٠٠٠٠٠١.json", b"{}"),
        ("log/00000001.json", b"[]"),
        ("log/00000001.json", b"{"),
        ("log/00000001.json", b"\xff\xfe"),
        ("log/00000001.json", b'{"a": NaN}'),
        ("log/00000001.json", b"[" * 100_000),
    ],
)
def test_a_log_with_anything_else_in_it_is_not_used(local_store: LocalStore, key: str, body: bytes) -> None:
    local_store.put_if_absent(key, body)
    with pytest.raises(IntegrityError):
        read_log(local_store, "log")


# --- files --------------------------------------------------------------------------------------


def test_a_flipped_byte_is_found(any_store: ObjectStore) -> None:
    body = bytes(range(256))
    entry = put_file(any_store, "a", body)
    assert entry == FileEntry(key="a", size_bytes=256, sha256=hashlib.sha256(body).hexdigest())
    assert read_verified(any_store, entry) == body
    for damaged in (body[:100] + b"!" + body[101:], body[:-1], body + b"!", b""):
        any_store.delete("a")
        any_store.put_if_absent("a", damaged)
        with pytest.raises(IntegrityError) as caught:
            read_verified(any_store, entry)
        for part in ("a is not", entry.sha256, hashlib.sha256(damaged).hexdigest(), str(len(damaged))):
            assert part in str(caught.value)


def test_the_same_file_may_be_written_twice_and_other_content_not(store: ObjectStore) -> None:
    assert put_file(store, "a", b"1") == put_file(store, "a", b"1")
    with pytest.raises(ConflictError, match="exists with other content") as caught:
        put_file(store, "a", b"2")
    assert caught.value.exit_code == 5
    assert store.read("a") == b"1"


def test_json_has_one_encoding_only(store: ObjectStore) -> None:
    entry = write_json(store, "a.json", {"b": [1, 0.5, None], "a": "é"})
    assert store.read("a.json") == '{"a":"é","b":[1,0.5,null]}'.encode()
    assert write_json(store, "a.json", {"a": "é", "b": [1, 0.5, None]}) == entry
    assert read_json(store, "a.json") == {"a": "é", "b": [1, 0.5, None]}
    with pytest.raises(ConflictError):
        write_json(store, "a.json", {})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_never_written(local_store: LocalStore, number: float) -> None:
    with pytest.raises(NumericsError, match=r"metrics\.json"):
        write_json(local_store, "metrics.json", {"loss": number})
    assert local_store.list("") == []


@pytest.mark.parametrize("change", [{"key": "../a"}, {"size_bytes": -1}, {"sha256": "A" * 64}, {"more": 1}])
def test_a_file_entry_of_a_manifest_is_checked(change: dict[str, object]) -> None:
    good = {"key": "a", "size_bytes": 1, "sha256": "0" * 64}
    FileEntry.model_validate(good)
    with pytest.raises((IntegrityError, ValueError)):
        FileEntry.model_validate(good | change)


# --- keys ---------------------------------------------------------------------------------------

NASTY_PARTS = ["..", ".", "", "a", "~", "...", "%2e%2e", "a b", "ü", "COM1", ".aside", "-rf", "$HOME"]
NASTY_PARTS += ["\x00", "\n", "\x7f", "\u202e", "\u200b", "\ud800", "\\..\\", "a\\b", "C:", "x" * 256]


def is_harmless(root: Path, key: str) -> bool:
    """Whether a file of this key would lie strictly inside the root, under exactly this name."""
    path = Path(os.path.normpath(root / key))
    return path.is_relative_to(root) and path != root and str(path) == f"{root}/{key}"


def accepted(key: str) -> bool:
    try:
        return check_key(key) == key
    except IntegrityError:
        return False


def test_no_key_of_ten_thousand_leaves_the_root() -> None:
    numbers = random.Random(7)
    root = Path("/store")
    num_accepted = 0
    for _ in range(10_000):
        key = "/".join(numbers.choices(NASTY_PARTS, k=numbers.randint(1, 5)))
        if accepted(key):
            num_accepted += 1
            assert is_harmless(root, key)
            assert not set(key) & {"\x00", "\n", "\x7f", "\\", "\u202e", "\u200b", "\ud800"}
            assert not key.startswith(".aside/")
    assert num_accepted > 500  # the test would be empty if all were refused


@given(key=st.text(max_size=40) | st.lists(st.sampled_from(NASTY_PARTS)).map("/".join))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_key_is_refused_or_its_object_lies_inside_the_root(tmp_path: Path, key: str) -> None:
    store = LocalStore(tmp_path / "store")
    if not accepted(key):
        with pytest.raises(IntegrityError):
            store.put_if_absent(key, b"1")
        return
    try:
        store.put_if_absent(key, b"1")
    except ConflictError:  # an earlier example made an object where this one needs a folder
        return
    assert store.read(key) == b"1"
    assert ObjectInfo(key, 1) in store.list("")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a/b", "a b", "é", "a" * 64, "a\n"])
def test_a_bad_name_of_a_data_set_or_model_is_refused(name: str) -> None:
    for build in (check_name, dataset_log, model_log):
        with pytest.raises(ConfigError, match="not allowed") as caught:
            build(name)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "build",
    [
        lambda part: snapshot_prefix("d", part),
        lambda part: vocabulary_key("d", "s", part),
        lambda part: features_key("d", "s", part, 0),
        lambda part: item_graph_key("d", "s", part, 0),
        lambda part: deletion_prefix("m", part),
        run_prefix,
    ],
)
def test_an_id_in_a_key_cannot_lead_elsewhere(build: Callable[[str], str]) -> None:
    for part in ("", "..", "a/b", "a\\b", "a\nb"):
        with pytest.raises(IntegrityError):
            build(part)


def test_keys_are_where_the_architecture_says() -> None:
    assert dataset_log("baby") == "datasets/baby/log"
    assert snapshot_prefix("baby", "S1") == "datasets/baby/snapshots/S1"
    assert manifest_key(snapshot_prefix("baby", "S1")) == "datasets/baby/snapshots/S1/manifest.json"
    assert vocabulary_key("baby", "S1", "users") == "datasets/baby/snapshots/S1/vocabulary/users.parquet"
    assert interactions_key("baby", "S1", 3) == "datasets/baby/snapshots/S1/interactions/bucket-00003.parquet"
    assert features_key("baby", "S1", "image", 2) == "datasets/baby/snapshots/S1/features/image/bucket-00002.npy"
    graph_key = "datasets/baby/snapshots/S1/item_graph/text/bucket-00002.parquet"
    assert item_graph_key("baby", "S1", "text", 2) == graph_key
    assert model_log("mgcn") == "models/mgcn/log"
    assert run_prefix("R1") == "runs/R1"
    assert deletion_prefix("mgcn", "2026-03-01T02") == "deletions/mgcn/2026-03-01T02"


# --- opening ------------------------------------------------------------------------------------


def test_a_path_and_a_file_url_open_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    open_store(str(folder)).put_if_absent("x", b"1")
    for url in (f"file://{folder}", f"file://{tmp_path}/a%20b", f"file://localhost{folder}"):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.read("x") == b"1"
    assert open_store(open_store(str(folder)).url).read("x") == b"1"


def test_opening_touches_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "absent"))
    assert store.list("") == []
    assert not store.exists("a")
    assert list(tmp_path.iterdir()) == []
    assert isinstance(open_store("s3://bucket/prefix"), S3Store)


# --- a local folder -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "file", "dangling"])
def test_a_symbolic_link_leads_nowhere(local_store: LocalStore, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    local_store.put_if_absent("a/b", b"1")
    target = {"folder": outside, "file": outside / "secret", "dangling": outside / "new"}[kind]
    (Path(local_store.url) / "a" / "link").symlink_to(target)
    key = "a/link/secret" if kind == "folder" else "a/link"
    for call in (local_store.read, local_store.exists, local_store.delete):
        with pytest.raises(IntegrityError, match="symbolic link"):
            call(key)
    for new in (key, f"{key}/new"):
        with pytest.raises(IntegrityError, match="symbolic link"):
            local_store.put_if_absent(new, b"2")
    assert [info.key for info in local_store.list("")] == ["a/b"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_what_a_crashed_write_left_is_never_an_object_and_can_be_removed(local_store: LocalStore) -> None:
    local_store.put_if_absent("a", b"1")
    leftover = Path(local_store.url) / ".aside" / "0123"
    leftover.write_bytes(b"half of somebody's da")
    assert [info.key for info in local_store.list("")] == ["a"]
    with pytest.raises(IntegrityError, match="reserved"):
        local_store.read(".aside/0123")
    assert local_store.delete_leftovers(older_than_seconds=3600) == 0
    assert leftover.exists()
    os.utime(leftover, (time.time() - 7200, time.time() - 7200))
    assert local_store.delete_leftovers(older_than_seconds=3600) == 1
    assert not leftover.exists()


def test_a_writer_that_ends_while_leftovers_are_looked_for_is_no_error(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_store.put_if_absent("a", b"1")
    folder = Path(local_store.url) / ".aside"
    for name in ("ends", "stays"):
        (folder / name).write_bytes(b"half")
    listed = list(folder.iterdir())
    (folder / "ends").unlink()
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(listed))
    assert local_store.delete_leftovers(older_than_seconds=0) == 1


@pytest.mark.parametrize(
    ("number", "expected", "words"),
    [
        (errno.ENOSPC, TransientError, "disk is full"),
        (errno.EPERM, AccessError, "no hard links"),
        (errno.EXDEV, AccessError, "no hard links"),
        (errno.EACCES, AccessError, "Permission denied"),
        (errno.EROFS, AccessError, "Read-only"),
    ],
)
def test_a_write_that_the_system_refuses_leaves_nothing_behind(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, expected: type, words: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        with pytest.raises(expected, match=words):
            local_store.put_if_absent("a", b"1")
    assert not local_store.exists("a")
    assert local_store.delete_leftovers(older_than_seconds=0) == 0
    assert local_store.put_if_absent("a", b"1")


def test_an_object_cannot_be_a_folder_too(local_store: LocalStore) -> None:
    local_store.put_if_absent("a/b", b"1")
    for key in ("a", "a/b/c", "a/b/c/d"):
        with pytest.raises(ConflictError, match="taken by something else"):
            local_store.put_if_absent(key, b"2")
    assert [info.key for info in local_store.list("")] == ["a/b"]


def test_bytes_are_on_disk_before_they_have_a_name(local_store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    flush, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append("flush"), flush(number)))
    monkeypatch.setattr(os, "link", lambda *names: (steps.append("link"), link(*names)))
    local_store.put_if_absent("new/folder/a", b"1")
    assert steps[:2] == ["flush", "link"]
    assert steps[2:] == ["flush"] * 4  # new/folder, new, the root, and the root's parent
