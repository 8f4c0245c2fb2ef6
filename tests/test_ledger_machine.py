"""Two writers do anything in any order: one chain comes out, and its replay is what both see."""

import tempfile
from collections.abc import Callable
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.ledger_world import KEY, MODEL, NOW, Clock, a_ledger, request
from tru_core.errors import ConflictError, MissingObjectError
from workflows.data.requests import DeletionRequest
from workflows.deletions.ledger import STATES, TRANSITIONS, Ledger, LedgerRequest, verify_ledger
from workflows.deletions.ledger.states import DONE_STATES, OPEN_STATES
from workflows.storage.local import LocalStore

WRITERS = st.sampled_from([0, 1])
REQUESTS = st.integers(0, 7)
SUBJECTS = ("u0", "u1", "u2")


def a_request(number: int) -> DeletionRequest:
    received = f"2026-03-0{1 + number % 5}T00:00:00+00:00"
    return request(f"r{number}", user=SUBJECTS[number % 3], received=received, is_verified=number != 6)


class LedgerMachine(RuleBasedStateMachine):
    """The model is a dict of states; everything else is compared with a replay of the whole log."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = LocalStore(self.folder.name)
        self.clock = Clock()
        self.ledgers = [a_ledger(self.store, clock=self.clock) for _ in range(2)]
        self.submitted: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(writer=WRITERS, numbers=st.lists(REQUESTS, min_size=1, max_size=3))
    def submit(self, writer: int, numbers: list[int]) -> None:
        report = self.ledgers[writer].submit([a_request(number) for number in numbers], source="test")
        ids = {f"r{number}" for number in numbers}
        assert report.num_new == len(ids - self.submitted)
        assert report.num_known == len(ids & self.submitted)
        self.submitted |= ids

    @rule(writer=WRITERS, number=REQUESTS, to=st.sampled_from(STATES), batch_id=st.sampled_from(["", "b1"]))
    def advance(self, writer: int, number: int, to: str, batch_id: str) -> None:
        ledger, name = self.ledgers[writer], f"r{number}"
        ledger.refresh()
        before = ledger.find_many([name]).get(name)
        head = ledger.head
        error = _error_of(lambda: ledger.advance([name], to, batch_id=batch_id))
        if before is None:
            assert isinstance(error, MissingObjectError)
        elif to in ("verified", "duplicate") or (before.state == "duplicate" and to in ("queued", "held")):
            assert isinstance(error, ConflictError) == (to != before.state or batch_id not in ("", before.batch_id))
            assert ledger.head == head
        elif to in TRANSITIONS[before.state]:
            assert error is None
        elif to == before.state and batch_id in ("", before.batch_id):
            assert error is None
            assert ledger.head == head
        else:
            assert isinstance(error, ConflictError)
            assert ledger.head == head

    @rule(writer=WRITERS, subject=st.sampled_from(SUBJECTS))
    def hold(self, writer: int, subject: str) -> None:
        self.ledgers[writer].hold("user", KEY.digest("user", subject), reason="test", hold_id=f"h-{subject}")

    @precondition(lambda self: any(ledger.holds() for ledger in self.ledgers))
    @rule(writer=WRITERS, data=st.data())
    def release(self, writer: int, data: st.DataObject) -> None:
        ledger = self.ledgers[writer]
        ledger.refresh()
        if ledger.holds():
            ledger.release(data.draw(st.sampled_from([hold.hold_id for hold in ledger.holds()])), reason="test")

    @rule(writer=WRITERS, number=REQUESTS)
    def cancel_or_verify(self, writer: int, number: int) -> None:
        ledger, name = self.ledgers[writer], f"r{number}"
        _error_of(lambda: ledger.verify([name]))
        _error_of(lambda: ledger.cancel([name], reason="test"))

    @rule(writer=WRITERS, subject=st.sampled_from(SUBJECTS), day=st.integers(1, 9))
    def reconsent(self, writer: int, subject: str, day: int) -> None:
        consent = request("c", user=subject, received=f"2026-03-0{day}T12:00:00+00:00")
        self.ledgers[writer].reconsent([consent], source="test")

    @rule(writer=WRITERS)
    def compact(self, writer: int) -> None:
        self.ledgers[writer].compact()

    @invariant()
    def both_see_what_the_log_says(self) -> None:
        if not hasattr(self, "store"):
            return
        head = verify_ledger(self.store, MODEL)
        views = [_view(self.ledgers[0]), _view(self.ledgers[1]), _view(a_ledger(self.store))]
        assert views[0] == views[1] == views[2]
        assert self.ledgers[0].head == self.ledgers[1].head == head
        assert {r.request_id for r in views[0][0]} == self.submitted

    @invariant()
    def rules_of_the_house_hold(self) -> None:
        if not hasattr(self, "store"):
            return
        ledger = self.ledgers[0]
        requests = ledger.requests()
        by_id = {r.request_id: r for r in requests}
        taken = [r for r in requests if r.state in OPEN_STATES and r.state != "received"]
        assert len({r.subject_digest for r in taken}) == len(taken)  # a subject is in one open request
        held = {r.request_id for r in requests if any(hold.covers(r) for hold in ledger.holds())}
        assert not held & {r.request_id for r in requests if r.state in ("verified", "queued")}
        assert {r.request_id for r in requests if r.state == "held"} <= held
        for r in requests:
            if r.state == "duplicate":
                assert by_id[r.duplicate_of].state in (*OPEN_STATES, *DONE_STATES)
        due = [r.request_id for r in ledger.due(NOW + timedelta(days=1))]
        assert set(due) == {r.request_id for r in requests if r.state in ("queued", "failed_retryable")} - held


def _view(ledger: Ledger) -> tuple[list[LedgerRequest], dict, list]:
    ledger.refresh()
    return ledger.requests(), ledger.counts(), ledger.holds()


def _error_of(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except (ConflictError, MissingObjectError) as error:
        return error
    return None


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
