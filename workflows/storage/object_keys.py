"""Keys: how every object of the project is named, and what a key may look like."""

import re
import unicodedata
from dataclasses import dataclass

from tru_core.errors import ConfigError, IntegrityError
from tru_core.quoting import quoted

ASIDE_FOLDER = ".aside"  # where a local store writes before it links; never an object
MAX_KEY_BYTES = 900  # S3 allows 1024 with the store's own prefix
_MAX_PART_BYTES = 255  # a file name's limit on most filesystems
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing."""

    key: str
    size_bytes: int


def check_key(key: str) -> str:
    """Return the key if it stays inside the store and means the same on every storage.

    Raises:
        IntegrityError: The key is empty, absolute or too long, has an empty part, ``.`` or ``..``, a
            backslash, an invisible character, or starts with the folder reserved for local writes.
    """
    problem = _key_problem(key)
    if problem:
        raise IntegrityError(
            f"storage key {key[:200]!r} {problem}. Nothing was read or written. Keys come from manifests and "
            f"from this program: if this one came from a manifest, do not trust that manifest."
        )
    return key


def _key_problem(key: str) -> str | None:
    if not key:
        return "is empty"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in key):
        return "has a control or invisible character"
    if "\\" in key:
        return "has a backslash"
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "is absolute or has an empty part, '.' or '..'"
    if parts[0] == ASIDE_FOLDER:
        return f"starts with the reserved folder {ASIDE_FOLDER!r}"
    if len(key.encode()) > MAX_KEY_BYTES or any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        return f"is over {MAX_KEY_BYTES} bytes, or a part of it is over {_MAX_PART_BYTES}"
    return None


def check_name(name: str) -> str:
    """Return the name of a data set or model. ConfigError unless it is ``[a-z0-9][a-z0-9._-]{0,62}``."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"name {quoted(name)} is not allowed: a data set or model has 1 to 63 characters of a-z, 0-9, "
            f"'.', '_', '-', and starts with a letter or digit."
        )
    return name


def _part(text: str) -> str:
    """One part of a key, such as an id or a modality."""
    if "/" in text:
        raise IntegrityError(f"part of a storage key {text[:80]!r} has a slash. Nothing was read or written.")
    return check_key(text)


def dataset_log(dataset: str) -> str:
    """The log whose newest entry names the current snapshot."""
    return f"datasets/{check_name(dataset)}/log"


def snapshots_prefix(dataset: str) -> str:
    """The folder of all snapshots of a data set."""
    return f"datasets/{check_name(dataset)}/snapshots"


def snapshot_prefix(dataset: str, snapshot_id: str) -> str:
    """The folder of one snapshot."""
    return f"{snapshots_prefix(dataset)}/{_part(snapshot_id)}"


def manifest_key(prefix: str) -> str:
    """The manifest of a snapshot or model version, written last."""
    return check_key(f"{prefix}/manifest.json")


def snapshot_id_of_manifest(key: str) -> str:
    """The id of the snapshot whose manifest lies under a key."""
    return key.removesuffix("/manifest.json").rpartition("/")[2]


def vocabulary_key(dataset: str, snapshot_id: str, side: str) -> str:
    """The table of ids and rows. ``side`` is ``users`` or ``items``."""
    return f"{snapshot_prefix(dataset, snapshot_id)}/vocabulary/{_part(side)}.parquet"


def interactions_key(dataset: str, snapshot_id: str, bucket: int) -> str:
    """The interactions of one user bucket."""
    return f"{snapshot_prefix(dataset, snapshot_id)}/interactions/bucket-{bucket:05d}.parquet"


def features_key(dataset: str, snapshot_id: str, modality: str, bucket: int) -> str:
    """The raw features of one item bucket."""
    return f"{snapshot_prefix(dataset, snapshot_id)}/features/{_part(modality)}/bucket-{bucket:05d}.npy"


def item_graph_key(dataset: str, snapshot_id: str, modality: str, bucket: int) -> str:
    """The nearest neighbours of the items of one item bucket."""
    return f"{snapshot_prefix(dataset, snapshot_id)}/item_graph/{_part(modality)}/bucket-{bucket:05d}.parquet"


def model_log(model: str) -> str:
    """The log whose newest entry names the version that serves."""
    return f"models/{check_name(model)}/log"


def receipt_log(model: str) -> str:
    """The log of a model's signed batches: the chain of its receipts."""
    return f"receipts/{check_name(model)}/log"


