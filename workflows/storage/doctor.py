"""An examination of a storage: does it keep what publication and purge rest on?

Every property is tried out, none is looked up. All objects lie in a folder of this examination alone and are removed
at the end, whatever happens.
"""

import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any, Literal

from tru_core.errors import IntegrityError, MissingObjectError
from workflows.storage import ObjectStore, doctor_s3
from workflows.storage.local import LocalStore
from workflows.storage.object_keys import doctor_prefix
from workflows.storage.s3 import S3Store

NUM_WRITERS = 8
NUM_ROUNDS = 100
NUM_OBJECTS = 10  # in the probes that need no race

Outcome = Literal["passed", "failed", "reported"]


@dataclass(frozen=True)
class Finding:
    """What one probe found.

    Attributes:
        outcome: ``reported`` is for the reader: nothing here rests on it.
        detail: What was seen, with counts.
    """

    name: str
    outcome: Outcome
    detail: str


Probe = Callable[[ObjectStore, str], str]


class _Missing(Exception):
    """A store lacks the property that a probe looked for."""


def examine(store: ObjectStore, *, num_rounds: int = NUM_ROUNDS) -> list[Finding]:
    """Try out every property. Writes below a folder of its own and removes it.

    Args:
        num_rounds: Races of 8 writers for one key.

    Raises:
        AccessError: If the store cannot be reached or denies what every user of it needs.
        TransientError: If it fails too often to tell.
    """
    prefix = doctor_prefix(uuid.uuid4().hex)
    probes: dict[str, Probe] = {
        "create-only, other content": partial(_create_only, is_same=False),
        "create-only, same content": partial(_create_only, is_same=True),
        "create-only, contended": partial(_contended, num_rounds=num_rounds),
        "read after write": _read_after_write,
        "list after write": _list_after_write,
        "delete": _delete,
        "names as written": _names_as_written,
    }
    try:
        findings = [_finding(store, name, probe, prefix) for name, probe in probes.items()]
        if isinstance(store, S3Store):
            findings += [Finding(*found) for found in doctor_s3.examine_s3(store, prefix)]
    finally:
        for info in store.list(prefix):
            store.delete(info.key)
        if isinstance(store, LocalStore):
            shutil.rmtree(Path(store.url, prefix), ignore_errors=True)  # the empty folders
    left = len(store.list(prefix))
    findings.append(Finding("cleaned up", "failed" if left else "passed", f"{left} objects of this examination left"))
    return findings


def diagnose(store: ObjectStore, *, num_rounds: int = NUM_ROUNDS) -> dict[str, Any]:
    """Examine a store.

    Returns:
        Its url, and each finding by name, outcome and detail.

    Raises:
        IntegrityError: If it lacks a property; the message names each one. Otherwise as :func:`examine`.
    """
    findings = examine(store, num_rounds=num_rounds)
    failed = [finding for finding in findings if finding.outcome == "failed"]
    if failed:
        listed = "; ".join(f"{finding.name} ({finding.detail})" for finding in failed)
        raise IntegrityError(
            f"storage {store.url} lacks {len(failed)} of {len(findings)} properties: {listed}. Do not publish there: "
            f"use another storage, or another version of this one."
        )
    return {"storage": store.url, "findings": [asdict(finding) for finding in findings]}


def _finding(store: ObjectStore, name: str, probe: Probe, prefix: str) -> Finding:
    folder = f"{prefix}/{name.replace(', ', '-').replace(' ', '-')}"
    try:
        return Finding(name, "passed", probe(store, folder))
    except _Missing as error:
        return Finding(name, "failed", str(error))


def _require(is_met: bool, problem: str) -> None:
    if not is_met:
        raise _Missing(problem)


# --- probes -------------------------------------------------------------------------------------


