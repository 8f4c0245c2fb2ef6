"""Files of deletion requests: the same from CSV, JSON and parquet, and what is refused, without an id shown."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ledger_world import SECRET
from tru_core.errors import TruError
from workflows.data.requests import DeletionRequest
from workflows.ledger.request_files import open_request_file

ROWS = [
    {"request_id": "r1", "kind": "user", "user_id": "7", "item_id": "", "received_time": "2026-03-01T09:30:00Z"},
    {"request_id": "r2", "kind": "item", "user_id": "", "item_id": "i9", "received_time": "2026-03-01T10:30:00+01:00"},
    {
        "request_id": "r3",
        "kind": "interaction",
        "user_id": "7",
        "item_id": "i9",
        "received_time": "2026-03-02T00:00:00Z",
    },
]


def parse(path: Path) -> list[DeletionRequest]:
    return open_request_file(path).parse()


def write_csv(folder: Path) -> Path:
    lines = [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
    (folder / "requests.csv").write_text("\n".join(lines))
    return folder / "requests.csv"


def write_json(folder: Path) -> Path:
    rows = [{name: value for name, value in row.items() if value} for row in ROWS]
    rows[0]["user_id"] = 7  # type: ignore[assignment]
    (folder / "requests.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(rows, indent=1).replace("\n", "\r\n").encode())
    return folder / "requests.json"


def write_parquet(folder: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    times = pa.array(["2026-03-01T09:30:00Z", "2026-03-01T09:30:00Z", "2026-03-02T00:00:00Z"])
    table = table.set_column(4, "received_time", times.cast(pa.timestamp("ms", "UTC")))
    table = table.set_column(1, "kind", table.column("kind").dictionary_encode())
    pq.write_table(table, folder / "requests.parquet")
    return folder / "requests.parquet"


@pytest.mark.parametrize("write", [write_csv, write_json, write_parquet])
def test_every_kind_of_file_says_the_same(tmp_path: Path, write: object) -> None:
    found = parse(write(tmp_path))  # type: ignore[operator]
    assert [(r.request_id, r.kind, r.user_id, r.item_id, r.received_time) for r in found] == [
        ("r1", "user", "7", "", "2026-03-01T09:30:00+00:00"),
        ("r2", "item", "", "i9", "2026-03-01T09:30:00+00:00"),
        ("r3", "interaction", "7", "i9", "2026-03-02T00:00:00+00:00"),
    ]


def test_one_json_object_is_one_request(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(
        json.dumps({"request_id": "r1", "kind": "user", "user_id": "u", "verified": False})
    )
    found = parse(tmp_path / "one.json")
    assert (found[0].request_id, found[0].is_verified, found[0].received_time) == ("r1", False, None)


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("FALSE", False), ("", None)])
def test_a_column_says_whether_the_requester_is_verified(tmp_path: Path, text: str, expected: bool | None) -> None:
    (tmp_path / "r.csv").write_text(f"request_id,kind,user_id,item_id,verified\nr1,user,u1,,{text}\n")
    assert parse(tmp_path / "r.csv")[0].is_verified is expected


GOOD = {"request_id": "r1", "kind": "user", "user_id": SECRET}


@pytest.mark.parametrize(
    ("name", "body", "exit_code", "expected"),
    [
        ("r.json", "[", 2, "r.json is not JSON"),
        ("r.json", b"\xff\xfe", 2, "r.json: expected UTF-8, found UTF-16"),
        ("r.json", "[" * 100_000, 2, "r.json is not JSON that can be read: it is nested too deeply"),
        ("r.json", f'{{"request_id": "r1", "user_id": "{SECRET}", "user_id": "x"}}', 2, "field user_id stands twice"),
        ("r.json", f'["{SECRET}"]', 2, "request 1: expected an object"),
        ("r.json", json.dumps([GOOD | {"user": 1}]), 2, "request 1: field 4 is none of request_id, kind"),
        (
            "r.json",
            json.dumps({"user_id": SECRET}),
            2,
            "request 1, column request_id: is missing; request 1, column kind",
        ),
        ("r.json", json.dumps([GOOD, GOOD | {"user_id": 1.5}]), 2, "request 2, column user_id: expected exact int"),
        ("r.json", json.dumps([GOOD, GOOD | {"user_id": [SECRET]}]), 2, "request 2, column user_id: expected text"),
        ("r.json", json.dumps([GOOD, GOOD | {"user_id": "x"}]), 5, "requests 1 and 2 have the same request id"),
        ("r.json", json.dumps(GOOD | {"received_time": None}), 2, "request 1, column received_time: is empty"),
        ("r.json", json.dumps(GOOD | {"received_time": "2026-03-01"}), 2, "column received_time: has no time zone"),
        ("r.json", json.dumps(GOOD | {"verified": "maybe"}), 2, "column verified: expected true or false"),
        ("r.parquet", b"", 3, "r.parquet: 0 bytes"),
        ("r.parquet", b"PAR1 is not enough", 3, "expected the parquet magic"),
        ("r.csv", f"request_id,kind,user_id,item_id,received_time\nr1,user,{SECRET},,\n", 2, "received_time: is empty"),
        ("none.csv", None, 2, "cannot be read"),
    ],
)
def test_a_malformed_file_is_refused_by_field_and_number(
    tmp_path: Path, name: str, body: str | bytes | None, exit_code: int, expected: str
) -> None:
    path = tmp_path / name
    if body is not None:
        path.write_bytes(body if isinstance(body, bytes) else body.encode())
    with pytest.raises(TruError, match=expected) as caught:
        parse(path)
    assert caught.value.exit_code == exit_code
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "exit_code", "expected"),
    [
        ({"request_id": ["r1"], "kind": ["user"], "user_id": [SECRET]}, 3, "there is no column item_id"),
        (
            {"request_id": ["r1"], "kind": ["user"], "user_id": [True], "item_id": [""]},
            3,
            "column user_id: expected type string or integer, found bool",
        ),
        (
            {"request_id": ["r1"], "kind": ["user"], "user_id": [None], "item_id": [""]},
            2,
            "row 1, column user_id: expected an id, which kind user needs",
        ),
    ],
)
def test_a_parquet_file_with_wrong_columns_is_refused(
    tmp_path: Path, columns: dict, exit_code: int, expected: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    with pytest.raises(TruError, match=expected) as caught:
        parse(tmp_path / "r.parquet")
    assert caught.value.exit_code == exit_code
    assert SECRET not in str(caught.value)


def test_a_parquet_file_that_could_run_code_is_not_opened(tmp_path: Path) -> None:
    field = pa.field("user_id", pa.string(), metadata={"ARROW:extension:name": "ray.data.arrow_pickled_object"})
    columns = [pa.array(["x"]) for _ in range(4)]
    schema = pa.schema([("request_id", pa.string()), ("kind", pa.string()), field, ("item_id", pa.string())])
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), tmp_path / "r.parquet")
    with pytest.raises(TruError, match="has an Arrow extension type") as caught:
        parse(tmp_path / "r.parquet")
    assert caught.value.exit_code == 8
