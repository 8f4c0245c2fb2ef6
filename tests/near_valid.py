"""Strategies of request files that are nearly valid, in every format, and of bytes that were changed afterwards."""

import csv
import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

COLUMNS = ("request_id", "kind", "user_id", "item_id", "received_time", "regulation", "verified")
NASTY_TEXTS = (
    *(
        "",
        " ",
        "17",
        "17.0",
        "1e1",
        "1E400",
        "+22",
        "-1",
        "0019",
        "\uff11\uff17",
        "NaN",
        "None",
        "null",
        "0x1F",
        "1_000",
    ),
    *(
        "9" * 400,
        "17.000000000000000001",
        "9223372036854775808",
        "1.23457E+11",
        "\u00e9",
        "e\u0301",
        "\ufeff17",
        "\u200b17",
    ),
    *("\x1b[2J", "\x00", "\x9b2J", "\u202e17", "\ud800", "\U0010ffff", "a\nb", "a\tb", '"', '""', "'", "\\", ",", ";"),
    *("user", "item", "interaction", "gdpr", "true", "2026-03-01T09:30:00Z", "2026-13-45", "20261201", "x" * 5000),
)
NUMBERS: tuple[Any, ...] = (0, -1, 17, 17.0, 0.5, 2**53 + 1, 2**63, -(2**63), 10**400, 1e300, True, False, None)

texts = st.sampled_from(NASTY_TEXTS) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)
scalars = st.sampled_from(NUMBERS) | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


@st.composite
def mutated(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were cut, flipped, doubled or added to in up to three places; often not at all."""
    body = draw(bodies)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2, 3)))):
        at = draw(st.integers(0, len(body)))
        kind = draw(st.sampled_from(("cut", "flip", "insert", "repeat", "remove")))
        if kind == "cut":
            body = body[:at]
        elif kind == "flip":
            body = body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :]
        elif kind == "insert":
            body = body[:at] + draw(st.binary(max_size=6)) + body[at:]
        elif kind == "repeat":
            body = body[:at] + body[max(at - 20, 0) : at] * draw(st.integers(1, 5)) + body[at:]
        else:
            body = body[:at] + body[at + draw(st.integers(1, 30)) :]
    return body


# --- requests -----------------------------------------------------------------------------------


@st.composite
def rows(draw: st.DrawFn, cells: st.SearchStrategy[Any]) -> list[dict[str, Any]]:
    """Rows of requests of which some cells, and seldom a column's name, are something else."""
    names = [draw(texts) if draw(st.integers(0, 30)) == 0 else name for name in COLUMNS[: draw(st.integers(3, 7))]]
    found = []
    for number in range(draw(st.integers(0, 4))):
        good = (f"r-{number}", "user", str(number), "", "2026-03-01T09:30:00Z", "gdpr", "true")
        row = {
            name: draw(cells) if draw(st.integers(0, 5)) == 0 else cell for name, cell in zip(names, good, strict=False)
        }
        found.append(row)
    return found


@st.composite
def delimited(draw: st.DrawFn) -> bytes:
    """CSV or another delimited text, in some encoding."""
    text = io.StringIO()
    quoting = draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE)))
    delimiter, line_end = draw(st.sampled_from(",\t;|")), draw(st.sampled_from(("\n", "\r\n", "\r", "\n\n")))
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting, escapechar="\\")
    table = draw(rows(texts))
    if table and draw(st.integers(0, 9)):
        writer.writerow(table[0])
    for row in table:
        writer.writerow(list(row.values()) + draw(st.lists(texts, max_size=1)) * draw(st.sampled_from((0, 0, 0, 1))))
    encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp500")))
    return text.getvalue().encode(encoding, errors="replace")


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    """JSON, or one JSON object a line."""
    table = draw(rows(values))
    if draw(st.booleans()):
        return "\n".join(json.dumps(row) for row in table).encode()
    value = draw(st.sampled_from((table, {"requests": table}, table[:1], table[0] if table else None)))
    text = json.dumps(draw(values) if draw(st.integers(0, 9)) == 0 else value)
    depth = draw(st.sampled_from((0, 0, 0, 0, 30, 2000)))
    return ("[" * depth + text + "]" * depth).encode()


@st.composite
def parquet_bytes(draw: st.DrawFn) -> bytes:
    """A table whose columns have any type."""
    num_rows = draw(st.integers(0, 3))
    columns = {}
    for name in COLUMNS[: draw(st.integers(3, 7))]:
        kind = draw(st.sampled_from(_TYPES))
        drawn = draw(st.lists(st.sampled_from(_CELLS[kind]), min_size=num_rows, max_size=num_rows))
        columns[draw(texts) if draw(st.integers(0, 30)) == 0 else name] = pa.array(drawn, type=kind)
    sink = io.BytesIO()
    table = pa.table({name.encode(errors="replace").decode(): column for name, column in columns.items()})
    codec = draw(st.sampled_from(("none", "snappy", "zstd", "gzip")))
    pq.write_table(table, sink, compression=codec, use_dictionary=draw(st.booleans()))
    return sink.getvalue()


_WORDS = [text for text in NASTY_TEXTS if text != "\ud800"] + [None]
_CELLS: dict[pa.DataType, list[Any]] = {
    pa.string(): ["r-1", "r-2", "user", *_WORDS],
    pa.large_string(): ["r-1", "user", *_WORDS],
    pa.dictionary(pa.int32(), pa.string()): ["user", "item", *_WORDS],
    pa.int64(): [0, 17, -1, 2**63 - 1, None],
    pa.uint64(): [0, 17, 2**64 - 1, None],
    pa.int8(): [0, 17, None],
    pa.float64(): [0.0, 17.0, 0.5, float("nan"), float("inf"), 1e300, 2.0**53, None],
    pa.float32(): [17.0, 0.5, float("nan"), None],
    pa.bool_(): [True, False, None],
    pa.null(): [None],
    pa.binary(): [b"17", b"\xff\x00", None],
    pa.list_(pa.string()): [["17"], [], None],
    pa.struct([("a", pa.int64())]): [{"a": 17}, None],
    pa.timestamp("ns", tz="UTC"): [0, 2**62, -(2**62), None],
    pa.timestamp("s"): [0, 2**40, -(2**45), None],
    pa.date32(): [0, 2**31 - 1, None],
    pa.decimal128(38, 2): [None],
    pa.duration("us"): [17, None],
}
_TYPES = list(_CELLS)

_SUFFIXES = ("csv", "tsv", "txt", "json", "jsonl", "ndjson", "parquet", "csv.gz", "jsonl.gz", "csv.zst", "xlsx", "")


@st.composite
def request_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """The name and bytes of a request file; seldom does its name say another kind."""
    kind = draw(st.sampled_from(("csv", "tsv", "json", "jsonl", "parquet", "csv.gz")))
    written = {"json": json_texts, "jsonl": json_texts, "parquet": parquet_bytes}.get(kind, delimited)
    body = draw(mutated(written()))
    if kind.endswith(".gz"):
        body = draw(mutated(st.just(gzip.compress(body, mtime=0))))
    suffix = draw(st.sampled_from(_SUFFIXES)) if draw(st.integers(0, 9)) == 0 else kind
    return f"requests.{suffix}", body
