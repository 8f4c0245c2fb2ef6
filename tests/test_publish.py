"""The log of model versions: one winner for each number, nothing published twice, nothing damaged served."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tru_core.errors import ConflictError, IntegrityError, MissingObjectError
from workflows.models.publish import Version, current_version, publish_version, read_versions
from workflows.storage import FileEntry, ObjectStore, append_log_entry, model_log
from workflows.storage.local import LocalStore

MODEL = "tiny-mgcn"
NUM_WRITERS = 8


def model_file(number: int) -> FileEntry:
    return FileEntry(key=f"runs/r/model-{number}/manifest.json", size_bytes=10, sha256=f"{number:064x}")


def publish(store: ObjectStore, number: int, *, parent: int | None = None) -> Version:
    return publish_version(
        store,
        MODEL,
        manifest=model_file(number),
        parent_version=parent,
        method="fit" if parent is None else "tru",
        dataset="tiny",
        snapshot_id="s",
        run_id=f"run-{number}",
        job_digest=f"job-{number}",
    )


def at_once(store: ObjectStore, numbers: list[int], *, parent: int | None) -> list[Version | ConflictError]:
    """Publish models from as many threads at the same time."""
    start = Barrier(len(numbers))

    def attempt(number: int) -> Version | ConflictError:
        start.wait()
        try:
            return publish(store, number, parent=parent)
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(attempt, numbers))


def test_versions_are_numbered_and_the_newest_serves(store: ObjectStore) -> None:
    first, second = publish(store, 1), publish(store, 2, parent=1)
    assert (first.version, first.parent_version, second.version, second.parent_version) == (1, None, 2, 1)
    assert read_versions(store, MODEL) == [first, second]
    assert current_version(store, MODEL) == second
    assert second.manifest == model_file(2)
    assert second.created_at.endswith("+00:00")


def test_the_same_model_again_is_the_same_version_even_when_another_serves(store: ObjectStore) -> None:
    first, second = publish(store, 1), publish(store, 2, parent=1)
    assert publish(store, 1) == first
    assert publish(store, 2, parent=1) == second
    assert current_version(store, MODEL) == second


def test_a_version_trained_anew_replaces_whichever_serves(store: ObjectStore) -> None:
    publish(store, 1)
    publish(store, 2, parent=1)
    assert publish(store, 3).version == 3


@pytest.mark.parametrize("parent", [1, 3])
def test_a_version_made_from_one_that_does_not_serve_is_refused(parent: int, store: ObjectStore) -> None:
    publish(store, 1)
    publish(store, 2, parent=1)
    with pytest.raises(ConflictError, match=f"version 2 serves, but this one was made from version {parent}") as caught:
        publish(store, 9, parent=parent)
    assert caught.value.exit_code == 5
    assert len(read_versions(store, MODEL)) == 2


def test_a_version_made_from_one_of_no_log_is_refused(store: ObjectStore) -> None:
    with pytest.raises(ConflictError, match="version None serves, but this one was made from version 1"):
        publish(store, 9, parent=1)


def test_of_many_that_publish_at_once_from_one_version_one_wins(store: ObjectStore) -> None:
    publish(store, 100)
    for parent in (1, 2, 3):
        found = at_once(store, [parent * NUM_WRITERS + writer for writer in range(NUM_WRITERS)], parent=parent)
        [winner] = [one for one in found if isinstance(one, Version)]
        assert (winner.version, winner.parent_version) == (parent + 1, parent)
        assert current_version(store, MODEL) == winner


def test_many_that_try_until_they_have_published_get_a_number_each(store: ObjectStore) -> None:
    waiting, rounds = list(range(NUM_WRITERS)), 0
    while waiting:
        found = at_once(store, waiting, parent=None)
        assert any(isinstance(one, Version) for one in found)
        waiting = [number for number, one in zip(waiting, found, strict=True) if isinstance(one, ConflictError)]
        rounds += 1
        assert rounds <= NUM_WRITERS
    versions = read_versions(store, MODEL)
    assert [version.version for version in versions] == list(range(1, NUM_WRITERS + 1))
    assert {version.run_id for version in versions} == {f"run-{number}" for number in range(NUM_WRITERS)}


def test_the_same_model_published_by_many_at_once_is_one_version_for_all(store: ObjectStore) -> None:
    found = at_once(store, [7] * NUM_WRITERS, parent=None)
    assert found == [current_version(store, MODEL)] * NUM_WRITERS
    assert len(read_versions(store, MODEL)) == 1


def test_a_model_without_a_version_is_missing_and_the_message_says_what_to_do(store: ObjectStore) -> None:
    assert read_versions(store, MODEL) == []
    with pytest.raises(MissingObjectError, match=r"Train it with `tru train`, or correct `model:`") as caught:
        current_version(store, MODEL)
    assert caught.value.exit_code == 4
    assert store.url in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "is a JSON list, expected an object"),
        (b"{}", "entry 2 is no model version"),
        (None, "entry 2 is missing"),
    ],
)
def test_a_damaged_log_serves_nothing(body: bytes | None, message: str, local_store: LocalStore) -> None:
    for number in (1, 2, 3):
        publish(local_store, number)
    path = Path(local_store.url) / model_log(MODEL) / "00000002.json"
    if body is None:
        path.unlink()
    else:
        path.write_bytes(body)
    for read in (read_versions, current_version):
        with pytest.raises(IntegrityError, match=message) as caught:
            read(local_store, MODEL)
        assert caught.value.exit_code == 8
    with pytest.raises(IntegrityError):
        publish(local_store, 4)


def test_an_entry_with_another_number_or_an_unknown_field_is_no_version(store: ObjectStore) -> None:
    entry: dict[str, Any] = publish(store, 1).model_dump(mode="json")
    append_log_entry(store, model_log(MODEL), number=2, entry=entry)
    with pytest.raises(IntegrityError, match="entry 2 says that it is version 1"):
        current_version(store, MODEL)
    append_log_entry(store, model_log("other"), number=1, entry=entry | {"is_best": True})
    with pytest.raises(IntegrityError, match="entry 1 is no model version"):
        current_version(store, "other")
