"""The ledger of deletion requests: states, deadlines, holds; an append-only log that shows tampering."""

from workflows.deletions.ledger.ledger import Ledger, open_ledger
from workflows.deletions.ledger.reading import verify_ledger
from workflows.deletions.ledger.records import HistoryLine, Hold, LedgerHead, LedgerRequest, SubmitReport
from workflows.deletions.ledger.states import DUE_STATES, STATES, TRANSITIONS, State, check_transition

__all__ = [
    "DUE_STATES",
    "STATES",
    "TRANSITIONS",
    "HistoryLine",
    "Hold",
    "Ledger",
    "LedgerHead",
    "LedgerRequest",
    "State",
    "SubmitReport",
    "check_transition",
    "open_ledger",
    "verify_ledger",
]
