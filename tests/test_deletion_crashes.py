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
    ledger_of,
    newest_attempt,
    pairs_of,
    run_here,
)
from tests.tiny_snapshot import user_id
from tru_core.errors import ConflictError
from workflows.config.job import JobConfig
from workflows.data import deletion as snapshot_deletion
from workflows.data.snapshot import current_snapshot
from workflows.deletions import finish as deletion_finish
from workflows.deletions.batches import purge as purging
from workflows.deletions.batches import steps as deletion_steps
from workflows.models.publish import current_version, read_versions
from workflows.running import runs
from workflows.running.results import Results
from workflows.storage import ObjectStore, open_store
from workflows.tasks import WorkerTask


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
    "before the plan": crash_in(deletion_steps, "plan_batch", after=False),
    "after the plan": crash_in(deletion_steps, "read_plan", after=True),
    "before the new snapshot's manifest": crash_in(snapshot_deletion, "write_manifest", after=False),
    "after the new snapshot's files": crash_in(deletion_steps, "write_snapshot_without", after=True),
    "before training": crash_in(runs, "run_task", after=False),
    "after training": crash_in(runs, "run_task", after=True),
    "before the version": crash_in(deletion_steps, "publish_version", after=False),
    "after the version": crash_in(deletion_steps, "publish_version", after=True),
    "before the tombstones": crash_in(deletion_steps, "add_tombstones", after=False),
    "before the snapshot": crash_in(deletion_steps, "publish_snapshot", after=False),
    "after the snapshot": crash_in(deletion_steps, "publish_snapshot", after=True),
    "before the purge": crash_in(deletion_finish, "purge", after=False),
    "in the purge": crash_in(purging, "_delete", after=True, skip=1),
    "after the purge": crash_in(deletion_finish, "purge", after=True),
    "before the receipts": crash_in(deletion_finish, "issue", after=False),
    "after the receipts": crash_in(deletion_finish, "issue", after=True),
    "before the plan goes": crash_in(deletion_finish, "drop_plan", after=False),
}
FIRST_IN_EFFECT = list(CRASHES).index("after the version")


@pytest.fixture(scope="module")
def unbroken(trained_world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The end state of a batch that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    job = copy_world(trained_world, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_task", run_here)
        delete(job, folder, *LINES)
    return end_state(job)


def crash(job: JobConfig, folder: Path, place: str) -> None:
    """Run a batch that dies at a place."""
    with pytest.MonkeyPatch.context() as patch:
        CRASHES[place](patch)
        with pytest.raises(Crash):
            delete(job, folder, *LINES)


@pytest.mark.parametrize("place", CRASHES)
def test_the_same_command_after_a_crash_ends_as_if_there_had_been_none(
    job: JobConfig, store: ObjectStore, tmp_path: Path, unbroken: dict[str, str], place: str
) -> None:
    crash(job, tmp_path, place)
    assert newest_attempt(store)["outcome"] == "failed"
    is_in_effect = list(CRASHES).index(place) >= FIRST_IN_EFFECT
    assert current_version(store, "mgcn").version == (2 if is_in_effect else 1)
    delete(job, tmp_path, *LINES)
    assert end_state(job) == unbroken
    assert ledger_of(job).counts() == {"receipted": 3}


@pytest.mark.parametrize("place", ["after the version", "after the snapshot", "in the purge"])
def test_another_batch_finishes_the_one_that_took_effect(
    job: JobConfig, store: ObjectStore, tmp_path: Path, place: str
) -> None:
    pairs = pairs_of(store, current_snapshot(store, "tiny"))
    crash(job, tmp_path, place)
    figures = delete(job, tmp_path, f"r9,user,{user_id(9)},", name="other.csv")
    assert [batch["version"] for batch in figures["batches"]] == [2, 3]
    assert figures["num_requests"] == {"not_found": 1, "published": 3}
    expected = {pair for pair in pairs if pair[0] not in (3, 9) and pair[1] != 7}
    assert pairs_of(store, current_snapshot(store, "tiny")) == expected


def test_an_interrupted_batch_goes_on_as_it_was_planned_whatever_has_come_in_since(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    crash(job, tmp_path, "after training")
    figures = delete(job, tmp_path, f"r9,user,{user_id(9)},", name="other.csv")
    assert [len(batch["purge"]) > 0 and batch["num_receipts"] for batch in figures["batches"]] == [3, 1]


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
    assert ledger_of(job).counts() == {"failed_retryable": 3}
    assert not store.list("receipts")
    figures = delete(job, tmp_path, *LINES)
    assert (figures["parent_version"], figures["version"]) == (2, 3)


def test_a_training_that_began_before_a_deletion_is_not_published_after_it(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(task: WorkerTask, *, show_progress: bool) -> Results:
        results = run_here(task, show_progress=show_progress)
        monkeypatch.setattr(runs, "run_task", run_here)
        delete(job, tmp_path, *LINES)
        return results

    monkeypatch.setattr(runs, "run_task", meanwhile)
    reseeded = job.model_copy(update={"fit": job.fit.model_copy(update={"seed": 1})})
    with pytest.raises(ConflictError, match="became current during the training"):
        runs.train(reseeded)
    assert current_version(store, "mgcn").method == "tru"
    assert runs.train(reseeded)["version"] == 3


def test_a_model_that_knows_more_than_the_data_set_answers_no_request(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    other = job.model_copy(update={"model": "other"})
    runs.train(other)
    delete(other, tmp_path, *LINES)
    with pytest.raises(ConflictError, match="tru train"):
        delete(job, tmp_path, *LINES)
    assert current_version(store, "mgcn").version == 1
    runs.train(job)
    assert delete(job, tmp_path, *LINES)["num_requests"] == {"not_found": 3}


def test_a_batch_in_effect_is_finished_on_top_of_another_models_batch(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    pairs, other = pairs_of(store, current_snapshot(store, "tiny")), job.model_copy(update={"model": "other"})
    runs.train(other)
    crash(job, tmp_path, "before the snapshot")
    delete(other, tmp_path, f"r1,user,{user_id(9)},", f"r2,user,{user_id(3)},", name="other.csv")
    assert delete(job, tmp_path, *LINES)["num_requests"] == {"not_found": 1, "published": 2}
    after = current_snapshot(store, "tiny")
    assert pairs_of(store, after) == {p for p in pairs if p[0] not in (3, 9) and p[1] != 7}
    assert after.num_deleted_users == 2
    assert len(read_versions(store, "mgcn")) == 2
