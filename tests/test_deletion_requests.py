"""The catalogue of bad input that concerns request files: what is refused changes nothing and names nobody."""

import io
import json
import logging
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.deletion_world import (
    HEADER,
    LINES,
    NOT_THERE,
    attempts_of,
    delete,
    must_not_run,
    objects,
    pairs_of,
    request_of,
    write_file,
)
from tests.tiny_snapshot import item_id, user_id
from tru_core.errors import TruError
from workflows.config.job import JobConfig
from workflows.config.ledger import LedgerConfig
from workflows.data.snapshot import (
    VOCABULARY_SCHEMA,
    current_snapshot,
    publish_snapshot,
    read_vocabulary,
    write_manifest,
)
from workflows.data.tombstones import read_tombstones
from workflows.deletions.runner import run_deletions
from workflows.models.publish import current_version
from workflows.running import runs
from workflows.storage import ObjectStore, open_store, put_file, vocabulary_key


@pytest.fixture
def job(deletion_job: JobConfig) -> JobConfig:
    return deletion_job


@pytest.fixture
def store(job: JobConfig) -> ObjectStore:
    return open_store(job.storage)


def refused(job: JobConfig, path: Path) -> TruError:
    """Run a batch that must fail and change nothing; the error."""
    store = open_store(job.storage)
    before, attempts = objects(store), attempts_of(store)
    with pytest.raises(TruError) as caught:
        run_deletions(job, path, show_progress=False)
    assert objects(store) == before
    (new,) = set(attempts_of(store)) - set(attempts)
    assert json.loads(store.read(new))["exit_code"] == caught.value.exit_code
    return caught.value


def test_an_id_that_is_not_there_is_recorded_as_not_found_and_changes_nothing(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "run_task", must_not_run)
    snapshot = current_snapshot(store, "tiny")
    user, item = next(
        (u, i)
        for u in range(60)
        for i in range(40)
        if not any((u, i, split) in pairs_of(store, snapshot) for split in range(3))
    )
    job = job.model_copy(update={"ledger": LedgerConfig(max_unknown_share=1)})
    figures = delete(
        job,
        tmp_path,
        f"r1,user,{NOT_THERE},",
        "r2,item,,item-9999",
        f"r3,interaction,{user_id(user)},{item_id(item)}",
        f"r4,interaction,{user_id(user)},item-9999",
    )
    assert figures["num_requests"] == {"not_found": 4}
    assert (current_snapshot(store, "tiny"), current_version(store, "mgcn").version) == (snapshot, 1)
    for number in range(1, 5):
        request = request_of(job, f"r{number}")
        assert (request.state, request.outcome) == ("receipted", "not_found")
    assert len(read_tombstones(store, "tiny")) == 4