def receipts_key(model: str, digest: str) -> str:
    """The requests of one signed batch. ``digest`` is that of the file."""
    return f"receipts/{check_name(model)}/batches/{_part(digest)}.jsonl"


def create_only_key() -> str:
    """The one object by which a store is asked whether it refuses a second create."""
    return "doctor/create-only"


def doctor_prefix(attempt_id: str) -> str:
    """The folder of one examination of a store. It is empty afterwards."""
    return f"doctor/{_part(attempt_id)}"


def run_prefix(run_id: str) -> str:
    """The folder of one run: checkpoints, metrics, result."""
    return f"runs/{_part(run_id)}"


def stage_result_key(run_id: str, stage: str) -> str:
    """The result of one stage of a run, written once when the stage is done."""
    return f"{run_prefix(run_id)}/{_part(stage)}/result.json"


def stage_lists_key(run_id: str, stage: str, suffix: str) -> str:
    """The recommended lists of one attempt at a stage; the stage's result names those that count."""
    return f"{run_prefix(run_id)}/{_part(stage)}/lists-{_part(suffix)}.safetensors"


def lock_prefix(dataset: str) -> str:
    """The folder of a data set's leases: which run may change it and its models."""
    return f"locks/{check_name(dataset)}"


def run_about_key(run_id: str) -> str:
    """What data a run is of, so that a purge finds it. Written first."""
    return f"{run_prefix(run_id)}/about.json"


def deletion_prefix(model: str, batch_id: str) -> str:
    """The folder of one batch of deletions."""
    return f"deletions/{check_name(model)}/{_part(batch_id)}"


def purge_log(dataset: str) -> str:
    """The log of what was purged from a data set and its models, and what is still to be."""
    return f"purges/{check_name(dataset)}/log"


def ledger_chain(model: str) -> str:
    """The chain of a model's deletion ledger: its log, and the digests of its entries."""
    return f"ledger/{check_name(model)}"


def ledger_body_key(model: str, attempt_id: str) -> str:
    """The changes of one ledger entry, where they are too many to stand in the entry."""
    return f"{ledger_chain(model)}/bodies/{_part(attempt_id)}.parquet"


def ledger_snapshots_prefix(model: str) -> str:
    """The folder of all compacted snapshots of a ledger."""
    return f"{ledger_chain(model)}/snapshots"


def ledger_snapshot_prefix(model: str, attempt_id: str) -> str:
    """The folder of one compacted snapshot of a ledger."""
    return f"{ledger_snapshots_prefix(model)}/{_part(attempt_id)}"


def ledger_snapshot_shard_key(model: str, attempt_id: str, shard: int) -> str:
    """Some requests of a compacted snapshot."""
    return f"{ledger_snapshot_prefix(model, attempt_id)}/shard-{shard:05d}.parquet"


def ledger_payloads_prefix(model: str) -> str:
    """The folder of all payloads: the only objects beside a data set that hold outside ids."""
    return f"{ledger_chain(model)}/payloads"


def ledger_payload_prefix(model: str, payload: str) -> str:
    """The folder of one payload: its generations, of which the newest counts."""
    return f"{ledger_payloads_prefix(model)}/{_part(payload)}"


def ledger_payload_key(model: str, payload: str, generation: int) -> str:
    """The outside ids of some requests of one submission. A generation has fewer of them than the one before."""
    return f"{ledger_payload_prefix(model, payload)}/{generation:06d}.jsonl"


def tombstones_prefix() -> str:
    """The folder of all data sets' tombstones."""
    return "tombstones"


def tombstones_chain(dataset: str) -> str:
    """The chain of a data set's tombstones and consents."""
    return f"{tombstones_prefix()}/{check_name(dataset)}"


def tombstones_body_key(dataset: str, attempt_id: str) -> str:
    """The keyed digests of one entry, where they are too many to stand in the entry."""
    return f"{tombstones_chain(dataset)}/bodies/{_part(attempt_id)}.parquet"


def chain_log(chain: str) -> str:
    """The numbered entries of a hash chain."""
    return check_key(f"{chain}/log")


def chain_marks(chain: str) -> str:
    """The folder whose names say the digest of each entry of a hash chain."""
    return check_key(f"{chain}/marks")


def chain_mark_key(chain: str, seq: int, digest: str, label: str) -> str:
    """The mark of one entry: its number, its digest and, where it is a special one, what it is."""
    suffix = f".{_part(label)}" if label else ""
    return f"{chain_marks(chain)}/{seq:08d}-{_part(digest)}{suffix}"
