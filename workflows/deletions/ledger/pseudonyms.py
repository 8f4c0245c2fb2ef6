"""Names that name nobody: what the ledger keeps where a request id or a file name holds the id of a person.

Ticket systems build request ids from customer numbers, and people name a file after the person whom it is about. The
ledger keeps request ids for ever, so such a one is kept as a keyed pseudonym: the same each time, so that sending the
request again changes nothing, and known to nobody without the identity key.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from tru_core.identity import IdentityKey
from workflows.data.requests import DeletionRequest, names_its_subject, text_names_subject


def pseudonym(request_id: str, key: IdentityKey) -> str:
    """What stands for a request id that names its subject."""
    return f"request-{key.pseudonym('request id', request_id)}"


def without_names(requests: Sequence[DeletionRequest], key: IdentityKey) -> list[DeletionRequest]:
    """The requests, each whose id names its subject under a pseudonym."""
    return [
        replace(request, request_id=pseudonym(request.request_id, key)) if names_its_subject(request) else request
        for request in requests
    ]


def source_name(file_name: str, requests: Sequence[DeletionRequest], key: IdentityKey) -> str:
    """What the ledger calls a file: its name, or a pseudonym where the name holds an id that the file names."""
    if not any(text_names_subject(file_name, request) for request in requests):
        return file_name
    return f"file-{key.pseudonym('file name', file_name)}{PurePath(file_name).suffix}"
