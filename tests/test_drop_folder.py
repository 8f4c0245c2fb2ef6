"""Drop folders: every file is taken, or named with the reason; what looks like requests and is not read is a fault."""

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ledger_world import KEY
from tests.tiny_snapshot import name_a_model, write_tiny_snapshot
from workflows import cli
from workflows.deletions.ledger.drop_folder import Unread, find_request_files
from workflows.storage.local import LocalStore

HEADER = "request_id,kind,user_id,item_id\n"


def csv(number: int) -> bytes:
    return f"{HEADER}r{number},user,{number},\n".encode()


def put(path: Path, body: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return path


def looked(folder: Path) -> tuple[list[str], dict[str, Unread]]:
    files, unread = find_request_files(folder)
    assert len({entry.file for entry in unread}) == len(unread)
    return [file.name for file in files], {entry.file: entry for entry in unread}


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


# --- which files are taken ----------------------------------------------------------------------


def test_every_kind_is_taken_in_whatever_letter_case_and_folder(drop: Path) -> None:
    line = json.dumps({"request_id": "r", "kind": "user", "user_id": 1})
    names = {
        "a.CSV": csv(1),
        "b.tsv": csv(2).replace(b",", b"\t"),
        "c.json": f"[{line}]",
        "d.JsonL": line,
        "e.ndjson": line,
        "f.csv.GZ": gzip.compress(csv(3)),
        "g.jsonl.zst": pa.compress(line.encode(), codec="zstd", asbytes=True),
        "h.txt": csv(4),
        "2026-11/deep/i.csv": csv(5),
        "part.parquet/part-0.parquet": b"",
    }
    for name, body in names.items():
        put(drop / name, body)
    table = pa.table({"request_id": ["r"], "kind": ["user"], "user_id": [1], "item_id": pa.nulls(1)})
    pq.write_table(table, drop / "part.parquet/part-0.parquet")
    files, unread = find_request_files(drop)
    assert {file.name for file in files} == names.keys()
    assert unread == []
    assert all(len(file.open().parse()) == 1 for file in files)


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("g.xlsx", b"PK\x03\x04", "is a spreadsheet"),
        ("g.XLS", b"\xd0\xcf\x11\xe0", "is a spreadsheet"),
        ("g.ods", b"PK\x03\x04", "is a spreadsheet"),
        ("g.zip", b"PK\x03\x04", "is packed"),
        ("g.csv.bz2", b"BZh9", "is packed"),
        ("g.gz", gzip.compress(csv(1)), "is packed"),
        ("g.tar.gz", gzip.compress(csv(1)), "is packed"),
        ("g.csv", b"", "is empty (0 bytes)"),
        ("g.jsonl", b"\n \r\n", "is empty (4 bytes)"),
        ("g.csv.part", csv(1)[:9], "looks like requests"),
        ("g.csv~", csv(1), "looks like requests"),
        ("g.bak", csv(1), "looks like requests"),
        ("requests", csv(1), "looks like requests"),
        ("g.log", '{"request_id": "r1"}\n', "looks like requests"),
    ],
)
def test_what_looks_like_requests_and_is_not_read_is_a_fault(
    drop: Path, name: str, body: bytes | str, reason: str
) -> None:
    put(drop / name, body)
    put(drop / "month" / name, body)
    files, unread = looked(drop)
    assert files == []
    assert unread.keys() == {name, f"month/{name}"}
    assert all(reason in entry.reason and entry.exit_code == 3 for entry in unread.values())


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("README.md", "Put requests here\n"),
        ("notes.txt", "r1 is from Anna\n"),
        ("letter.pdf", b"%PDF-1.7"),
        ("empty", b""),
        (".hidden.csv", csv(1)),
        ("_SUCCESS", b""),
        (".snapshots/old.csv", csv(1)),
        ("_tmp/half.csv", csv(1)),
    ],
)
def test_what_is_no_request_is_named_and_no_fault(drop: Path, name: str, body: bytes | str) -> None:
    put(drop / name, body)
    files, unread = looked(drop)
    assert files == []
    (entry,) = unread.values()
    assert name.startswith(entry.file.rstrip("/"))
    assert entry.exit_code == 0
    assert entry.reason
    assert "Anna" not in entry.reason


