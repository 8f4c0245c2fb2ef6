"""Receipts: one signed statement for a batch, and for each of its requests a file that anybody can verify offline.

A receipt is one canonical JSON object: the batch's envelope, the request's leaf with its nonce, and the path from the
leaf to the root that the envelope signs. It shows nothing of any other request of the batch.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, ValidationError

from tru_core.canonical import canonical_json, read_canonical_json
from tru_core.errors import (
    ChainGapError,
    ChainOrderError,
    ConfigError,
    EditedReceiptError,
    ExpiredKeyError,
    IntegrityError,
    PredicateTypeError,
)
from tru_core.identity import PublicKey, SigningKey
from tru_core.quoting import shortened
from tru_core.receipts.envelope import open_envelope, parse_envelope, sign_payload
from tru_core.receipts.statement import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    BatchStatement,
    Predicate,
    ReceiptRequest,
    Sha256,
    statement_of,
)
from tru_core.receipts.tree import Tree, build_tree, leaf_hash, root_of_path
from tru_core.settings import Settings

MAX_RECEIPT_BYTES = 16 * 2**20

# What a public key alone cannot tell. Each goes when somebody looks.
NO_FILES = "The digests of data set and model, before and after the deletion: no files were looked at."
NO_CHAIN = "The receipts before this one: their chain was not looked at."
NO_SUBJECT = "Whom the request is about: no id was given."


class ReceiptFile(Settings):
    """The parts of a receipt as they stand in its file.

    Attributes:
        envelope: The batch's signed envelope.
        leaf: What became of the request.
        nonce: The leaf's secret salt, in hexadecimal digits.
        index, path: The leaf's place in the tree and its neighbours on the way to the root.
    """

    kind: Literal["tru.receipt"]
    schema_version: Literal[1]
    envelope: dict[str, Any]
    leaf: dict[str, Any]
    nonce: Sha256
    index: NonNegativeInt
    path: list[Sha256] = Field(max_length=64)


@dataclass(frozen=True)
class Verification:
    """What holds, and what is only said.

    Attributes:
        checked: Sentences that this program found to hold by itself.
        attested_only: Sentences that rest on the signer's word.
        predicate, leaf: The receipt's content. It is vouched for as far as ``checked`` says.
        envelope_digest: By which the next receipt of the chain names this one.
    """

    checked: tuple[str, ...]
    attested_only: tuple[str, ...]
    predicate: Predicate
    leaf: ReceiptRequest
    envelope_digest: str

    def with_checked(self, *sentences: str, instead_of: str = "") -> "Verification":
        """The same with more that was found to hold, and without what was only attested before."""
        attested = tuple(sentence for sentence in self.attested_only if sentence != instead_of)
        return dataclasses.replace(self, checked=(*self.checked, *sentences), attested_only=attested)

    def with_attested(self, *sentences: str, instead_of: str = "") -> "Verification":
        """The same with more that rests on the signer's word."""
        attested = tuple(sentence for sentence in self.attested_only if sentence != instead_of)
        return dataclasses.replace(self, attested_only=(*attested, *sentences))


# --- signing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignedBatch:
    """A batch's envelope and the leaves below its root, in the order of the tree."""

    envelope: bytes
    leaves: tuple[tuple[bytes, ReceiptRequest], ...]
    tree: Tree

    def receipt(self, place: int) -> bytes:
        """The receipt of one leaf."""
        nonce, request = self.leaves[place]
        value = ReceiptFile(
            kind="tru.receipt",
            schema_version=1,
            envelope=json.loads(self.envelope),
            leaf=request.model_dump(mode="json"),
            nonce=nonce.hex(),
            index=place,
            path=[digest.hex() for digest in self.tree.path(place)],
        )
        return canonical_json(value.model_dump(mode="json"), where="a receipt")