def _create_only(store: ObjectStore, folder: str, *, is_same: bool) -> str:
    for number in range(NUM_OBJECTS):
        key, second = f"{folder}/{number}", b"first" if is_same else b"second"
        _require(store.put_if_absent(key, b"first"), f"object {number} could not be created: the key was never used")
        _require(not store.put_if_absent(key, second), f"create {number} of an object that was there was not refused")
        _require(store.read(key) == b"first", f"object {number} was replaced")
    return f"{NUM_OBJECTS} of {NUM_OBJECTS} second creates refused"


def _contended(store: ObjectStore, folder: str, *, num_rounds: int) -> str:
    """Many writers at once for one key: of other bytes in even rounds, of the same in odd ones."""
    start = Barrier(NUM_WRITERS)

    def attempt(key: str, body: bytes) -> bool:
        start.wait()
        return store.put_if_absent(key, body)

    winners = []
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        for number in range(num_rounds):
            key = f"{folder}/{number}"
            bodies = [b"same" if number % 2 else b"writer %d" % writer for writer in range(NUM_WRITERS)]
            won = list(pool.map(partial(attempt, key), bodies))
            winners.append(won.count(True))
            is_whole = won.count(True) != 1 or store.read(key) == bodies[won.index(True)]
            _require(is_whole, f"round {number}: the object is not what its one winner wrote")
    bad = [count for count in winners if count != 1]
    _require(not bad, f"{len(bad)} of {num_rounds} rounds had {min(bad, default=0)} to {max(bad, default=0)} winners")
    return f"one winner in each of {num_rounds} rounds of {NUM_WRITERS} writers"


def _read_after_write(store: ObjectStore, folder: str) -> str:
    for number in range(NUM_OBJECTS):
        key, body = f"{folder}/{number}", uuid.uuid4().bytes * 1000
        _require(not store.exists(key), f"object {number} is there before it was written")
        store.put_if_absent(key, body)
        _require(store.exists(key) and _read_or_none(store, key) == body, f"object {number} was not there at once")
    return f"{NUM_OBJECTS} of {NUM_OBJECTS} objects read at once"


def _list_after_write(store: ObjectStore, folder: str) -> str:
    for number in range(NUM_OBJECTS):
        store.put_if_absent(f"{folder}/{number:04d}", b"x" * number)
        found = [(info.key, info.size_bytes) for info in store.list(folder)]
        expected = [(f"{folder}/{place:04d}", place) for place in range(number + 1)]
        _require(found == expected, f"a listing showed {len(found)} objects of {number + 1}, or wrong sizes")
    return f"each of {NUM_OBJECTS} listings whole"


def _delete(store: ObjectStore, folder: str) -> str:
    for number in range(NUM_OBJECTS):
        key = f"{folder}/{number}"
        store.put_if_absent(key, b"first")
        store.delete(key)
        is_gone = not store.exists(key) and _read_or_none(store, key) is None and not store.list(folder)
        _require(is_gone, f"deleted object {number} was still there")
        _require(store.put_if_absent(key, b"second"), f"the key of deleted object {number} was not free")
        _require(_read_or_none(store, key) == b"second", f"object {number} is not the one written after the delete")
        store.delete(key)
    return f"{NUM_OBJECTS} of {NUM_OBJECTS} gone at once, their keys free"


def _names_as_written(store: ObjectStore, folder: str) -> str:
    """Keys that differ in case or in the form of an accent are different objects."""
    names = ["a", "A", "\u00e9", "e\u0301", "a b", "a+b", "a%20b"]
    for name in names:
        _require(store.put_if_absent(f"{folder}/{name}", name.encode()), f"key {name!r} was taken by another one")
    for name in names:
        _require(_read_or_none(store, f"{folder}/{name}") == name.encode(), f"key {name!r} stands for another object")
    found = sorted(info.key.removeprefix(f"{folder}/") for info in store.list(folder))
    _require(found == sorted(names), "a listing shows other names than were written")
    return f"{len(names)} names that are nearly the same kept apart"


def _read_or_none(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.read(key)
    except MissingObjectError:
        return None