def test_links_are_followed_once_and_loops_and_dangling_ones_are_faults(drop: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.csv", csv(1))
    put(tmp_path / "single.csv", csv(2))
    (drop / "folder").symlink_to(tmp_path / "elsewhere")
    (drop / "folder-again").symlink_to(tmp_path / "elsewhere")
    (drop / "file.csv").symlink_to(tmp_path / "single.csv")
    (drop / "loop").symlink_to(drop)
    (drop / "self.csv").symlink_to(drop / "self.csv")
    (drop / "gone.csv").symlink_to(tmp_path / "nothing")
    files, unread = looked(drop)
    assert files == ["file.csv", "folder/a.csv"]
    assert unread.keys() == {"folder-again/", "loop/", "self.csv", "gone.csv"}
    assert "is the folder folder/ by another way" in unread["folder-again/"].reason
    assert unread["folder-again/"].exit_code == 0
    assert "leads back to a folder above it" in unread["loop/"].reason
    assert all("leads nowhere or to itself" in unread[name].reason for name in ("self.csv", "gone.csv"))
    assert all(unread[name].exit_code == 3 for name in ("loop/", "self.csv", "gone.csv"))


def test_links_that_multiply_end(drop: Path) -> None:
    folders = [drop / f"f{number}" for number in range(30)]
    for folder in folders:
        folder.mkdir()
    for folder, following in pairwise(folders):
        (folder / "one").symlink_to(following)
        (folder / "two").symlink_to(following)
    put(folders[-1] / "a.csv", csv(1))
    files, unread = looked(drop)
    assert len(files) == 1
    assert len(unread) < 100


def test_pipes_are_named_and_never_opened(drop: Path) -> None:
    os.mkfifo(drop / "pipe.csv")
    os.mkfifo(drop / "control")
    files, unread = looked(drop)
    assert files == []
    assert {name: entry.exit_code for name, entry in unread.items()} == {"pipe.csv": 3, "control": 0}
    assert all("is a pipe" in entry.reason for entry in unread.values())


def test_what_must_not_be_read_is_a_fault(drop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(drop / "locked" / "a.csv", csv(1))
    put(drop / "b.csv", csv(2))
    honest = Path.iterdir

    def deny(folder: Path):  # root may read everything, so that modes tell nothing here
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return honest(folder)

    monkeypatch.setattr(Path, "iterdir", deny)
    files, unread = looked(drop)
    assert files == ["b.csv"]
    assert (unread["locked/"].reason, unread["locked/"].exit_code) == (
        "this folder cannot be read (Permission denied)",
        3,
    )


def test_a_folder_too_deep_is_a_fault(drop: Path) -> None:
    put(drop.joinpath(*["d"] * 40, "a.csv"), csv(1))
    files, unread = looked(drop)
    assert files == []
    (entry,) = unread.values()
    assert "lies deeper than" in entry.reason
    assert entry.exit_code == 3


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TRU_IDENTITY_KEY_FILE", raising=False)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "identity.key").touch(mode=0o600)
    (tmp_path / "keys" / "identity.key").write_text(KEY.secret.hex())
    text = f"storage: {tmp_path / 'store'}\ndataset: tiny\nmodel: m\nkeys: {{folder: {tmp_path / 'keys'}}}\n"
    write_tiny_snapshot(LocalStore(tmp_path / "store"))
    name_a_model(LocalStore(tmp_path / "store"), "m")
    return put(tmp_path / "job.yaml", text)


def test_a_file_that_is_not_read_is_named_and_holds_back_no_other(
    drop: Path, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(drop / "a.csv", csv(1))
    put(drop / "b.csv", "r1,user,1,\n")
    put(drop / "2026-11" / "c.csv", csv(3))
    put(drop / "2026-11" / "d\x1b[2J.xlsx", b"PK\x03\x04")
    put(drop / "README.md", "about\n")
    words = ["delete", "submit", str(drop), "--job", str(job)]
    assert cli.main([*words, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["files_taken"], found["new"]) == (2, 2)
    assert [(entry["file"], entry["exit_code"]) for entry in found["failed"]] == [("b.csv", 3)]
    assert [(entry["file"], entry["exit_code"]) for entry in found["unread"]] == [
        ("2026-11/d\\x1b[2J.xlsx", 3),
        ("README.md", 0),
    ]
    assert cli.main(words) == 3
    shown = capsys.readouterr().out
    assert "refused b.csv: b.csv line 1: this looks like a file without a header" in shown
    assert "not read 2026-11/d\\x1b[2J.xlsx: is a spreadsheet" in shown
    assert "not read README.md: does not look like requests" in shown
    assert "\x1b" not in shown
    (drop / "b.csv").unlink()
    (drop / "2026-11" / "d\x1b[2J.xlsx").unlink()
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["files_taken"], found["files_taken_before"], len(found["unread"])) == (0, 2, 1)


def test_rows_of_parquet_are_called_rows_by_policy_too(
    tmp_path: Path, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = pa.array([0, 4_000_000_000], pa.timestamp("s", "UTC"))
    table = {"request_id": ["a", "b"], "kind": ["user"] * 2, "user_id": [1, 2], "item_id": ["", ""]}
    pq.write_table(pa.table(table | {"received_time": times}), tmp_path / "r.parquet")
    assert cli.main(["delete", "submit", str(tmp_path / "r.parquet"), "--job", str(job), "--json"]) == 2
    assert "row 2, column received_time: is in the future" in json.loads(capsys.readouterr().out)["message"]
