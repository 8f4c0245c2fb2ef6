"""What goes wrong while a batch is made: nothing is published, the requests stay due, the same command goes on."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tests.deletion_world import (
    LINES,
    delete,
    ledger_of,
    must_not_run,
    newest_attempt,
    pairs_of,
    request_of,
    run_here,
)
from tests.tiny_jobs import model_entry
from tests.tiny_snapshot import item_id, user_id
from tru_core.errors import IntegrityError, NumericsError, TransientError, TruError
from workflows.config.job import BackboneConfig, JobConfig
from workflows.data.snapshot import current_snapshot, read_vocabulary
from workflows.deletions.receipts.log import read_receipt
from workflows.deletions.runner import run_deletions
from workflows.models.publish import current_version, read_versions
from workflows.running import runs
from workflows.running.results import Results
from workflows.storage import ObjectStore, open_store
from workflows.storage.run_lock import hold_lease
from workflows.tasks import WorkerTask

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def job(deletion_job: JobConfig) -> JobConfig:
    return deletion_job


@pytest.fixture
def store(job: JobConfig) -> ObjectStore:
    return open_store(job.storage)


def assert_untouched_and_then_done(job: JobConfig, store: ObjectStore) -> None:
    """Nothing of a failed batch of ``LINES`` is in effect, and the next run carries it out."""
    assert current_version(store, "mgcn").version == 1
    assert current_snapshot(store, "tiny").snapshot_id == "tiny-0"
    assert not store.list("receipts")
    assert ledger_of(job).counts() == {"failed_retryable": 3}
    assert run_deletions(job, is_asked=True)["num_requests"] == {"not_found": 1, "published": 2}
    assert len(read_versions(store, "mgcn")) == 2


@pytest.mark.parametrize("error", [NumericsError("loss is nan in step 3"), TransientError("workers were lost")])
def test_what_workers_raise_publishes_nothing(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: TruError
) -> None:
    def failing(task: WorkerTask, *, show_progress: bool) -> Results:
        raise error

    monkeypatch.setattr(runs, "run_task", failing)
    with pytest.raises(type(error)):
        delete(job, tmp_path, *LINES)
    assert newest_attempt(store)["exit_code"] == error.exit_code
    assert request_of(job, "r1").reason == type(error).__name__
    monkeypatch.setattr(runs, "run_task", run_here)
    assert_untouched_and_then_done(job, store)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_a_damaged_model_is_found_before_it_is_published_and_made_anew(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def damaging(task: WorkerTask, *, show_progress: bool) -> Results:
        results = run_here(task, show_progress=show_progress)
        key = model_entry(results, "tru").key.replace("manifest.json", "shared.safetensors")
        body = store.read(key)
        store.delete(key)
        if damage != "gone":
            store.put_if_absent(key, body[:-8] if damage == "truncated" else body[:-1] + bytes([body[-1] ^ 1]))
        return results

    monkeypatch.setattr(runs, "run_task", damaging)
    with pytest.raises(TruError) as caught:
        delete(job, tmp_path, *LINES)
    assert caught.value.exit_code == (4 if damage == "gone" else 8)
    assert "shared.safetensors" in str(caught.value)
    monkeypatch.setattr(runs, "run_task", run_here)
    assert_untouched_and_then_done(job, store)


def test_a_damaged_bucket_of_the_data_set_stops_the_batch_before_anything_is_written(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    key = next(info.key for info in store.list("datasets/tiny/snapshots/tiny-0/interactions"))
    body = store.read(key)
    store.delete(key)
    store.put_if_absent(key, body[:-1] + b"?")
    with pytest.raises(IntegrityError, match="bucket-00000"):
        delete(job, tmp_path, f"r1,item,,{item_id(7)}")
    assert request_of(job, "r1").state == "queued"
    assert not store.list("deletions")


def test_a_job_of_another_backbone_is_refused(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    wider = job.model_copy(update={"backbone": BackboneConfig(settings={"embedding_size": 16})})
    with pytest.raises(TruError, match="embedding_size") as caught:
        delete(wider, tmp_path, *LINES)
    assert caught.value.exit_code == 3
    assert_untouched_and_then_done(job, store)


def test_a_disk_without_room_is_told_before_the_work_starts(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: Usage(2**30, 2**30 - 2**10, 2**10))
        patch.setattr(runs, "run_task", must_not_run)
        with pytest.raises(TransientError, match=r"the disk has 0\.0 MiB free") as caught:
            delete(job, tmp_path, *LINES)
    assert caught.value.exit_code == 7
    assert_untouched_and_then_done(job, store)


def test_ctrl_c_releases_the_lease_and_the_next_run_goes_on_at_once(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(task: WorkerTask, *, show_progress: bool) -> Results:
        run_here(task, show_progress=show_progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        delete(job, tmp_path, *LINES)
    assert (newest_attempt(store)["outcome"], newest_attempt(store)["exit_code"]) == ("interrupted", 130)
    with hold_lease(store, "tiny", lease_seconds=600):
        pass  # nobody had to be waited for
    monkeypatch.setattr(runs, "run_task", must_not_run)
    assert run_deletions(job)["num_requests"] == {"not_found": 1, "published": 2}


def test_an_already_deleted_user_is_answered_with_the_earlier_receipt(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete(job, tmp_path, f"r1,user,{user_id(3)},")
    monkeypatch.setattr(runs, "run_task", must_not_run)
    figures = delete(job, tmp_path, f"r2,user,{user_id(3)},", name="again.csv")
    assert (figures["num_requests"], figures["submitted"]) == ({}, {"new": {"duplicate": 1}, "known": 0})
    assert len(read_versions(store, "mgcn")) == 2
    assert read_receipt(store, "mgcn", request_of(job, "r2").duplicate_of) is not None


def test_a_batch_that_empties_a_user_and_an_item_keeps_both_rows_cold(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    pairs = sorted(pairs_of(store, current_snapshot(store, "tiny")))
    rarest = min({pair[1] for pair in pairs}, key=lambda item: sum(pair[1] == item for pair in pairs))
    chosen = [pair for pair in pairs if pair[0] == 3 or pair[1] == rarest]
    delete(job, tmp_path, *(f"p{n},interaction,{user_id(u)},{item_id(i)}" for n, (u, i, _) in enumerate(chosen)))
    after = current_snapshot(store, "tiny")
    assert not [pair for pair in pairs_of(store, after) if pair[0] == 3 or pair[1] == rarest]
    assert user_id(3) in read_vocabulary(store, after.user_vocabulary)[0]
    assert item_id(rarest) in read_vocabulary(store, after.item_vocabulary)[0]
