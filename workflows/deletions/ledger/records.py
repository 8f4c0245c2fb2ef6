"""What the ledger says about requests. Outside ids stand nowhere here: subjects are keyed digests."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from workflows.data.requests import Kind
from workflows.deletions.ledger.states import State

HoldLevel = Literal["user", "item", "interaction", "dataset", "submission", "unknown"]
DOUBT_LEVELS: tuple[HoldLevel, ...] = ("submission", "unknown")
"""Holds that wait for a person because the data set does not know what is asked for. Released, they are not placed
again."""


@dataclass(frozen=True)
class LedgerRequest:
    """One deletion request as it stands now.

    Attributes:
        request_id: The sender's own id of the request.
        subject_digest: Keyed digest of what it asks to forget; ``user_digest``, ``item_digest`` those of the user and
            the item it names ("" where the kind has none).
        state_since: When it came into its state. All times are UTC, ISO 8601, seconds.
        received_time: When it was received: the deadline counts from here. ``is_time_stated`` is False where the sender
            did not say and the time of submission stands for it.
        deadline: By when it must be carried out, with what was extended.
        acknowledge_by: By when the requester must be told that it was received; "" where the regulation asks for none.
        batch_id: The newest batch that took it; "" for none.
        outcome: What came of it, such as ``published`` or ``not_found``; "" while open.
        reason: Why it is in its state, where somebody or something gave a reason.
        duplicate_of: The request that it repeats; "" for none.
        num_attempts: How often it went into processing.
        payload: Name of the payload that holds its outside ids.
    """

    request_id: str
    kind: Kind
    state: State
    state_since: str
    subject_digest: str
    user_digest: str
    item_digest: str
    submitted_at: str
    received_time: str
    is_time_stated: bool
    regulation: str
    deadline: str
    acknowledge_by: str
    batch_id: str
    outcome: str
    reason: str
    duplicate_of: str
    num_attempts: int
    payload: str

    def share_elapsed(self, now: datetime) -> float:
        """The share of its time that has gone by: 0 when received, 1 at the deadline, more when overdue."""
        received, deadline = datetime.fromisoformat(self.received_time), datetime.fromisoformat(self.deadline)
        return (now - received) / (deadline - received)


@dataclass(frozen=True)
class SubmitReport:
    """What became of a submission.

    Attributes:
        source: The file or folder, as the submitter named it.
        states: How many of the new requests are in which state.
        num_known: Requests that the ledger had already. Nothing changed for them.
        num_times_assumed: New requests without a time of receipt; the time of submission stands for it.
        num_look_alikes: New ids that look like another one of the submission and differ in their bytes.
        num_ids, num_ids_known: Different ids that the file names, and how many of them the data set knows.
        num_gone: Requests about what was deleted before.
        unit: What a number of a place counts in the file: ``line``, ``row``, ``request``.
        unknown_lines: Where requests stand whose ids the data set does not know.
        renamed_lines: Where request ids stand that hold the id of their subject: the ledger keeps pseudonyms for them.
        hold: Why a person has to look first; "" for no reason.
    """

    source: str
    states: dict[State, int] = field(default_factory=dict)
    num_known: int = 0
    num_times_assumed: int = 0
    num_look_alikes: int = 0
    num_ids: int = 0
    num_ids_known: int = 0
    num_gone: int = 0
    unit: str = "line"
    unknown_lines: tuple[int, ...] = ()
    renamed_lines: tuple[int, ...] = ()
    hold: str = ""

    @property
    def num_new(self) -> int:
        """Requests that the ledger did not have."""
        return sum(self.states.values())


@dataclass(frozen=True)
class Hold:
    """A hold: what it covers is not deleted until it is released.

    Attributes:
        level: ``dataset`` covers every request of the ledger, ``submission`` those of one submission, ``unknown`` those
            of some subjects that the data set does not know.
        digest: Keyed digest of the user, item or interaction; "" for the data set; the name of the submission; the
            keyed digests of the unknown subjects, with commas between.
    """

    hold_id: str
    level: HoldLevel
    digest: str
    reason: str
    placed_at: str

    def covers(self, request: LedgerRequest) -> bool:
        """Whether the request's subject is held, or the user or the item that it names, or its submission."""
        if self.level == "dataset":
            return True
        if self.level == "submission":
            return request.payload.startswith(f"{self.digest}-")
        if self.level == "unknown":
            return request.subject_digest in self.digest
        return self.digest in (request.subject_digest, request.user_digest, request.item_digest)


@dataclass(frozen=True)
class HistoryLine:
    """One thing that happened to a request, and the number of the log entry that says so."""

    seq: int
    at: str
    kind: str
    state: State
    reason: str
    batch_id: str


@dataclass(frozen=True)
class LedgerHead:
    """The newest entry of the chain. Kept elsewhere (in a receipt), it proves that nothing was cut off since."""

    seq: int
    sha256: str
