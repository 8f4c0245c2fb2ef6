"""Hand a receipt out: the signed file of one request, for its subject."""

import shlex
from pathlib import Path
from typing import Any

from tru_core.errors import MissingObjectError
from workflows.deletions.ledger.commands import Desk
from workflows.deletions.ledger.job import LedgerJob
from workflows.deletions.receipts.log import read_receipt
from workflows.output_files import check_outputs, write_whole

Figures = dict[str, Any]


def hand_out_receipt(job: LedgerJob, request_id: str, path: Path) -> Figures:
    """Write the signed receipt of a request to a file, for its subject; a duplicate's is that of what it repeats.

    Raises:
        ConfigError: The file cannot be written.
        MissingObjectError: There is no such request, or no batch has carried it out yet.
    """
    check_outputs([path], [".json"])
    desk = Desk(job)
    request = desk.ledger.find(request_id)
    while request.duplicate_of:
        request = desk.ledger.find(request.duplicate_of)
    body = read_receipt(desk.store, job.model, request.request_id, batch_id=request.batch_id)
    if body is None:
        raise MissingObjectError(
            f"request {request_id} has no receipt: it is {request.state}. Nothing was written. "
            f"`tru delete explain {shlex.quote(request_id)}` says what happens next."
        )
    write_whole(path, body)
    return {
        "request_id": request_id,
        "receipt_of": request.request_id,
        "batch_id": request.batch_id,
        "out": str(path.absolute()),
    }
