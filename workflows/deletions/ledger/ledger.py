"""The ledger of a model's deletion requests: every change is one entry of an append-only, hash-chained log.

What was asked for by outside ids lies in payloads beside the log and is deleted when it is done; the log itself
holds request ids, keyed digests and states only.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from tru_core.errors import ConfigError, MissingObjectError
from tru_core.identity import IdentityKey
from workflows.config.ledger import LedgerConfig
from workflows.data.requests import DeletionRequest
from workflows.deletions.ledger import decisions, payloads, pseudonyms, queries, submission, writing
from workflows.deletions.ledger.book import Book
from workflows.deletions.ledger.deadlines import utc_text
from workflows.deletions.ledger.decisions import Decision
from workflows.deletions.ledger.entries import Consent, HoldRecord, SweepRecord
from workflows.deletions.ledger.intake import Intake
from workflows.deletions.ledger.reading import read_book, read_history
from workflows.deletions.ledger.records import HistoryLine, Hold, HoldLevel, LedgerHead, LedgerRequest, SubmitReport
from workflows.deletions.ledger.states import State
from workflows.storage import ObjectStore

Result = TypeVar("Result")


def present() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


class Ledger:
    """The requests of one model. Every method that writes first reads what others wrote since.

    Methods raise IntegrityError when the log was tampered with, ConfigError when a newer program wrote it or another
    identity key made its digests, and the errors of ObjectStore. A ledger is for one thread.
    """

    def __init__(self, writer: writing.Writer, book: Book, key: IdentityKey, config: LedgerConfig) -> None:
        self._writer = writer
        self._book = book
        self._key = key
        self._config = config

    # --- reading ---

    @property
    def head(self) -> LedgerHead:
        """The newest entry that was read; number 0 of an empty ledger."""
        return LedgerHead(self._book.link.seq, self._book.link.sha256)

    @property
    def key_id(self) -> str:
        """Which identity key makes the digests."""
        return self._key.key_id

    def refresh(self) -> None:
        """Read what others wrote since."""
        writing.refresh(self._writer, self._book)

    def find(self, request_id: str) -> LedgerRequest:
        """One request. MissingObjectError if the ledger has none of this id."""
        return self._with_book(lambda book: decisions.require(book, self._stored(book, [request_id])))[0]

    def find_many(self, request_ids: Iterable[str]) -> dict[str, LedgerRequest]:
        """Those of the requests that the ledger has, by id."""
        ids = list(request_ids)
        return self._with_book(lambda book: book.find(self._stored(book, ids)))

    def requests(self, states: Sequence[State] | None = None, *, limit: int | None = None) -> list[LedgerRequest]:
        """All requests, or those in some states, nearest deadline first, then by request id; at most ``limit``."""
        return self._with_book(lambda book: queries.nearest(book, states, limit=limit))

    def due(self, now: datetime, *, limit: int | None = None) -> list[LedgerRequest]:
        """What a batch may take: queued or failed_retryable, nearest deadline first, none that is held.

        A request stands as near as the nearest deadline of those that repeat it.

        Args:
            now: With a time zone. Requests received later than this are left out.
            limit: At most so many.
        """
        return self._with_book(lambda book: queries.due_requests(book, now, limit=limit))

    def counts(self) -> dict[State, int]:
        """How many requests are in which state; states without any are left out."""
        return dict(+self._book.counts)

    def summary(self, now: datetime) -> dict[str, Any]:
        """How things stand, in numbers and times: by state, oldest age, nearest deadline, alerts, holds, sweep."""
        every_days = self._config.sweep_every_days
        return self._with_book(lambda book: queries.summary(book, now, sweep_every_days=every_days))

    def holds(self) -> list[Hold]:
        """The holds that are in force."""
        return sorted(self._book.holds.values(), key=lambda hold: hold.hold_id)

    def held(self, request_ids: Iterable[str]) -> set[str]:
        """Those of the requests that a hold covers now. Reads the log anew: call it right before a commit."""
        self.refresh()
        if not self._book.holds:
            return set()
        found = self.find_many(request_ids)
        return {request_id for request_id, request in found.items() if self._book.holds_on(request)}

    def has_taken(self, file_digest: str) -> bool:
        """Whether a submission took the file of this keyed digest whole."""
        return file_digest in self._book.taken

    def consented_at(self, subject_digest: str) -> str | None:
        """When a subject last consented anew; None if never."""
        return self._book.consents.get(subject_digest)

    def history(self, request_id: str) -> list[HistoryLine]:
        """Everything that happened to a request. Reads the whole log, verifies it, and takes as long."""
        return read_history(self._writer.store, self._writer.model, self._ids([request_id])[0])

    def is_settled(self, request: LedgerRequest) -> bool:
        """Whether a person has said that what a request asks for is meant, though the data set may not know it."""
        return self._book.is_settled(request)

    def _ids(self, request_ids: Iterable[str]) -> list[str]:
        wanted = list(request_ids)
        return self._with_book(lambda book: self._stored(book, wanted))

    def _stored(self, book: Book, request_ids: Sequence[str]) -> list[str]:
        """The ids under which the ledger keeps requests, where a sender's id names a person."""
        found = book.find(request_ids)
        others = {name: pseudonyms.pseudonym(name, self._key) for name in request_ids if name not in found}
        kept = book.find(others.values())
        return [others[name] if others.get(name) in kept else name for name in request_ids]

    # --- writing ---

    def submit(
        self,
        requests: Sequence[DeletionRequest],
        *,
        source: str,
        now: datetime | None = None,
        file_digest: str = "",
        is_repeat: bool = False,
        doubt: str = "",
        is_settled: bool = False,
    ) -> SubmitReport:
        """Take requests in. One that is there already changes nothing.

        New ones end as ``queued``, or ``received`` (the requester is not verified), ``held``, or ``duplicate`` (the
        same subject is asked for by an open request, or was forgotten and has not consented anew since).

        Args:
            source: What to call the file in messages and in the log; it must name nobody.
            now: The time of submission; the present by default.
            file_digest: Keyed digest of the file, so that it is not taken twice (:meth:`has_taken`).
            is_repeat: Queue also subjects that were forgotten before, because they are back in the data.
            doubt: Why a person must look at the submission first: its requests are held until then. "" for no reason.
            is_settled: A person has looked: what the data set does not know is meant as it is written.

        Request ids that hold the id of their own subject are kept as pseudonyms; every method finds them by either.

        Raises:
            ConflictError: A request id is there with another body. Nothing is taken of the whole submission.
            ConfigError: A regulation is not known, or policy asks for a time or a UUID that is not there.
        """
        now = now or self._writer.clock()
        intake = Intake(
            writer=self._writer,
            key=self._key,
            config=self._config,
            source=source,
            file_digest=file_digest,
            now=now,
            doubt=doubt,
            is_settled=is_settled,
        )
        nameless = pseudonyms.without_names(requests, self._key)
        return self._with_book(lambda book: intake.take(book, nameless, is_repeat=is_repeat))

    def advance(
        self,
        request_ids: Iterable[str],
        to: State,
        *,
        batch_id: str = "",
        reason: str = "",
        outcome: Mapping[str, str] | None = None,
    ) -> int:
        """Bring requests into a state, all by one log entry. Those that are there with the same batch are left.

        When a request ends without having been carried out (denied, cancelled, failed_terminal), the first of those
        that repeat it takes its place in the queue, in the same entry. ``held`` and ``queued`` are whichever of the two
        the holds in force say. What is verified or a duplicate is decided by the ledger alone.

        Args:
            batch_id: The batch that does it; "" keeps the batch that a request has.
            outcome: By request id, what came of it.

        Returns:
            How many changed, with those that took a place.

        Raises:
            ConflictError: A transition is illegal. Nothing is written.
            MissingObjectError: The ledger has no request of one of the ids. Nothing is written.
        """
        ids = list(request_ids)
        return self._write(
            "advance",
            lambda: decisions.decide_advance(
                self._book, ids, to, batch_id=batch_id, reason=reason, outcome=outcome or {}
            ),
        )

    def verify(self, request_ids: Iterable[str]) -> dict[State, int]:
        """Say that the requesters are who they claim to be; received requests go on. Returns the states they got."""
        ids = self._ids(request_ids)
        decision = self._decided("verify", lambda: decisions.decide_verify(self._book, ids))
        return dict(Counter(change["state"] for change in decision.changes)) if decision else {}

    def cancel(self, request_ids: Iterable[str], *, reason: str) -> int:
        """Take requests back. ConflictError for one that a batch has taken or that is done."""
        ids = self._ids(request_ids)
        return self._write("cancel", lambda: decisions.decide_cancel(self._book, ids, reason=reason))

    def extend(self, request_ids: Iterable[str], *, reason: str, until: datetime | None = None) -> int:
        """Move deadlines, by default by all that the regulation allows.

        Raises:
            ConfigError: There is no reason, or ``until`` is not later than the present deadline.
            PolicyError: The regulation does not allow it.
        """
        ids = self._ids(request_ids)
        return self._write(
            "extend",
            lambda: decisions.decide_extend(self._book, ids, self._config, reason=reason, until=until),
        )

    def hold(self, level: HoldLevel, digest: str = "", *, reason: str, hold_id: str = "") -> Hold:
        """Place a hold; requests that it covers and no batch has taken become ``held``. The same id again is fine.

        Raises:
            ConfigError: There is no reason, or no digest where the level needs one.
            ConflictError: Another hold has this id.
        """
        if not reason.strip() or (level == "dataset") != (not digest):
            raise ConfigError(
                "a hold needs a reason, and names a user, an item or an interaction unless it is of the whole data "
                "set. Nothing was written."
            )
        hold_id = hold_id or f"hold-{secrets.token_hex(4)}"
        hold = HoldRecord(hold_id=hold_id, level=level, digest=digest, reason=reason)
        self._write("hold", lambda: decisions.decide_hold(self._book, hold))
        return self._book.holds[hold_id]

    def release(self, hold_id: str, *, reason: str) -> int:
        """Release a hold; requests that no other hold covers are queued again. Returns how many requests changed.

        Raises:
            MissingObjectError: No such hold is in force.
        """
        return self._write("release", lambda: decisions.decide_release(self._book, hold_id, reason=reason))

    def reconsent(self, requests: Sequence[DeletionRequest], *, source: str) -> int:
        """Note that subjects consented anew. Deletions that were asked for before are carried out all the same.

        Returns:
            How many were not known yet.
        """
        now = utc_text(self._writer.clock())
        digests = submission.subject_digests(requests, self._key)
        consents = [
            Consent(request_id=r.request_id, digest=digests[r.request_id], received_time=r.received_time or now)
            for r in requests
        ]

        def decide() -> Decision | None:
            fresh = [
                consent for consent in consents if self._book.consents.get(consent.digest, "") < consent.received_time
            ]
            return Decision(details={"consents": fresh, "source": source}) if fresh else None

        decision = self._decided("reconsent", decide)
        return len(decision.details["consents"]) if decision else 0

    def note_sweep(self, dataset: str, snapshot_id: str, *, num_hits: int) -> None:
        """Note that the data set was swept for what was deleted, and how much was found."""
        record = SweepRecord(dataset=dataset, snapshot_id=snapshot_id, num_hits=num_hits)
        self._write("sweep", lambda: Decision(details={"sweep": record}))

    def compact(self) -> None:
        """Write a compacted snapshot now. Large changes do so by themselves."""
        self.refresh()
        self._with_book(lambda book: writing.compact(self._writer, book))

    def _write(self, kind: writing.EntryKind, decide: Callable[[], Decision | None]) -> int:
        decision = self._decided(kind, decide)
        return len(decision.changes) if decision else 0

    def _decided(self, kind: writing.EntryKind, decide: Callable[[], Decision | None]) -> Decision | None:
        return self._with_book(lambda book: writing.write(self._writer, book, kind, decide))

    def _with_book(self, call: Callable[[Book], Result]) -> Result:
        """Call with the book. Files of its snapshot are read when they are needed; by then later compactions may have
        deleted them, and the book is read anew."""
        try:
            return call(self._book)
        except MissingObjectError:
            self._book = read_book(self._writer.store, self._writer.model, key_id=self._writer.key_id)
            return call(self._book)

    # --- outside ids ---

    def payloads(self, request_ids: Iterable[str]) -> list[DeletionRequest]:
        """What the requests ask for, by outside ids, in the order of the ids.

        Raises:
            MissingObjectError: A payload was dropped.
            IntegrityError: A payload differs from what the log's digests say.
        """
        ids = list(request_ids)
        found = self._with_book(lambda book: decisions.require(book, ids))
        return payloads.read_payloads(self._writer.store, self._writer.model, found, self._key)

    def drop_payloads(self, request_ids: Iterable[str]) -> int:
        """Delete the outside ids of requests. Doing it again is fine. Returns how many were dropped."""
        ids = list(request_ids)
        found = self._with_book(lambda book: decisions.require(book, ids))
        by_id = {request.request_id: request.payload for request in found}
        return payloads.drop_ids(self._writer.store, self._writer.model, by_id)

    def drop_orphans(self, *, older_than: timedelta = timedelta(days=1)) -> int:
        """Delete payloads that a crash left behind before any entry named them. Returns how many there were."""
        self.refresh()
        known = self._with_book(
            lambda book: set(book.columns(("request_id", "payload")).column("payload").unique().to_pylist())
        )
        before = submission.new_submission_id(self._writer.clock() - older_than)
        return payloads.delete_unknown(self._writer.store, self._writer.model, known=known, before=before)


def open_ledger(
    store: ObjectStore,
    model: str,
    key: IdentityKey,
    *,
    config: LedgerConfig | None = None,
    clock: Callable[[], datetime] = present,
) -> Ledger:
    """Read a model's ledger from its newest compacted snapshot and the entries since, and verify their chain.

    Args:
        clock: What says the time of entries.

    Raises:
        IntegrityError: An entry was altered, removed, reordered or spliced in.
        ConfigError: A newer program wrote it, or its digests were made with another identity key.
    """
    book = read_book(store, model, key_id=key.key_id)
    writer = writing.Writer(store=store, model=model, key_id=key.key_id, clock=clock)
    return Ledger(writer, book, key, config or LedgerConfig())
