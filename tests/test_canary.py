"""Ids, names and secrets that are planted: nothing that a command prints, logs or keeps may hold them.

The whole way of a deletion on real Ray workers, with Ray's own logs; then wrong inputs of every kind of file.
"""

import io
import shutil
import struct
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.cases.commands import Said, run_line
from tests.cases.judge import CODES, MAX_MESSAGE_LETTERS
from tests.cases.worlds import Place
from tests.receipt_samples import IDENTITY, SIGNING, receipts
from tests.wrong_inputs import (
    PRIVATE,
    SECRET,
    Wrong,
    wrong_jobs,
    wrong_keys,
    wrong_receipts,
    wrong_requests,
    wrong_rows,
    wrong_sources,
)
from workflows.ingest import importer
from workflows.running import cluster
from workflows.storage.local import LocalStore
from workflows.storage.object_keys import ledger_payloads_prefix

NUMBER, LONG, MAIL, ITEM = "987654321", "7315936402718485129", "person.k77@example.invalid", 8123456789012345678
DELETED = (NUMBER, LONG, MAIL, str(ITEM))
ABSENT = "absent.k79@nowhere.invalid"
KEPT = ("kept.k78@example.invalid", "7700990077")  # a user and an item that stay
SECRETS = (SECRET, "planted-session-token-5f2c", "planted-ray-token-91ab")
ENVIRONMENT = dict(zip(("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"), SECRETS, strict=True))
HEADER = "request_id,kind,user_id,item_id\n"
JOB = """storage: {store}
dataset: shop
model: mgcn
backbone: {name: mgcn, settings: {embedding_size: 8}}
fit: {max_epochs: 1}
delete: {audit: "off", min_requests: 1, grace_days: 0, leftover_minutes: 0.0}
keys: {folder: {keys}}
"""


# --- looking for what was planted ---------------------------------------------------------------


def spellings(text: str) -> Iterator[bytes]:
    """The bytes by which a planted text may lie in a file: as text, and a number in eight bytes."""
    yield text.encode()
    if text.isdigit() and int(text) < 2**63:
        yield from (struct.pack("<q", int(text)), struct.pack("<d", float(text)))


def found_in(body: bytes, planted: Iterable[str]) -> list[str]:
    """Which of the planted texts some bytes hold. Of a parquet file, the values that it decodes to count too."""
    if body[:4] == b"PAR1":
        table = pq.read_table(pa.BufferReader(body))
        body += repr(table.to_pylist()).encode()
    return [text for text in planted if any(spelling in body for spelling in spellings(text))]


def leaks_of(said: Iterable[Said], planted: Iterable[str]) -> list[str]:
    """Which commands said something that was planted."""
    planted = tuple(planted)
    return [f"{one.words}: {text}" for one in said for text in planted if text in one.text]


def test_what_is_planted_is_found_in_text_numbers_and_compressed_tables() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [MAIL] * 99, "b": [int(NUMBER)] * 99}), sink, compression="zstd")
    assert MAIL.encode() * 2 not in sink.getvalue()
    assert found_in(sink.getvalue(), DELETED) == [NUMBER, MAIL]
    assert found_in(np.array([ITEM, 5]).tobytes(), DELETED) == [str(ITEM)]
    assert found_in(f"x{LONG}y".encode(), DELETED) == [LONG]
    assert found_in(b"nothing", DELETED) == []


# --- the whole way ------------------------------------------------------------------------------


