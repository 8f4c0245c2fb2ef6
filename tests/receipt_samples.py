"""A batch's statement and its requests, made up, for tests of receipts."""

from collections.abc import Sequence
from typing import Any

from tru_core.identity import IdentityKey, SigningKey
from tru_core.receipts.claims import STANDING_LIMITS
from tru_core.receipts.receipt import sign_batch
from tru_core.receipts.statement import BatchStatement, ReceiptRequest

IDENTITY = IdentityKey(bytes(range(32)))
SIGNING = SigningKey(b"s" * 32)
OUTSIDE_IDS = ("sentinel-user-987654321", "sentinel-user-42", "sentinel-item-7")


def file_digest(name: str) -> dict[str, Any]:
    return {"key": name, "version_id": None, "size_bytes": 12, "sha256": f"{len(name):064x}"}


def statement_values() -> dict[str, Any]:
    """The fields of a batch's statement, ready to be changed."""
    model = {"files": [file_digest("m/shared")], "tensor_digest": "a" * 64, "backbone": "mgcn"}
    audit = {
        "name": "membership",
        "version": 1,
        "statistic": "area under the ROC curve",
        "value": 0.51,
        "low": 0.49,
        "high": 0.53,
        "num_cases": 120,
        "reference": "retrain",
        "reference_value": 0.505,
        "margin": 0.02,
        "positive_control": True,
        "negative_control": True,
        "verdict": "passed",
        "shows_not": "what a stronger attacker could find",
    }
    purge = [
        {"kind": "interactions", "name": "bucket 3", "outcome": "purged", "until": None, "reason": ""},
        {"kind": "backup", "name": "tape 9", "outcome": "key_destroyed", "until": None, "reason": "encrypted"},
        {
            "kind": "model version",
            "name": "1",
            "outcome": "deferred",
            "until": "2026-12-03T00:00:00+00:00",
            "reason": "grace",
        },
    ]
    return {
        "schema_version": 1,
        "model": "shop",
        "dataset": "baby",
        "batch_id": "0f" * 16,
        "times": {
            "planned_at": "2026-11-26T01:00:00+00:00",
            "published_at": "2026-11-26T02:00:00+00:00",
            "purged_at": "2026-11-26T02:10:00+00:00",
            "issued_at": "2026-11-26T02:11:00+00:00",
        },
        "forget_count": {"users": 2, "items": 1, "interactions": 0},
        "retain_count": 100_000,
        "data_before": {"snapshot_id": "first", "manifest": file_digest("d/1"), "num_interactions": 100_020},
        "data_after": {"snapshot_id": "delete-0f", "manifest": file_digest("d/22"), "num_interactions": 100_000},
        "model_before": model | {"version": 1, "manifest": file_digest("m/1/manifest"), "config_digest": "c" * 64},
        "model_after": model | {"version": 2, "manifest": file_digest("m/22/manifest"), "config_digest": "c" * 64},
        "method": {"name": "tru", "settings": {"reverse_learning_rate": 0.08, "repair": True}, "seeds": {"fit": 7}},
        "claim": {"word": "approximate_audited", "epsilon": None, "delta": None, "assumptions": None},
        "audits": [audit],
        "purge": purge,
        "code": {
            "git_sha": "d" * 40,
            "is_dirty": False,
            "lock_digest": "e" * 64,
            "image_digest": None,
            "versions": {"ray": "2.60.0", "torch": "2.13.0"},
            "hardware": "x86_64, 2 CPUs",
        },
        "known_limits": list(STANDING_LIMITS),
        "unsafe_single_writer": False,
        "identity_key_id": IDENTITY.key_id,
    }


def statement(**changes: Any) -> BatchStatement:
    return BatchStatement.model_validate(statement_values() | changes)


def requests(count: int = 3) -> list[ReceiptRequest]:
    """Requests of the sentinel ids, then of numbered users."""
    ids = [*OUTSIDE_IDS, *(f"sentinel-{place}" for place in range(len(OUTSIDE_IDS), count))][:count]
    return [
        ReceiptRequest(
            request_id=f"00000000-0000-4000-8000-{place:012d}",
            kind="item" if "item" in outside_id else "user",
            subject_digest=IDENTITY.digest("item" if "item" in outside_id else "user", outside_id),
            outcome="published",
            regulation="gdpr",
            received_time="2026-11-20T09:30:00+00:00",
            verified_time=None,
            deadline="2026-12-20T09:30:00+00:00",
        )
        for place, outside_id in enumerate(ids)
    ]


def nonces(count: int = 3) -> list[bytes]:
    return [IDENTITY.nonce("0f" * 16, f"request {place}") for place in range(count)]


def receipts(count: int = 3, *, number: int = 1, previous: str | None = None, **changes: Any) -> list[bytes]:
    """The receipts of a batch, in the order of its requests."""
    asked = requests(count)
    return signed_receipts(
        statement(**changes), asked, key=SIGNING, nonces=nonces(count), number=number, prev_receipt_digest=previous
    )


def signed_receipts(
    batch: BatchStatement, asked: Sequence[ReceiptRequest], *, nonces: Sequence[bytes], **options: Any
) -> list[bytes]:
    """Sign a batch and give every request's receipt, in the order of the requests."""
    signed = sign_batch(batch, asked, nonces=nonces, **options)
    place_of = {nonce: place for place, (nonce, _) in enumerate(signed.leaves)}
    return [signed.receipt(place_of[nonce]) for nonce in nonces]
