"""A run that dies anywhere, and others at work meanwhile: the same command ends as if there had been nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deletion_world import (
    LINES,
    copy_world,
    delete,
    end_state,
    newest_attempt,
    pairs_of,
    request_of,
    run_here,
)
from tests.tiny_snapshot import user_id
from tru_core.errors import ConflictError
from workflows import deletion_finish, deletion_steps, deletions, runs, snapshot_deletion
from workflows.config import JobConfig
from workflows.publish import current_version, read_versions
from workflows.snapshot import current_snapshot
from workflows.storage import ObjectStore, open_store
from workflows.tasks import WorkerTask
from workflows.worker import Results


@pytest.fixture
def job(deletion_job: JobConfig) -> JobConfig:
    return deletion_job


@pytest.fixture
def store(job: JobConfig) -> ObjectStore:
    return open_store(job.storage)


class Crash(Exception):
    """The process dies here."""


def crash_in(module: Any, name: str, *, after: bool, skip: int = 0) -> Callable[[pytest.MonkeyPatch], None]:
    """Die before or after a call of a function, when ``skip`` calls went well."""

    def arm(patch: pytest.MonkeyPatch) -> None:
        real, calls = getattr(module, name), []

        def dying(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) <= skip:
                return real(*arguments, **options)
            if after:
                real(*arguments, **options)
            raise Crash

        patch.setattr(module, name, dying)

    return arm


CRASHES = {
    "before the plan": crash_in(deletions, "plan_batch", after=False),
    "after the plan": crash_in(deletions, "read_plan", after=True),
    "before the new snapshot's manifest": crash_in(snapshot_deletion, "write_manifest", after=False),
    "after the new snapshot's files": crash_in(deletions, "write_snapshot_without", after=True),
    "before training": crash_in(runs, "run_task", after=False),
    "after training": crash_in(runs, "run_task", after=True),
    "before the version": crash_in(deletions, "publish_version", after=False),
    "after the version": crash_in(deletions, "publish_version", after=True),
    "before the snapshot": crash_in(deletions, "publish_snapshot", after=False),
    "after the snapshot": crash_in(deletions, "publish_snapshot", after=True),
    "before the records": crash_in(deletions, "write_record", after=False),
    "between the records": crash_in(deletions, "write_record", after=False, skip=1),
    "after the records": crash_in(deletions, "write_record", after=True, skip=2),
}


LINES = (f"r1,user,{user_id(3)},", f"r2,item,,{item_id(7)}", f"r3,user,{NOT_THERE},")


def end_state(store: ObjectStore, model: str = "mgcn") -> dict[str, Any]:
    """What counts when a batch is over, without times and random prefixes."""
    versions = [version.model_dump(exclude={"created_at", "manifest"}) for version in read_versions(store, model)]
    tensors = model_tensors(store, current_version(store, model))
    snapshot = current_snapshot(store, "tiny")
    records = [json.loads(store.read(info.key)) for info in store.list(f"deletions/{model}/records")]
    for record in records:
        for name in ("planned_at", "published_at", "recorded_at"):
            record[name] = record[name] is not None
    return {
        "versions": versions,
        "tensors": {name: value.tobytes() for name, value in sorted(tensors.items())},
        "snapshots": [line.entry["snapshot_id"] for line in read_log(store, dataset_log("tiny"))],
        "snapshot": snapshot.model_dump(exclude={"created_at"}),
        "records": records,
        "marks": sorted(info.key for info in store.list("deletions") if info.key.endswith("/done.json")),
    }


@pytest.fixture(scope="module")
def unbroken(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end state of a batch that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    store = open_store(str(folder / "store"))
    copy_objects(open_store(str(trained_folder)), store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_task", run_here)
        delete(make_job(str(folder / "store")), folder, *LINES)
    return end_state(store)


@pytest.mark.parametrize("place", CRASHES)
def test_the_same_command_after_a_crash_ends_as_if_there_had_been_none(
    job: JobConfig, store: ObjectStore, tmp_path: Path, unbroken: dict[str, Any], place: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        CRASHES[place](patch)
        with pytest.raises(Crash):
            delete(job, tmp_path, *LINES)
    assert newest_attempt(store)["outcome"] == "failed"
    is_in_effect = "record" in place or "snapshot" in place.split()[-1] or place == "after the version"
    assert current_version(store, "mgcn").version == (2 if is_in_effect else 1)
    assert delete(job, tmp_path, *LINES)["num_requests"] == {"not_found": 1, "published": 2}
    assert end_state(store) == unbroken
    assert len(unbroken["records"]) == 3
    assert len(unbroken["versions"]) == 2


@pytest.mark.parametrize("place", ["after the version", "after the snapshot", "between the records"])
def test_another_batch_finishes_the_one_that_took_effect(
    job: JobConfig, store: ObjectStore, tmp_path: Path, place: str
) -> None:
    before = current_snapshot(store, "tiny")
    with pytest.MonkeyPatch.context() as patch:
        CRASHES[place](patch)
        with pytest.raises(Crash):
            delete(job, tmp_path, *LINES)
    figures = delete(job, tmp_path, f"r9,user,{user_id(9)},", name="other.csv")
    assert (figures["num_requests"], figures["version"]) == ({"published": 1}, 3)
    assert {record_of(store, f"r{n}").version_after for n in (1, 2, 3)} == {2}
    expected = {pair for pair in pairs_of(store, before) if pair[0] not in (3, 9) and pair[1] != 7}
    assert pairs_of(store, current_snapshot(store, "tiny")) == expected


# --- others at work -----------------------------------------------------------------------------


def test_a_version_published_during_the_training_wins_and_the_same_command_starts_from_it(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(task: WorkerTask, *, show_progress: bool) -> Results:
        monkeypatch.setattr(runs, "run_task", run_here)
        runs.train(job.model_copy(update={"fit": job.fit.model_copy(update={"seed": 1})}))
        return run_here(task, show_progress=show_progress)

    monkeypatch.setattr(runs, "run_task", meanwhile)
    with pytest.raises(ConflictError, match="version 2 serves"):
        delete(job, tmp_path, *LINES)
    assert current_snapshot(store, "tiny").snapshot_id == "tiny-0"
    assert not store.list("deletions/mgcn/records")
    figures = delete(job, tmp_path, *LINES)
    assert (figures["parent_version"], figures["version"]) == (2, 3)


def test_a_model_that_knows_more_than_the_data_set_answers_no_request(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    other = job.model_copy(update={"model": "other"})
    runs.train(other)
    delete(other, tmp_path, *LINES)
    error = refused(job, tmp_path / "requests.csv")
    assert isinstance(error, ConflictError)
    assert "tru train" in str(error)
    runs.train(job)
    assert delete(job, tmp_path, *LINES)["num_requests"] == {"not_found": 3}


def test_a_batch_in_effect_is_finished_on_top_of_another_models_batch(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    before, other = current_snapshot(store, "tiny"), job.model_copy(update={"model": "other"})
    runs.train(other)
    with pytest.MonkeyPatch.context() as patch:
        CRASHES["before the snapshot"](patch)
        with pytest.raises(Crash):
            delete(job, tmp_path, *LINES)
    delete(other, tmp_path, f"r1,user,{user_id(9)},", f"r2,user,{user_id(3)},", name="other.csv")
    assert delete(job, tmp_path, *LINES)["num_requests"] == {"not_found": 1, "published": 2}
    after = current_snapshot(store, "tiny")
    assert pairs_of(store, after) == {p for p in pairs_of(store, before) if p[0] not in (3, 9) and p[1] != 7}
    assert after.num_deleted_users == 2
    assert len(read_versions(store, "mgcn")) == 2
