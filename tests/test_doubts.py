"""What the data set does not know is said at submission, and held for a person where it is much. Nothing is guessed."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.deletion_world import (
    HEADER,
    NOT_THERE,
    delete,
    ledger_of,
    must_not_run,
    objects,
    predicate_of,
    request_of,
    write_file,
)
from tests.tiny_snapshot import item_id, user_id
from tru_core.errors import DataError, PolicyError, TruError
from workflows.config.job import JobConfig
from workflows.config.ledger import LedgerConfig
from workflows.data.requests import DeletionRequest
from workflows.data.snapshot import (
    VOCABULARY_SCHEMA,
    current_snapshot,
    publish_snapshot,
    read_vocabulary,
    write_manifest,
)
from workflows.deletions.ledger.actions import release
from workflows.deletions.ledger.commands import submit
from workflows.deletions.ledger.job import LedgerJob
from workflows.deletions.receipts.log import read_receipt
from workflows.deletions.runner import run_deletions
from workflows.running import runs
from workflows.storage import ObjectStore, open_store, put_file, vocabulary_key


@pytest.fixture
def job(deletion_job: JobConfig) -> JobConfig:
    return deletion_job


@pytest.fixture
def store(job: JobConfig) -> ObjectStore:
    return open_store(job.storage)


def ledger_job(job: JobConfig) -> LedgerJob:
    return LedgerJob(storage=job.storage, dataset=job.dataset, model=job.model, ledger=job.ledger, keys=job.keys)


def submitted(job: JobConfig, folder: Path, *lines: str, name: str = "requests.csv", **options: Any) -> dict[str, Any]:
    path = write_file(folder, HEADER + "".join(f"{line}\n" for line in lines), name)
    return submit(ledger_job(job), path, **options)


def with_user_ids(job: JobConfig, store: ObjectStore, *ids: str, trains: bool = True) -> None:
    """Give the first users other ids, as another import would have, and train on it if a batch is to be run."""
    manifest = current_snapshot(store, "tiny")
    stored, rows = read_vocabulary(store, manifest.user_vocabulary)
    sink = io.BytesIO()
    pq.write_table(pa.table([[*ids, *stored[len(ids) :]], rows], schema=VOCABULARY_SCHEMA), sink)
    file = put_file(store, vocabulary_key("tiny", "other-ids", "users"), sink.getvalue())
    changes = {"snapshot_id": "other-ids", "parent_snapshot_id": manifest.snapshot_id, "user_vocabulary": file}
    renamed = manifest.model_copy(update=changes)
    publish_snapshot(store, renamed, write_manifest(store, renamed))
    if trains:
        runs.train(job)


def test_a_submission_says_what_the_data_set_knows(job: JobConfig, tmp_path: Path) -> None:
    figures = submitted(job, tmp_path, f"r1,user,{user_id(3)},", f"r2,user,{NOT_THERE},", f"r3,item,,{item_id(7)}")
    assert (figures["ids_named"], figures["ids_known"]) == (3, 2)
    assert figures["unknown"] == [{"file": "requests.csv", "lines": [3], "total": 1}]
    assert figures["by_state"] == {"queued": 3}


def test_a_stranger_in_json_is_named_by_the_number_of_its_request(job: JobConfig, tmp_path: Path) -> None:
    asked = [{"request_id": "r1", "kind": "user", "user_id": user_id(3)}]
    asked.append({"request_id": "r2", "kind": "user", "user_id": NOT_THERE})
    figures = submit(ledger_job(job), write_file(tmp_path, json.dumps(asked), "requests.json"))
    assert [text.partition(":")[0] for text in figures["warnings"]] == ["requests.json request 2"]


def test_a_submission_of_which_much_is_unknown_waits_for_a_person(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    lines = [f"r{n},user,stranger-{n}," for n in range(3)] + [f"known,user,{user_id(3)},"]
    figures = submitted(job, tmp_path, *lines)
    assert (figures["by_state"], figures["exit_code"]) == ({"held": 4}, 9)
    assert any("3 of 4 requests" in text for text in figures["warnings"])
    run_deletions(job, is_asked=True, show_progress=False)
    assert {request_of(job, f"r{n}").outcome for n in range(3)} == {""}
    release(ledger_job(job), "r0", reason="they never had an account")
    outcomes = run_deletions(job, is_asked=True, show_progress=False)["num_requests"]
    assert outcomes == {"not_found": 3, "published": 1}
    body = read_receipt(store, job.model, "r0", batch_id=request_of(job, "r0").batch_id)
    assert body is not None


@pytest.mark.parametrize(("num_unknown", "num_known"), [(2, 0), (2, 1), (3, 12)])
def test_a_few_strangers_hold_nothing_up(job: JobConfig, tmp_path: Path, num_unknown: int, num_known: int) -> None:
    lines = [f"s{n},user,stranger-{n}," for n in range(num_unknown)]
    lines += [f"k{n},user,{user_id(n)}," for n in range(num_known)]
    assert submitted(job, tmp_path, *lines)["by_state"] == {"queued": num_unknown + num_known}


def test_strangers_that_come_one_by_one_are_held_when_they_make_a_batch(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    for number in range(3):
        submitted(job, tmp_path, f"r{number},user,stranger-{number},", name=f"{number}.csv")
    submitted(job, tmp_path, f"known,user,{user_id(3)},", name="known.csv")
    outcomes = run_deletions(job, is_asked=True, show_progress=False)["num_requests"]
    assert outcomes == {"published": 1}
    assert {request_of(job, f"r{n}").state for n in range(3)} == {"held"}
    (hold,) = ledger_of(job).holds()
    release(ledger_job(job), hold.hold_id, reason="looked at")
    ledger_of(job).compact()
    assert run_deletions(job, is_asked=True, show_progress=False)["num_requests"] == {"not_found": 3}


def test_what_was_deleted_before_is_no_stranger(job: JobConfig, tmp_path: Path) -> None:
    delete(job, tmp_path, *(f"r{n},user,{user_id(n)}," for n in range(3)))
    figures = submitted(job, tmp_path, *(f"again{n},user,{user_id(n)}," for n in range(3)), name="again.csv")
    assert (figures["unknown"], figures["deleted_before"]) == ([], 3)
    assert figures["by_state"] == {"duplicate": 3}


LOOK_ALIKES = (
    ("22", "+22", "in a sign"),
    ("0017", "17", "in leading zeros"),
    ("19", "0019", "in leading zeros"),
    ("31", "３１", "in its Unicode form"),
    ("10", "1e1", "in scientific notation"),
    ("48213", '"48,213"', "in the way a number is written"),
    ("Anna.B", "anna.b", "in letter case"),
    ("٤٢", "42", "in its Unicode form"),
)


def test_an_id_that_only_looks_like_one_of_the_data_set_is_refused_by_line(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    with_user_ids(job, store, *(stored for stored, _, _ in LOOK_ALIKES))
    before = objects(store)
    for stored, asked, difference in LOOK_ALIKES:
        with pytest.raises(DataError) as caught:
            submitted(job, tmp_path, f"r1,user,{user_id(30)},", f"r2,user,{asked},")
        assert f"line 3, column user_id: it differs {difference}" in str(caught.value), stored
        assert asked.strip('"') not in str(caught.value)
    assert objects(store) == before
    lines = [f"r{number},user,{asked}," for number, (_, asked, _) in enumerate(LOOK_ALIKES)]
    assert submitted(job, tmp_path, *lines, is_as_written=True)["by_state"] == {"queued": len(LOOK_ALIKES)}
    assert run_deletions(job, is_asked=True, show_progress=False)["num_requests"] == {"not_found": len(LOOK_ALIKES)}


def test_an_id_that_an_earlier_version_stored_otherwise_is_found(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    old = ("17.0", '"x-9"', "7   ", "18.0")
    with_user_ids(job, store, *old)
    asked = ("17", "x-9", "7", "18.0")
    lines = [f"r{number},user,{text}," for number, text in enumerate(asked)]
    assert delete(job, tmp_path, *lines)["num_requests"] == {"published": 4}
    left = read_vocabulary(store, current_snapshot(store, "tiny").user_vocabulary)[0]
    assert not set(old) & set(left)


def test_a_request_that_an_earlier_version_queued_unread_is_read_before_it_is_answered(
    job: JobConfig, store: ObjectStore
) -> None:
    with_user_ids(job, store, "17", "22")
    ledger = ledger_of(job)
    old = [_old_request("r1", "17.0"), _old_request("r2", "+22")]
    ledger.submit(old, source="old.csv")
    outcomes = run_deletions(job, is_asked=True, show_progress=False)["num_requests"]
    assert outcomes == {"published": 1}
    assert (request_of(job, "r1").outcome, request_of(job, "r2").state) == ("published", "held")


def _old_request(request_id: str, user: str) -> DeletionRequest:
    return DeletionRequest(request_id, "user", user, "", received_time=None, regulation=None, line=2)


def test_a_receipt_of_not_found_says_how_ids_were_read_and_where(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "run_task", must_not_run)
    delete(job, tmp_path, f"r1,user,{NOT_THERE},")
    body = read_receipt(store, job.model, "r1", batch_id=request_of(job, "r1").batch_id)
    assert body is not None
    said = predicate_of(json.dumps(json.loads(body)["envelope"]).encode())["known_limits"]
    snapshot = current_snapshot(store, "tiny")
    assert any("ids/1" in line and f"{snapshot.num_users} user ids" in line for line in said)


# --- names in request ids and file names --------------------------------------------------------


def test_a_request_id_that_names_its_subject_is_kept_as_a_pseudonym_and_found_by_either(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    given = f"gdpr-{user_id(3)}-1"
    figures = submitted(job, tmp_path, f"{given},user,{user_id(3)},")
    assert figures["renamed"] == [{"file": "requests.csv", "lines": [2], "total": 1}]
    kept = request_of(job, given).request_id
    assert kept.startswith("request-")
    assert request_of(job, kept).request_id == kept
    assert submitted(job, tmp_path, f"{given},user,{user_id(3)},")["known"] == 1
    run_deletions(job, is_asked=True, show_progress=False)
    assert ledger_of(job).history(given)
    everything = b"".join(key.encode() + body for key, body in objects(store).items())
    assert given.encode() not in everything


@pytest.mark.parametrize("name", [f"erasure-of-{user_id(3)}.csv", f"{user_id(3)}.csv", f"{user_id(3).upper()}.CSV"])
def test_a_file_named_after_a_person_is_not_named_in_the_ledger(
    job: JobConfig, store: ObjectStore, tmp_path: Path, name: str
) -> None:
    submitted(job, tmp_path, f"r1,user,{user_id(3)},", name=name)
    kept = b"".join(key.encode() + body for key, body in objects(store).items() if "/payloads/" not in key)
    assert b"file-" in kept
    assert name.encode() not in kept


@pytest.mark.parametrize(
    "text", [HEADER + f"r1,user,{user_id(3)}\n", HEADER + f"r1,user,{user_id(3).upper()},\n", "x\n"]
)
def test_what_is_kept_of_a_refused_run_does_not_name_the_file(
    job: JobConfig, store: ObjectStore, tmp_path: Path, text: str
) -> None:
    path = write_file(tmp_path, text, f"erasure-of-{user_id(3)}.csv")
    with pytest.raises(TruError):
        run_deletions(job, path, show_progress=False)
    kept = b"".join(store.read(info.key) for info in store.list("") if "/attempts/" in info.key)
    assert b"the request file" in kept
    assert b"erasure-of" not in kept


@pytest.mark.parametrize("request_id", ["req-2026-11-17-0001", "17-1", "a17b"])
def test_a_short_number_in_a_request_id_is_there_by_chance(
    job: JobConfig, store: ObjectStore, tmp_path: Path, request_id: str
) -> None:
    with_user_ids(job, store, "17", trains=False)
    figures = submitted(job, tmp_path, f"{request_id},user,17,")
    assert figures["renamed"] == []
    assert request_of(job, request_id).request_id == request_id


def test_policy_says_how_much_may_be_unknown(job: JobConfig, tmp_path: Path) -> None:
    strict = job.model_copy(update={"ledger": LedgerConfig(max_unknown_share=0, min_unknown=1)})
    with pytest.raises(PolicyError, match="1 of 1 requests name ids"):
        delete(strict, tmp_path, f"r1,user,{NOT_THERE},")
