"""What every object store must keep, as tests that an author inherits.

    from workflows.testing import StoreContract

    class TestMine(StoreContract):
        @pytest.fixture
        def store(self, tmp_path):
            return MyStore(tmp_path)

Publication, ledger and purge rest on these claims; `tru doctor STORAGE` tries the first of them out at a service.
"""

import os
import pickle  # noqa: TID251, the store's own bytes: Ray sends stores so
import random
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from tru_core.errors import IntegrityError, MissingObjectError
from workflows.storage import LogEntry, ObjectInfo, ObjectStore, append_log_entry, read_log


class StoreContract:
    """Subclass it as ``Test...`` and give the fixture ``store``: an empty store, a fresh one for each test."""

    num_listed: ClassVar[int] = 40
    """Objects of the long listing: more than a page of the service's listings, where that can be set low."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        """An empty store. The subclass makes it."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture `store` that makes an empty store")

    def test_the_first_write_stays_and_a_second_one_says_so(self, store: ObjectStore) -> None:
        assert store.put_if_absent("folder/name.bin", b"first")
        assert not store.put_if_absent("folder/name.bin", b"second")
        assert not store.put_if_absent("folder/name.bin", b"first")
        assert store.read("folder/name.bin") == b"first"

    @pytest.mark.parametrize("is_same", [False, True], ids=["other bytes", "same bytes"])
    def test_of_eight_writers_exactly_one_wins(self, store: ObjectStore, is_same: bool) -> None:
        bodies = [b"same" if is_same else f"writer {number}".encode() for number in range(8)]
        for round_number in range(5):
            key = f"race/{round_number}"
            with ThreadPoolExecutor(max_workers=8) as pool:
                won = list(pool.map(lambda body, key=key: store.put_if_absent(key, body), bodies))
            assert sum(won) == 1
            assert store.read(key) == bodies[won.index(True)]

    @pytest.mark.parametrize("body", [b"", b"\x00\xff" * 3_000_000], ids=["empty", "6 MB"])
    def test_bytes_come_back_as_they_went_in(self, store: ObjectStore, body: bytes) -> None:
        assert store.put_if_absent("a", body)
        assert store.read("a") == body

    def test_a_missing_object_is_told_as_such(self, store: ObjectStore) -> None:
        store.put_if_absent("folder/name", b"1")
        for key in ("nothing", "folder/other", "folder"):
            assert not store.exists(key)
            with pytest.raises(MissingObjectError, match="does not exist") as caught:
                store.read(key)
            assert caught.value.exit_code == 4

    def test_exists_means_exactly_this_key(self, store: ObjectStore) -> None:
        store.put_if_absent("folder/name.json", b"1")
        assert store.exists("folder/name.json")
        assert not store.exists("folder/name")
        assert not store.exists("folder")

    def test_a_listing_is_a_folder_with_all_below_sorted(self, store: ObjectStore) -> None:
        assert store.list("") == []
        assert store.list("log") == []
        for key in ("log/b", "log/a/deep", "log2/x", "log.json", "log/B", "log/é"):
            store.put_if_absent(key, key.encode())
        assert store.list("log") == [
            ObjectInfo(key, len(key.encode())) for key in ("log/B", "log/a/deep", "log/b", "log/é")
        ]
        assert [info.key for info in store.list("")] == sorted(
            ["log.json", "log/B", "log/a/deep", "log/b", "log/é", "log2/x"]
        )
        assert store.list("lo") == []

    def test_a_deleted_object_is_gone_and_its_key_free(self, store: ObjectStore) -> None:
        store.put_if_absent("a/b", b"1")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/was")
        assert not store.exists("a/b")
        assert store.list("") == []
        assert store.put_if_absent("a/b", b"2")
        assert store.read("a/b") == b"2"

    def test_pyarrow_sees_the_same_objects(self, store: ObjectStore) -> None:
        store.put_if_absent("tables/part-0.bin", b"bytes")
        filesystem, base = store.filesystem()
        with filesystem.open_input_file(f"{base}/tables/part-0.bin") as file:
            assert file.read() == b"bytes"

    def test_a_store_travels_by_pickle_without_credentials(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.put_if_absent("a", b"1")  # the client is open, with credentials inside
        monkeypatch.setenv("AWS_SESSION_TOKEN", "sentinel-token")
        filesystem, _ = store.filesystem()
        secrets = [
            os.environ[name]
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
            if name in os.environ
        ]
        for thing in (store, filesystem):
            frozen = pickle.dumps(thing)
            for secret in secrets:
                assert secret.encode() not in frozen
        monkeypatch.delenv("AWS_SESSION_TOKEN")
        assert pickle.loads(pickle.dumps(store)).read("a") == b"1"
        for secret in secrets:
            assert secret not in repr(store) + store.url

    @pytest.mark.parametrize("method", ["put_if_absent", "read", "exists", "list", "delete"])
    def test_no_method_takes_a_bad_key(self, store: ObjectStore, method: str) -> None:
        arguments = (b"",) if method == "put_if_absent" else ()
        for key in ("../up", "/etc/passwd", "a//b", "a/", "a\nb"):
            with pytest.raises(IntegrityError):
                getattr(store, method)(key, *arguments)

    def test_leftovers_are_none_after_ordinary_work(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"1")
        store.put_if_absent("a", b"2")
        assert store.delete_leftovers(older_than_seconds=0) == 0
        assert store.read("a") == b"1"

    def test_names_are_what_lies_directly_below_a_folder(self, store: ObjectStore) -> None:
        assert store.names("") == []
        for key in ("log/b", "log/a/deep", "log/a/deeper", "log2/x", "top"):
            store.put_if_absent(key, b"1")
        assert store.names("") == ["log", "log2", "top"]
        assert store.names("log") == ["a", "b"]
        assert store.names("lo") == []

    def test_a_listing_of_more_than_a_page_is_whole(self, store: ObjectStore) -> None:
        keys = [f"many/{number:04d}" for number in range(self.num_listed)]
        with ThreadPoolExecutor(max_workers=8) as pool:
            assert all(pool.map(lambda key: store.put_if_absent(key, b""), keys))
        assert [info.key for info in store.list("many")] == keys
        assert store.names("many") == [key.removeprefix("many/") for key in keys]

    @pytest.mark.parametrize("seed", range(3))
    def test_any_order_of_calls_gives_what_a_dict_gives(self, store: ObjectStore, seed: int) -> None:
        """The model is a dict: what a store does more or less than one is a fault of the store."""
        numbers, model = random.Random(seed), dict[str, bytes]()
        keys = ["a", "b/c", "b/d", "b/e/f", "g.json"]
        for _ in range(60):
            key, call = numbers.choice(keys), numbers.choice(["put", "put", "read", "exists", "list", "delete"])
            if call == "put":
                body = numbers.randbytes(numbers.randrange(9))
                assert store.put_if_absent(key, body) == (key not in model)
                model.setdefault(key, body)
            elif call == "read" and key in model:
                assert store.read(key) == model[key]
            elif call == "list":
                assert store.list("b") == [ObjectInfo(k, len(model[k])) for k in sorted(model) if k.startswith("b/")]
            elif call == "delete":
                store.delete(key)
                model.pop(key, None)
            else:
                assert store.exists(key) == (key in model)
        assert {info.key: store.read(info.key) for info in store.list("")} == model

    def test_a_log_is_read_in_order(self, store: ObjectStore) -> None:
        assert read_log(store, "models/m/log") == []
        for number in range(1, 13):
            assert append_log_entry(store, "models/m/log", number=number, entry={"version": number})
        assert read_log(store, "models/m/log") == [LogEntry(n, {"version": n}) for n in range(1, 13)]

    def test_only_the_first_writer_of_a_log_number_wins(self, store: ObjectStore) -> None:
        assert append_log_entry(store, "log", number=1, entry={"by": "first"})
        assert not append_log_entry(store, "log", number=1, entry={"by": "second"})
        assert read_log(store, "log") == [LogEntry(1, {"by": "first"})]

    def test_a_gap_in_a_log_stops_the_reader(self, store: ObjectStore) -> None:
        for number in (1, 2, 3):
            append_log_entry(store, "log", number=number, entry={})
        store.delete("log/00000002.json")
        with pytest.raises(IntegrityError, match="entry 2 is missing, found 3") as caught:
            read_log(store, "log")
        assert caught.value.exit_code == 8
