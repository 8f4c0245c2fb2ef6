"""Delimited text is read as it was written, whoever wrote it, and what is wrong is named by its line without a cell."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem

import workflows.ingest.opening
import workflows.ingest.raw_tables
from tru_core.errors import DataError
from workflows.ingest.blocks import read_ids
from workflows.ingest.columns import find_columns
from workflows.ingest.gates import check_text
from workflows.ingest.layouts import RawData, TableFile
from workflows.ingest.raw_tables import raise_by_line, read_tables
from workflows.ingest.settings import ColumnNames

LOCAL = LocalFileSystem()
SECRET = "zoe.quist@example.invalid"


def _table(path: Path, body: bytes | str, *, compression: str = "") -> TableFile:
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    facts = check_text(LOCAL, str(path), key=path.name, compression=compression)
    columns = dict.fromkeys(facts.header, pa.string())
    return TableFile(
        path.name,
        str(path),
        columns,
        delimiter=facts.delimiter,
        num_header_lines=facts.num_header_lines,
        compression=compression,
    )


def _ids(table: TableFile, column: str = "user_id") -> list[str]:
    found, problems = [], []
    for part, rows in read_tables(LOCAL, table, columns=[column]):
        ids, wrong = read_ids(part.column(column), rows, file=table, column=column)
        found += ids.to_pylist()
        problems += wrong
    raise_by_line(LOCAL, [table], problems)
    return found


def _refused(table: TableFile, column: str = "user_id") -> str:
    with pytest.raises(DataError) as caught:
        _ids(table, column)
    return str(caught.value)


def _find(table: TableFile) -> str:
    with pytest.raises(DataError) as caught:
        find_columns(RawData("tru", (table,), (), None, None), ColumnNames())
    return str(caught.value)


# --- quotes and delimiters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '"user_id"\t"item_id"\t"title"\n"7"\t"1"\t"a"\n"008"\t"2"\t"b\tc"\n',
        '"user_id"\t"item_id"\t"title"\r\n"7"\t1\t"two\nlines"\r\n"008"\t2\tNA\r\n',
        "'user_id'\t'item_id'\t'title'\n'7'\t'1'\t'a'\n'008'\t'2'\t'it''s'\n",
        '"user_id"\t"item_id"\t"title"\n"7"\t"1"\t"5 inch \\" disc"\n"008"\t"2"\t""\n',
        'user_id\titem_id\ttitle\n"7"\t1\ta "lone mark\n"008"\t2\t"another\n',
        "user_id,item_id,title\n7,1,a\n008,2,'b\n",
        '"user_id","item_id","title"\n"7",1,"a, b"\n"008","2",""\n',
        "'user_id','item_id','title'\n'7','1','a, b'\n'008','2',''\n",
        "user_id;item_id;title,price\n7;1;a,5\n008;2;b\n",
        "user_id|item_id|title\n7|1|a,b;c\n 008 |2|\n",
        "user_id,item_id,title\r7,1,a\r008,2,b\r",
        'user_id,item_id,title\n="7",1,a\n="008",2,b\n',
    ],
)
def test_ids_are_the_same_whoever_wrote_the_quotes_and_delimiters(tmp_path: Path, body: str) -> None:
    assert _ids(_table(tmp_path / "a.txt", body)) == ["7", "008"]


def test_all_that_the_csv_module_writes_is_read_back(tmp_path: Path) -> None:
    rows = [["7", "1", 'a "quoted", and\ttabbed'], ["008", "2", "x"], ["9 9", "3", "y\nz"]]
    for delimiter in "\t,;|":
        for quoting in (csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC):
            if delimiter == "\t" and quoting == csv.QUOTE_MINIMAL:
                continue  # in tab-separated files without quotes around names a quotation mark is part of a title
            text = io.StringIO(newline="")
            writer = csv.writer(text, delimiter=delimiter, quoting=quoting)
            writer.writerows([["user_id", "item_id", "title"], *rows])
            table = _table(tmp_path / "a.txt", text.getvalue())
            assert _ids(table) == ["7", "008", "9 9"]
            titles = [part.column("title").to_pylist() for part, _ in read_tables(LOCAL, table, columns=["title"])]
            assert titles == [[row[2] for row in rows]]


def test_a_mark_that_is_never_closed_is_refused_and_takes_no_rows_along(tmp_path: Path) -> None:
    body = f'user_id,item_id,title\n1,1,a\n2,2,"never closed\n3,3,{SECRET}\n4,4,d\n'
    message = _refused(_table(tmp_path / "a.csv", body))
    assert message.startswith("a.csv, line 3: a quotation mark is not closed")
    assert SECRET not in message
    assert _ids(_table(tmp_path / "a.csv", 'user_id,item_id,title\n1,1,5" disc\n2,2,b\n')) == ["1", "2"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("user_id,item_id\n".encode("utf-16"), "found UTF-16"),
        (b"PK\x03\x04" + bytes(30), r"such as \.xlsx"),
        (gzip.compress(b"user_id,item_id\n1,2\n"), r"such as \.gz"),
        (b"x" * (2**20 + 5), "none in the first 1048576 bytes"),
    ],
)
def test_a_file_of_another_kind_is_told_from_text(tmp_path: Path, body: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        _table(tmp_path / "a.csv", body)


# --- no header ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (f"{SECRET},100\nuser.b@example.invalid,100\n", "it has 2 columns"),
        (f"{SECRET}\t100\t5\t978300760\n2\t3\t4\t978300761\n", "it has 4 columns"),
        (f"{SECRET}::1193::5\n1::661::3\n", "it has 1 column. Cells are separated by tab, comma, semicolon or |"),
        (f"{SECRET} 1193\n1 661\n", "it has 1 column."),
        (f"user_id,\x1b[2J{SECRET}\n1,2\n", ""),
    ],
)
def test_a_file_without_header_is_refused_without_quoting_it(tmp_path: Path, body: str, count: str) -> None:
    message = _find(_table(tmp_path / "a.csv", body))
    assert SECRET not in message
    assert "\x1b" not in message
    if count:
        assert message.startswith(
            "a.csv: this looks like a file without a header: the first line has no column user_id;"
        )
        assert count in message
    else:
        assert "expected a column item_id, found none in 2 columns" in message


def test_a_misspelt_column_is_named_by_its_place(tmp_path: Path) -> None:
    message = _find(_table(tmp_path / "a.csv", f"{SECRET},User-Id,item_id\n1,2,3\n"))
    assert "expected a column user_id, found none in 3 columns. Did you mean column 2 of 3?" in message
    assert SECRET not in message
    with pytest.raises(DataError, match=r"columns 1 and 2 of 3 have the same name") as caught:
        _table(tmp_path / "a.csv", f"{SECRET},{SECRET},1\n")
    assert SECRET not in str(caught.value)


# --- compressed text ------------------------------------------------------------------------------


def _compressed(body: bytes, compression: str) -> bytes:
    return gzip.compress(body) if compression == "gzip" else pa.compress(body, "zstd", asbytes=True)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("parts", [1, 3])
def test_compressed_text_is_read_as_the_text_in_it(
    tmp_path: Path, compression: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows.ingest.raw_tables, "TEXT_BLOCK_BYTES", 4096)
    lines = [b"user_id,item_id", *(b"%d,%d" % (row, row % 7) for row in range(3_000))]
    cut = len(lines) // parts
    pieces = [b"".join(line + b"\n" for line in lines[part * cut : (part + 1) * cut]) for part in range(parts)]
    body = b"".join(_compressed(piece, compression) for piece in pieces)
    ids = _ids(_table(tmp_path / "a.csv.packed", body, compression=compression))
    assert ids == [str(row) for row in range(parts * cut - 1)]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("keep", [0.2, 0.9, 0.999])
def test_compressed_text_that_ends_too_early_is_refused_by_name(tmp_path: Path, compression: str, keep: float) -> None:
    numbers = np.random.default_rng(5).integers(10**8, 10**9, 140_000).astype("S9").reshape(-1, 2)
    body = b"user_id,item_id\n" + b"\n".join(b",".join(pair) for pair in numbers.tolist())
    packed = _compressed(body, compression)
    with pytest.raises(DataError, match=r"^a\.csv\.packed: the compressed data ends too early or is damaged.*Nothing"):
        _ids(_table(tmp_path / "a.csv.packed", packed[: int(len(packed) * keep)], compression=compression))


def test_text_that_was_named_compressed_and_is_not_is_refused_by_name(tmp_path: Path) -> None:
    for compression in ("gzip", "zstd"):
        with pytest.raises(DataError, match=r"^a\.csv\.gz: the compressed data"):
            _table(tmp_path / "a.csv.gz", b"user_id,item_id\n1,2\n", compression=compression)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_text_that_unpacks_without_end_is_stopped_while_it_is_read(
    tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows.ingest.opening, "SMALL_TEXT_BYTES", 2**22)
    body = _compressed(b"user_id,item_id\n" + b"1,2\n" * 2**21, compression)
    assert len(body) < 20_000
    message = _refused(_table(tmp_path / "a.csv.packed", body, compression=compression))
    assert message.startswith("a.csv.packed: unpacks to more than 4 MiB")


# --- lines ----------------------------------------------------------------------------------------


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    body = '\ufeff\r\nuser_id,item_id,title\r\n1,1,a\r\n\r\n2,2,"two\r\nlines"\r\n   \r\n,3,c\r\nNone,4,d\r\n5,5,e'
    message = _refused(_table(tmp_path / "a.csv", body))
    assert "found no id in lines 8, 9 (2 in all)" in message
    body = body.replace("\r\n", "\n").replace("None", "1.5")
    message = _refused(_table(tmp_path / "a.csv", body))
    assert "found no id in line 8 (1 in all)" in message
    assert "found fractions in line 9 (1 in all)" in message


def test_lines_of_tab_separated_and_compressed_files_are_counted_alike(tmp_path: Path) -> None:
    body = b'user_id\titem_id\ttitle\n\n1\t1\t"a\n2\t2\tb"\n-3\t3\tc\n'
    for compression in ("", "gzip", "zstd"):
        packed = _compressed(body, compression) if compression else body
        message = _refused(_table(tmp_path / "a.tsv", packed, compression=compression))
        assert "found negative ids in line 5 (1 in all)" in message


def test_ragged_lines_are_counted_alike(tmp_path: Path) -> None:
    body = f'user_id,item_id\n\n1,"a\nb"\n{SECRET}\n2,2\n3,3,3\n'
    message = _refused(_table(tmp_path / "a.csv", body))
    assert "expected 2 cells in every line, found fewer or more in lines 5, 7 (2 in all)" in message
    assert SECRET not in message
    names_of_rows = '"user_id","item_id"\n"1",7,1\n"2",8,2\n'
    assert "lines 2, 3 (2 in all)" in _refused(_table(tmp_path / "a.csv", names_of_rows))


def test_lines_far_down_and_over_many_blocks_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflows.ingest.raw_tables, "TEXT_BLOCK_BYTES", 512)
    rows = [f'{row},"{"x" if row % 3 else f"x{chr(10)}y"}"' for row in range(500)]
    rows[400] = "1.7E+01,z"
    text = "user_id,item_id\n" + "\n".join(rows)
    line = text[: text.index("1.7E+01")].count("\n") + 1
    message = _refused(_table(tmp_path / "a.csv", text))
    assert "found numbers in scientific notation, which have lost digits" in message
    assert f" in line {line} (1 in all)" in message


def test_a_cell_too_long_for_the_counter_leaves_the_number_of_the_row(tmp_path: Path) -> None:
    text = f'user_id,item_id,title\n1,1,"{"x" * 200_000}"\n-2,2,b\n'
    assert "found negative ids in row 2 (1 in all)" in _refused(_table(tmp_path / "a.csv", text))
