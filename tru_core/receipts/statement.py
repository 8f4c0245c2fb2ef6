"""What a receipt says: every field that is signed, and the rules they keep together.

One statement is signed for each batch. It is an in-toto Statement v1 whose subjects are the model version and the
snapshot after the deletion, and whose predicate is :class:`Predicate`. It holds no person's id and no request's:
requests are leaves under ``forget_root``.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, NonNegativeInt, PositiveInt, model_validator

from tru_core.receipts.claims import EXACT_METHODS, Claim, find_forbidden_word
from tru_core.settings import Settings

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:tru:deletion-receipt:1"


def _time_with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("expected a time in ISO 8601 with its zone")
    return text


Time = Annotated[str, AfterValidator(_time_with_zone)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Verdict = Literal["passed", "failed", "inconclusive", "reported"]


class Counts(Settings):
    """Users, items and single interactions that a batch was asked to forget."""

    users: NonNegativeInt
    items: NonNegativeInt
    interactions: NonNegativeInt


class FileDigest(Settings):
    """A file: where it lies in the storage, and which bytes it holds. ``version_id`` where the storage has versions."""

    key: str
    version_id: str | None
    size_bytes: NonNegativeInt
    sha256: Sha256


class DataState(Settings):
    """A snapshot of the data set. Its manifest names all its files with their digests."""

    snapshot_id: str
    manifest: FileDigest
    num_interactions: NonNegativeInt


class ModelState(Settings):
    """A model version.

    Attributes:
        manifest, files: Every byte of it, with its metadata.
        tensor_digest: SHA-256 over names, types, shapes and values, whatever number of workers wrote them.
        config_digest: SHA-256 of the settings that the backbone was built with.
    """

    version: PositiveInt
    manifest: FileDigest
    files: list[FileDigest]
    tensor_digest: Sha256
    backbone: str
    config_digest: Sha256


class MethodRecord(Settings):
    """The unlearning method, its settings and the seeds it drew from."""

    name: str
    settings: dict[str, JsonValue]
    seeds: dict[str, int]


class AuditResult(Settings):
    """One statistic of one audit.

    Attributes:
        name, version: Of the audit.
        value, low, high: The statistic of the model after the deletion, with its 95 % interval.
        num_cases: Subjects or pairs behind it.
        reference, reference_value, margin: What it was held against, and how far away still counts as equal.
        positive_control: Whether the audit saw on the model before what there was to see. None: not asked.
        negative_control: Whether retrained models passed. None: not asked.
        shows_not: What it does not show.
    """

    name: str
    version: int
    statistic: str
    value: float
    low: float
    high: float
    num_cases: NonNegativeInt
    reference: Literal["retrain", "never_seen"]
    reference_value: float | None
    margin: float | None
    positive_control: bool | None
    negative_control: bool | None
    verdict: Verdict
    shows_not: str


class PurgeItem(Settings):
    """What became of one thing that held the data.

    Attributes:
        kind: What it is, such as ``interactions``, ``checkpoint``, ``backup``.
        outcome: ``key_destroyed`` says that the only key of an encrypted backup is gone. It is never said of a model:
            weights are not encrypted by user.
        until: When a deferred item goes.
    """

    kind: str
    name: str
    outcome: Literal["purged", "not_found", "held", "deferred", "key_destroyed"]
    until: Time | None
    reason: str

    @model_validator(mode="after")
    def _outcome_fits(self) -> "PurgeItem":
        if self.outcome == "key_destroyed" and self.kind != "backup":
            raise ValueError(f"key_destroyed is for a backup, not for {self.kind}: that has to be purged")
        if (self.outcome == "deferred") != (self.until is not None):
            raise ValueError("a deferred item has a date, and no other has one")
        return self


class CodeState(Settings):
    """The program that ran. None is what could not be found out there."""

    git_sha: str | None
    is_dirty: bool | None
    lock_digest: Sha256 | None
    image_digest: str | None
    versions: dict[str, str]
    hardware: str


class BatchTimes(Settings):
    """UTC, ISO 8601. None is what did not happen: a batch that named nothing publishes nothing."""

    planned_at: Time
    published_at: Time | None
    purged_at: Time | None
    issued_at: Time


class BatchStatement(Settings):
    """All that the operator says about a batch.

    Attributes:
        retain_count: Interactions that stay in the data set.
        audits: Empty if there was none.
        known_limits: What this receipt does not say, for people.
        unsafe_single_writer: The version was published on a storage that may let two writers win.
        identity_key_id: Which key made the requests' digests.
    """

    schema_version: Literal[1] = 1
    model: str
    dataset: str
    batch_id: str
    times: BatchTimes
    forget_count: Counts
    retain_count: NonNegativeInt
    data_before: DataState
    data_after: DataState
    model_before: ModelState
    model_after: ModelState
    method: MethodRecord
    claim: Claim
    audits: list[AuditResult]
    purge: list[PurgeItem]
    code: CodeState
    known_limits: list[str]
    unsafe_single_writer: bool
    identity_key_id: KeyId

    @model_validator(mode="after")
    def _claim_is_borne_out(self) -> "BatchStatement":
        verdicts = {audit.verdict for audit in self.audits}
        if self.claim.word == "approximate_audited" and ("passed" not in verdicts or verdicts & {"failed"}):
            raise ValueError("approximate_audited needs audits of which one passed and none failed")
        if self.claim.word.startswith("exact") and EXACT_METHODS.get(self.method.name) != self.claim.word:
            raise ValueError(f"{self.claim.word} is not what method {self.method.name} does")
        texts = [*self.known_limits, *(audit.shows_not for audit in self.audits), *(i.reason for i in self.purge)]
        words = [word for text in texts if (word := find_forbidden_word(text))] if self.claim.is_approximate else []
        if words:
            raise ValueError(f"the word {words[0]!r} is not said of an approximate method")
        return self


class Predicate(BatchStatement):
    """A batch's statement with its place in the chain and the root over its requests. This is what is signed.

    Attributes:
        number: Place in the model's chain of receipts, from 1.
        prev_receipt_digest: SHA-256 of the envelope before; None for the first.
        forget_root, num_requests: Merkle root over the requests' leaves, and how many there are.
        signing_key_id: The key that signs.
    """

    receipt_id: str
    number: PositiveInt
    prev_receipt_digest: Sha256 | None
    forget_root: Sha256
    num_requests: PositiveInt
    signing_key_id: KeyId

    @model_validator(mode="after")
    def _first_has_none_before(self) -> "Predicate":
        if (self.number == 1) != (self.prev_receipt_digest is None):
            raise ValueError("the first receipt, and no other, has none before it")
        return self


class ReceiptRequest(Settings):
    """What became of one request: a leaf under ``forget_root``, shown to its subject alone.

    Attributes:
        subject_digest: Keyed digest of the subject (:meth:`tru_core.identity.IdentityKey.digest`).
        outcome: ``not_found``: no data was held. ``published``: it is out of the data set and the model that serves.
    """

    request_id: str
    kind: Literal["user", "item", "interaction"]
    subject_digest: Sha256
    outcome: Literal["published", "not_found"]
    regulation: str | None
    received_time: Time | None
    verified_time: Time | None
    deadline: Time | None


def statement_of(predicate: Predicate) -> dict[str, Any]:
    """The in-toto Statement: which version and snapshot it is about, and the predicate."""
    model, data = predicate.model_after, predicate.data_after
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": f"model {predicate.model} version {model.version}", "digest": {"sha256": model.manifest.sha256}},
            {"name": f"data set {predicate.dataset} {data.snapshot_id}", "digest": {"sha256": data.manifest.sha256}},
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate.model_dump(mode="json"),
    }


def audit_result(row: Mapping[str, Any], *, version: int) -> AuditResult:
    """An audit's finding, a flat dict, as a receipt keeps it."""
    kept = {name: row[name] for name in AuditResult.model_fields if name not in ("name", "version")}
    return AuditResult(name=row["attack"], version=version, **kept)
