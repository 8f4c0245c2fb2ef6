"""The two secrets of a deletion, and the public key that anybody may have.

The identity key turns an outside id into a keyed digest (HMAC-SHA256). Without the key nobody can tell whose digest
it is: a plain hash of a small id is reversed in seconds by trying every id. The signing key (Ed25519) signs receipts.
They are two keys because they have two lives: signing keys are replaced every year or so, and old receipts stay
valid under the old public key. With another identity key no digest of an earlier deletion matches any more.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tru_core.canonical import canonical_json

SECRET_BYTES = 32
TENANT = "tru"

IdentityKind = Literal["user", "item", "interaction"]


@dataclass(frozen=True)
class IdentityKey:
    """Makes keyed digests of outside ids. Never printed, never pickled: load it where it is used."""

    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Which key it is: 16 hexadecimal digits that tell nothing about the secret."""
        return hmac.digest(self.secret, b"tru identity key id", "sha256").hex()[:16]

    def digest(self, kind: IdentityKind, *ids: str) -> str:
        """The keyed digest of a user, an item, or an interaction (user, item): 64 hexadecimal digits.

        Ids are compared byte for byte; nothing is trimmed or normalised.
        """
        message = canonical_json([TENANT, kind, list(ids)], where="an identity")
        return hmac.digest(self.secret, message, "sha256").hex()

    def pseudonym(self, kind: str, text: str) -> str:
        """A keyed digest that stands for a text which may name somebody: 24 hexadecimal digits, the same each time."""
        message = canonical_json([TENANT, "pseudonym", kind, text], where="a pseudonym")
        return hmac.digest(self.secret, message, "sha256").hex()[:24]

    def nonce(self, batch_id: str, request_id: str) -> bytes:
        """The secret salt of a request's leaf in a receipt, 32 bytes: the same again when a batch is finished anew."""
        message = canonical_json([TENANT, "receipt nonce", batch_id, request_id], where="a receipt")
        return hmac.digest(self.secret, message, "sha256")

    def __reduce__(self) -> NoReturn:
        raise TypeError("an identity key is never pickled: it would lie in other processes' stores and logs")


@dataclass(frozen=True)
class PublicKey:
    """Checks signatures. Anybody may have it.

    Attributes:
        raw: The 32 bytes of the Ed25519 public key.
        not_after: What says that it was signed after this time (with a zone) is refused; None is no limit.
    """

    raw: bytes
    not_after: datetime | None = None

    @property
    def key_id(self) -> str:
        """Which key it is: the first 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature of a message was made by the private half."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """Signs receipts. Never printed, never pickled."""

    secret: bytes = field(repr=False)

    @property
    def public_key(self) -> PublicKey:
        """The half that may be given away, without limits of time."""
        return PublicKey(Ed25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw())

    @property
    def key_id(self) -> str:
        """The public key's id."""
        return self.public_key.key_id

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes. Ed25519 is deterministic: the same message gives the same bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).sign(message)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is never pickled: it would lie in other processes' stores and logs")
