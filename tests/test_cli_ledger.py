"""The commands on deletion requests: what they say, with which exit code, and that no outside id is shown or kept."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ledger_world import KEY, SECRET, log_bytes, request
from tests.tiny_snapshot import name_a_model, user_id, write_tiny_snapshot
from workflows import cli
from workflows.data.tombstones import add_tombstones, tombstones_of
from workflows.storage.local import LocalStore

HEADER = "request_id,kind,user_id,item_id,received_time,regulation,verified\n"
RECEIVED = "2026-03-01T09:30:00Z"


class Terminal:
    """Runs commands in a folder that has a job file and keys."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        self.folder = folder
        self.capsys = capsys
        self.caplog = caplog
        self.store = LocalStore(folder / "store")
        self.shown = ""

    def written(self) -> list[str]:
        """The keys of what commands wrote: the data set and the model were there before."""
        tops = ("datasets/", "models/", "doctor/")
        return [info.key for info in self.store.list("") if not info.key.startswith(tops)]

    def run(self, *words: str, expect: int = 0) -> str:
        self.caplog.clear()
        found = cli.main(["delete", *words, "--job", str(self.folder / "job.yaml")])
        output = self.capsys.readouterr()
        self.shown += output.out + output.err + self.caplog.text
        assert found == expect, output.err
        return output.out + output.err

    def json(self, *words: str, expect: int = 0) -> dict[str, Any]:
        return json.loads(self.run(*words, "--json", expect=expect).partition("\n")[0])

    def file(self, text: str, name: str = "requests.csv") -> str:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(HEADER + text)
        return str(self.folder / name)

    def submit(self, text: str, *, expect: int = 0) -> dict[str, Any]:
        return self.json("submit", self.file(text), expect=expect)

    def states(self) -> dict[str, str]:
        return {line["request_id"]: line["state"] for line in self.json("list")["requests"]}


@pytest.fixture
def terminal(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Terminal]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("TRU_IDENTITY_KEY_FILE", raising=False)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "identity.key").touch(mode=0o600)
    (tmp_path / "keys" / "identity.key").write_text(KEY.secret.hex())
    text = f"storage: {tmp_path / 'store'}\ndataset: tiny\nmodel: tiny-model\nkeys: {{folder: {tmp_path / 'keys'}}}\n"
    (tmp_path / "job.yaml").write_text(text)
    write_tiny_snapshot(LocalStore(tmp_path / "store"))
    name_a_model(LocalStore(tmp_path / "store"), "tiny-model")
    before = signal.getsignal(signal.SIGTERM)
    terminal = Terminal(tmp_path, capsys, caplog)
    yield terminal
    signal.signal(signal.SIGTERM, before)
    assert SECRET not in terminal.shown
    if (tmp_path / "store").exists():
        assert SECRET.encode() not in log_bytes(terminal.store)


def user_line(number: int, *, user: int | None = None, verified: str = "", received: str = RECEIVED) -> str:
    return f"r{number},user,{SECRET}-{number if user is None else user},,{received},,{verified}\n"


# --- the catalogue ------------------------------------------------------------------------------


def test_row_25_the_same_user_twice_is_one_deletion(terminal: Terminal) -> None:
    assert terminal.submit(user_line(1) + user_line(2, user=1))["by_state"] == {"duplicate": 1, "queued": 1}
    found = terminal.json("explain", "r2")
    assert found["duplicate_of"] == "r1"
    assert "r1 is queued" in found["next"]
    assert "the same is asked for by r1" in terminal.run("explain", "r2")


