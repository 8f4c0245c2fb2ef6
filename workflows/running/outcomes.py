"""The true outcome of every attempt of a run, in storage: ``ray job submit`` flattens exit codes, this does not."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tru_core.errors import MissingObjectError, TruError
from workflows.failures import own_error
from workflows.storage import ObjectStore, canonical_json, read_json, run_prefix
from workflows.storage.commands import result_command

INTERRUPTED = 130
UNEXPECTED = 1


def _folder(run_id: str) -> str:
    return f"{run_prefix(run_id)}/attempts"


def _write(store: ObjectStore, run_id: str, outcome: dict[str, Any]) -> str:
    """Write an outcome under the next free number; several attempts at once each get their own."""
    number = len(list_outcomes(store, run_id)) + 1
    while True:
        key = f"{_folder(run_id)}/{number:08d}/result.json"
        body = canonical_json(outcome | {"attempt": number}, where=key)
        if store.put_if_absent(key, body):
            return key
        number += 1


def list_outcomes(store: ObjectStore, run_id: str) -> list[str]:
    """Keys of the outcomes of a run's attempts, oldest first."""
    return [info.key for info in store.list(_folder(run_id)) if info.key.endswith("/result.json")]


def newest_outcome(store: ObjectStore, run_id: str, *, wait_seconds: float = 0.0) -> dict[str, Any]:
    """Read the outcome of a run's newest attempt.

    Args:
        wait_seconds: How long to wait for a first outcome.

    Raises:
        MissingObjectError: If no attempt has ended by then.
    """
    stop = time.monotonic() + wait_seconds
    while not (keys := list_outcomes(store, run_id)):
        if time.monotonic() >= stop:
            raise MissingObjectError(f"run {run_id} has no outcome in {store.url}: it runs still, or never started.")
        time.sleep(min(1.0, max(0.05, wait_seconds / 20)))
    return read_json(store, keys[-1])


def _no_error(figures: dict[str, Any]) -> TruError | None:
    return None


def recorded(
    store: ObjectStore,
    run_id: str,
    command: str,
    body: Callable[[], dict[str, Any]],
    *,
    error_of: Callable[[dict[str, Any]], TruError | None] = _no_error,
    hidden: str = "",
) -> dict[str, Any]:
    """Do the work of one attempt and write how it ended, whichever way it ends.

    Args:
        error_of: The error with which a part of the work ended whose other figures are there: the outcome is then
            that error's, figures included, and nothing is raised.
        hidden: A file's name that may name a person: what is kept says "the request file" in its place.

    Returns:
        The figures of ``body``, with ``run_id`` and ``result`` (the outcome's key) added.
    """
    outcome: dict[str, Any] = {
        "command": command,
        "run_id": run_id,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        figures = {"run_id": run_id} | body()
        canonical_json(figures, where=f"the figures of run {run_id}")
    except BaseException as error:
        ending = {"outcome": "failed", "exit_code": UNEXPECTED, "error": type(error).__name__}
        own = own_error(error)
        if own is not None:
            message = str(own).replace(hidden, "the request file") if hidden else str(own)
            ending |= {"exit_code": own.exit_code, "error": type(own).__name__, "message": message}
        elif isinstance(error, KeyboardInterrupt):
            ending = {"outcome": "interrupted", "exit_code": INTERRUPTED}
        ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            _write(store, run_id, outcome | ending | {"ended_at": ended_at})
            error.add_note(f"The outcome is recorded: `{result_command(store, run_id)}`.")
        except TruError as trouble:
            error.add_note(f"The outcome could not be recorded: {trouble}")
        raise
    ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    ending = {"outcome": "succeeded", "exit_code": 0}
    if (error := error_of(figures)) is not None:
        ending = {"outcome": "failed", "exit_code": error.exit_code, "error": type(error).__name__}
        ending |= {"message": str(error)}
    ending |= {"ended_at": ended_at, "figures": figures}
    return figures | {"result": _write(store, run_id, outcome | ending)}