def test_the_same_request_twice_in_a_file_is_one(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    figures = delete(job, tmp_path, f"r1,user,{user_id(3)},", f"r1,user,{user_id(3)},")
    assert figures["num_requests"] == {"published": 1}
    assert figures["states"] == {"receipted": 1}


def test_the_same_file_again_changes_nothing(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    lines = (f"r1,user,{user_id(3)},", f"r2,user,{NOT_THERE},")
    delete(job, tmp_path, *lines)
    before = objects(store)
    figures = delete(job, tmp_path, *lines)
    assert (figures["num_requests"], figures["submitted"]) == ({}, {"new": {}, "known": 2})
    assert objects(store) == before


def test_a_request_id_reused_in_a_file_is_a_conflict(job: JobConfig, tmp_path: Path) -> None:
    error = refused(job, write_file(tmp_path, f"{HEADER}r1,user,{user_id(3)},\nr1,user,{user_id(4)},\n"))
    assert error.exit_code == 5
    assert "requests.csv: column request_id: lines 2 and 3" in str(error)


def test_a_request_id_recorded_for_something_else_is_a_conflict(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    delete(job, tmp_path, f"r1,user,{user_id(3)},")
    error = refused(job, write_file(tmp_path, f"{HEADER}r0,user,{user_id(5)},\nr1,user,{user_id(4)},\n"))
    assert error.exit_code == 5
    assert "requests.csv" in str(error)
    assert "user-000" not in str(error)


FIVE = "request_id,kind,user_id,item_id,received_time\n"
SIX = "request_id,kind,user_id,item_id,received_time,regulation\n"


@pytest.mark.parametrize(
    ("text", "exit_code", "expected"),
    [
        ("request_id,kind,user_id\nr1,user,u1\n", 3, "line 1: there is no column item_id; add it"),
        ("request_id,kind,userid,item_id\nr1,user,u1,\n", 3, "column user_id; the name of column 3 is the nearest"),
        ("r1,user,u1,\n", 3, "line 1: this looks like a file without a header line"),
        ("request_id,kind,user_id,item_id,regulatoin\nr1,user,u1,,x\n", 3, "line 1: column 5 is none of"),
        ("request_id,kind,user_id,item_id,kind\nr1,user,u1,,x\n", 3, "line 1: column 5 is kind for the second time"),
        (HEADER + ",user,u1,\n", 2, "line 2, column request_id: is empty"),
        (HEADER + f"{'x' * 201},user,u1,\n", 2, "line 2, column request_id: expected at most 200"),
        (HEADER + "u1,user,u1,\n", 2, "line 2, column request_id: is the id of the user or item itself"),
        (HEADER + "r1,person,u1,\n", 2, "line 2, column kind: expected one of user, item, interaction"),
        (HEADER + "r1,user,,\n", 2, "line 2, column user_id: expected an id, which kind user needs"),
        (HEADER + "r1,user,u1,i1\n", 2, "line 2, column item_id: must be empty"),
        (HEADER + "r1,interaction,u1,\n", 2, "line 2, column item_id: expected an id, which kind interaction needs"),
        (HEADER + "r1,user,u1\n", 2, "line 2 has 3 fields, the header 4"),
        (HEADER + '\n\nr1,user,"u1\n', 2, "line 4: not CSV"),
        (FIVE + "r1,user,u1,,2026-03-01T09:30:00\n", 2, "line 2, column received_time: has no time zone"),
        (FIVE + "r1,user,u1,,yesterday\n", 2, "line 2, column received_time: expected ISO 8601"),
        (SIX + "r1,user,u1,,,a law for u1\n", 2, "line 2, column regulation: expected a short name"),
        (HEADER.encode() + b"r1,user,u\xff,\n", 2, "line 2: expected UTF-8"),
    ],
)
def test_a_malformed_file_is_refused_by_column_and_line(
    job: JobConfig, tmp_path: Path, text: str | bytes, exit_code: int, expected: str
) -> None:
    error = refused(job, write_file(tmp_path, text))
    assert error.exit_code == exit_code
    assert expected in str(error)
    assert "requests.csv" in str(error)
    assert "u1" not in str(error)


def test_the_first_five_problems_are_named_and_all_are_counted(job: JobConfig, tmp_path: Path) -> None:
    error = refused(job, write_file(tmp_path, HEADER + "".join(f"r{n},user,,\n" for n in range(8))))
    assert "line 6, column user_id" in str(error)
    assert "line 7" not in str(error)
    assert "(8 in all)" in str(error)


def test_a_file_that_is_not_there_is_a_usage_error(job: JobConfig, tmp_path: Path) -> None:
    with pytest.raises(TruError, match="cannot be read") as caught:
        run_deletions(job, tmp_path / "nothing.csv")
    assert caught.value.exit_code == 2


def test_byte_order_mark_crlf_blank_lines_and_spaces_are_fine(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    text = (
        "\ufeff\r\n request_id , kind,user_id ,item_id,received_time\r\n\r\n"
        f'  r1 , user,  "{user_id(3)}", , 2026-03-01T10:30:00+01:00 \r\n,,,,\r\n   \r\n'
    )
    assert run_deletions(job, write_file(tmp_path, text))["num_requests"] == {"published": 1}
    assert request_of(job, "r1").received_time == "2026-03-01T09:30:00+00:00"


@pytest.mark.parametrize("text", ["", "\n \n", HEADER, HEADER + "\n,,,\n", "\ufeff"])
def test_a_file_without_requests_changes_nothing(job: JobConfig, store: ObjectStore, tmp_path: Path, text: str) -> None:
    before = objects(store)
    figures = run_deletions(job, write_file(tmp_path, text))
    assert figures["num_requests"] == {}
    assert objects(store) == before


def test_ids_match_byte_for_byte_and_a_look_alike_is_refused(
    job: JobConfig, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    composed = "zoë"
    decomposed = unicodedata.normalize("NFD", composed)
    manifest = current_snapshot(store, "tiny")
    ids, rows = read_vocabulary(store, manifest.user_vocabulary)
    sink = io.BytesIO()
    pq.write_table(pa.table([[composed, *ids[1:]], rows], schema=VOCABULARY_SCHEMA), sink)
    file = put_file(store, vocabulary_key("tiny", "renamed", "users"), sink.getvalue())
    renamed = manifest.model_copy(
        update={"snapshot_id": "renamed", "parent_snapshot_id": manifest.snapshot_id, "user_vocabulary": file}
    )
    publish_snapshot(store, renamed, write_manifest(store, renamed))
    runs.train(job)
    error = refused(job, write_file(tmp_path, HEADER + f"r1,user,{decomposed},\n"))
    assert error.exit_code == 3
    assert "line 2, column user_id: it differs in its Unicode form" in str(error)
    assert composed not in str(error) + caplog.text
    assert decomposed not in str(error) + caplog.text
    assert delete(job, tmp_path, f"r2,user,{composed},")["num_requests"] == {"published": 1}


def test_no_object_key_output_or_message_holds_an_id(
    job: JobConfig,
    store: ObjectStore,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    names = [user_id(3), item_id(7), NOT_THERE]
    figures = delete(job, tmp_path, *LINES)
    with pytest.raises(TruError) as malformed:
        delete(job, tmp_path, *LINES, f"r9,item,{user_id(3)},{item_id(7)}")
    with pytest.raises(TruError) as conflict:
        delete(job, tmp_path, f"r1,item,,{item_id(7)}", name="other.csv")
    output = "".join(capfd.readouterr())
    said = [output, caplog.text, json.dumps(figures), str(malformed.value), str(conflict.value)]
    for name in names:
        assert not [text for text in said if name in text]
        for info in store.list(""):
            assert name not in info.key
            assert name.encode() not in store.read(info.key), info.key
    snapshot = current_snapshot(store, "tiny")
    for entry in (snapshot.user_vocabulary, snapshot.item_vocabulary):
        assert not set(names) & set(read_vocabulary(store, entry)[0])