def test_row_27_a_request_id_with_another_body_is_a_conflict(terminal: Terminal) -> None:
    terminal.submit(user_line(1))
    before = terminal.store.list("")
    found = terminal.submit(user_line(2) + user_line(1, user=5), expect=5)
    assert (
        "requests.csv line 3, column request_id: the ledger has this request id with another body" in found["message"]
    )
    assert terminal.store.list("") == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (user_line(1, received=""), "line 2, column received_time: is empty"),
        (user_line(1, received="2026-03-01T09:30:00"), "line 2, column received_time: has no time zone"),
        (user_line(1, received="yesterday"), "line 2, column received_time: expected ISO 8601"),
        (user_line(1, received="2999-03-01T09:30:00Z"), "line 2, column received_time: is in the future"),
        (f"r1,user,{SECRET},,{RECEIVED},lex,\n", "line 2, column regulation: expected one of ccpa, gdpr"),
        (user_line(1, verified="perhaps"), "line 2, column verified: expected true or false"),
    ],
)
def test_row_28_a_malformed_field_is_named(terminal: Terminal, line: str, expected: str) -> None:
    assert expected in terminal.submit(line, expect=2)["message"]
    assert terminal.written() == []


def test_row_28_a_malformed_uuid_is_named_where_policy_asks_for_one(terminal: Terminal) -> None:
    with (terminal.folder / "job.yaml").open("a") as file:
        file.write("ledger: {request_id_format: uuid}\n")
    found = terminal.submit(user_line(1), expect=2)
    assert "line 2, column request_id: expected a UUID" in found["message"]
    assert terminal.written() == []


def test_row_29_byte_order_mark_crlf_blank_lines_and_spaces_are_fine(terminal: Terminal) -> None:
    path = terminal.folder / "requests.csv"
    path.write_bytes(("\ufeff" + HEADER + "\n  \n" + user_line(1).replace(",", " , ")).replace("\n", "\r\n").encode())
    assert terminal.json("submit", str(path))["by_state"] == {"queued": 1}


def test_row_30_ids_that_look_alike_are_kept_apart_and_counted(terminal: Terminal) -> None:
    lines = f"r1,user,zo\u00eb,,{RECEIVED},,\nr2,user,zoe\u0308,,{RECEIVED},,\n"
    found = terminal.submit(lines)
    assert (found["by_state"], found["look_alikes"]) == ({"queued": 2}, 2)


def test_row_31_an_unverified_request_stays_received(terminal: Terminal) -> None:
    assert terminal.submit(user_line(1, verified="false"), expect=9)["by_state"] == {"received": 1}
    assert terminal.states() == {"r1": "received"}
    assert "verify-request" in terminal.json("explain", "r1")["next"]
    assert terminal.json("verify-request", "r1")["by_state"] == {"queued": 1}
    assert terminal.submit(user_line(2) + user_line(3, verified="false"))["by_state"] == {"queued": 1, "received": 1}


def test_row_32_a_held_user_is_skipped_and_the_rest_goes_on(terminal: Terminal) -> None:
    terminal.json("hold", "--subjects", terminal.file(user_line(1), "holds.csv"), "--reason", "a lawsuit")
    found = terminal.submit(user_line(11, user=1) + user_line(12, user=2))
    assert found["by_state"] == {"held": 1, "queued": 1}
    assert terminal.submit(f"r13,interaction,{SECRET}-1,i1,{RECEIVED},,\n", expect=9)["by_state"] == {"held": 1}
    assert terminal.json("explain", "r11")["holds"] == [{"hold_id": "r1", "level": "user", "reason": "a lawsuit"}]
    assert terminal.json("release", "r1", "--reason", "settled")["changed"] == 2
    assert set(terminal.states().values()) == {"queued"}


@pytest.mark.parametrize("text", ["", "\n , , \n"])
def test_row_33_no_requests_change_nothing(terminal: Terminal, text: str) -> None:
    assert terminal.submit(text)["new"] == 0
    assert terminal.written() == []


