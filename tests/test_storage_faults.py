"""Faults that stay: every call to a storage ends in time, with success or exit code 7, and then all is as it was."""

import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from tests.publish_history import breaks_some
from tests.test_storage_s3_errors import changed
from tru_core.errors import TransientError
from workflows.storage import ObjectStore, StorageConfig, put_file, read_verified
from workflows.storage import s3 as storage_s3
from workflows.storage.s3 import S3Store
from workflows.storage.time_limit import within
from workflows.testing import FaultContract
from workflows.testing.fault_contract import OpenAt
from workflows.testing.faults import Proxy, run_proxy


class TestS3(FaultContract):
    @pytest.fixture
    def endpoint(self, moto_endpoint: str) -> str:
        return moto_endpoint

    @pytest.fixture
    def open_at(self, moto_config: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> OpenAt:
        monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 0.02)

        def open_at(endpoint_url: str, timeout_seconds: float) -> ObjectStore:
            store = S3Store(changed(moto_config, endpoint_url=endpoint_url, timeout_seconds=timeout_seconds))
            store.raw_client()  # made before the clock starts
            return store

        return open_at


@pytest.fixture
def proxy(moto_endpoint: str) -> Iterator[Proxy]:
    with run_proxy(moto_endpoint) as running:
        yield running


def test_work_goes_on_when_every_tenth_request_is_lost(
    moto_config: StorageConfig, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 0.01)
    breaks_some(proxy, share=0.1, seed=11)
    store = S3Store(changed(moto_config, endpoint_url=proxy.url, timeout_seconds=20))
    entries = [put_file(store, f"files/{number}", b"%d" % number * 50) for number in range(25)]
    assert [len(read_verified(store, entry)) for entry in entries] == [entry.size_bytes for entry in entries]
    assert len(store.list("files")) == 25
    for entry in entries:
        store.delete(entry.key)
    assert store.list("files") == []
    assert len(proxy.methods) > 80


# --- the limit itself ---------------------------------------------------------------------------


def test_work_within_its_time_gives_its_result_or_its_error() -> None:
    assert within(10, lambda: 7, expected=()) == 7

    def fail() -> int:
        raise TransientError("planned")

    with pytest.raises(TransientError, match="planned"):
        within(10, fail, expected=(TransientError,))


def test_work_that_takes_longer_is_left_alone() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.05, lambda: time.sleep(5), expected=())
    assert time.monotonic() - started < 4


def test_an_error_that_nobody_expected_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    told: SimpleQueue[threading.ExceptHookArgs] = SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", told.put)
    with pytest.raises(RuntimeError, match="error of the program itself"):
        within(10, lambda: {}["missing"], expected=(TransientError,))
    assert told.get(timeout=10).exc_type is KeyError
