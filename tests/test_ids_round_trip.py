"""Whatever id an import accepts, a request that any of the usual programs wrote finds it, or is refused, or is named.

Files go through the readers of imports and of requests: nothing here knows the rules but those readers.
"""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tru_core.errors import TruError
from workflows.data.known_ids import match_ids
from workflows.deletions.ledger.request_files import open_request_file
from workflows.ingest.blocks import read_ids
from workflows.ingest.layouts import find_raw_data
from workflows.ingest.raw_tables import read_tables
from workflows.storage.local import LocalStore

COLUMNS = ("request_id", "kind", "user_id", "item_id")
Row = tuple[str, str, object, object]
Writer = Callable[[Path, list[Row]], Path]

whole_numbers = st.integers(0, 2**53 - 1) | st.integers(0, 99)
codes = st.from_regex(r"[A-Za-z0-9 @.+_'\"-]{1,14}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
padded = st.integers(0, 9999).map(lambda number: f"{number:06d}")
hexadecimal = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)


# --- what programs write ------------------------------------------------------------------------


def by_csv_module(path: Path, rows: list[Row]) -> Path:
    with (path / "r.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return path / "r.csv"


def by_pandas_to_csv(path: Path, rows: list[Row]) -> Path:
    _frame(rows).to_csv(path / "r.csv", index=False)
    return path / "r.csv"


def by_pandas_to_parquet(path: Path, rows: list[Row]) -> Path:
    _frame(rows).to_parquet(path / "r.parquet", index=False)
    return path / "r.parquet"


def by_pandas_to_json_lines(path: Path, rows: list[Row]) -> Path:
    _frame(rows).to_json(path / "r.jsonl", orient="records", lines=True, double_precision=15)
    return path / "r.jsonl"


def by_json(path: Path, rows: list[Row]) -> Path:
    (path / "r.json").write_text(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows]))
    return path / "r.json"


def by_json_lines_packed(path: Path, rows: list[Row]) -> Path:
    body = "\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) for row in rows)
    with pa.CompressedOutputStream(str(path / "r.jsonl.gz"), "gzip") as file:
        file.write(body.encode())
    return path / "r.jsonl.gz"


EXACT: tuple[Writer, ...] = (
    by_csv_module,
    by_pandas_to_csv,
    by_pandas_to_parquet,
    by_pandas_to_json_lines,
    by_json,
    by_json_lines_packed,
)


def by_spreadsheet(path: Path, rows: list[Row]) -> Path:
    """A spreadsheet that opened a CSV file and saved what it shows: General format, 11 digits, no leading zeros."""
    return by_csv_module(path, [(name, kind, _as_shown(user), _as_shown(item)) for name, kind, user, item in rows])


def _as_shown(cell: object) -> object:
    text = "" if cell is None else str(cell).strip()
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?", text) is None:
        return cell
    value = float(text)
    if value.is_integer() and abs(value) < 1e11:
        return str(int(value))
    return re.sub(r"\.?0*(E[+-][0-9]+)", r"\1", f"{value:.5E}") if abs(value) >= 1e11 else f"{value:.10g}"


def _frame(rows: list[Row]) -> pd.DataFrame:
    """A table as a person makes one: a row of another kind leaves gaps, which turn whole numbers into floats."""
    return pd.DataFrame(rows, columns=list(COLUMNS))


# --- what the data set holds --------------------------------------------------------------------


def imported(folder: Path, ids: list[object], *, as_parquet: bool) -> list[str] | None:
    """The ids of the data set that an import of these would make; None where it refuses them."""
    frame = pd.DataFrame({"user_id": ids, "item_id": [1] * len(ids)})
    source = folder / "source"
    for old in source.iterdir():
        old.unlink()
    if as_parquet:
        frame.to_parquet(source / "interactions.parquet", index=False)
    else:
        frame.to_csv(source / "interactions.csv", index=False, quoting=csv.QUOTE_ALL)
    try:
        found: list[str] = []
        store = LocalStore(source)
        (table,) = find_raw_data(store, "auto").tables
        for part, rows in read_tables(store.filesystem()[0], table, columns=["user_id"]):
            read, problems = read_ids(part.column("user_id"), rows, file=table, column="user_id")
            if problems:
                return None
            found += read.to_pylist()
    except TruError:
        return None
    return list(dict.fromkeys(found))


def asked(writer: Writer, folder: Path, user: object) -> str | None:
    """The user that a request file names; None where the file is refused. A second row leaves gaps."""
    rows: list[Row] = [("r-1", "user", user, None), ("r-2", "item", None, 1)]
    try:
        requests = open_request_file(writer(folder / "requests", rows)).parse()
    except TruError:
        return None
    return next(request.user_id for request in requests if request.request_id == "r-1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("round-trip")
    (folder / "source").mkdir()
    (folder / "requests").mkdir()
    return folder


CHECKS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@CHECKS
@given(st.lists(whole_numbers, min_size=1, max_size=4, unique=True), st.booleans(), st.data())
def test_a_whole_number_is_found_whatever_wrote_the_request(
    folder: Path, ids: list[int], as_parquet: bool, data: st.DataObject
) -> None:
    held = imported(folder, list(ids), as_parquet=as_parquet)
    assert held == [str(number) for number in ids]
    place = data.draw(st.integers(0, len(ids) - 1))
    for writer in EXACT:
        user = asked(writer, folder, ids[place])
        if user is None:  # a float that has lost digits is refused, never guessed
            assert ids[place] >= 10**15, writer.__name__
            continue
        assert match_ids(held, [user]).places == {user: place}, writer.__name__


@CHECKS
@given(st.lists(codes | texts | padded | hexadecimal, min_size=1, max_size=4, unique=True), st.booleans(), st.data())
def test_an_id_of_text_that_an_import_accepts_is_found_whatever_wrote_the_request(
    folder: Path, ids: list[str], as_parquet: bool, data: st.DataObject
) -> None:
    held = imported(folder, list(ids), as_parquet=as_parquet)
    assume(held is not None)
    assert held is not None
    place = data.draw(st.integers(0, len(held) - 1))
    for writer in EXACT:
        user = asked(writer, folder, held[place])
        assert user is not None, writer.__name__
        assert match_ids(held, [user]).places == {user: place}, writer.__name__


@CHECKS
@given(st.lists(whole_numbers | codes | padded | hexadecimal, min_size=1, max_size=4, unique=True), st.data())
def test_what_a_spreadsheet_rewrote_is_found_refused_or_named(
    folder: Path, ids: list[object], data: st.DataObject
) -> None:
    held = imported(folder, [str(one) for one in ids], as_parquet=False)
    assume(held is not None)
    assert held is not None
    place = data.draw(st.integers(0, len(held) - 1))
    user = asked(by_spreadsheet, folder, held[place])
    if user is None:
        return  # refused, by line
    match = match_ids(held, [user])
    if user in match.places and match.places[user] != place:
        # Two ids that a spreadsheet writes alike, such as 17 and 0017, cannot be told apart afterwards.
        assert _as_shown(held[match.places[user]]) == _as_shown(held[place])
        return
    assert user in match.places or user in match.alike or not _is_number(held[place])


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+]?[0-9]{1,11}", text) is not None
