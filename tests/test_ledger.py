"""The ledger of deletion requests: states, idempotence, holds, duplicates, payloads."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from tests.ledger_world import (
    KEY,
    MODEL,
    NOW,
    RECEIVED,
    SECRET,
    a_ledger,
    log_bytes,
    request,
    states,
    user_request,
)
from tru_core.errors import ConfigError, ConflictError, IntegrityError, MissingObjectError, PolicyError
from tru_core.identity import IdentityKey
from workflows.config.ledger import LedgerConfig, Regulation
from workflows.deletions.ledger import STATES, TRANSITIONS, Ledger, check_transition, open_ledger, verify_ledger
from workflows.storage import ObjectStore, log_key
from workflows.storage.local import LocalStore

# From each state the calls that bring a fresh request there.
WAYS: dict[str, list[str]] = {
    "queued": [],
    "processing": ["processing"],
    "published": ["processing", "published"],
    "purged": ["processing", "published", "purged"],
    "receipted": ["processing", "published", "purged", "receipted"],
    "failed_retryable": ["processing", "failed_retryable"],
    "failed_terminal": ["processing", "failed_terminal"],
    "denied": ["denied"],
    "cancelled": ["cancelled"],
}


@pytest.fixture
def store(local_store: LocalStore) -> ObjectStore:
    return local_store


@pytest.fixture
def ledger(store: ObjectStore) -> Ledger:
    return a_ledger(store)


def objects(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list("")]


# --- states -------------------------------------------------------------------------------------


def test_a_transition_is_refused_unless_the_table_has_it() -> None:
    assert set(TRANSITIONS) == set(STATES)
    for before, after in product(STATES, STATES):
        if after in TRANSITIONS[before]:
            check_transition(before, after, where="request r1")
        else:
            with pytest.raises(ConflictError, match=f"request r1 is {before} and cannot become {after}"):
                check_transition(before, after, where="request r1")


@pytest.mark.parametrize("before", WAYS)
def test_from_every_state_only_legal_transitions_are_written(store: ObjectStore, before: str) -> None:
    for after in STATES:
        ledger = a_ledger(store)
        request_id = f"{before}-{after}"
        ledger.submit([request(request_id, user=request_id + SECRET)], source="test")
        for state in WAYS[before]:
            ledger.advance([request_id], state)
        assert ledger.find(request_id).state == before
        before_call = objects(store)
        if after == before:
            assert ledger.advance([request_id], after) == 0
        elif after in TRANSITIONS[before] and after != "held":
            assert ledger.advance([request_id], after) == 1
            assert a_ledger(store).find(request_id).state == after
            continue
        elif after not in TRANSITIONS[before]:
            with pytest.raises(ConflictError, match=f"deletion request {request_id} is {before}"):
                ledger.advance([request_id], after)
        else:
            continue
        assert objects(store) == before_call


def test_one_illegal_transition_among_many_writes_nothing(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(n) for n in range(4)], source="test")
    ledger.advance(["r2"], "processing", batch_id="b1")
    before = objects(store)
    with pytest.raises(ConflictError, match="r0 is queued and cannot become published"):
        ledger.advance(["r2", "r0"], "published", batch_id="b1")
    assert objects(store) == before


def test_advancing_again_with_the_same_batch_changes_nothing_and_with_another_is_refused(ledger: Ledger) -> None:
    ledger.submit([user_request(n) for n in range(3)], source="test")
    assert ledger.advance(["r0", "r1"], "processing", batch_id="b1") == 2
    head = ledger.head
    assert ledger.advance(["r0", "r1"], "processing", batch_id="b1") == 0
    assert ledger.head == head
    assert ledger.advance(["r0", "r1", "r2"], "processing", batch_id="b1") == 1
    with pytest.raises(ConflictError, match="r0 is processing"):
        ledger.advance(["r0"], "processing", batch_id="b2")


def test_one_bad_request_of_a_thousand_does_not_hold_back_the_others(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(n) for n in range(1000)], source="test")
    ids = [f"r{n}" for n in range(1000)]
    ledger.advance(ids, "processing", batch_id="b1")
    ledger.advance(["r13"], "failed_terminal", batch_id="b1", reason="its rows are damaged")
    rest = [name for name in ids if name != "r13"]
    outcome = dict.fromkeys(rest, "published") | {"r7": "not_found"}
    assert ledger.advance(rest, "published", batch_id="b1", outcome=outcome) == 999
    again = a_ledger(store)
    assert again.counts() == {"published": 999, "failed_terminal": 1}
    assert (again.find("r7").outcome, again.find("r8").outcome) == ("not_found", "published")
    assert again.find("r13").reason == "its rows are damaged"
    assert again.find("r8").num_attempts == 1


def test_a_request_that_is_not_there_is_missing(ledger: Ledger) -> None:
    with pytest.raises(MissingObjectError, match="no deletion request nobody") as caught:
        ledger.advance(["nobody"], "processing")
    assert caught.value.exit_code == 4


# --- submitting ---------------------------------------------------------------------------------


def test_the_same_submission_twice_is_one(store: ObjectStore, ledger: Ledger) -> None:
    requests = [user_request(n) for n in range(5)]
    assert ledger.submit(requests, source="test").states == {"queued": 5}
    before = objects(store)
    again = a_ledger(store).submit(requests, source="test")
    assert (again.num_new, again.num_known) == (0, 5)
    assert objects(store) == before


def test_a_hundred_concurrent_submitters_of_one_request_make_one_row(store: ObjectStore) -> None:
    def submit(_: int) -> int:
        return a_ledger(store).submit([user_request(1)], source="test").num_new

    with ThreadPoolExecutor(max_workers=16) as pool:
        counts = list(pool.map(submit, range(100)))
    assert sum(counts) == 1
    ledger = a_ledger(store)
    assert states(ledger) == {"r1": "queued"}
    assert ledger.head.seq == 1
    assert sum("/payloads/" in key for key in objects(store)) == 1
    assert [payload.user_id for payload in ledger.payloads(["r1"])] == [f"{SECRET}-1"]


def test_writers_of_different_requests_lose_none(store: ObjectStore) -> None:
    def submit(number: int) -> int:
        return a_ledger(store).submit([user_request(number)], source="test").num_new

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert sum(pool.map(submit, range(24))) == 24
    assert a_ledger(store).counts() == {"queued": 24}
    assert verify_ledger(store, MODEL).seq == 24


@pytest.mark.parametrize(
    "other",
    [
        request("r1", user="somebody-else"),
        request("r1", item=f"{SECRET}-1"),
        request("r1", user=f"{SECRET}-1", item="i1"),
        request("r1", user=f"{SECRET}-1", received="2026-03-01T09:30:01+00:00"),
        request("r1", user=f"{SECRET}-1", received=None),
        request("r1", user=f"{SECRET}-1", regulation="ccpa"),
    ],
)
def test_a_request_id_with_another_body_is_a_conflict(store: ObjectStore, ledger: Ledger, other: object) -> None:
    ledger.submit([user_request(1)], source="test")
    before = objects(store)
    with pytest.raises(ConflictError, match=r"requests\.csv line 2, column request_id") as caught:
        ledger.submit([user_request(2), other], source="requests.csv")
    assert caught.value.exit_code == 5
    assert SECRET not in str(caught.value)
    assert objects(store) == before


def test_a_conflict_inside_one_submission_is_found(store: ObjectStore, ledger: Ledger) -> None:
    with pytest.raises(ConflictError, match="line 3"):
        ledger.submit([user_request(1), request("r1", user="x", line=3)], source="folder")
    assert objects(store) == []


def test_the_log_holds_no_outside_id(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(n) for n in range(60)], source="requests.csv")
    pair = request("pair", user=f"{SECRET}-u", item=f"{SECRET}-i")
    ledger.submit([pair, request("item", item=f"{SECRET}-i")], source="requests.csv")
    ledger.hold("user", KEY.digest("user", f"{SECRET}-3"), reason="a lawsuit")
    ledger.compact()
    assert SECRET.encode() not in log_bytes(store)
    payload_keys = [key for key in objects(store) if "/payloads/" in key]
    assert any(SECRET.encode() in store.read(key) for key in payload_keys)
    assert SECRET not in " ".join(payload_keys)


@pytest.mark.parametrize(
    ("bad", "config", "expected"),
    [
        (
            user_request(1, received=None),
            LedgerConfig(received_time="required"),
            "line 2, column received_time: is empty",
        ),
        (
            user_request(1, received="2026-03-12T12:00:00+00:00"),
            LedgerConfig(),
            "column received_time: is in the future",
        ),
        (user_request(1), LedgerConfig(request_id_format="uuid"), "column request_id: expected a UUID"),
        (user_request(1, regulation="gdrp"), LedgerConfig(), "column regulation: expected one of ccpa, gdpr"),
    ],
)
def test_what_policy_asks_for_is_named_by_field(
    store: ObjectStore, bad: object, config: LedgerConfig, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        a_ledger(store, config=config).submit([bad], source="requests.csv")
    assert caught.value.exit_code == 2
    assert SECRET not in str(caught.value)
    assert objects(store) == []


def test_a_uuid_passes_where_one_is_asked_for(store: ObjectStore) -> None:
    ledger = a_ledger(store, config=LedgerConfig(request_id_format="uuid"))
    ledger.submit([request("8d4e6a0e-2c3b-4f5a-9b1c-0a1b2c3d4e5f", user="u")], source="test")
    assert ledger.counts() == {"queued": 1}


def test_without_a_time_of_receipt_the_time_of_submission_counts(ledger: Ledger) -> None:
    report = ledger.submit([user_request(1, received=None)], source="test", now=NOW)
    assert report.num_times_assumed == 1
    found = ledger.find("r1")
    assert (found.received_time, found.deadline) == ("2026-03-10T12:00:00+00:00", "2026-04-10T12:00:00+00:00")
    assert ledger.submit([user_request(1, received=None)], source="test").num_known == 1


def test_ids_that_look_alike_are_counted_and_kept_apart(ledger: Ledger) -> None:
    report = ledger.submit([request("a", user="zo\u00eb"), request("b", user="zoe\u0308")], source="test")
    assert report.num_look_alikes == 2
    assert report.states == {"queued": 2}


def test_another_identity_key_is_refused(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(1)], source="test")
    with pytest.raises(ConfigError, match="was written with identity key") as caught:
        open_ledger(store, MODEL, IdentityKey(b"x" * 32))
    assert caught.value.exit_code == 2


# --- duplicates ---------------------------------------------------------------------------------


def test_the_same_subject_twice_is_a_duplicate_of_the_open_request(ledger: Ledger) -> None:
    requests = [request(f"r{n}", user="u1", received=f"2026-03-0{3 - n}T00:00:00+00:00") for n in range(3)]
    assert ledger.submit(requests, source="test").states == {"queued": 1, "duplicate": 2}
    assert states(ledger) == {"r0": "duplicate", "r1": "duplicate", "r2": "queued"}  # the first received is carried out
    assert ledger.find("r0").duplicate_of == "r2"
    ledger.submit([request("r3", user="u1"), request("r4", user="u1", item="i1")], source="test")
    assert states(ledger)["r3"] == "duplicate"
    assert states(ledger)["r4"] == "queued"  # a single interaction is another subject


def test_what_was_forgotten_is_a_duplicate_until_the_subject_consents_anew(ledger: Ledger) -> None:
    ledger.submit([request("r1", user="u1")], source="test")
    for state in ("processing", "published", "purged", "receipted"):
        ledger.advance(["r1"], state, batch_id="b1")
    ledger.submit([request("r2", user="u1", received="2026-03-02T00:00:00+00:00")], source="test")
    assert (ledger.find("r2").state, ledger.find("r2").duplicate_of) == ("duplicate", "r1")
    assert ledger.reconsent([request("c1", user="u1", received="2026-03-03T00:00:00+00:00")], source="test") == 1
    assert ledger.reconsent([request("c1", user="u1", received="2026-03-03T00:00:00+00:00")], source="test") == 0
    ledger.submit([request("r3", user="u1", received="2026-03-02T12:00:00+00:00")], source="test")
    assert ledger.find("r3").state == "duplicate"  # received before the consent
    ledger.submit([request("r4", user="u1", received="2026-03-04T00:00:00+00:00")], source="test")
    assert ledger.find("r4").state == "queued"


@pytest.mark.parametrize("end", ["cancelled", "denied"])
def test_when_a_request_ends_undone_the_first_duplicate_takes_its_place(ledger: Ledger, end: str) -> None:
    requests = [request(f"r{n}", user="u1", received=f"2026-03-0{1 + n}T00:00:00+00:00") for n in range(3)]
    ledger.submit(requests, source="test")
    assert ledger.advance(["r0"], end) == 3
    assert states(ledger) == {"r0": end, "r1": "queued", "r2": "duplicate"}
    assert ledger.find("r2").duplicate_of == "r1"


def test_a_duplicate_that_must_be_answered_earlier_brings_its_request_forward(ledger: Ledger) -> None:
    ledger.submit([request("slow", user="u1", regulation="ccpa"), request("other", user="u2")], source="test")
    assert [r.request_id for r in ledger.due(NOW)] == ["other", "slow"]
    ledger.submit([request("fast", user="u1", received="2026-02-20T00:00:00+00:00")], source="test")
    assert [r.request_id for r in ledger.due(NOW)] == ["slow", "other"]
    assert [r.request_id for r in ledger.due(NOW, limit=1)] == ["slow"]


# --- verification -------------------------------------------------------------------------------


def test_an_unverified_request_stays_received_until_somebody_verifies_it(ledger: Ledger) -> None:
    report = ledger.submit([user_request(1, is_verified=False), user_request(2, is_verified=True)], source="test")
    assert report.states == {"received": 1, "queued": 1}
    assert [r.request_id for r in ledger.due(NOW)] == ["r2"]
    with pytest.raises(ConflictError, match="r1 is received and cannot become processing"):
        ledger.advance(["r1"], "processing", batch_id="b1")
    assert ledger.verify(["r1"]) == {"queued": 1}
    assert ledger.verify(["r1"]) == {}
    assert ledger.counts() == {"queued": 2}


def test_policy_says_whether_a_silent_file_counts_as_verified(store: ObjectStore) -> None:
    ledger = a_ledger(store, config=LedgerConfig(count_as_verified=False))
    assert ledger.submit([user_request(1)], source="test").states == {"received": 1}


def test_an_unverified_request_stands_in_nobodys_way(ledger: Ledger) -> None:
    ledger.submit([request("bad", user="u1", is_verified=False)], source="test")
    ledger.submit([request("good", user="u1")], source="test")
    assert states(ledger) == {"bad": "received", "good": "queued"}
    assert ledger.verify(["bad"]) == {"duplicate": 1}


# --- holds --------------------------------------------------------------------------------------


def test_a_hold_beats_the_queue_at_every_level(ledger: Ledger) -> None:
    requests = [
        request("user", user="u1"),
        request("item", item="i1"),
        request("pair", user="u1", item="i1"),
        request("else", user="u2", item="i2"),
    ]
    ledger.submit(requests, source="test")
    on_user = ledger.hold("user", KEY.digest("user", "u1"), reason="a lawsuit")
    assert states(ledger) == {"user": "held", "item": "queued", "pair": "held", "else": "queued"}
    on_item = ledger.hold("item", KEY.digest("item", "i1"), reason="another lawsuit")
    on_all = ledger.hold("dataset", reason="an audit")
    assert set(states(ledger).values()) == {"held"}
    assert ledger.due(NOW) == []
    ledger.release(on_all.hold_id, reason="it is over")
    assert states(ledger) == {"user": "held", "item": "held", "pair": "held", "else": "queued"}
    ledger.release(on_user.hold_id, reason="settled")
    assert states(ledger) == {"user": "queued", "item": "held", "pair": "held", "else": "queued"}
    ledger.release(on_item.hold_id, reason="settled")
    assert set(states(ledger).values()) == {"queued"}


def test_a_hold_that_another_process_places_is_seen_before_a_commit(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(1), user_request(2)], source="test")
    ledger.advance(["r1", "r2"], "processing", batch_id="b1")
    assert ledger.held(["r1", "r2"]) == set()
    other = a_ledger(store)
    hold = other.hold("user", KEY.digest("user", f"{SECRET}-1"), reason="a lawsuit")
    assert ledger.held(["r1", "r2"]) == {"r1"}
    assert ledger.advance(["r1"], "held") == 1
    assert hold.hold_id in ledger.find("r1").reason
    ledger.advance(["r2"], "published", batch_id="b1")
    assert states(ledger) == {"r1": "held", "r2": "published"}


def test_what_was_to_be_held_is_queued_when_the_hold_was_released_meanwhile(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(1)], source="test")
    ledger.advance(["r1"], "processing", batch_id="b1")
    hold = ledger.hold("dataset", reason="an audit")
    assert ledger.held(["r1"]) == {"r1"}
    a_ledger(store).release(hold.hold_id, reason="over")
    ledger.advance(["r1"], "held")
    assert ledger.find("r1").state == "queued"


def test_a_request_that_comes_under_a_hold_is_held_at_once(ledger: Ledger) -> None:
    hold = ledger.hold("user", KEY.digest("user", f"{SECRET}-1"), reason="a lawsuit")
    assert ledger.submit([user_request(1)], source="test").states == {"held": 1}
    assert ledger.find("r1").reason == f"hold {hold.hold_id}: a lawsuit"


def test_the_same_hold_twice_is_one_and_another_under_its_id_a_conflict(store: ObjectStore, ledger: Ledger) -> None:
    digest = KEY.digest("user", "u1")
    ledger.hold("user", digest, reason="a lawsuit", hold_id="h1")
    before = objects(store)
    ledger.hold("user", digest, reason="a lawsuit", hold_id="h1")
    with pytest.raises(ConflictError, match="hold h1 exists"):
        ledger.hold("dataset", reason="an audit", hold_id="h1")
    with pytest.raises(MissingObjectError, match="no hold h2 is in force; there are: h1"):
        ledger.release("h2", reason="over")
    with pytest.raises(ConfigError, match="needs a reason"):
        ledger.hold("user", digest, reason=" ")
    assert objects(store) == before


# --- cancelling, extending ----------------------------------------------------------------------


def test_a_request_can_be_taken_back_until_a_batch_takes_it(ledger: Ledger) -> None:
    ledger.submit([user_request(n, is_verified=n > 0) for n in range(4)], source="test")
    ledger.advance(["r3"], "processing", batch_id="b1")
    assert ledger.cancel(["r0", "r1"], reason="the requester changed their mind") == 2
    assert ledger.cancel(["r0"], reason="again") == 0
    with pytest.raises(ConflictError, match="r3 is processing and cannot be taken back") as caught:
        ledger.cancel(["r2", "r3"], reason="too late")
    assert caught.value.exit_code == 5
    assert states(ledger) == {"r0": "cancelled", "r1": "cancelled", "r2": "queued", "r3": "processing"}


def test_an_extension_needs_a_reason_and_the_regulations_leave(store: ObjectStore) -> None:
    short = Regulation(days=10)
    ledger = a_ledger(store, config=LedgerConfig(regulations={"short": short}))
    ledger.submit([user_request(1), user_request(2, regulation="short"), user_request(3)], source="test")
    with pytest.raises(ConfigError, match="needs a reason"):
        ledger.extend(["r1"], reason="")
    with pytest.raises(PolicyError, match="r2: the deadline 2026-03-11T09:30:00") as caught:
        ledger.extend(["r1", "r2"], reason="many requests")
    assert caught.value.exit_code == 9
    assert ledger.find("r1").deadline == "2026-04-01T09:30:00+00:00"
    assert ledger.extend(["r1"], reason="many requests") == 1
    assert ledger.find("r1").deadline == "2026-06-01T09:30:00+00:00"
    assert [line.reason for line in ledger.history("r1")][-1] == "many requests"
    assert [r.request_id for r in ledger.due(NOW)] == ["r2", "r3", "r1"]


# --- payloads -----------------------------------------------------------------------------------


def test_dropped_payloads_are_gone_and_the_others_stay(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(n) for n in range(6)], source="test")
    assert ledger.drop_payloads(["r1", "r4"]) == 2
    assert ledger.drop_payloads(["r1", "r4"]) == 0
    assert [found.user_id for found in ledger.payloads(["r5", "r0"])] == [f"{SECRET}-5", f"{SECRET}-0"]
    with pytest.raises(MissingObjectError, match="request r4: its ids were dropped"):
        ledger.payloads(["r0", "r4"])
    bodies = b"".join(store.read(key) for key in objects(store) if "/payloads/" in key)
    assert f"{SECRET}-0".encode() in bodies
    assert f"{SECRET}-4".encode() not in bodies
    ledger.drop_payloads([f"r{n}" for n in range(6)])
    assert not any("/payloads/" in key for key in objects(store))


def test_an_altered_payload_is_not_used(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(1)], source="test")
    key = next(key for key in objects(store) if "/payloads/" in key)
    body = store.read(key).replace(b"-1", b"-2")
    store.delete(key)
    store.put_if_absent(key, body)
    with pytest.raises(IntegrityError, match="what it says for request r1 is not what was submitted") as caught:
        ledger.payloads(["r1"])
    assert SECRET not in str(caught.value)


def test_a_payload_that_a_crash_left_without_an_entry_is_collected(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(1)], source="test")
    key = next(key for key in objects(store) if "/payloads/" in key)
    ledger.submit([user_request(2)], source="test")
    store.delete(log_key(f"ledger/{MODEL}/log", 2))
    for name in [key for key in objects(store) if "/marks/00000002" in key]:
        store.delete(name)
    clock_later = a_ledger(store)
    assert clock_later.drop_orphans() == 0  # too young
    clock_later._writer.clock.now = NOW.replace(day=20)
    assert clock_later.drop_orphans() == 1
    assert [name for name in objects(store) if "/payloads/" in name] == [key]


# --- compaction ---------------------------------------------------------------------------------


def test_a_compacted_ledger_says_the_same(store: ObjectStore, ledger: Ledger) -> None:
    ledger.submit([user_request(n, is_verified=n % 5 > 0) for n in range(40)], source="test", file_digest="f" * 64)
    ledger.advance([f"r{n}" for n in range(1, 5)], "processing", batch_id="b1")
    ledger.hold("user", KEY.digest("user", f"{SECRET}-9"), reason="a lawsuit", hold_id="h1")
    ledger.reconsent([user_request(3)], source="test")
    ledger.note_sweep("tiny", "s1", num_hits=0)
    before = {r.request_id: r for r in ledger.requests()}
    ledger.compact()
    ledger.submit([user_request(50)], source="test")
    again = a_ledger(store)
    found = {r.request_id: r for r in again.requests()}
    assert {name: found[name] for name in before} == before
    assert again.counts() == ledger.counts()
    assert again.holds() == ledger.holds()
    assert again.has_taken("f" * 64)
    assert again.consented_at(KEY.digest("user", f"{SECRET}-3")) == RECEIVED
    assert again.summary(NOW)["sweep"]["last"] is not None
    assert again.submit([user_request(5), user_request(51)], source="test").num_known == 1
    assert verify_ledger(store, MODEL).seq == again.head.seq


def test_only_the_last_two_compacted_snapshots_are_kept(store: ObjectStore, ledger: Ledger) -> None:
    for number in range(4):
        ledger.submit([user_request(number)], source="test")
        ledger.compact()
    names = {key.split("/")[3] for key in objects(store) if "/snapshots/" in key}
    assert len(names) == 2
    assert a_ledger(store).counts() == {"queued": 4}
    for key in [key for key in objects(store) if "/snapshots/" in key]:
        store.delete(key)
    assert a_ledger(store).counts() == {"queued": 4}  # replayed from the entries


def test_a_ledger_that_was_opened_long_ago_is_read_anew_when_its_snapshot_is_gone(store: ObjectStore) -> None:
    ledger = a_ledger(store)
    ledger.submit([user_request(0), user_request(1)], source="test")
    ledger.compact()
    for call in (lambda old: old.find("r0").state, lambda old: old.cancel(["r0"], reason="test")):
        old = a_ledger(store)
        for number in range(3):
            ledger.submit([user_request(100 * ledger.head.seq + number)], source="test")
            ledger.compact()
        assert call(old) in ("queued", 1)
    assert a_ledger(store).find("r0").state == "cancelled"


def test_many_changes_compact_by_themselves(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.deletions.ledger.writing.COMPACT_AFTER_CHANGES", 20)
    ledger = a_ledger(store)
    ledger.submit([user_request(n) for n in range(20)], source="test")
    assert any("/snapshots/" in key for key in objects(store))
    assert a_ledger(store).counts() == {"queued": 20}


def test_the_summary_counts_alerts_and_days(ledger: Ledger) -> None:
    ages = {"r0": "2026-03-09", "r1": "2026-02-20", "r2": "2026-02-13", "r3": "2026-01-01"}
    ledger.submit(
        [request(name, user=name, received=f"{day}T12:00:00+00:00") for name, day in ages.items()], source="test"
    )
    summary = ledger.summary(NOW)
    assert summary["by_state"] == {"queued": 4}
    assert summary["alerts"] == {"overdue": 1, "used_80_percent": 1, "used_50_percent": 1}
    assert summary["oldest_age_days"] == 68
    assert summary["days_to_deadline"] == -37
    assert summary["sweep"] == {"last": None, "age_days": None, "is_late": True}


def test_the_ledger_lives_on_s3_too(moto_store: ObjectStore) -> None:
    def submit(number: int) -> int:
        return a_ledger(moto_store).submit([user_request(number % 4)], source="test").num_new

    with ThreadPoolExecutor(max_workers=4) as pool:
        assert sum(pool.map(submit, range(12))) == 4
    ledger = a_ledger(moto_store)
    ledger.compact()
    ledger.advance(["r1", "r2"], "processing", batch_id="b1")
    assert ledger.drop_payloads(["r1"]) == 1
    again = a_ledger(moto_store)
    assert again.counts() == {"queued": 2, "processing": 2}
    assert [found.user_id for found in again.payloads(["r0", "r2"])] == [f"{SECRET}-0", f"{SECRET}-2"]
    assert verify_ledger(moto_store, MODEL) == again.head
