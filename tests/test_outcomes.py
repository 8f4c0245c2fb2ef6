"""Every attempt leaves one result.json with the true exit code, whichever way it ends."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import tru_core.errors
from tru_core.errors import AccessError, DataError, MissingObjectError, NumericsError, TruError
from workflows.running.outcomes import list_outcomes, newest_outcome, recorded
from workflows.storage import ObjectStore, read_json
from workflows.storage.local import LocalStore

ERRORS = [
    kind
    for kind in vars(tru_core.errors).values()
    if isinstance(kind, type) and issubclass(kind, TruError) and kind is not TruError
]


def raises(error: BaseException) -> Any:
    def body() -> dict[str, Any]:
        raise error

    return body


def test_a_success_is_recorded_with_its_figures(store: ObjectStore) -> None:
    figures = recorded(store, "run-1", "train", lambda: {"version": 3, "test_recall20": 0.25})
    assert figures == {
        "run_id": "run-1",
        "version": 3,
        "test_recall20": 0.25,
        "result": "runs/run-1/attempts/00000001/result.json",
    }
    found = read_json(store, figures["result"])
    started, ended = (datetime.fromisoformat(found.pop(name)) for name in ("started_at", "ended_at"))
    assert started <= ended
    assert str(started.tzinfo) == "UTC"
    assert found == {
        "command": "train",
        "run_id": "run-1",
        "attempt": 1,
        "outcome": "succeeded",
        "exit_code": 0,
        "figures": {"run_id": "run-1", "version": 3, "test_recall20": 0.25},
    }
    assert newest_outcome(store, "run-1")["figures"] == found["figures"]


def test_work_that_failed_in_part_is_recorded_as_its_error_with_the_figures_that_are_there(
    local_store: LocalStore,
) -> None:
    error = NumericsError("the step is nan")
    figures = recorded(local_store, "run-1", "compare", lambda: {"rows": [1, 2]}, error_of=lambda figures: error)
    assert figures["rows"] == [1, 2]
    found = newest_outcome(local_store, "run-1")
    assert (found["outcome"], found["exit_code"], found["error"]) == ("failed", 6, "NumericsError")
    assert (found["message"], found["figures"]["rows"]) == ("the step is nan", [1, 2])


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_ours_is_recorded_with_its_code_and_text(kind: type[TruError], local_store: LocalStore) -> None:
    with pytest.raises(kind) as caught:
        recorded(local_store, "run-1", "unlearn", raises(kind("row 3 is bad")))
    found = newest_outcome(local_store, "run-1")
    assert (found["outcome"], found["exit_code"], found["error"]) == ("failed", kind.exit_code, kind.__name__)
    assert found["message"] == str(caught.value) == "row 3 is bad"
    assert caught.value.__notes__ == [
        f"The outcome is recorded: `tru result run-1 --storage {local_store.url}`.",
    ]


def test_an_interruption_is_recorded_as_one(store: ObjectStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        recorded(store, "run-1", "compare", raises(KeyboardInterrupt()))
    found = newest_outcome(store, "run-1")
    assert (found["outcome"], found["exit_code"]) == ("interrupted", 130)


@pytest.mark.parametrize("error", [RuntimeError("user-0007 broke it"), SystemExit(0), KeyError("user-0007")])
def test_an_error_that_nobody_foresaw_is_recorded_without_its_text(
    error: BaseException, local_store: LocalStore
) -> None:
    with pytest.raises(type(error)):
        recorded(local_store, "run-1", "train", raises(error))
    found = newest_outcome(local_store, "run-1")
    assert (found["outcome"], found["exit_code"], found["error"]) == ("failed", 1, type(error).__name__)
    assert "message" not in found
    assert b"user-0007" not in local_store.read(list_outcomes(local_store, "run-1")[0])


def test_figures_that_json_cannot_hold_are_a_recorded_failure(local_store: LocalStore) -> None:
    with pytest.raises(NumericsError, match="the figures of run run-1"):
        recorded(local_store, "run-1", "train", lambda: {"loss": float("nan")})
    assert newest_outcome(local_store, "run-1")["exit_code"] == 6


def test_where_the_outcome_cannot_be_written_the_first_error_is_still_the_one_raised(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "put_if_absent", lambda *_: raises(AccessError("the bucket is closed"))())
    with pytest.raises(DataError, match="row 3 is bad") as caught:
        recorded(local_store, "run-1", "train", raises(DataError("row 3 is bad")))
    assert caught.value.__notes__ == ["The outcome could not be recorded: the bucket is closed"]


def test_attempts_are_numbered_and_the_newest_is_read(store: ObjectStore) -> None:
    for number in range(1, 12):
        with pytest.raises(DataError):
            recorded(store, "run-1", "train", raises(DataError(f"attempt {number}")))
    recorded(store, "run-1", "train", lambda: {"version": 1})
    recorded(store, "run-10", "train", lambda: {"version": 7})
    outcomes = [read_json(store, key) for key in list_outcomes(store, "run-1")]
    assert [outcome["attempt"] for outcome in outcomes] == list(range(1, 13))
    assert [outcome["exit_code"] for outcome in outcomes] == [3] * 11 + [0]
    assert newest_outcome(store, "run-1")["figures"]["version"] == 1


def test_attempts_that_end_at_once_get_a_number_each(store: ObjectStore) -> None:
    start = threading.Barrier(8)

    def body() -> dict[str, Any]:
        start.wait()
        return {"thread": threading.get_ident()}

    with ThreadPoolExecutor(8) as pool:
        figures = list(pool.map(lambda _: recorded(store, "run-1", "train", body), range(8)))
    assert len({one["result"] for one in figures}) == 8
    for one in figures:
        assert read_json(store, one["result"])["figures"]["thread"] == one["thread"]
    assert [read_json(store, key)["attempt"] for key in list_outcomes(store, "run-1")] == list(range(1, 9))


def test_waiting_ends_with_the_first_outcome(local_store: LocalStore) -> None:
    def end_later() -> None:
        time.sleep(0.3)
        recorded(local_store, "run-1", "train", lambda: {"version": 1})

    thread = threading.Thread(target=end_later)
    thread.start()
    started = time.monotonic()
    assert newest_outcome(local_store, "run-1", wait_seconds=60)["exit_code"] == 0
    assert time.monotonic() - started < 30
    thread.join()


@pytest.mark.parametrize("wait_seconds", [0.0, 0.3])
def test_a_run_without_an_outcome_is_missing_after_the_wait(wait_seconds: float, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(MissingObjectError, match=r"run run-1 has no outcome in .*: it runs still, or never") as caught:
        newest_outcome(LocalStore(tmp_path), "run-1", wait_seconds=wait_seconds)
    assert caught.value.exit_code == 4
    assert wait_seconds <= time.monotonic() - started < 30
