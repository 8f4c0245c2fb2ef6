"""Two runs at once: one works, the other says so; a run that was paused too long commits nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tru_core.errors import ConflictError, TruError
from workflows.storage import ObjectStore, open_store, run_lock
from workflows.storage.run_lock import hold_lease

LEASE_SECONDS = 1.0
HOLDER = Path(__file__).with_name("lease_holder.py")


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease; it is ended at the end of the block whatever state it is in."""
    process = subprocess.Popen(
        [sys.executable, str(HOLDER), str(folder), str(LEASE_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HOLDER.parents[1])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        pytest.fail("the process has no output")
    return process.stdout.readline().strip()


def commit(process: subprocess.Popen[str]) -> str:
    """Ask a holder to commit something; what it says."""
    if process.stdin is None:
        pytest.fail("the process has no input")
    process.stdin.write("commit\n")
    process.stdin.flush()
    return said(process)


def test_a_free_lease_is_taken_and_released_and_every_holder_has_a_higher_epoch(store: ObjectStore) -> None:
    for epoch in (1, 2, 3):
        with hold_lease(store, "tiny", lease_seconds=60) as lease:
            assert lease.epoch == epoch
            lease.check()


def test_a_run_that_fails_releases_its_lease(local_store: ObjectStore) -> None:
    with pytest.raises(KeyboardInterrupt), hold_lease(local_store, "tiny", lease_seconds=60):
        raise KeyboardInterrupt
    with hold_lease(local_store, "tiny", lease_seconds=60) as lease:
        assert lease.epoch == 2


def test_of_two_runs_at_once_one_works_and_the_other_says_so(local_store: ObjectStore) -> None:
    with hold_lease(local_store, "tiny", lease_seconds=LEASE_SECONDS) as lease:
        with (
            pytest.raises(ConflictError, match="another run works on it") as caught,
            hold_lease(local_store, "tiny", lease_seconds=LEASE_SECONDS),
        ):
            pytest.fail("two runs hold one lease")
        assert caught.value.exit_code == 5
        lease.check()
        with hold_lease(local_store, "other", lease_seconds=LEASE_SECONDS) as other:
            assert other.epoch == 1


def test_of_eight_newcomers_at_once_one_gets_the_lease(local_store: ObjectStore) -> None:
    start, results, is_over = threading.Barrier(8), [], threading.Event()

    def come() -> None:
        start.wait()
        try:
            with hold_lease(local_store, "tiny", lease_seconds=LEASE_SECONDS) as lease:
                results.append(lease.epoch)
                is_over.wait(20)
        except TruError as error:
            results.append(error.exit_code)
        if len(results) == 8:
            is_over.set()

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(results) < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    is_over.set()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1] + [5] * 7


def test_a_holder_that_is_silent_for_a_whole_lease_is_replaced(
    local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_beat", lambda lease, stop, lease_seconds: None)
    with hold_lease(local_store, "tiny", lease_seconds=0.4) as silent:
        begun = time.monotonic()
        with hold_lease(local_store, "tiny", lease_seconds=0.4) as lease:
            assert time.monotonic() - begun >= 0.4
            assert lease.epoch == silent.epoch + 1
            with pytest.raises(ConflictError, match="commits nothing more"):
                silent.check()
            lease.check()


def test_a_paused_run_that_wakes_after_losing_its_lease_commits_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with holder(tmp_path) as paused:
        assert said(paused) == "held 1"
        assert commit(paused) == "committed"
        os.kill(paused.pid, signal.SIGSTOP)
        with holder(tmp_path) as second:
            begun = time.monotonic()
            assert said(second) == "held 2"
            assert time.monotonic() - begun >= LEASE_SECONDS
            os.kill(paused.pid, signal.SIGCONT)
            assert commit(paused) == "refused"
            assert commit(second) == "committed"
    assert [info.key for info in store.list("commits")] == ["commits/1-0", "commits/2-0"]


def test_a_killed_run_is_replaced_after_a_lease(tmp_path: Path) -> None:
    with holder(tmp_path) as killed:
        assert said(killed) == "held 1"
    with holder(tmp_path) as second:
        assert said(second) == "held 2"
        assert commit(second) == "committed"


def test_beats_do_not_pile_up(local_store: ObjectStore) -> None:
    with hold_lease(local_store, "tiny", lease_seconds=0.2):
        time.sleep(0.5)
        assert len(local_store.list("locks/tiny/beats")) <= 2
    with hold_lease(local_store, "tiny", lease_seconds=60):
        assert not local_store.list("locks/tiny/beats")
