"""One file of requests into the ledger: parsed, compared with the data set, and taken in, or refused as a whole."""

from collections.abc import Sequence
from dataclasses import replace

from tru_core.identity import IdentityKey
from workflows.config.ledger import LedgerConfig
from workflows.data.requests import DeletionRequest, names_its_subject
from workflows.deletions.ledger.doubts import doubt_reason, examine, is_doubtful, refuse_alike
from workflows.deletions.ledger.ledger import Ledger
from workflows.deletions.ledger.pseudonyms import source_name
from workflows.deletions.ledger.records import SubmitReport
from workflows.storage import ObjectStore


def submit_requests(
    ledger: Ledger,
    requests: Sequence[DeletionRequest],
    *,
    store: ObjectStore,
    dataset: str,
    key: IdentityKey,
    config: LedgerConfig,
    file_name: str,
    file_digest: str = "",
    is_as_written: bool = False,
) -> SubmitReport:
    """Take the requests of a file in, and say what of it the data set does not know.

    Args:
        file_digest: Keyed digest of the file, where it must not be taken twice.
        is_as_written: A person says that ids which the data set does not know are meant as they are written.

    Raises:
        DataError: An id only looks like one of the data set. Nothing is taken of the whole file.
        MissingObjectError: There is no such data set.
        ConflictError: A request id is there with another body. Nothing is taken of the whole file.
        ConfigError: A field breaks what policy asks for.
    """
    examination = examine(store, dataset, requests, key=key)
    num_unknown, doubt = len(examination.unknown), ""
    if not is_as_written:
        refuse_alike(examination, file_name)
        if is_doubtful(num_unknown, len(requests), config):
            doubt = doubt_reason(num_unknown, len(requests), dataset)
    report = ledger.submit(
        requests,
        source=source_name(file_name, requests, key),
        file_digest=file_digest,
        doubt=doubt,
        is_settled=is_as_written and num_unknown > 0,
    )
    return replace(
        report,
        num_ids=examination.num_ids,
        num_ids_known=examination.num_known,
        num_gone=examination.num_gone,
        unit=next((request.unit for request in requests), "line"),
        unknown_lines=tuple(sorted(request.line for request in examination.unknown)),
        renamed_lines=tuple(sorted(request.line for request in requests if names_its_subject(request))),
        hold=doubt,
    )
