"""The ledger of a model's deletion requests: every change is one entry of an append-only, hash-chained log.

What was asked for by outside ids lies in payloads beside the log and is deleted when it is done; the log itself
holds request ids, keyed digests and states only.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from tru_core.keys import IdentityKey
from workflows.ledger.records import HistoryLine, Hold, HoldLevel, LedgerHead, LedgerRequest, SubmitReport
from workflows.ledger.states import State
from workflows.ledger_config import LedgerConfig
from workflows.requests import DeletionRequest
from workflows.storage import ObjectStore


class Ledger:
    """The requests of one model. Every method that writes first reads what others wrote since.

    Methods raise IntegrityError when the log was tampered with, ConfigError when a newer program wrote it or another
    identity key made its digests, and the errors of ObjectStore.
    """

    # --- reading ---

    @property
    def head(self) -> LedgerHead:
        """The newest entry that was read; ``LedgerHead(0, "")`` of an empty ledger."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Read what others wrote since."""
        raise NotImplementedError

    def find(self, request_id: str) -> LedgerRequest:
        """One request. MissingObjectError if the ledger has none of this id."""
        raise NotImplementedError

    def find_many(self, request_ids: Iterable[str]) -> dict[str, LedgerRequest]:
        """Those of the requests that the ledger has, by id."""
        raise NotImplementedError

    def requests(self, states: Sequence[State] | None = None) -> list[LedgerRequest]:
        """All requests, or those in some states, sorted by deadline, then request id."""
        raise NotImplementedError

    def due(self, now: datetime, *, limit: int | None = None) -> list[LedgerRequest]:
        """What a batch may take: queued or failed_retryable, nearest deadline first, none that is held.

        A request stands as near as the nearest deadline of those that repeat it.

        Args:
            now: With a time zone. Requests received later than this are left out.
            limit: At most so many.
        """
        raise NotImplementedError

    def counts(self) -> dict[State, int]:
        """How many requests are in which state; states without any are left out."""
        raise NotImplementedError

    def holds(self) -> list[Hold]:
        """The holds that are in force."""
        raise NotImplementedError

    def held(self, request_ids: Iterable[str]) -> set[str]:
        """Those of the requests that a hold covers now. Reads the log anew: call it right before a commit."""
        raise NotImplementedError

    def history(self, request_id: str) -> list[HistoryLine]:
        """Everything that happened to a request. Reads the whole log, verifies it, and takes as long."""
        raise NotImplementedError

    # --- writing ---

    def submit(
        self, requests: Sequence[DeletionRequest], *, source: str, now: datetime | None = None, file_digest: str = ""
    ) -> SubmitReport:
        """Take requests in. One that is there already changes nothing.

        New ones end as ``queued``, or ``received`` (the requester is not verified), ``held``, or ``duplicate`` (the
        same subject is asked for by an open request, or was forgotten and has not consented anew since).

        Args:
            source: What to call the file in messages and in the log; it must name nobody.
            now: The time of submission; the present by default.
            file_digest: Keyed digest of the file, so that it is not taken twice (:meth:`has_taken`).

        Raises:
            ConflictError: A request id is there with another body. Nothing is taken of the whole submission.
            ConfigError: A regulation is not known, or policy asks for a time or a UUID that is not there.
        """
        raise NotImplementedError

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
        that repeat it takes its place in the queue, in the same entry.

        Args:
            batch_id: The batch that does it; "" keeps the batch that a request has.
            outcome: By request id, what came of it.

        Returns:
            How many changed.

        Raises:
            ConflictError: A transition is illegal. Nothing is written.
            MissingObjectError: The ledger has no request of one of the ids. Nothing is written.
        """
        raise NotImplementedError

    def verify(self, request_ids: Iterable[str]) -> dict[State, int]:
        """Say that the requesters are who they claim to be; received requests go on. Returns the states they got."""
        raise NotImplementedError

    def cancel(self, request_ids: Iterable[str], *, reason: str) -> int:
        """Take requests back. ConflictError for one that a batch has taken or that is done."""
        raise NotImplementedError

    def extend(self, request_ids: Iterable[str], *, reason: str, until: datetime | None = None) -> int:
        """Move deadlines, by default by all that the regulation allows.

        Raises:
            ConfigError: There is no reason, or ``until`` is not later than the present deadline.
            PolicyError: The regulation does not allow it.
        """
        raise NotImplementedError

    def hold(self, level: HoldLevel, digest: str = "", *, reason: str, hold_id: str = "") -> Hold:
        """Place a hold; requests that it covers and no batch has taken become ``held``. The same id again is fine."""
        raise NotImplementedError

    def release(self, hold_id: str, *, reason: str) -> int:
        """Release a hold; requests that no other hold covers are queued again. Returns how many."""
        raise NotImplementedError

    def reconsent(self, requests: Sequence[DeletionRequest], *, source: str) -> int:
        """Note that subjects consented anew. Deletions that were asked for before are carried out all the same."""
        raise NotImplementedError

    # --- outside ids ---

    def payloads(self, request_ids: Iterable[str]) -> list[DeletionRequest]:
        """What the requests ask for, by outside ids, in the order of the ids.

        Raises:
            MissingObjectError: A payload was dropped.
            IntegrityError: A payload differs from what the log's digests say.
        """
        raise NotImplementedError

    def drop_payloads(self, request_ids: Iterable[str]) -> int:
        """Delete the outside ids of requests. Doing it again is fine. Returns how many were dropped."""
        raise NotImplementedError


def open_ledger(store: ObjectStore, model: str, key: IdentityKey, *, config: LedgerConfig | None = None) -> Ledger:
    """Read a model's ledger from its newest compacted snapshot and the entries since, and verify their chain.

    Raises:
        IntegrityError: An entry was altered, removed, reordered or spliced in.
        ConfigError: A newer program wrote it, or its digests were made with another identity key.
    """
    raise NotImplementedError


def verify_ledger(store: ObjectStore, model: str) -> LedgerHead:
    """Read every entry, body and compacted snapshot, and replay them. Raises IntegrityError naming what is wrong."""
    raise NotImplementedError
