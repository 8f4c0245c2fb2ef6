"""Policy of batches: how large, how small, what is held, what an audit refuses, who works while another does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.deletion_world import (
    HEADER,
    LINES,
    delete,
    ledger_of,
    model_tensors,
    must_not_run,
    pairs_of,
    request_of,
    run_here,
    with_policy,
    write_file,
)
from tests.tiny_snapshot import item_id, user_id
from tru_core.errors import AuditError, ConfigError, ConflictError, PolicyError
from tru_core.receipts.receipt import verify_receipt
from tru_core.unlearning.tru.settings import TRUSettings
from workflows.config.job import JobConfig
from workflows.config.unlearn import UnlearnConfig
from workflows.data.request_tables import parse_requests
from workflows.data.snapshot import current_snapshot
from workflows.deletions.batches import plan as deletion_plan
from workflows.deletions.receipts.log import read_receipt
from workflows.deletions.runner import run_deletions
from workflows.key_files import read_public_key
from workflows.models.publish import current_version, read_versions
from workflows.running import runs
from workflows.running.results import Results
from workflows.storage import ObjectStore, append_log_entry, open_store
from workflows.storage.run_lock import hold_lease
from workflows.tasks import WorkerTask


@pytest.fixture
def job(deletion_job: JobConfig) -> JobConfig:
    return deletion_job


@pytest.fixture
def store(job: JobConfig) -> ObjectStore:
    return open_store(job.storage)


def users(*rows: int) -> list[str]:
    return [f"r{row},user,{user_id(row)}," for row in rows]


def submit(job: JobConfig, folder: Path, *lines: str) -> None:
    """Put requests into the ledger and carry nothing out."""
    body = (HEADER + "".join(f"{line}\n" for line in lines)).encode()
    ledger_of(job).submit(parse_requests(body, name="requests.csv"), source="requests.csv")


def is_untouched(store: ObjectStore) -> bool:
    return current_version(store, "mgcn").version == 1 and current_snapshot(store, "tiny").snapshot_id == "tiny-0"


def statement_of(store: ObjectStore, job: JobConfig, request_id: str) -> dict[str, Any]:
    """What the verified receipt of a request says."""
    body = read_receipt(store, job.model, request_id)
    if body is None:
        pytest.fail(f"{request_id} has no receipt")
    return verify_receipt(
        body, public_keys=[read_public_key(Path(job.keys.folder) / "signing.pub")]
    ).predicate.model_dump()


# --- size ---------------------------------------------------------------------------------------


def test_the_whole_graph_is_not_unlearned(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="all 480 training interactions") as caught:
        delete(with_policy(job, max_share=1.0), tmp_path, *users(*range(60)))
    assert "Withdraw model mgcn" in str(caught.value)
    assert is_untouched(store)


def test_more_than_the_allowed_share_is_not_unlearned(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        delete(job, tmp_path, *users(*range(13)))
    assert caught.value.exit_code == 9
    assert "104 of 480 training interactions (21.7%)" in str(caught.value)
    assert "delete.max_share" in str(caught.value)
    assert is_untouched(store)
    assert ledger_of(job).counts() == {"queued": 13}
    assert run_deletions(with_policy(job, max_share=0.22))["num_requests"] == {"published": 13}


def test_a_large_batch_is_retrained_where_policy_says_so_and_equals_a_model_that_never_saw_it(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    figures = delete(with_policy(job, on_large="retrain"), tmp_path, *users(*range(13)))
    version = current_version(store, "mgcn")
    assert (figures["attempt"], version.method, version.version) == ("retrain", "retrain", 2)
    assert statement_of(store, job, "r3")["claim"]["word"] == "exact_retrain"
    runs.train(job.model_copy(update={"model": "fresh"}))
    fresh = model_tensors(store, current_version(store, "fresh"))
    assert {n: v.tobytes() for n, v in model_tensors(store, version).items()} == {
        n: v.tobytes() for n, v in fresh.items()
    }


def test_a_request_that_alone_is_too_large_does_not_block_the_others(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    pairs = pairs_of(store, current_snapshot(store, "tiny"))
    popular = max(range(40), key=lambda item: sum(pair[1] == item and pair[2] == 0 for pair in pairs))
    share = (sum(pair[1] == popular and pair[2] == 0 for pair in pairs) - 0.5) / 480
    figures = delete(with_policy(job, max_share=share), tmp_path, *users(3), f"big,item,,{item_id(popular)}")
    assert figures["num_requests"] == {"published": 1}
    assert [failed["exit_code"] for failed in figures["failed"]] == [9]
    assert "big" in figures["failed"][0]["message"]
    assert (request_of(job, "r3").state, request_of(job, "big").state) == ("receipted", "queued")


def test_subject_rows_cannot_be_left_in_a_published_deletion(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    keeping = job.model_copy(update={"unlearn": UnlearnConfig(settings=TRUSettings(reset_subjects=False))})
    with pytest.raises(ConfigError, match=r"unlearn\.reset_subjects"):
        delete(keeping, tmp_path, *users(3))
    assert is_untouched(store)


def test_workers_that_find_another_number_of_pairs_publish_nothing(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = deletion_plan.count_named

    def one_more(*arguments: Any) -> Any:
        counts = real(*arguments)
        return type(counts)(**(vars(counts) | {"train_pairs": counts.train_pairs + 1}))

    monkeypatch.setattr(deletion_plan, "count_named", one_more)
    with pytest.raises(AuditError, match="8 of the 9"):
        delete(job, tmp_path, *users(3))
    assert is_untouched(store)
    assert request_of(job, "r3").state == "failed_retryable"


def test_few_requests_wait_until_a_deadline_is_near_or_the_operator_asks(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    submit(job, tmp_path, *users(3))
    figures = run_deletions(job)
    assert (figures["batches"], figures["num_waiting"]) == ([], 1)
    assert is_untouched(store)
    assert run_deletions(job, is_asked=True)["minimum_waived"] == "asked"
    assert "fewer requests than policy asks for" in str(statement_of(store, job, "r3")["known_limits"])

    late = (datetime.now(UTC) - timedelta(days=29)).isoformat(timespec="seconds")
    path = write_file(tmp_path, f"request_id,kind,user_id,item_id,received_time\nr4,user,{user_id(4)},,{late}\n")
    ledger_of(job).submit(parse_requests(path.read_bytes(), name="late"), source="late")
    assert run_deletions(job)["minimum_waived"] == "deadline"
    assert request_of(job, "r4").state == "receipted"


def test_more_requests_than_a_batch_may_have_make_several_batches(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    figures = delete(with_policy(job, min_requests=1, max_requests=2), tmp_path, *users(3, 4, 5))
    assert [batch["version"] for batch in figures["batches"]] == [2, 3]
    assert figures["states"] == {"receipted": 3}


def test_nothing_due_changes_nothing(job: JobConfig, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "run_task", must_not_run)
    before = {info.key for info in store.list("") if info.key.split("/")[0] in ("models", "datasets", "receipts")}
    figures = run_deletions(job)
    assert (figures["num_requests"], figures["batches"], figures["states"]) == ({}, [], {})
    after = {info.key for info in store.list("") if info.key.split("/")[0] in ("models", "datasets", "receipts")}
    assert after == before


# --- holds --------------------------------------------------------------------------------------


def test_a_held_user_is_skipped_and_the_rest_goes_on(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    submit(job, tmp_path, *users(3, 4))
    ledger = ledger_of(job)
    ledger.hold("user", ledger.find("r3").user_digest, reason="a lawsuit")
    figures = run_deletions(job, is_asked=True)
    assert figures["num_requests"] == {"published": 1}
    assert figures["states"] == {"held": 1, "receipted": 1}


def test_a_file_of_held_requests_alone_is_refused(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    ledger_of(job).hold("dataset", reason="an inquiry")
    with pytest.raises(PolicyError, match="1 held"):
        delete(job, tmp_path, *users(3))
    assert is_untouched(store)


def test_a_hold_placed_during_the_training_keeps_that_user_and_the_batch_goes_on(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of(store, current_snapshot(store, "tiny"))

    def meanwhile(task: WorkerTask, *, show_progress: bool) -> Results:
        results = run_here(task, show_progress=show_progress)
        ledger = ledger_of(job)
        ledger.hold("user", ledger.find("r3").user_digest, reason="a lawsuit", hold_id="case-1")
        return results

    monkeypatch.setattr(runs, "run_task", meanwhile)
    figures = delete(job, tmp_path, *users(3, 4))
    assert (figures["num_requests"], figures["num_held"]) == ({"published": 1}, 1)
    assert "failed" not in figures
    assert (request_of(job, "r3").state, request_of(job, "r4").state) == ("held", "receipted")
    assert read_receipt(store, "mgcn", "r3") is None
    assert pairs_of(store, current_snapshot(store, "tiny")) == {pair for pair in pairs if pair[0] != 4}
    assert len(read_versions(store, "mgcn")) == 2
    ledger_of(job).release("case-1", reason="it is over")
    monkeypatch.setattr(runs, "run_task", run_here)
    assert run_deletions(job, is_asked=True)["num_requests"] == {"published": 1}


# --- audits -------------------------------------------------------------------------------------


def audit_that_says(*verdicts: str) -> Any:
    """An audit with these verdicts in turn."""
    left = list(verdicts)

    def audit(store: ObjectStore, job: JobConfig, **asked: Any) -> dict[str, Any]:
        return {"verdict": left.pop(0), "reference": "never_seen", "findings": [], "version": 1}

    return audit


@pytest.mark.parametrize(
    ("verdicts", "fallbacks", "attempt"),
    [
        (["passed"], ["stronger", "retrain"], "unlearn"),
        (["inconclusive", "passed"], ["stronger", "retrain"], "stronger"),
        (["failed", "failed"], ["stronger", "retrain"], "retrain"),
        (["failed"], ["retrain"], "retrain"),
    ],
)
def test_a_refused_model_is_followed_by_the_next_of_the_policy(
    job: JobConfig,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdicts: list[str],
    fallbacks: list[str],
    attempt: str,
) -> None:
    monkeypatch.setattr("workflows.deletions.receipts.issue._audits", lambda attempt: [])
    monkeypatch.setattr("workflows.deletions.receipts.issue._verdict", lambda attempt: None)
    asking = with_policy(job, audit="required", on_refused=fallbacks)
    figures = delete(asking, tmp_path, *users(3), audit=audit_that_says(*verdicts))
    assert (figures["attempt"], figures["version"]) == (attempt, 2)
    assert len(read_versions(store, "mgcn")) == 2


def test_if_no_model_passes_the_old_version_serves_and_nothing_is_tried_again_in_vain(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = with_policy(job, audit="required", on_refused=["stronger", "stop", "retrain"])
    with pytest.raises(AuditError, match="unlearn: failed, stronger: inconclusive") as caught:
        delete(asking, tmp_path, *users(3), audit=audit_that_says("failed", "inconclusive"))
    assert caught.value.exit_code == 6
    assert is_untouched(store)
    assert request_of(job, "r3").state == "failed_retryable"
    monkeypatch.setattr(runs, "run_task", must_not_run)
    with pytest.raises(AuditError):
        run_deletions(asking, is_asked=True, audit=audit_that_says())
    monkeypatch.setattr(runs, "run_task", run_here)
    assert run_deletions(job, is_asked=True)["num_requests"] == {"published": 1}


# --- one at a time ------------------------------------------------------------------------------


def test_of_two_runs_the_second_says_so_and_its_requests_wait_for_the_next(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    patient = with_policy(job, lease_seconds=2)
    with hold_lease(store, "tiny", lease_seconds=2):
        with pytest.raises(ConflictError, match="another run works on it") as caught:
            delete(patient, tmp_path, *LINES)
        assert caught.value.exit_code == 5
        assert is_untouched(store)
    assert run_deletions(job, is_asked=True)["num_requests"] == {"not_found": 1, "published": 2}


def test_a_run_that_lost_its_lease_during_the_training_publishes_nothing(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(task: WorkerTask, *, show_progress: bool) -> Results:
        results = run_here(task, show_progress=show_progress)
        append_log_entry(store, "locks/tiny/epochs", number=2, entry={"owner": "another run"})
        return results

    monkeypatch.setattr(runs, "run_task", meanwhile)
    with pytest.raises(ConflictError, match="commits nothing more"):
        delete(job, tmp_path, *LINES)
    assert is_untouched(store)
    assert ledger_of(job).counts() == {"processing": 3}
    monkeypatch.setattr(runs, "run_task", must_not_run)  # what the first run made is taken as it is
    assert run_deletions(job)["num_requests"] == {"not_found": 1, "published": 2}
    assert len(read_versions(store, "mgcn")) == 2