def write_shop(folder: Path) -> Path:
    """Forty users by text, among them those that are planted; thirty items by number."""
    users = [NUMBER, LONG, MAIL, KEPT[0], *(f"u{number}" for number in range(36))]
    items = [ITEM, int(KEPT[1]), *range(28)]
    pairs = [(user, items[(row + 2 * place) % 30]) for row, user in enumerate(users) for place in range(9)]
    draw = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    (folder / "features").mkdir(parents=True)
    table = pa.table({"user_id": [user for user, _ in pairs], "item_id": [item for _, item in pairs]})
    pq.write_table(table, folder / "interactions.parquet")
    vectors = pa.array(draw.tolist(), type=pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": items, "image": vectors}), folder / "features" / "image.parquet")
    return folder


def ray_logs() -> bytes:
    """Every byte that Ray's processes logged in this session."""
    from ray._private.worker import global_worker

    node = global_worker.node
    assert node is not None
    folder = Path(node.get_logs_dir_path())
    bodies = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(bodies) > 3
    return b"\n".join(bodies)


def planted_keys(place: Place) -> list[str]:
    """The secrets in the key files, line by line."""
    texts = [(place.keys / name).read_text() for name in ("identity.key", "signing.key")]
    return [line for text in texts for line in text.split("\n") if line and "KEY-----" not in line]


@pytest.mark.ray
def test_after_a_purge_no_byte_says_who_was_deleted_and_no_output_said_it_before(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    place = Place(tmp_path / "shop")
    place.folder.mkdir()
    place.prepare()
    place.job.write_text(place.fill(JOB))
    write_shop(place.folder / "raw")
    said: list[Said] = []

    def tru(words: str, *, expect: int = 0) -> None:
        said.append(run_line(place.fill(f"tru {words}"), place.work))
        assert said[-1].exit == expect, said[-1].text

    tru("keys new {keys}")
    tru("data import {folder}/raw --to {store}/datasets/shop --keys {keys} --json")
    tru("train {job}")
    lines = (
        f"w-1,user,{NUMBER},",
        f"w-2,user,{LONG},",
        f"w-3,user,{MAIL},",
        f"w-4,item,,{ITEM}",
        f"w-5,user,{ABSENT},",
    )
    (place.folder / f"erasure-of-{NUMBER}.csv").write_text(HEADER + "\n".join(lines))
    (place.folder / "kept.csv").write_text(f"{HEADER}w-6,user,{KEPT[0]},\nw-7,interaction,{KEPT[0]},{KEPT[1]}\n")
    tru("delete submit {folder}/erasure-of-" + NUMBER + ".csv --job {job} --json")
    tru("delete hold --subjects {folder}/kept.csv --reason court --job {job}")
    tru("delete submit {folder}/kept.csv --job {job}", expect=9)  # what is new there is held
    for words in ("due", "list --check", "explain w-1 --history", "submission-id"):
        tru(f"delete {words} --job {{job}}")
    tru("delete hold w-1 --reason asked --job {job}")
    tru("delete release w-1 --reason done --job {job}")
    store = LocalStore(place.store)
    before = {text for info in store.list("") for text in found_in(store.read(info.key), DELETED)}
    assert before == set(DELETED)  # what is looked for below can be seen

    tru("delete run --now --job {job} --json")
    tru("delete receipt w-1 --job {job} --out {out}/w-1.json")
    keys = "--public-key {keys}/signing.pub --identity-key {keys}/identity.key --storage {store}"
    tru(f"verify {{out}}/w-1.json {keys} --user {NUMBER}")
    tru(f"verify {{out}}/w-1.json {keys} --user {MAIL}", expect=8)  # of another person
    for words in ("delete sweep", "delete purge", "delete list --check --json", "delete explain w-4", "versions"):
        tru(f"{words} --job {{job}}")
    tru("delete reconsent {folder}/erasure-of-" + NUMBER + ".csv --job {job}")

    names = {NUMBER, LONG, MAIL, str(ITEM), ABSENT, *KEPT}
    secrets = {*SECRETS, *planted_keys(place)}
    shown = [Said(one.command, one.exit, one.text.replace(f"erasure-of-{NUMBER}.csv", "")) for one in said]
    assert leaks_of(shown, names | secrets) == []
    assert found_in(ray_logs(), names | secrets) == []
    receipts = b"".join(path.read_bytes() for path in place.out.iterdir())
    assert found_in(receipts, names | secrets) == []
    assert left_in(store, [*DELETED, *secrets, ABSENT], allowed=()) == []
    assert left_in(store, KEPT, allowed=("/vocabulary/", ledger_payloads_prefix("mgcn"))) == []


def left_in(store: LocalStore, planted: Iterable[str], *, allowed: tuple[str, ...]) -> list[tuple[str, str]]:
    """Objects that hold something planted, or are called so; those whose key has an allowed part are left out."""
    planted = tuple(planted)
    found = []
    for info in store.list(""):
        if not any(part in info.key for part in allowed):
            found += [(info.key, text) for text in found_in(store.read(info.key), planted)]
            found += [(info.key, text) for text in planted if text in info.key]
    return found


# --- wrong inputs -------------------------------------------------------------------------------


@pytest.fixture
def place(trained_world: Path, tmp_path: Path) -> Place:
    """A copy of a trained world without Ray, with the job file that wrong inputs name."""
    shutil.copytree(trained_world, tmp_path / "world")
    place = Place(tmp_path / "world")
    place.prepare()
    place.job.write_text(place.fill("storage: {store}\ndataset: tiny\nmodel: mgcn\nkeys: {folder: {keys}}\n"))
    return place


def try_wrong(wrong: Wrong, place: Place) -> Said:
    here = place.folder / "wrong" / wrong.name
    for name, body in wrong.files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".yaml"):
            body = place.fill(body.decode().replace("{here}", str(here))).encode()
        (here / name).write_bytes(body)
        (here / name).chmod(0o600)
    return run_line(place.fill(wrong.command.replace("{here}", str(here))), place.work)


def trouble_with(wrong: Wrong, said: Said) -> list[str]:
    """What is wrong with how a command took a wrong input. What the user typed may be said again."""
    text = said.text
    for word in said.command.split():
        text = text.replace(word, "") if word.startswith("/") else text
    found = [f"holds {planted!r}" for planted in PRIVATE if planted in text]
    if "Traceback" in text or "error of the program itself" in text:
        found.append("a traceback: " + text.strip().rpartition("\n")[2][:80])
    if said.exit not in CODES:
        found.append(f"exit code {said.exit}")
    if said.exit and len(said.err) > MAX_MESSAGE_LETTERS:
        found.append(f"{len(said.err)} letters")
    if any(letter in text for letter in "\x1b\x07\x00\u202e\x9b"):
        found.append("a control character")
    return [f"{wrong.name}: {problem}" for problem in found]


def check_all(inputs: Iterable[Wrong], place: Place, *, least_refused: int) -> None:
    """Try every input: nothing private is said, or kept outside of vocabularies and payloads.

    Args:
        least_refused: So many of the inputs at least must be refused. Others may be read as what they mean.
    """
    trouble: list[str] = []
    num_refused = 0
    for wrong in inputs:
        said = try_wrong(wrong, place)
        num_refused += said.exit != 0
        trouble += trouble_with(wrong, said)
    assert not trouble, "\n".join(trouble)
    assert num_refused >= least_refused
    allowed = (ledger_payloads_prefix("mgcn"), "/vocabulary/")
    assert left_in(LocalStore(place.store), PRIVATE, allowed=allowed) == []


@pytest.fixture
def no_rows_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is started; what is tried must be refused before a row is read."""

    def read_rows(*_: Any) -> None:
        raise AssertionError("a row was read")

    monkeypatch.setattr(cluster, "connected", lambda scaling: nullcontext())
    monkeypatch.setattr(importer, "scan_interactions", read_rows)


def test_no_wrong_request_file_is_quoted(place: Place) -> None:
    check_all(wrong_requests(), place, least_refused=200)


def test_no_wrong_job_file_gives_its_secret_away(place: Place) -> None:
    check_all(wrong_jobs(), place, least_refused=45)


def test_no_edited_receipt_and_no_wrong_key_is_quoted(place: Place) -> None:
    public = Ed25519PublicKey.from_public_bytes(SIGNING.public_key.raw)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (place.keys / "signing.pub").write_bytes(pem)
    (place.keys / "identity.key").write_text(IDENTITY.secret.hex())
    receipt = receipts()[0]
    check_all(wrong_receipts(receipt), place, least_refused=20)
    check_all(wrong_keys(pem, receipt), place, least_refused=6)


def test_no_wrong_source_is_quoted(no_rows_read: None, place: Place) -> None:
    check_all(wrong_sources(), place, least_refused=20)


@pytest.mark.ray
def test_no_wrong_row_of_a_source_is_quoted(ray_session: None, place: Place) -> None:
    check_all(wrong_rows(), place, least_refused=8)
