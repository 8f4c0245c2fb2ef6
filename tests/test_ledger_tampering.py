"""Tampering with the ledger's log is found, each kind with a message of its own."""

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledger_world import KEY, MODEL, SECRET, a_ledger, user_request
from tru_core.errors import ConfigError, IntegrityError, TruError
from workflows.deletions.ledger import verify_ledger
from workflows.deletions.ledger.entries import MAX_INLINE_CHANGES
from workflows.storage import ObjectStore, canonical_json, log_key
from workflows.storage.chain import Link, append, list_chain, read_chain
from workflows.storage.local import LocalStore

CHAIN = f"ledger/{MODEL}"
NUM_ENTRIES = 6


@pytest.fixture
def store(local_store: LocalStore) -> ObjectStore:
    ledger = a_ledger(local_store)
    for number in range(NUM_ENTRIES - 1):
        ledger.submit([user_request(number)], source="test")
    ledger.submit([user_request(100 + n) for n in range(MAX_INLINE_CHANGES + 5)], source="many")
    return local_store


def key_of(seq: int) -> str:
    return log_key(f"{CHAIN}/log", seq)


def replace(store: ObjectStore, key: str, body: bytes) -> None:
    store.delete(key)
    assert store.put_if_absent(key, body)


def change(store: ObjectStore, seq: int, **fields: object) -> None:
    entry = json.loads(store.read(key_of(seq))) | fields
    replace(store, key_of(seq), canonical_json(entry, where="test"))


def remove_marks(store: ObjectStore) -> None:
    for info in store.list(f"{CHAIN}/marks"):
        store.delete(info.key)


def swap(store: ObjectStore, one: int, other: int) -> None:
    bodies = store.read(key_of(one)), store.read(key_of(other))
    replace(store, key_of(one), bodies[1])
    replace(store, key_of(other), bodies[0])


def splice_from_another_ledger(store: ObjectStore) -> None:
    a_ledger(store)
    link = Link()
    for _ in range(3):
        entry = append(store, "ledger/other", {"attempt_id": "x"}, before=link)
        assert entry is not None
        link = entry.link
    replace(store, key_of(3), store.read(log_key("ledger/other/log", 3)))


def rewrite_from(store: ObjectStore) -> None:
    """An entry is changed and its mark too, as if it had always been so."""
    change(store, 3, source="changed")
    mark = next(info.key for info in store.list(f"{CHAIN}/marks") if "/00000003-" in info.key)
    store.delete(mark)


TAMPERINGS: dict[str, tuple[Callable[[ObjectStore], object], str]] = {
    "altered": (lambda store: change(store, 3, source="changed"), r"00000003\.json was altered"),
    "the newest altered": (lambda store: change(store, NUM_ENTRIES, source="x"), r"00000006\.json was altered"),
    "removed": (lambda store: store.delete(key_of(3)), "entry 3 is missing"),
    "the first removed": (lambda store: store.delete(key_of(1)), "entry 1 is missing"),
    "the newest removed": (lambda store: store.delete(key_of(NUM_ENTRIES)), "entries were removed from its end"),
    "reordered": (lambda store: swap(store, 2, 4), r"00000002\.json holds entry 4: entries were reordered"),
    "spliced": (splice_from_another_ledger, "is an entry of another chain and was spliced in"),
    "altered with its mark": (rewrite_from, r"00000004\.json does not follow entry 3: one of the two was altered"),
    "no JSON": (lambda store: replace(store, key_of(3), b"{"), r"00000003\.json is not JSON"),
    "a strange object": (lambda store: store.put_if_absent(f"{CHAIN}/log/x", b""), "which is no log entry"),
    "a strange mark": (lambda store: store.put_if_absent(f"{CHAIN}/marks/x", b""), "is no mark of chain"),
    "two marks": (
        lambda store: store.put_if_absent(f"{CHAIN}/marks/00000003-{'0' * 64}", b""),
        "entry 3 has two marks",
    ),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found_and_named(store: ObjectStore, kind: str) -> None:
    tamper, message = TAMPERINGS[kind]
    tamper(store)
    before = {info.key: store.read(info.key) for info in store.list("")}
    for look in (lambda: a_ledger(store), lambda: verify_ledger(store, MODEL)):
        with pytest.raises(IntegrityError, match=message) as caught:
            look()
        assert caught.value.exit_code == 8
        assert SECRET not in str(caught.value)
    assert {info.key: store.read(info.key) for info in store.list("")} == before


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_of_any_entry_or_body_is_found(store: ObjectStore, data: st.DataObject) -> None:
    keys = [info.key for info in store.list(CHAIN) if "/log/" in info.key or "/bodies/" in info.key]
    key = data.draw(st.sampled_from(keys))
    body = bytearray(store.read(key))
    place = data.draw(st.integers(0, 8 * len(body) - 1))
    whole = bytes(body)
    body[place // 8] ^= 1 << (place % 8)
    replace(store, key, bytes(body))
    try:
        with pytest.raises(TruError):
            verify_ledger(store, MODEL)
    finally:
        replace(store, key, whole)


def test_a_compacted_snapshot_of_another_history_is_found(store: ObjectStore) -> None:
    ledger = a_ledger(store)
    ledger.compact()
    key = next(info.key for info in store.list(f"{CHAIN}/snapshots") if info.key.endswith(".parquet"))
    whole = store.read(key)
    replace(store, key, whole[:100] + b"x" + whole[101:])
    with pytest.raises(IntegrityError, match="is not what its manifest says"):
        a_ledger(store).find("r1")
    replace(store, key, whole)
    assert a_ledger(store).find("r1").state == "queued"


def test_a_ledger_of_a_newer_schema_is_refused_and_not_written_to(store: ObjectStore) -> None:
    open_before = a_ledger(store)
    link = list_chain(store, CHAIN)
    newest = read_chain(store, CHAIN, link)[-1].link
    entry = {"seq": newest.seq + 1, "prev_hash": newest.sha256, "schema_version": 2, "chain": CHAIN, "new": "words"}
    store.put_if_absent(key_of(newest.seq + 1), canonical_json(entry, where="test"))
    before = [info.key for info in store.list("")]
    for write in (
        lambda: a_ledger(store),
        lambda: verify_ledger(store, MODEL),
        lambda: open_before.submit([user_request(500)], source="test"),
    ):
        with pytest.raises(ConfigError, match="has schema version 2, this program reads 1") as caught:
            write()
        assert caught.value.exit_code == 2
    assert [info.key for info in store.list("")] == before


def test_an_entry_that_breaks_the_rules_is_refused_though_its_hashes_fit(store: ObjectStore) -> None:
    ledger = a_ledger(store)
    fields = {"kind": "advance", "key_id": KEY.key_id, "at": "2026-03-10T00:00:00+00:00", "attempt_id": "x"}
    fields |= {"common": {"state": "receipted"}, "changes": [{"request_id": "r1"}]}
    assert append(store, CHAIN, fields, before=Link(ledger.head.seq, ledger.head.sha256))
    with pytest.raises(IntegrityError, match="request r1 goes from queued to receipted, which no rule allows"):
        a_ledger(store)