def sign_batch(
    batch: BatchStatement,
    requests: Sequence[ReceiptRequest],
    *,
    key: SigningKey,
    nonces: Sequence[bytes],
    number: int = 1,
    prev_receipt_digest: str | None = None,
) -> SignedBatch:
    """Sign what became of a batch. The same arguments give the same bytes.

    Args:
        nonces: 32 secret bytes for each request, never used twice.
        number, prev_receipt_digest: Place in the model's chain of receipts, and the digest of the envelope before.

    Raises:
        ConfigError: If there is no request, or another number of nonces, or one twice.
        NumericsError: If a setting holds NaN or an infinity.
    """
    if len(nonces) != len(requests) or len(set(nonces)) != len(nonces):
        raise ConfigError(f"{len(requests)} requests need as many different nonces. Nothing was signed.")
    # In the order of their digests: a leaf's place tells nothing about when a request came or whose it is.
    hashed = sorted(
        (_hash_of(nonce, request), nonce, place)
        for place, (nonce, request) in enumerate(zip(nonces, requests, strict=True))
    )
    tree = build_tree([digest for digest, _, _ in hashed])
    chained = {
        "receipt_id": f"{batch.model}-{number:08d}",
        "number": number,
        "prev_receipt_digest": prev_receipt_digest,
        "forget_root": tree.root.hex(),
        "num_requests": len(requests),
        "signing_key_id": key.key_id,
    }
    predicate = Predicate.model_validate(batch.model_dump() | chained)
    payload = canonical_json(statement_of(predicate), where="a receipt")
    envelope = canonical_json(sign_payload(payload, key).model_dump(mode="json"), where="a receipt")
    return SignedBatch(envelope, tuple((nonce, requests[place]) for _, nonce, place in hashed), tree)


def signed_batch(envelope: bytes, leaves: Sequence[tuple[bytes, ReceiptRequest]]) -> SignedBatch:
    """Put a signed batch together from its parts, leaves in the order of the tree."""
    return SignedBatch(envelope, tuple(leaves), build_tree([_hash_of(nonce, request) for nonce, request in leaves]))


def envelope_digest(envelope: bytes) -> str:
    """The digest by which the next receipt of the chain names this one."""
    return hashlib.sha256(envelope).hexdigest()


def _hash_of(nonce: bytes, request: ReceiptRequest) -> bytes:
    return leaf_hash(nonce, canonical_json(request.model_dump(mode="json"), where="a receipt"))


# --- verifying ----------------------------------------------------------------------------------


def verify_receipt(body: bytes, *, public_keys: Sequence[PublicKey], where: str = "receipt") -> Verification:
    """Check a receipt with nothing but public keys.

    Args:
        public_keys: Keys that the reader trusts: today's, and those before it.
        where: The receipt's name in messages.

    Raises:
        EditedReceiptError: If a byte or a field of it is not what was signed.
        UnknownKeyError: If it is signed by none of the keys.
        ExpiredKeyError: If it says that it was signed after its key had expired.
        PredicateTypeError: If the key signed it, and it is something else than a deletion receipt.
    """
    file = _parse_file(body, where)
    predicate, key = _open(file.envelope, public_keys, where)
    leaf = _check_leaf(file, predicate, where)
    claim = predicate.claim.word
    checked = [
        f"The statement was signed by key {key.key_id} and not changed since, nor was this request's part.",
        f"This request is one of the {predicate.num_requests} under the signed root.",
        f"The key had not expired at {predicate.times.issued_at}, when the statement says that it was signed.",
        f"The claim {claim} is one that the statement's audits and settings allow.",
    ]
    attested_only = [
        f"Method {predicate.method.name} ran with the settings and seeds named: claim {claim}.",
        "Times, counts, the code's version and the machine.",
        f"Audit results: {len(predicate.audits)}.",
        f"Items of the purge inventory: {len(predicate.purge)}.",
        NO_FILES,
        NO_CHAIN,
        NO_SUBJECT,
    ]
    digest = envelope_digest(canonical_json(file.envelope, where=where))
    return Verification(tuple(checked), tuple(attested_only), predicate, leaf, digest)


