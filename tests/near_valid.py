"""Strategies of files that are nearly valid: requests in every format, job files, receipts, and bytes changed after."""

import base64
import copy
import csv
import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.receipt_samples import SIGNING, receipts
from tru_core.canonical import canonical_json
from tru_core.dsse import sign_payload
from tru_core.errors import TruError

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


# --- job files ----------------------------------------------------------------------------------

_BLOCKS = {
    "storage": ("store", "s3://bucket/p", "{url: store}", "{url: s3://b-1/p, endpoint_url: 'https://host'}"),
    "dataset": ("tiny", "'1'"),
    "model": ("tiny-mgcn",),
    "precision": ("float32", "float64"),
    "backbone": ("{name: mgcn, settings: {embedding_size: 8}}", "{name: freedom}"),
    "fit": ("{max_epochs: 1}", "{max_epochs: 2, learning_rate: 1e-3, batch_size: 256}"),
    "forget": ("{regime: user, share: 0.05}", "{regime: item, count: 3}"),
    "unlearn": ("{reverse_steps: 4}", "{tolerance: 0.01}"),
    "scaling": ("{num_workers: 1}", "{start_timeout_seconds: 3.5}"),
    "sweep": ("{module_share: [0.5]}",),
    "delete": ("{audit: 'off', min_requests: 1}", "{on_refused: [stop], grace_days: 0}"),
    "ledger": ("{count_as_verified: true}", "{regulations: {lgpd: {days: 15}}, default_regulation: lgpd}"),
    "keys": ("{folder: keys}",),
    "compare": ("{methods: [{name: tru}], seeds: [0, 1]}", "{forget: [{regime: user, share: 0.05}]}"),
    "audit": ("{}", "{candidates: [{name: tru}]}"),
}
_NASTY_YAML = (
    *(
        "yes",
        "off",
        "010",
        "0o17",
        "1:30",
        "1_000",
        "0x1F",
        "0b11",
        ".inf",
        "-.inf",
        ".nan",
        "1e400",
        "9" * 5000,
        "1e-3",
    ),
    *(
        "2026-13-45",
        "2026-11-30",
        "2026-11-30T25:00:00Z",
        "2001-1-1",
        "0000-00-00",
        "~",
        "null",
        "=",
        "<<",
        "''",
        "' '",
    ),
    *(
        "!!python/object:os.system {}",
        "!!binary aGk=",
        "!!binary '*'",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
    ),
    *(
        "!!timestamp x",
        "!!int x",
        "!!int ''",
        "!!float x",
        "!!bool x",
        "!!null x",
        "!!str 1",
        "!!map []",
        "!!seq {}",
        "!x 1",
    ),
    *(
        "&a [*a]",
        "&a {k: *a}",
        "*b",
        "&a x",
        "{<<: 1}",
        "{<<: {a: 1}}",
        "{<<: [1]}",
        "{? [1]: 2}",
        "{? {a: 1}: 2}",
        "{a, a}",
    ),
    *(
        "[" * 60 + "]" * 60,
        "[" * 3000,
        "{a: " * 40 + "1" + "}" * 40,
        "|\n  a\n  b",
        ">-\n  a",
        '"\\x1b[2J"',
        '"\\0"',
        "'\x85'",
    ),
    *(
        '"\\ud800"',
        '"\\U0010ffff"',
        "\ufeff",
        "\x07",
        "@",
        "`",
        "%",
        "- 1",
        "? x",
        "a: b: c",
        "--- 1",
        "...",
        "#",
        '"',
        "{",
        "]",
    ),
    *(
        "true",
        "1.0",
        "0",
        "-1",
        "1",
        "2.5",
        "'1'",
        "[1, 2]",
        "{}",
        "[]",
        "mgcn",
        "x" * 3000,
        "s3://k:v@b/p",
        "../../etc",
    ),
)


@st.composite
def job_texts(draw: st.DrawFn) -> bytes:
    """A job file of which some settings, names or whole lines are something else."""
    lines = []
    for name, choices in _BLOCKS.items():
        is_needed = name in ("storage", "dataset", "model")
        if not draw(st.integers(0, 30)) if is_needed else draw(st.integers(0, 3)):
            continue
        text = draw(st.sampled_from(choices))
        if draw(st.integers(0, 5)) == 0:
            nasty = draw(st.sampled_from(_NASTY_YAML) | st.text(max_size=8))
            head, colon, rest = text.partition(": ")
            text = f"{head}{colon}{nasty}{rest[rest.find('}') :] if '}' in rest else ''}" if colon else nasty
        lines.append(f"{name}: {text}")
    if draw(st.integers(0, 5)) == 0:
        lines.append(draw(st.sampled_from((*_NASTY_YAML, *lines))))
    if draw(st.integers(0, 9)) == 0:
        num_levels = draw(st.integers(2, 8))
        lines.insert(0, _bomb(num_levels, draw(st.integers(2, 10))))
        lines.append(f"compare: *a{num_levels - 1}")
    line_end = draw(st.sampled_from(("\n", "\n", "\r\n", "\r", "\n\n", "\u2028")))
    return (draw(st.sampled_from(("", "", "\ufeff", "%YAML 1.1\n---\n"))) + line_end.join(lines)).encode(
        errors="replace"
    )


def _bomb(num_levels: int, width: int) -> str:
    levels = ["a0: &a0 [x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, num_levels)]
    return "\n".join(levels)


job_files = mutated(job_texts())


# --- receipts and keys --------------------------------------------------------------------------

_RECEIPT = receipts()[0]


@st.composite
def receipt_files(draw: st.DrawFn) -> bytes:
    """A receipt of which a value is another one: in the file, or in the statement, which is signed anew."""
    value = json.loads(_RECEIPT)
    if draw(st.integers(0, 9)) == 0:
        return draw(mutated(st.just(_RECEIPT)))
    if draw(st.booleans()):
        payload = json.loads(base64.b64decode(value["envelope"]["payload"]))
        packed = _packed(_with_another_value(draw, payload))
        value["envelope"] = sign_payload(draw(mutated(st.just(packed))), SIGNING).model_dump(mode="json")
    else:
        value = _with_another_value(draw, value)
    return draw(mutated(st.just(_packed(value))))


def _packed(value: Any) -> bytes:
    try:
        return canonical_json(value, where="test")
    except (TruError, ValueError):  # no canonical form: as a careless writer has it
        return json.dumps(value).encode()


def _with_another_value(draw: st.DrawFn, value: Any) -> Any:
    """The same JSON value with another value, name or entry at one place, or without one."""
    value = copy.deepcopy(value)
    inner = value
    while True:
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not places:
            return value
        place = draw(st.sampled_from(places))
        if isinstance(inner[place], dict | list) and inner[place] and draw(st.integers(0, 3)):
            inner = inner[place]
            continue
        kind = draw(st.sampled_from(("replace", "replace", "remove", "add")))
        if kind == "remove":
            del inner[place]
        elif kind == "add" and isinstance(inner, dict):
            inner[draw(texts)] = draw(values)
        else:
            inner[place] = draw(values)
        return value


@st.composite
def public_key_files(draw: st.DrawFn, pem: bytes) -> bytes:
    """A public key below lines that may be limits."""
    limits = (
        "not-after: 2099-01-01T00:00:00+00:00",
        "Not-After: 2020-01-01T00:00:00Z",
        "not-after: 2099-01-01",
        "not-after",
    )
    lines = draw(st.lists(st.sampled_from((*limits, "# a remark", "")) | st.text(max_size=20), max_size=3))
    text = "\n".join([*lines, ""]).encode(errors="replace")
    return draw(mutated(st.just(text + pem)))
