"""What a receipt says, held against the files that it names, its chain, and the person whom it is about.

Everything here either holds, and becomes a sentence under "checked", or cannot be looked at any more, and becomes one
under "attested only". What is there and differs is an error.
"""

from collections.abc import Sequence

from tru_core.errors import IntegrityError, MissingObjectError, UnknownKeyError
from tru_core.identity import IdentityKey, IdentityKind
from tru_core.receipts.receipt import NO_FILES, NO_SUBJECT, Verification, check_chain
from tru_core.receipts.statement import DataState, ModelState
from workflows.data.deletion import buckets_named, is_named
from workflows.data.ids import read_id_texts
from workflows.data.known_ids import find_rows
from workflows.data.manifest import SnapshotManifest, read_manifest
from workflows.data.snapshot import read_interactions
from workflows.deletions.receipts.log import read_issued
from workflows.models.model_record import file_digest, file_entry, state_entries, tensor_digest
from workflows.storage import FileEntry, ObjectStore, read_verified
from workflows.storage.state_files import parse_state_manifest
from workflows.tasks import RequestRows


def check_files(store: ObjectStore, verification: Verification) -> Verification:
    """Recompute the digests of the snapshots' manifests and of the models' files.

    Args:
        store: The storage that the receipt was written in, or a folder with a copy of it.

    Raises:
        IntegrityError: If a file is there and is not what the receipt says.
        MissingObjectError: If none of them is there.
    """
    said, checked, missing = verification.predicate, [], []
    for when, data in (("after", said.data_after), ("before", said.data_before)):
        (checked if _is_data_there(store, data) else missing).append(
            f"The manifest of the data set {when} the deletion, snapshot {data.snapshot_id}"
        )
    for when, model in (("after", said.model_after), ("before", said.model_before)):
        (checked if _is_model_there(store, model) else missing).append(
            f"Every byte and every tensor of the model {when} the deletion, version {model.version}"
        )
    if not checked:
        raise MissingObjectError(
            f"none of the files that receipt {said.receipt_id} names is in {store.url}. Nothing was checked against "
            f"them. Name the storage that the receipt was written in, or a folder with a copy of it."
        )
    return verification.with_attested(
        *(f"{what}: not there (any more)." for what in missing), instead_of=NO_FILES
    ).with_checked(*(f"{what}: recomputed, and as the statement says." for what in checked))


def check_links(store: ObjectStore, verification: Verification) -> Verification:
    """Check the chain of receipts in storage, if one is there, back to its first. Raises as ``check_chain``."""
    envelopes = [issued.envelope for issued in read_issued(store, verification.predicate.model)]
    if not envelopes:
        return verification
    return check_chain(envelopes, verification)


def check_subject(
    verification: Verification, identity: IdentityKey, kind: IdentityKind, ids: Sequence[str]
) -> Verification:
    """Check that the receipt is about this subject.

    Args:
        ids: The outside id of a user or an item, or both of an interaction.

    Raises:
        UnknownKeyError: If another identity key made the receipt's digests.
        IntegrityError: If it is about somebody or something else.
    """
    said = verification.predicate
    if identity.key_id != said.identity_key_id:
        raise UnknownKeyError(
            f"receipt {said.receipt_id} was made with identity key {said.identity_key_id}, the one given is "
            f"{identity.key_id}. Whom it is about was not checked."
        )
    read, _ = read_id_texts(ids)
    spellings = [list(ids), [one or text for one, text in zip(read, ids, strict=True)]]
    digests = {identity.digest(kind, *spelling) for spelling in spellings}
    if verification.leaf.kind != kind or verification.leaf.subject_digest not in digests:
        raise IntegrityError(
            f"receipt {said.receipt_id} is about another subject than the {kind} that was named. Check the id and its "
            f"spelling, byte by byte."
        )
    line = f"The receipt is about the {kind} that was named, and its leaf is under the signed root."
    return verification.with_checked(line, instead_of=NO_SUBJECT)


def check_absence(
    store: ObjectStore, verification: Verification, kind: IdentityKind, ids: Sequence[str]
) -> Verification:
    """Check that the data set after the deletion does not hold the subject. Reads a vocabulary, or a bucket.

    Raises:
        IntegrityError: If it does.
    """
    said = verification.predicate
    entry = file_entry(said.data_after.manifest)
    if not store.exists(entry.key):
        return verification.with_attested(
            f"The data set after the deletion does not hold this {kind}: it is not there."
        )
    manifest = read_manifest(store, entry)
    is_there = (
        _is_pair_there(store, manifest, *ids) if kind == "interaction" else _is_id_there(store, manifest, kind, ids)
    )
    if is_there:
        raise IntegrityError(
            f"receipt {said.receipt_id} says that a {kind} is gone, and snapshot {said.data_after.snapshot_id} of data "
            f"set {said.dataset} holds it. The receipt is wrong. Ask the operator."
        )
    line = f"The data set after the deletion, snapshot {said.data_after.snapshot_id}, does not hold this {kind}."
    return verification.with_checked(line)


def _is_data_there(store: ObjectStore, data: DataState) -> bool:
    """Whether a snapshot's manifest is there; then it is what the receipt says, or IntegrityError."""
    entry = file_entry(data.manifest)
    if not store.exists(entry.key):
        return False
    manifest = read_manifest(store, entry)
    counts = manifest.counts
    found = (manifest.snapshot_id, counts.train + counts.valid + counts.test)
    if found != (data.snapshot_id, data.num_interactions):
        raise IntegrityError(f"{entry.key} is another snapshot than the receipt says, or has another count.")
    return True


def _is_model_there(store: ObjectStore, model: ModelState) -> bool:
    """Whether all files of a model are there; then they are what the receipt says, or IntegrityError."""
    entries = [file_entry(digest) for digest in (model.manifest, *model.files)]
    if not all(store.exists(entry.key) for entry in entries):
        return False
    manifest = parse_state_manifest(read_verified(store, entries[0]), entries[0].key)
    if [file_digest(entry) for entry in state_entries(manifest)] != model.files:
        raise IntegrityError(f"{entries[0].key} names other files than the receipt.")
    if tensor_digest(store, manifest) != model.tensor_digest:
        raise IntegrityError(f"{entries[0].key}: the tensors have another digest than the receipt says.")
    return True


def _is_id_there(store: ObjectStore, manifest: SnapshotManifest, kind: IdentityKind, ids: Sequence[str]) -> bool:
    vocabulary = manifest.user_vocabulary if kind == "user" else manifest.item_vocabulary
    return ids[0] in find_rows(store, vocabulary, ids).places


def _is_pair_there(store: ObjectStore, manifest: SnapshotManifest, user_id: str, item_id: str) -> bool:
    rows = [_row_of(store, manifest.user_vocabulary, user_id), _row_of(store, manifest.item_vocabulary, item_id)]
    user_row, item_row = rows
    if user_row is None or item_row is None:
        return False
    pair = RequestRows(users=[], items=[], pairs=[(user_row, item_row)], num_train_pairs=0)
    table = read_interactions(store, manifest, buckets_named(pair, manifest.num_user_buckets))
    return bool(is_named(table, pair, manifest.num_items).any())


def _row_of(store: ObjectStore, vocabulary: FileEntry, outside_id: str) -> int | None:
    return find_rows(store, vocabulary, [outside_id]).places.get(outside_id)
