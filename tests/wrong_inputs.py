"""Wrong inputs of every kind of file, each with something private beside what is wrong. No message may repeat it."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NUMBER = "987654321"
LONG = "7315936402718485129"  # one of 64 bits
MAIL = "person.k77@example.invalid"
SECRET = "wJalrXUtnFEMIplanted/K7MDENG+bPxRfi"
PRIVATE = (NUMBER, LONG, MAIL, SECRET)

COLUMNS = ("request_id", "kind", "user_id", "item_id", "received_time", "regulation", "verified")
GOOD: dict[str, str] = {
    "request_id": "r-1",
    "kind": "user",
    "user_id": MAIL,
    "item_id": "",
    "received_time": "2026-03-01T09:30:00Z",
    "regulation": "gdpr",
    "verified": "true",
}


@dataclass(frozen=True)
class Wrong:
    """A command on files that are wrong. ``command`` holds ``{here}``, where the files lie, and ``{job}``."""

    name: str
    command: str
    files: dict[str, bytes]


# --- requests -----------------------------------------------------------------------------------


def wrong_requests() -> Iterator[Wrong]:
    """Request files: every column with cells that it cannot have, in every format, and files that are no tables."""
    for suffix, written in _WRITERS.items():
        for column in COLUMNS:
            for number, cell in enumerate(_bad_cells(column)):
                row = GOOD | {"request_id": f"r-{suffix}-{column}-{number}"} | {column: cell}
                yield _submitted(f"{column}-{number}.{suffix}", written([row]))
        for column in COLUMNS:
            yield _submitted(f"renamed-{column}.{suffix}", written([{_renamed(n, column): c for n, c in GOOD.items()}]))
        twice = [GOOD, GOOD | {"user_id": NUMBER}]
        yield _submitted(f"twice.{suffix}", written(twice))
        body = written([GOOD, GOOD | {"request_id": "r-2", "user_id": LONG}])
        yield _submitted(f"cut.{suffix}", body[: body.rfind(LONG.encode()) + 5])
    for name, body in _no_tables().items():
        yield _submitted(name, body)
    yield Wrong("held", "tru delete hold --subjects {here}/a.csv --reason x --job {job}", {"a.csv": MAIL.encode()})
    yield Wrong("reconsent", "tru delete reconsent {here}/a.csv --job {job}", {"a.csv": f"{MAIL},{NUMBER}\n".encode()})


def _submitted(name: str, body: bytes) -> Wrong:
    return Wrong(name, "tru delete submit {here}/" + name + " --job {job} --json", {name: body})


def _bad_cells(column: str) -> tuple[str, ...]:
    cells = (f"\x1b[2J{MAIL}", f"{MAIL}\u202e", MAIL * 40)
    if column == "request_id":
        return (*cells, MAIL, f"case {MAIL}", "")
    numbers = (f"{NUMBER}.5", f"{LONG}e3")
    return (*cells, *numbers) if column in ("user_id", "item_id") else (*cells, *numbers, MAIL, NUMBER, "")


def _renamed(name: str, column: str) -> str:
    return MAIL if name == column else name


def _csv(rows: list[dict[str, str]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="none", use_dictionary=False)
    return sink.getvalue()


_WRITERS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "csv": _csv,
    "tsv": lambda rows: _csv(rows, "\t"),
    "json": lambda rows: json.dumps(rows).encode(),
    "jsonl": lambda rows: b"\n".join(json.dumps(row).encode() for row in rows),
    "parquet": _parquet,
}


def _no_tables() -> dict[str, bytes]:
    header = "request_id,kind,user_id,item_id\n"
    row = f"r-1,user,{MAIL},\n"
    texts = {
        "no-header.csv": f"{MAIL},{NUMBER},{LONG}\n{MAIL},{NUMBER},{LONG}\n",
        "only-ids.csv": f"{MAIL}\n{NUMBER}\n",
        "open-quote.csv": f'{header}r-1,user,"{MAIL},\n',
        "letters-after-a-quote.csv": f'{header}r-1,user,"{MAIL}"x,\n',
        "more-fields.csv": f"{header}r-1,user,{MAIL},{NUMBER},{LONG}\n",
        "fewer-fields.csv": f"{header}r-1,{MAIL}\n",
        "semicolons.csv": header.replace(",", ";") + row.replace(",", ";"),
        "nul.csv": f"{header}r-1,user,{MAIL}\0,\n",
        "lone-surrogate.json": f'[{{"request_id": "r-1", "kind": "user", "user_id": "{MAIL}\\ud800"}}]',
        "only-text.json": json.dumps(MAIL),
        "one-quote.json": f"[{{'request_id': '{MAIL}'}}]",
        "field-twice.json": f'[{{"user_id": "{MAIL}", "user_id": "{NUMBER}"}}]',
        "unknown-field.json": f'[{{"request_id": "r-1", "kind": "user", "user_id": "1", "{MAIL}": 1}}]',
        "nested.json": f'[{{"request_id": "r-1", "kind": "user", "user_id": {{"id": "{MAIL}"}}}}]',
        "list.json": f'[{{"request_id": "r-1", "kind": "user", "user_id": ["{MAIL}"]}}]',
        "float.json": f'[{{"request_id": "r-1", "kind": "user", "user_id": {NUMBER}.5}}]',
        "long-number.json": f'[{{"request_id": "r-1", "kind": "user", "user_id": {LONG * 300}}}]',
        "bare-line.jsonl": f'{{"request_id": "r-1", "kind": "user", "user_id": "{MAIL}"}}\n{NUMBER}\n',
        "deep.json": "[" * 3000 + f'"{MAIL}"' + "]" * 3000,
    }
    bodies = {name: text.encode() for name, text in texts.items()}
    good = {"request_id": "r-1", "kind": "user", "item_id": ""}
    return bodies | {
        "latin.csv": f"{header}r-1,user,{MAIL}\xe9,\n".encode("latin-1"),
        "wide.csv": f"{header}{row}".encode("utf-16"),
        "float.parquet": _parquet([good | {"user_id": float(NUMBER) + 0.5}]),
        "list.parquet": _parquet([good | {"user_id": [MAIL]}]),
        "bytes.parquet": _parquet([good | {"user_id": MAIL.encode() + b"\xff"}]),
        "struct.parquet": _parquet([good | {"user_id": {MAIL: 1}}]),
        "text.parquet": f"{header}{row}".encode(),
        "text.gz.csv": b"\x1f\x8b" + MAIL.encode(),
        "text.csv.gz": f"{header}{row}".encode(),
    }


# --- job files ----------------------------------------------------------------------------------

_BLOCKS = ("backbone", "fit", "forget", "unlearn", "scaling", "sweep", "delete", "ledger", "keys", "compare", "audit")
_JOB = "storage: {store}\ndataset: tiny\nmodel: mgcn\n"


def wrong_jobs() -> Iterator[Wrong]:
    """Job files with a secret where none belongs, or beside what is no YAML."""
    texts = {f"unknown-in-{block}": f"{block}: {{aws_secret_access_key: {SECRET}}}\n" for block in _BLOCKS}
    texts |= {f"instead-of-{block}": f"{block}: {{password: {SECRET}}}\n{block}: 1\n" for block in _BLOCKS}
    texts |= {f"list-in-{block}": f"{block}: [{{token: {SECRET}}}]\n" for block in _BLOCKS}
    texts |= {
        "unknown": f"password: {SECRET}\n",
        "open-brace": f"keys: {{password: {SECRET}\n",
        "open-quote": f'password: "{SECRET}\n',
        "tab": f"keys:\n\tpassword: {SECRET}\n",
        "no-colon": f"password: {SECRET}: x\n",
        "tag": f"password: !!python/object/apply:os.system [{SECRET}]\n",
        "unknown-alias": f"password: *{SECRET.replace('/', '').replace('+', '')}\n",
        "control": f"password: {SECRET}\x07\n",
        "key-twice": f"password: {SECRET}\npassword: {SECRET}\n",
        "key-is-a-list": f"? [{SECRET}]\n: 1\n",
    }
    for name, text in texts.items():
        yield _job(name, _JOB + text)
    storages = {
        "user-in-url": f"s3://key:{SECRET}@bucket/prefix",
        "secret-in-query": f"s3://bucket/prefix?secret={SECRET}",
        "other-scheme": f"gs://key:{SECRET}@bucket/prefix",
        "user-in-endpoint": f"{{url: s3://bucket/p, endpoint_url: 'https://key:{SECRET}@host'}}",
        "secret-beside": f"{{url: s3://bucket/p, secret_access_key: {SECRET}}}",
        "secret-in-region": f"{{url: s3://bucket/p, region: '{SECRET}'}}",
        "list": f"[s3://key:{SECRET}@bucket/prefix]",
    }
    for name, text in storages.items():
        yield _job(f"storage-{name}", f"storage: {text}\ndataset: tiny\nmodel: mgcn\n")


def _job(name: str, text: str) -> Wrong:
    command = "tru versions --job {here}/job.yaml"
    if "ledger" in name or "keys" in name:
        command = "tru delete list --job {here}/job.yaml --json"
    return Wrong(name, command, {"job.yaml": text.encode()})


# --- receipts and keys --------------------------------------------------------------------------


def wrong_receipts(receipt: bytes) -> Iterator[Wrong]:
    """Receipts that were edited: at every place something private is put in.

    Args:
        receipt: A sound one.
    """
    value = json.loads(receipt)
    for name, part in value.items():
        yield _receipt(f"{name}-is-text", json.dumps(value | {name: MAIL}).encode())
        if isinstance(part, dict):
            for field in part:
                yield _receipt(f"{name}-{field}", json.dumps(value | {name: part | {field: MAIL}}).encode())
    yield _receipt("unknown-field", json.dumps(value | {MAIL: NUMBER}).encode())
    yield _receipt("no-json", f'{{"user": "{MAIL}"'.encode())
    yield _receipt("bare-text", MAIL.encode())
    yield _receipt("a-list", json.dumps([MAIL, NUMBER]).encode())
    yield _receipt("cut", receipt[:-20] + MAIL.encode())
    sound = {"receipt.json": receipt}
    for name, words in {
        "another-user": f"--identity-key {{keys}}/identity.key --user {MAIL}",
        "another-item": f"--identity-key {{keys}}/identity.key --item {NUMBER}",
        "another-pair": f"--identity-key {{keys}}/identity.key --user {MAIL} --item {NUMBER}",
        "user-without-key": f"--user {MAIL}",
    }.items():
        yield Wrong(name, f"tru verify {{here}}/receipt.json --public-key {{keys}}/signing.pub {words}", sound)


def _receipt(name: str, body: bytes) -> Wrong:
    return Wrong(name, "tru verify {here}/receipt.json --public-key {keys}/signing.pub --json", {"receipt.json": body})


def wrong_keys(public: bytes, receipt: bytes) -> Iterator[Wrong]:
    """Key files that hold something secret in another form."""
    for name, body in {
        "secret": SECRET.encode(),
        "limit": f"not-after: {SECRET}\n".encode() + public,
        "line": f"{SECRET}\n".encode() + public,
        "half": public[:60] + SECRET.encode(),
        "latin": SECRET.encode() + b"\xe9" + public,
    }.items():
        command = "tru verify {here}/receipt.json --public-key {here}/key.pub"
        yield Wrong(f"public-{name}", command, {"key.pub": body, "receipt.json": receipt})
    job = b"storage: {store}\ndataset: tiny\nmodel: mgcn\nkeys: {folder: {here}}\n"
    for name, body in {
        "text": SECRET.encode(),
        "long": SECRET.encode() * 200,
        "latin": SECRET.encode() + b"\xe9",
    }.items():
        files = {"job.yaml": job, "identity.key": body}
        yield Wrong(f"identity-{name}", "tru delete list --job {here}/job.yaml", files)


# --- imports ------------------------------------------------------------------------------------


def wrong_sources() -> Iterator[Wrong]:
    """Raw folders that are refused before a row is read."""
    rows = f"{MAIL},{NUMBER}\n{MAIL},{LONG}\n"
    texts = {
        "no-header": rows,
        "one-column": f"{MAIL}\n{NUMBER}\n",
        "user-column-renamed": f"{MAIL},item_id\n{rows}",
        "item-column-renamed": f"user_id,{NUMBER}\n{rows}",
        "column-twice": f"user_id,item_id,{MAIL},{MAIL}\n{rows}",
        "semicolons": rows.replace(",", ";"),
        "tabs": rows.replace(",", "\t"),
        "binary": f"user_id,item_id\n{MAIL}\0,1\n",
        "quoted": f'"{MAIL}","{NUMBER}"\n',
    }
    for name, text in texts.items():
        yield _source(name, {"interactions.csv": text.encode()})
    yield _source("latin", {"interactions.csv": f"user_id,item_id\n{MAIL}\xe9,1\n".encode("latin-1")})
    yield _source("text-as-parquet", {"interactions.parquet": rows.encode()})
    yield _source("no-columns", {"interactions.parquet": _parquet([{MAIL: 1, NUMBER: 2}])})
    yield _source("lists", {"interactions.parquet": _parquet([{"user_id": [MAIL], "item_id": 1}])})
    body = _parquet([{"user_id": MAIL, "item_id": 1}])
    yield _source("cut", {"interactions.parquet": body[: len(body) // 2]})
    sound = {"interactions.parquet": body}
    yield _source("text-as-matrix", sound | {"features/image.npy": f"{MAIL}\n".encode()})
    yield _source("half-a-matrix", sound | {"features/image.npy": b"\x93NUMPY\x01\x00" + MAIL.encode()})
    yield _source("features-without-ids", sound | {"features/image.parquet": _parquet([{MAIL: [0.5]}])})
    yield _source("features-of-text", sound | {"features/image.parquet": _parquet([{"item_id": 1, "image": [MAIL]}])})
    for name, text in {"columns": f"columns: {{user: 1, password: {SECRET}}}\n", "yaml": f"a: {{b: {SECRET}\n"}.items():
        command = "tru data import {here} --to {store}/datasets/other --keys {keys} --settings {here}/s.yaml"
        yield Wrong(f"settings-{name}", command, {"s.yaml": text.encode()} | sound)
    s3 = f"tru data import s3://key:{SECRET}@bucket/raw --to {{store}}/datasets/other"
    yield Wrong("secret-in-source", s3, {})
    yield Wrong("secret-in-target", f"tru data import {{here}} --to s3://k:{SECRET}@bucket/datasets/other", sound)


def wrong_rows() -> Iterator[Wrong]:
    """Raw folders of which only the rows are wrong."""
    head, timed = "user_id,item_id\n", "user_id,item_id,timestamp\n"
    texts = {
        "blank-item": f"{head}{MAIL},\n",
        "blank-user": f"{head},{NUMBER}\n",
        "no-number": f"{timed}{MAIL},1,{NUMBER}x\n",
        "no-part": f"user_id,item_id,split\n{MAIL},1,{NUMBER}\n",
        "control": f"{head}{MAIL}\x1b[2J,1\n",
        "more-fields": f"{head}{MAIL},1,{NUMBER}\n",
        "open-quote": f'{head}"{MAIL},1\n',
        "rounded": f"{head}9.87654E+8,{NUMBER}\n",
    }
    for name, text in texts.items():
        yield _source(name, {"interactions.csv": text.encode()})
    feature = {"features/image.parquet": _parquet([{"item_id": 5, "image": [0.5, 1.0]}])}
    yield _source("no-feature", feature | {"interactions.csv": f"{head}{MAIL},{NUMBER}\n".encode()})
    table = _parquet([{"user_id": float(NUMBER) + 0.5, "item_id": 1}])
    yield _source("half-a-user", {"interactions.parquet": table})
    good = {"interactions.parquet": _parquet([{"user_id": MAIL, "item_id": 1}])}
    yield _source("map-without-its-column", good | {"users.parquet": _parquet([{MAIL: NUMBER}])})


def _source(name: str, files: dict[str, bytes]) -> Wrong:
    command = f"tru data import {{here}} --to {{store}}/datasets/{name} --keys {{keys}} --json"
    return Wrong(name, command, files)