def check_chain(envelopes: Sequence[bytes], verification: Verification) -> Verification:
    """Check the chain from a verified receipt back to the first: each names the one before it by its digest.

    Only this receipt's signature counts: it vouches for the digest before it, and so on to the first.

    Args:
        envelopes: Those of the model's receipts, oldest first. Later ones than this receipt's are not looked at.

    Raises:
        ChainOrderError: If they are in another order.
        ChainGapError: If one is missing or was exchanged, also this receipt's own.
    """
    said, digests = verification.predicate, [envelope_digest(envelope) for envelope in envelopes]
    expected: str | None = verification.envelope_digest
    for number in range(said.number, 0, -1):
        if expected not in digests:
            raise ChainGapError(
                f"the chain of receipts of model {said.model} has a gap: number {number}, which is behind receipt "
                f"{said.receipt_id} or is itself, is missing or was exchanged. Ask the operator for it."
            )
        if digests.index(expected) != number - 1 or digests.count(expected) > 1:
            raise ChainOrderError(
                f"the chain of receipts of model {said.model} was reordered: number {number} stands at place "
                f"{digests.index(expected) + 1}, or twice. Ask the operator."
            )
        expected = _previous_digest(envelopes[number - 1])
    if expected is not None:
        raise ChainGapError(f"the first receipt of model {said.model} names one before it. Ask the operator for it.")
    line = f"The chain of {said.number} receipts up to this one has no gap."
    return verification.with_checked(line, instead_of=NO_CHAIN)


def _previous_digest(envelope: bytes) -> str | None:
    """The digest that an envelope names. A signed receipt vouches for the envelope, so it is no stranger's."""
    payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return payload["predicate"]["prev_receipt_digest"]


def _parse_file(body: bytes, where: str) -> ReceiptFile:
    if len(body) > MAX_RECEIPT_BYTES:
        raise EditedReceiptError(f"{where} has {len(body)} bytes, a receipt at most {MAX_RECEIPT_BYTES}: it is none.")
    try:
        return ReceiptFile.model_validate(read_canonical_json(body, where=where), strict=True)
    except IntegrityError as error:
        raise EditedReceiptError(str(error)) from error
    except ValidationError as error:
        raise EditedReceiptError(f"{where} is no receipt: {_first_problem(error)}. Get the original file.") from error


def _open(value: Any, public_keys: Sequence[PublicKey], where: str) -> tuple[Predicate, PublicKey]:
    payload, key = open_envelope(parse_envelope(value, where=where), public_keys, where=where)
    statement = read_canonical_json(payload, where=where)
    kind = statement.get("predicateType") if isinstance(statement, Mapping) else None
    if kind != PREDICATE_TYPE or statement.get("_type") != STATEMENT_TYPE:
        raise PredicateTypeError(
            f"{where} is a signed statement of type {str(kind)[:80]!r}, expected {PREDICATE_TYPE!r}: it is about "
            f"something else, or from a newer program."
        )
    try:
        predicate = Predicate.model_validate(statement.get("predicate"))
        is_whole = statement_of(predicate) == statement
    except ValidationError as error:
        raise EditedReceiptError(f"{where}: the statement is not whole: {_first_problem(error)}.") from error
    if not is_whole or predicate.signing_key_id != key.key_id:
        raise EditedReceiptError(f"{where}: the statement is not whole: a field is missing, or it names another key.")
    if key.not_after is not None and datetime.fromisoformat(predicate.times.issued_at) > key.not_after:
        raise ExpiredKeyError(
            f"{where} was signed at {predicate.times.issued_at}, after key {key.key_id} had expired at "
            f"{key.not_after.isoformat()}. Ask the operator for a receipt under a key that is valid."
        )
    return predicate, key


def _check_leaf(file: ReceiptFile, predicate: Predicate, where: str) -> ReceiptRequest:
    try:
        leaf = ReceiptRequest.model_validate(file.leaf, strict=True)
    except ValidationError as error:
        raise EditedReceiptError(f"{where}: the request's part is not whole: {_first_problem(error)}.") from error
    digest = leaf_hash(bytes.fromhex(file.nonce), canonical_json(file.leaf, where=where))
    path = [bytes.fromhex(neighbour) for neighbour in file.path]
    root = root_of_path(digest, index=file.index, num_leaves=predicate.num_requests, path=path)
    if root is None or root.hex() != predicate.forget_root:
        raise EditedReceiptError(
            f"{where}: the request's part is not under the signed root: it was changed, or belongs to another batch. "
            f"Get the original file."
        )
    return leaf


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
    return shortened(f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}", 300)
