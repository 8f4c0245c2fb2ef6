"""Faults that stay, as tests that an author of a store behind HTTP inherits.

    from workflows.testing import FaultContract

    class TestMine(FaultContract):
        @pytest.fixture
        def endpoint(self): ...   # the URL of a sound server
        @pytest.fixture
        def open_at(self): ...    # (endpoint_url, timeout_seconds) -> a store, always on the same objects

A proxy stands between the store and its server and does the same wrong thing to every request. Each call ends in time,
with success or a TransientError, and then all is as it was.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tru_core.errors import TransientError
from workflows.storage import ObjectStore, put_file
from workflows.testing.faults import CUT, DROP, DROP_ANSWER, FAIL_ANSWER, SILENT, TRICKLE, Answer, run_proxy

OpenAt = Callable[[str, float], ObjectStore]

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


class FaultContract:
    """Subclass it as ``Test...`` and give the fixtures ``endpoint`` and ``open_at``."""

    @pytest.fixture
    def endpoint(self) -> str:
        """The URL of a sound server. The subclass knows it."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture `endpoint`")

    @pytest.fixture
    def open_at(self) -> OpenAt:
        """Opens a store at an endpoint, with a limit of time in seconds. The subclass knows how."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture `open_at`")

    @pytest.mark.parametrize("name", FAULTS)
    def test_a_fault_that_stays_ends_every_call_in_time_with_exit_code_7(
        self, name: str, endpoint: str, open_at: OpenAt
    ) -> None:
        sound = open_at(endpoint, 20)
        sound.put_if_absent("a", BODY)
        with run_proxy(endpoint) as proxy:
            fault = FAULTS[name]
            proxy.choose = lambda: fault

            def ends(call: str) -> float:
                store, message = open_at(proxy.url, TIMEOUT_SECONDS), ""
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
        # The same command again finds out that it is done, or does it.
        assert put_file(sound, "new", BODY).size_bytes == len(BODY)
