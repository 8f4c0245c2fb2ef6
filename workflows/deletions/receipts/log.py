"""Receipts in storage: a log with the signed envelope of each batch, and a file with each batch's requests.

A batch has one receipt whatever happens: the file is written first, under the digest of its content, then the log
entry, which only one writer can make and which names the envelope before it. Whoever comes second with the same batch
takes the receipt that is there.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tru_core.canonical import canonical_json
from tru_core.errors import IntegrityError
from tru_core.identity import IdentityKey, SigningKey
from tru_core.receipts.receipt import SignedBatch, envelope_digest, sign_batch, signed_batch
from tru_core.receipts.statement import BatchStatement, ReceiptRequest
from tru_core.settings import Settings
from workflows.storage import FileEntry, ObjectStore, append_log_entry, put_file, read_log, read_verified
from workflows.storage.object_keys import receipt_log, receipts_key


class _Link(Settings):
    """One entry of the log."""

    batch_id: str
    envelope: dict[str, Any]
    receipts: FileEntry


@dataclass(frozen=True)
class IssuedBatch:
    """A batch whose receipt is in the log.

    Attributes:
        number: Place in the model's chain of receipts, from 1.
        envelope: The signed envelope, canonical JSON.
    """

    number: int
    batch_id: str
    envelope: bytes
    receipts: FileEntry


def issue_receipts(
    store: ObjectStore,
    batch: BatchStatement,
    requests: Sequence[ReceiptRequest],
    *,
    signing: SigningKey,
    identity: IdentityKey,
) -> IssuedBatch:
    """Sign a batch and put its receipts into the log, unless that is done.

    Raises:
        IntegrityError: If the log is damaged, or the batch was digested with another identity key.
    """
    if batch.identity_key_id != identity.key_id:
        raise IntegrityError(
            f"batch {batch.batch_id} was digested with identity key {batch.identity_key_id}, the one given is "
            f"{identity.key_id}. No receipt was written. Use the key that the batch was planned with."
        )
    nonces = [identity.nonce(batch.batch_id, request.request_id) for request in requests]
    while True:
        issued = read_issued(store, batch.model)
        known = next((link for link in issued if link.batch_id == batch.batch_id), None)
        if known is not None:
            return known
        signed = sign_batch(
            batch,
            requests,
            key=signing,
            nonces=nonces,
            number=len(issued) + 1,
            prev_receipt_digest=envelope_digest(issued[-1].envelope) if issued else None,
        )
        body = _file_of(signed)
        file = put_file(store, receipts_key(batch.model, hashlib.sha256(body).hexdigest()), body)
        link = _Link(batch_id=batch.batch_id, envelope=json.loads(signed.envelope), receipts=file)
        append_log_entry(store, receipt_log(batch.model), number=len(issued) + 1, entry=link.model_dump(mode="json"))


def read_issued(store: ObjectStore, model: str) -> list[IssuedBatch]:
    """Every batch that has a receipt, oldest first. IntegrityError if the log is damaged."""
    issued = []
    for line in read_log(store, receipt_log(model)):
        try:
            link = _Link.model_validate(line.entry)
        except ValidationError as error:
            raise IntegrityError(f"{receipt_log(model)}: entry {line.number} is no batch of receipts.") from error
        envelope = canonical_json(link.envelope, where=receipt_log(model))
        issued.append(IssuedBatch(line.number, link.batch_id, envelope, link.receipts))
    return issued


def read_receipt(store: ObjectStore, model: str, request_id: str, *, batch_id: str | None = None) -> bytes | None:
    """The receipt of a request, ready to be handed to its subject; None if no batch has it.

    Args:
        batch_id: The request's batch, if that is known: then no other batch is looked at.

    Raises:
        IntegrityError: If the log or the batch's file is damaged.
    """
    for issued in reversed(read_issued(store, model)):
        if batch_id in (None, issued.batch_id):
            signed = _read_file(store, issued)
            for place, (_, request) in enumerate(signed.leaves):
                if request.request_id == request_id:
                    return signed.receipt(place)
    return None


def _file_of(signed: SignedBatch) -> bytes:
    """The requests of a batch, one on a line, in the order of the tree."""
    lines = [
        canonical_json({"leaf": request.model_dump(mode="json"), "nonce": nonce.hex()}, where="receipts")
        for nonce, request in signed.leaves
    ]
    return b"\n".join([*lines, b""])


def _read_file(store: ObjectStore, issued: IssuedBatch) -> SignedBatch:
    body = read_verified(store, issued.receipts)
    try:
        leaves = [
            (bytes.fromhex(line["nonce"]), ReceiptRequest.model_validate(line["leaf"]))
            for line in map(json.loads, body.splitlines())
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IntegrityError(f"{issued.receipts.key} holds a line that is no request of a batch.") from error
    return signed_batch(issued.envelope, leaves)
