"""Signed envelopes: DSSE v1 (github.com/secure-systems-lab/dsse) with one Ed25519 signature.

What is signed is the pre-authentication encoding of payload and payload type, so neither can be exchanged. Base64 is
read strictly: of the encodings that decode to the same bytes only the one that an encoder writes is accepted.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from tru_core.errors import EditedReceiptError, UnknownKeyError
from tru_core.identity import PublicKey, SigningKey
from tru_core.settings import Settings

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signature(Settings):
    """One signature in base64, and which key made it."""

    keyid: str
    sig: str


class Envelope(Settings):
    """A payload in base64 with its type and its signature."""

    payloadType: str
    payload: str
    signatures: list[Signature] = Field(min_length=1, max_length=1)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: "DSSEv1", then type and payload, each behind its length."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_payload(payload: bytes, key: SigningKey) -> Envelope:
    """Put a payload into an envelope and sign it."""
    signature = key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
    return Envelope(
        payloadType=PAYLOAD_TYPE,
        payload=base64.b64encode(payload).decode(),
        signatures=[Signature(keyid=key.key_id, sig=base64.b64encode(signature).decode())],
    )


def parse_envelope(value: Any, *, where: str) -> Envelope:
    """Check that a JSON value is an envelope. EditedReceiptError if not."""
    try:
        return Envelope.model_validate(value, strict=True)
    except ValidationError as error:
        raise EditedReceiptError(f"{where} holds no signed envelope. Get the original file.") from error


def open_envelope(envelope: Envelope, keys: Sequence[PublicKey], *, where: str) -> tuple[bytes, PublicKey]:
    """Check the signature with the key that the envelope names.

    Returns:
        The payload, and the key that signed it. Whether the key had expired is not looked at.

    Raises:
        UnknownKeyError: If none of the keys is the one that the envelope names.
        EditedReceiptError: If payload, type or signature is not what that key signed.
    """
    signature = envelope.signatures[0]
    key = next((key for key in keys if key.key_id == signature.keyid), None)
    if key is None:
        known = ", ".join(key.key_id for key in keys) or "none"
        raise UnknownKeyError(
            f"{where} is signed by key {signature.keyid[:64]!r}, which was not given (given: {known}). Nothing that it "
            f"says is vouched for. Get the public key from the operator by a way that you trust."
        )
    payload = _decode(envelope.payload, where)
    message = pre_authentication_encoding(envelope.payloadType, payload)
    if envelope.payloadType != PAYLOAD_TYPE or not key.has_signed(message, _decode(signature.sig, where)):
        raise EditedReceiptError(
            f"{where} is not what key {key.key_id} signed: its content or its signature was changed. Nothing that it "
            f"says is vouched for. Get the original file."
        )
    return payload, key


def _decode(text: str, where: str) -> bytes:
    try:
        body = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise EditedReceiptError(f"{where} holds damaged base64. Get the original file.") from error
    if base64.b64encode(body).decode() != text:
        raise EditedReceiptError(
            f"{where} holds base64 in another form than an encoder writes: it was changed. Get the original file."
        )
    return body
