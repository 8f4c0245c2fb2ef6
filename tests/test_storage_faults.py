"""Faults that stay: every call to a storage ends in time, with success or exit code 7, and then all is as it was."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from tests.publish_history import breaks_some
from tests.s3_faults import CUT, DROP, DROP_ANSWER, FAIL_ANSWER, SILENT, TRICKLE, Answer, Proxy, run_proxy
from tests.test_storage_s3_errors import changed
from tru_core.errors import TransientError
from workflows.storage import ObjectStore, StorageConfig, put_file, read_verified
from workflows.storage import s3 as storage_s3
from workflows.storage.s3 import S3Store
from workflows.storage.time_limit import within

TIMEOUT_SECONDS = 1.0
SLACK_SECONDS = 30.0  # what the project promises beyond the timeout
BODY = b"0123456789" * 200  # byte by byte it would take 100 seconds

FAULTS: dict[str, str | Answer] = {
    "500": Answer(500, "InternalError"),
    "503": Answer(503, "ServiceUnavailable"),
    "throttled": Answer(503, "SlowDown"),
    "429": Answer(429, "TooManyRequests"),
    "reset before the answer": DROP,
    "done, and reset before the answer": DROP_ANSWER,
    "done, and answered with an error": FAIL_ANSWER,
    "reset in the middle of the body": CUT,
    "a body byte by byte": TRICKLE,
    "silence": SILENT,
}

CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "put": lambda store: store.put_if_absent("new", BODY),
    "read": lambda store: store.read("a"),
    "exists": lambda store: store.exists("a"),
    "list": lambda store: store.list(""),
    "delete": lambda store: store.delete("unneeded"),
}
QUIET = {("put", CUT), ("put", TRICKLE), ("delete", CUT), ("delete", TRICKLE)}  # their answers have no body


@pytest.fixture
def proxy(moto_endpoint: str) -> Iterator[Proxy]:
    with run_proxy(moto_endpoint) as running:
        yield running


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_ends_every_call_in_time_with_exit_code_7(
    name: str, moto_config: StorageConfig, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 0.02)
    sound = S3Store(moto_config)
    sound.put_if_absent("a", BODY)
    fault = FAULTS[name]
    proxy.choose = lambda: fault
    broken = changed(moto_config, endpoint_url=proxy.url, timeout_seconds=TIMEOUT_SECONDS)

    def ends(call: str) -> float:
        store, message = S3Store(broken), ""
        store.raw_client()
        started = time.monotonic()
        try:
            CALLS[call](store)
        except TransientError as error:
            message = str(error)
        elapsed_seconds = time.monotonic() - started
        assert "Run the same command again" in message or (not message and (call, fault) in QUIET)
        return elapsed_seconds

    with ThreadPoolExecutor(len(CALLS)) as pool:
        assert max(pool.map(ends, CALLS)) < TIMEOUT_SECONDS + SLACK_SECONDS
    proxy.choose = lambda: None
    assert sound.read("a") == BODY
    assert put_file(sound, "new", BODY).size_bytes == len(BODY)  # the same command again finds out, or writes it


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