def test_row_40_a_deletion_and_a_consent_are_both_kept_in_the_order_of_receipt(terminal: Terminal) -> None:
    terminal.submit(user_line(1))
    consent = terminal.file(user_line(5, user=1, received="2026-03-05T00:00:00Z"), "consents.csv")
    place = {"storage": terminal.store.url, "deleted_before": 0}
    assert terminal.json("reconsent", consent) == {"consents": 1, "new": 1, "written_to_tombstones": 1} | place
    assert terminal.json("reconsent", consent) == {"consents": 1, "new": 0, "written_to_tombstones": 0} | place
    assert terminal.states() == {"r1": "queued"}  # what was asked for before is carried out


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda file: file.unlink(), "does not exist"),
        (lambda file: file.chmod(0o640), "has mode 0640, expected 0600"),
        (lambda file: file.write_text("short"), "is no identity key"),
    ],
)
def test_row_73_without_a_safe_key_nothing_starts(terminal: Terminal, spoil: Any, expected: str) -> None:
    spoil(terminal.folder / "keys" / "identity.key")
    assert expected in terminal.submit(user_line(1), expect=2)["message"]
    assert terminal.written() == []


def test_row_73_another_key_than_the_ledgers_is_refused(terminal: Terminal) -> None:
    terminal.submit(user_line(1))
    before = terminal.store.list("")
    (terminal.folder / "keys" / "identity.key").write_text("ab" * 32)
    assert "was written with identity key" in terminal.submit(user_line(2), expect=2)["message"]
    assert terminal.store.list("") == before


def test_row_74_a_ledger_of_a_newer_schema_is_refused(terminal: Terminal) -> None:
    terminal.submit(user_line(1))
    entry = {"seq": 2, "prev_hash": "0" * 64, "schema_version": 2, "chain": "ledger/tiny-model"}
    terminal.store.put_if_absent("ledger/tiny-model/log/00000002.json", json.dumps(entry).encode())
    before = terminal.store.list("")
    assert "has schema version 2, this program reads 1" in terminal.submit(user_line(2), expect=2)["message"]
    assert terminal.store.list("") == before


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("leger: {default_regulation: ccpa}", "leger: there is no such setting; did you mean 'ledger'?"),
        ("ledger: {default_regulatoin: ccpa}", "ledger.default_regulatoin: there is no such setting; did you mean"),
        ("ledger: {regulations: {house: {days: 0}}}", "ledger.regulations.house.days"),
    ],
)
def test_row_50_a_typo_in_the_job_file_is_named(terminal: Terminal, block: str, expected: str) -> None:
    with (terminal.folder / "job.yaml").open("a") as file:
        file.write(block + "\n")
    assert expected in terminal.submit(user_line(1), expect=2)["message"]
    assert terminal.written() == []


def test_looking_at_requests_does_not_bring_the_training_code_along() -> None:
    ours = "workflows.cli, workflows.cli.ledger_tables, workflows.deletions.ledger.commands"
    code = f"import sys, {ours}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*({{'torch', 'ray'}} & sys.modules.keys()))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


# --- commands -----------------------------------------------------------------------------------


def test_a_drop_folder_is_taken_once_and_a_bad_file_holds_back_no_other(terminal: Terminal) -> None:
    terminal.file(user_line(1), "drop/a.csv")
    terminal.file(user_line(2, received="never"), "drop/b.csv")
    terminal.file(user_line(3), "drop/c.csv")
    folder = str(terminal.folder / "drop")
    found = terminal.json("submit", folder, expect=2)
    assert (found["files_taken"], found["new"]) == (2, 2)
    assert [file["file"] for file in found["failed"]] == ["b.csv"]
    terminal.file(user_line(2), "drop/b.csv")
    found = terminal.json("submit", folder)
    assert (found["files_taken"], found["files_taken_before"], found["new"]) == (1, 2, 1)
    assert terminal.json("submit", folder)["files_taken"] == 0
    assert terminal.states() == {"r1": "queued", "r2": "queued", "r3": "queued"}


