"""Files of deletion requests: the same from CSV, JSON and parquet, and what is refused, without an id shown."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ledger_world import SECRET
from tru_core.errors import TruError
from workflows.data import request_parquet
from workflows.data.requests import DeletionRequest, names_its_subject, text_names_subject
from workflows.deletions.ledger.request_files import open_request_file

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


# --- ids are read as imports read them ----------------------------------------------------------

COLUMNS = "request_id,kind,user_id,item_id\n"


def write(folder: Path, name: str, body: str | bytes) -> Path:
    (folder / name).write_bytes(body if isinstance(body, bytes) else body.encode())
    return folder / name


def ids(path: Path) -> list[tuple[str, str]]:
    return [(request.user_id, request.item_id) for request in parse(path)]


def refusal(path: Path) -> str:
    with pytest.raises(TruError) as caught:
        parse(path)
    text = str(caught.value)
    assert caught.value.exit_code in (2, 3)
    assert SECRET not in text
    assert len(text) < 2500
    return text


@pytest.mark.parametrize(
    ("written", "expected"),
    [("42.0", "42"), ("42.", "42"), (' "42"', "42"), ('="0042"', "0042"), ("\u00a042\u3000", "42"), ("0042", "0042")],
)
@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.json", "r.jsonl", "r.parquet"])
def test_every_kind_of_file_reads_an_id_alike(tmp_path: Path, name: str, written: str, expected: str) -> None:
    row = {"request_id": "r1", "kind": "user", "user_id": written, "item_id": ""}
    if name == "r.parquet":
        pq.write_table(pa.table({column: [text] for column, text in row.items()}), tmp_path / name)
    elif name.startswith("r.json"):
        write(tmp_path, name, json.dumps(row))
    else:
        mark = "," if name == "r.csv" else "\t"
        cells = [f'"{text}"' if '"' not in text else text for text in row.values()]
        write(tmp_path, name, mark.join(row) + "\n" + mark.join(cells))
    assert ids(tmp_path / name) == [(expected, "")]


@pytest.mark.parametrize("word", ["NaN", "nan", "<NA>", "NULL", "None", "#N/A", "\\N"])
def test_a_word_for_nothing_is_empty_where_no_id_is_needed_and_refused_elsewhere(tmp_path: Path, word: str) -> None:
    assert ids(write(tmp_path, "fine.csv", f"{COLUMNS}r1,user,5,{word}\nr2,item,{word},6\n")) == [("5", ""), ("", "6")]
    text = refusal(
        write(tmp_path, "bad.csv", f"{COLUMNS}r1,user,{word},\n\nr2,item,,{word}\nr3,interaction,5,{word}\n")
    )
    for place in ("line 2, column user_id", "line 4, column item_id", "line 5, column item_id"):
        assert f"{place}: expected an id" in text
    assert "line 3" not in text
    assert "line 2, column request_id: is empty" in refusal(write(tmp_path, "id.csv", f"{COLUMNS}{word},user,5,\n"))


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("3.5", "found fractions"),
        ("9007199254740993.0", "found floats of 2**53 or more"),
        ("1.2E+11", "found numbers in scientific notation"),
        ("-7", "found negative ids"),
        (f"{SECRET}\u202e", "found control characters"),
        (f"{SECRET}\x1b[2J", "found control characters"),
        (SECRET * 100, "found longer ids"),
    ],
)
def test_an_id_that_cannot_be_meant_is_refused_by_line_and_column(tmp_path: Path, written: str, fault: str) -> None:
    text = refusal(write(tmp_path, "r.csv", f"{COLUMNS}r0,user,1,\nr1,user,{written},\nr2,item,,{written}\n"))
    assert "line 3, column user_id: expected" in text
    assert "line 4, column item_id: expected" in text
    assert fault in text
    assert "line 2" not in text


def test_among_rounded_ids_one_without_sign_is_named_too(tmp_path: Path) -> None:
    text = refusal(write(tmp_path, "r.csv", f"{COLUMNS}r1,user,3e5,\nr2,user,2.5E+07,\nr3,user,12,\n"))
    assert "line 2, column user_id" in text
    assert "line 3, column user_id" in text
    assert "line 4" not in text
    assert ids(write(tmp_path, "hex.csv", f"{COLUMNS}r1,user,3e5,\nr2,user,ab7,\n")) == [("3e5", ""), ("ab7", "")]


@pytest.mark.parametrize(
    ("number", "expected"),
    [("17", "17"), ("17.0", "17"), ("12345678901234567890123", "12345678901234567890123"), ('"17.0"', "17")],
)
def test_a_json_number_keeps_its_digits(tmp_path: Path, number: str, expected: str) -> None:
    body = f'{{"request_id": "r1", "kind": "user", "user_id": {number}}}'
    assert ids(write(tmp_path, "r.json", f"[{body}]")) == [(expected, "")]
    assert ids(write(tmp_path, "r.jsonl", f"\n{body}\n")) == [(expected, "")]


@pytest.mark.parametrize("number", ["1e1", "1.7E+01", "true", "false", "Infinity", "0.5", "[17]", '"\\ud800"', "NaN"])
def test_a_json_value_that_is_no_id_is_refused_by_its_number(tmp_path: Path, number: str) -> None:
    good = '{"request_id": "r0", "kind": "user", "user_id": "x", "item_id": NaN}'
    bad = f'{{"request_id": "r1", "kind": "user", "user_id": {number}}}'
    assert "request 2, column user_id: expected" in refusal(write(tmp_path, "r.json", f"[{good}, {bad}]"))
    assert "line 3, column user_id: expected" in refusal(write(tmp_path, "r.jsonl", f"{good}\n\n{bad}\n"))


def test_a_parquet_column_of_numbers_with_gaps_is_read_as_an_import_reads_it(tmp_path: Path) -> None:
    nan = float("nan")
    for users, items in [
        (pa.array([17.0, None, 4.0]), pa.array([None, 4.0, 9.0])),
        (pa.array([17.0, nan, 4.0], pa.float32()), pa.array([nan, 4.0, 9.0])),
        (pa.array([17, None, 4], pa.decimal128(20, 2)), pa.array([None, 4, 9], pa.int16())),
        (
            pa.array(["17", None, "4"], pa.large_string()).dictionary_encode(),
            pa.array(["", "4", "9"], pa.string_view()),
        ),
    ]:
        table = {"request_id": ["a", "b", "c"], "kind": ["user", "item", "interaction"]}
        pq.write_table(pa.table(table | {"user_id": users, "item_id": items}), tmp_path / "r.parquet")
        assert ids(tmp_path / "r.parquet") == [("17", ""), ("", "4"), ("4", "9")]


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        (pa.array([1.0, 2.5]), "row 2, column user_id: expected exact integers"),
        (pa.array([1.0, 2.0**60]), "row 2, column user_id: expected exact integers"),
        (pa.array([1.0, None]), "row 2, column user_id: expected an id, which kind user needs"),
        (pa.array([1, -2]), "row 2, column user_id: expected ids from 0 on"),
        (pa.array([[1], [2]]), "column user_id: expected type string or integer, found lists or structures"),
        (pa.array([b"1", b"2"]), "column user_id: expected type string or integer, found binary"),
        (pa.array([0, 1], pa.timestamp("s")), "column user_id: expected type string or integer, found timestamp"),
    ],
)
def test_parquet_ids_that_are_none_are_refused_by_row_or_type(tmp_path: Path, users: pa.Array, expected: str) -> None:
    table = pa.table({"request_id": ["a", "b"], "kind": ["user"] * 2, "user_id": users, "item_id": pa.nulls(2)})
    pq.write_table(table, tmp_path / "r.parquet")
    assert expected in refusal(tmp_path / "r.parquet")


# --- what is no such file -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"r1,user,{SECRET},\nr2,user,{SECRET}2,\n",
        f"\n\n{SECRET}\t17\t2026-01-01\n",
        f"{SECRET}\n{SECRET}2\n",
        f"user,item,{SECRET}\n",
    ],
)
@pytest.mark.parametrize("name", ["r.csv", "r.tsv"])
def test_a_file_without_header_is_refused_without_quoting_it(tmp_path: Path, name: str, text: str) -> None:
    found = refusal(write(tmp_path, name, text))
    assert "this looks like a file without a header line" in found
    assert "Expected request_id, kind, user_id, item_id" in found


@pytest.mark.parametrize("near", ["User_ID", "user id", "userid", "USER-ID"])
def test_a_column_of_another_spelling_is_hinted_at(tmp_path: Path, near: str) -> None:
    found = refusal(write(tmp_path, "r.csv", f"request_id,kind,{near},item_id\nr1,user,{SECRET},\n"))
    assert "line 1: there is no column user_id; the name of column 3 is the nearest" in found


@pytest.mark.parametrize("mark", [";", "\t", "|", ","])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n", "sep={}\n", '\ufeff"sep={}"\r\n'])
def test_cells_may_be_parted_as_european_spreadsheets_do(tmp_path: Path, mark: str, start: str) -> None:
    text = start.format(mark) + COLUMNS.replace(",", mark) + f'r1{mark}user{mark}"a,b;c"{mark}\n'
    assert ids(write(tmp_path, "r.csv", text)) == [("a,b;c", "")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_counted_as_an_editor_does(tmp_path: Path, end: str) -> None:
    lines = ["", COLUMNS.strip(), "", 'r1,user,"1",', '"r', '2",user,2,', "", f"r3,person,{SECRET},", "r4,user,-1,"]
    found = refusal(write(tmp_path, "r.csv", end.join(lines)))
    assert "line 5, column request_id" in found  # where the quoted cell begins
    assert "line 8, column kind" in found
    assert "line 9, column user_id" in found
    assert "(" not in found.partition("Nothing")[0]
    jsonl = ["", '{"request_id": "r1", "kind": "user", "user_id": 1}', "", f'{{"{SECRET}": 1', "[]"]
    found = refusal(write(tmp_path, "r.jsonl", end.join(jsonl)))
    assert "line 4: is not JSON" in found
    assert "line 5: expected an object" in found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ((COLUMNS + f"r1,user,{SECRET},\n").encode("utf-16"), "found UTF-16"),
        ((COLUMNS + f"r1,user,{SECRET},\n").encode("utf-16-be"), "line 1: expected text, found a NUL byte"),
        ((COLUMNS + f"r1,user,{SECRET}é,\n").encode("latin-1"), "line 2: expected UTF-8"),
        (COLUMNS.encode() + f"r1,user,{SECRET}\0,\n".encode(), "line 2: expected text, found a NUL byte"),
        (COLUMNS + f'r1,user,"{SECRET},\n\n', "line 2: not CSV"),
        (COLUMNS + f'r1,user,"{SECRET}"x,\n', "line 2: not CSV"),
        (COLUMNS + f'r1,user,"{SECRET}' + "x" * 200_000 + '",\n', "line 2: not CSV"),
        (COLUMNS + f"r1,user,{SECRET}" + "x" * 2_000_000 + ",\n", "line 2: expected at most 1048576 letters"),
        (COLUMNS + f"r1,user,{SECRET},x,y\nr2,user\n", "line 2 has 5 fields, the header 4; line 3 has 2 fields"),
        ("request_id,kind,user_id,item_id" + "," * 100_000 + "\n", "line 1: column 5 is none of"),
        (b"PAR1" + COLUMNS.encode(), "expected text, found what is .parquet"),
        (b"PK\x03\x04" + COLUMNS.encode(), "save the sheet as CSV UTF-8"),
        (COLUMNS + "x\n" * 20_000, "(10000 or more in all)"),
    ],
)
def test_a_csv_file_that_is_none_is_refused_with_advice(tmp_path: Path, body: str | bytes, expected: str) -> None:
    assert expected in refusal(write(tmp_path, "r.csv", body))


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("r.json", "[" + "[]," * 1_000_001 + "[]]", "at most 1000000 fit a file"),
        ("r.json", "[" + "1," * 10_000_001 + "1]", "more than 10000000 fields"),
        ("r.json", '{"request_id": ' * 50_000, "nested too deeply"),
        ("r.json", '[{"request_id": "r1",\n "kind": }]', "is not JSON, from line 2 on"),
        ("r.jsonl", '{"request_id": "' + "x" * 2_000_000 + '"}', "line 1: expected at most 1048576 letters"),
        ("r.jsonl", '{"request_id": "a", "request_id": "b"}', "line 1: the field request_id stands twice"),
        ("r.csv", "\n" * 4_000_001, "at most 4000000 are read"),
    ],
)
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path, name: str, body: str, expected: str) -> None:
    assert expected in refusal(write(tmp_path, name, body))


@pytest.mark.parametrize(
    ("letters", "expected"), [(700_000, "expected cells of at most"), (60_000, "unpacks to more than 4 MiB")]
)
@pytest.mark.parametrize("keeps_dictionary", [True, False])
def test_a_small_parquet_file_with_a_large_table_is_refused_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: int, expected: str, keeps_dictionary: bool
) -> None:
    monkeypatch.setattr(request_parquet, "MAX_TABLE_BYTES", 2**22)
    users = pa.DictionaryArray.from_arrays(pa.array([0] * 900, pa.int32()), ["x" * letters])
    table = {"request_id": [f"r{n}" for n in range(900)], "kind": ["user"] * 900, "user_id": users}
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table(table | {"item_id": [""] * 900}), path, compression="zstd", store_schema=keeps_dictionary)
    assert path.stat().st_size < 20_000
    found = refusal(path)
    assert expected in found
    assert "damaged" not in found


@pytest.mark.parametrize(
    ("honest", "forged", "expected"),
    [
        (
            b"\x19\x18\x07user_id\x15\x02",
            b"\x19\x18\x07user_id\x15\x5e",
            "the parquet footer is damaged",
        ),  # no such codec
        (b"\x18\x04kind", b"\x18\x04ki\xffd", "the parquet footer is damaged"),
    ],
)
def test_a_forged_parquet_footer_is_refused_and_does_not_end_the_process(
    tmp_path: Path, honest: bytes, forged: bytes, expected: str
) -> None:
    row = {"request_id": ["r1"], "kind": ["user"], "user_id": [SECRET], "item_id": [""]}
    pq.write_table(pa.table(row), tmp_path / "r.parquet", store_schema=False)
    body = (tmp_path / "r.parquet").read_bytes()
    assert honest in body
    write(tmp_path, "r.parquet", body.replace(honest, forged))
    code = "import sys, tests.test_request_files as t; print(t.refusal(t.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r.parquet")], capture_output=True, text=True, check=True
    )
    assert expected in done.stdout


def test_json_objects_on_lines_are_read_whatever_the_name_says(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"request_id": f"r{n}", "kind": "user", "user_id": n}) + "\n" for n in range(3))
    expected = [("0", ""), ("1", ""), ("2", "")]
    assert ids(write(tmp_path, "r.json", lines)) == expected
    assert ids(write(tmp_path, "r.NDJSON", lines)) == expected
    assert ids(write(tmp_path, "r.jsonl", f"[{','.join(lines.splitlines())}]")) == expected


# --- packed files, and files of other names -----------------------------------------------------


@pytest.mark.parametrize("name", ["r.csv.gz", "R.CSV.GZ", "r.csv.zst", "r.dat", "requests", "r.txt", "r"])
def test_a_file_is_read_packed_or_by_its_content(tmp_path: Path, name: str) -> None:
    body = (COLUMNS + "r1,user,5,\n").encode()
    packed = {".gz": gzip.compress(body), ".zst": pa.compress(body, codec="zstd", asbytes=True)}
    write(tmp_path, name, packed.get(Path(name).suffix.lower(), body))
    assert ids(tmp_path / name) == [("5", "")]


@pytest.mark.parametrize("name", ["r.csv", "unicode.txt", "r.dat"])
def test_what_a_spreadsheet_calls_unicode_text_is_refused_with_advice_whatever_its_name(
    tmp_path: Path, name: str
) -> None:
    body = (COLUMNS.replace(",", "\t") + f"r1\tuser\t{SECRET}\t\r\n").encode("utf-16")
    assert "found UTF-16, which spreadsheets call Unicode text" in refusal(write(tmp_path, name, body))


def test_packed_parquet_and_parquet_of_another_name_are_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path)
    expected = ids(path)
    assert ids(write(tmp_path, "p.parquet.gz", gzip.compress(path.read_bytes()))) == expected
    assert ids(write(tmp_path, "p.bin", path.read_bytes())) == expected


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("bomb.csv.gz", gzip.compress(b"0" * 70_000_000, 1), "unpacks to more than 64 MiB"),
        ("bomb.csv.zst", pa.compress(b"0" * 70_000_000, codec="zstd", asbytes=True), "unpacks to more than 64 MiB"),
        ("cut.csv.gz", gzip.compress(COLUMNS.encode() * 9)[:-9], "found damaged or other bytes"),
        ("plain.csv.gz", COLUMNS.encode(), "found damaged or other bytes"),
        ("twice.csv.gz", gzip.compress(gzip.compress(COLUMNS.encode())), "expected text, found what is .gz"),
        ("sheet.XLSX", b"PK\x03\x04", "is a spreadsheet"),
        ("sheet.ods", b"PK\x03\x04", "is a spreadsheet"),
        ("r.dat", f"{SECRET},17\n".encode(), "whose first line names the columns, found neither"),
        ("scan.pdf", b"%PDF-1.7", "found .pdf"),
        ("r.zip", b"PK\x03\x04", "found a spreadsheet or a zip"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, body: bytes, expected: str) -> None:
    found = refusal(write(tmp_path, name, body))
    assert expected in found
    assert found.startswith(name)


def test_a_name_that_could_steer_a_terminal_is_shown_harmlessly(tmp_path: Path) -> None:
    found = refusal(write(tmp_path, "a\x1b[2J\nb.csv", "x"))
    assert found.startswith("a\\x1b[2J\\nb.csv line 1")


def test_reading_request_files_brings_no_ray_along() -> None:
    code = "import sys, workflows.deletions.ledger.drop_folder; print('ray' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- ids inside other words ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "user", "item", "expected"),
    [
        ("gdpr-CUSTOMER-48213-1", "customer-48213", "", True),
        ("t-48213", "48213", "", True),
        ("t-4821", "4821", "", False),
        ("anna-erasure", "Anna", "", True),
        ("about-bob", "bob", "", False),
        ("sku-b00x-gone", "7", "B00X", True),
        ("req-2026-11-17-0001", "17", "1", False),
        ("STRASSE-7", "straße-7", "", True),
        ("6f0c0a54", "6f0c0a541", "", False),
        ("anything", "", "", False),
    ],
)
def test_a_request_id_that_holds_the_id_of_its_subject_is_found(
    text: str, user: str, item: str, expected: bool
) -> None:
    asked = DeletionRequest(text, "interaction", user, item, None, None, line=2)
    assert names_its_subject(asked) is expected
    assert text_names_subject(f"{text}.csv", asked) is expected


@pytest.mark.parametrize("request_id", ["17", "17.0", ' "17"', '="17"'])
def test_a_request_id_that_is_the_id_itself_is_refused_in_whatever_clothes(tmp_path: Path, request_id: str) -> None:
    found = refusal(write(tmp_path, "r.csv", f"{COLUMNS}{request_id},user,17.0,\n"))
    assert "line 2, column request_id: is the id of the user or item itself" in found


def test_what_is_said_beside_a_request_does_not_make_it_another() -> None:
    first = DeletionRequest("r", "user", "u", "", None, None, line=2)
    other = replace(first, line=9, unit="row", is_verified=True)
    assert first == other
    assert (first.where, other.where) == ("line 2", "row 9")
