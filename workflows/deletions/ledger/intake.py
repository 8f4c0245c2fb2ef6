"""Taking a submission in: payloads first, then the entry that names them; what was not needed is deleted again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tru_core.errors import ConflictError, MissingObjectError
from tru_core.identity import IdentityKey
from workflows.config.ledger import LedgerConfig
from workflows.data.requests import DeletionRequest
from workflows.deletions.ledger import payloads, submission
from workflows.deletions.ledger.book import Book
from workflows.deletions.ledger.decisions import Decision
from workflows.deletions.ledger.entries import HoldRecord
from workflows.deletions.ledger.records import SubmitReport
from workflows.deletions.ledger.states import State
from workflows.deletions.ledger.writing import Writer, write


@dataclass(frozen=True, kw_only=True)
class Intake:
    """One submission: where it goes, and what is said of all its requests.

    Attributes:
        now: The time of submission.
        doubt: Why its requests wait for a person; "" for no reason.
        is_settled: A person has said that all ids are meant as they are written.
    """

    writer: Writer
    key: IdentityKey
    config: LedgerConfig
    source: str
    file_digest: str
    now: datetime
    doubt: str = ""
    is_settled: bool = False

    def take(self, book: Book, requests: Sequence[DeletionRequest], *, is_repeat: bool) -> SubmitReport:
        """Take requests in. Raises as :meth:`workflows.deletions.ledger.Ledger.submit`."""
        submission.check_policy(requests, self.config, self.now, self.source)
        digests = submission.subject_digests(requests, self.key)
        name = submission.new_submission_id(self.now)
        payload_of: dict[str, str] = {}
        fresh: list[DeletionRequest] = []

        def decide() -> Decision | None:
            nonlocal fresh
            fresh = submission.split_known(
                requests, book, digests, source=self.source, default_regulation=self.config.default_regulation
            )
            details: dict[str, Any] = {"source": self.source, "file_digest": self.file_digest}
            if not fresh:
                is_noted = not self.file_digest or self.file_digest in book.taken
                return None if is_noted else Decision(details=details)
            rows = submission.describe(fresh, digests, key=self.key, config=self.config, now=self.now)
            if not payload_of:
                payload_of.update(payloads.write_payloads(self.writer.store, self.writer.model, name, fresh))
            default = self.config.count_as_verified
            is_verified = {r.request_id: default if r.is_verified is None else r.is_verified for r in fresh}
            hold = self._hold(name)
            if hold is not None:
                details |= {"hold": hold} | ({"released_hold_id": hold.hold_id} if self.is_settled else {})
            changes = submission.first_changes(
                rows, book, is_verified, payload_of, is_repeat=is_repeat, hold=None if self.is_settled else hold
            )
            return Decision(changes, details=details)

        try:
            decision = write(self.writer, book, "submit", decide)
        except (ConflictError, MissingObjectError):  # decided before anything was written
            self._drop_unused(payload_of, set())
            raise
        self._drop_unused(payload_of, {request.request_id for request in fresh} if decision else set())
        states: Counter[State] = Counter(change["state"] for change in decision.changes) if decision else Counter()
        return SubmitReport(
            source=self.source,
            states=dict(states),
            num_known=len({request.request_id for request in requests}) - sum(states.values()),
            num_times_assumed=sum(request.received_time is None for request in fresh),
            num_look_alikes=submission.count_look_alikes(fresh),
        )

    def _hold(self, name: str) -> HoldRecord | None:
        """The hold on all of the submission, where a person is to look at it or has looked."""
        if not self.doubt and not self.is_settled:
            return None
        reason = "the ids are meant as they are written" if self.is_settled else self.doubt
        return HoldRecord(hold_id=f"unknown-{name[-12:]}", level="submission", digest=name, reason=reason)

    def _drop_unused(self, payload_of: Mapping[str, str], submitted: set[str]) -> None:
        """Delete the payloads of requests that somebody else submitted while this call tried."""
        unused = set(payload_of) - submitted
        if unused == set(payload_of):
            payloads.delete_payloads(self.writer.store, self.writer.model, payload_of.values())
        elif unused:
            payloads.drop_ids(self.writer.store, self.writer.model, {name: payload_of[name] for name in unused})
