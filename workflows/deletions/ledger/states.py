"""The states of a deletion request and one table of the legal transitions between them."""

from collections.abc import Mapping
from typing import Literal, get_args

from tru_core.errors import ConflictError

State = Literal[
    "received",
    "verified",
    "held",
    "denied",
    "duplicate",
    "queued",
    "processing",
    "published",
    "purged",
    "receipted",
    "failed_retryable",
    "failed_terminal",
    "cancelled",
]
STATES: tuple[State, ...] = get_args(State)

# From each state to the states that may follow. Whatever stands not here is refused.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    "received": frozenset({"verified", "denied", "cancelled"}),
    "verified": frozenset({"queued", "held", "duplicate", "denied", "cancelled"}),
    "held": frozenset({"queued", "duplicate", "denied", "cancelled"}),
    "duplicate": frozenset({"queued", "held", "cancelled"}),
    "queued": frozenset({"processing", "held", "denied", "cancelled"}),
    "processing": frozenset({"published", "queued", "held", "failed_retryable", "failed_terminal"}),
    "failed_retryable": frozenset({"queued", "processing", "held", "failed_terminal", "cancelled"}),
    "published": frozenset({"purged"}),
    "purged": frozenset({"receipted"}),
    "receipted": frozenset(),
    "denied": frozenset(),
    "failed_terminal": frozenset(),
    "cancelled": frozenset(),
}

DUE_STATES: tuple[State, ...] = ("queued", "failed_retryable")  # what a batch may take
WAITING_STATES: tuple[State, ...] = ("received", "verified", "held", *DUE_STATES)  # not in a batch; the clock runs
OPEN_STATES: tuple[State, ...] = (*WAITING_STATES, "processing")  # the data set may still hold what was asked for
DONE_STATES: tuple[State, ...] = ("published", "purged", "receipted")  # forgotten
CANCELLABLE_STATES: tuple[State, ...] = tuple(state for state in STATES if "cancelled" in TRANSITIONS[state])

NEXT_STEP: Mapping[State, str] = {
    "received": "It waits until somebody says that the requester is who they claim to be:",
    "verified": "It is queued, held or found to be a duplicate at once.",
    "held": "It waits until its hold is released. The deadline runs on.",
    "denied": "Nothing follows. Tell the requester why.",
    "duplicate": "It ends with the request that it repeats, whose receipt answers both.",
    "queued": "The next `tru delete run` takes it.",
    "processing": "Its batch is at work. If the batch was interrupted, `tru delete run` finishes it.",
    "published": "A model without it serves. `tru delete run` purges what still holds the data.",
    "purged": "`tru delete run` writes its receipt.",
    "receipted": "It is done. The receipt can be handed out.",
    "failed_retryable": "The next `tru delete run` tries again.",
    "failed_terminal": "It was not carried out and is not tried again. Mend the reason and submit it under a new id.",
    "cancelled": "Nothing follows.",
}


def check_transition(before: State, after: State, *, where: str) -> None:
    """Do nothing if a transition is legal.

    Raises:
        ConflictError: If it is not; the message names ``where`` and what may follow.
    """
    if after not in TRANSITIONS[before]:
        raise ConflictError(
            f"{where} is {before} and cannot become {after}; from there it may become "
            f"{', '.join(sorted(TRANSITIONS[before])) or 'nothing else'}. Nothing was written."
        )