def test_a_request_is_explained_held_extended_and_taken_back(terminal: Terminal) -> None:
    terminal.submit(user_line(1) + user_line(2))
    shown = terminal.run("explain", "r1")
    assert re.search(r"where +queued since", shown)
    assert "no hold covers it, and no batch has taken it yet" in shown
    assert re.search(r"deadline +2026-04-01T09:30:00\+00:00 \(gdpr\) OVERDUE", shown)
    hold = terminal.json("hold", "r1", "--reason", "a lawsuit")
    assert (hold["level"], hold["held"]) == ("user", 1)
    assert terminal.json("release", "r1", "--reason", "over")["hold_id"] == hold["hold_id"]
    assert terminal.json("hold", "--dataset", "--reason", "an audit")["held"] == 2
    assert "names no item" in terminal.json("hold", "r1", "--level", "item", "--reason", "x", expect=2)["message"]
    assert (
        "none covers a request of this id alone" in terminal.json("release", "r1", "--reason", "x", expect=4)["message"]
    )
    assert "expected ISO 8601" in terminal.json("extend", "r1", "--reason", "x", "--until", "soon", expect=2)["message"]
    moved = terminal.json("extend", "r1", "--reason", "many requests")
    assert moved["deadlines"] == {"r1": "2026-06-01T09:30:00+00:00"}
    assert terminal.json("cancel", "r1", "--reason", "withdrawn")["changed"] == 1
    assert terminal.states() == {"r1": "cancelled", "r2": "held"}
    kinds = [line["kind"] for line in terminal.json("explain", "r1", "--history")["history"]]
    assert kinds == ["submit", "hold", "release", "hold", "extend", "cancel"]
    assert terminal.json("explain", "nobody", expect=4)["error"] == "MissingObjectError"


def test_due_lists_the_overdue_first_and_a_late_sweep(terminal: Terminal) -> None:
    terminal.submit(user_line(1) + user_line(2, received="2026-02-01T00:00:00Z"))
    found = terminal.json("due")
    assert [line["request_id"] for line in found["requests"]] == ["r2", "r1"]
    assert found["alerts"]["overdue"] == 2
    assert found["sweep"]["is_late"]
    shown = terminal.run("due")
    assert "2 open: 2 overdue" in shown
    assert "has never been swept: run `tru delete sweep --job " in shown


def test_a_list_can_be_summed_up_narrowed_and_checked(terminal: Terminal) -> None:
    terminal.submit(user_line(1) + user_line(2, verified="false"))
    summary = terminal.json("list", "--summary")
    assert (summary["by_state"], summary["nearest_deadline"]) == (
        {"queued": 1, "received": 1},
        "2026-04-01T09:30:00+00:00",
    )
    assert [line["request_id"] for line in terminal.json("list", "--state", "received")["requests"]] == ["r2"]
    found = terminal.json("list", "--limit", "1", "--check")
    assert (len(found["requests"]), found["total"], found["verified_entries"]) == (1, 2, 1)
    assert "1 of 2 shown" in terminal.run("list", "--limit", "1")
    key = "ledger/tiny-model/log/00000001.json"
    body = terminal.store.read(key)
    terminal.store.delete(key)
    terminal.store.put_if_absent(key, body.replace(b"r1", b"r9"))
    assert "was altered" in terminal.json("list", expect=8)["message"]


def test_a_sweep_says_what_is_back_and_queues_its_deletion_when_told(terminal: Terminal) -> None:
    assert terminal.json("sweep")["hits"] == {"users": 0, "items": 0, "interactions": 0}
    stones = tombstones_of([request("r1", user=user_id(3))], KEY, now=None)  # type: ignore[arg-type]
    add_tombstones(terminal.store, "tiny", stones, batch_id="b1")
    found = terminal.json("sweep", expect=6)
    assert (found["hits"], found["tombstones"]) == ({"users": 1, "items": 0, "interactions": 0}, 1)
    assert terminal.json("sweep", "--queue")["queued"] == {"queued": 1}
    assert terminal.json("sweep", "--queue")["known"] == 1
    assert list(terminal.states().values()) == ["queued"]
    assert not terminal.json("due")["sweep"]["is_late"]
    assert user_id(3) not in terminal.shown
