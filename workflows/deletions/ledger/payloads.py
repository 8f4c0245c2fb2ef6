"""Payloads: what requests ask for by outside ids, kept beside the log and deleted when it is done.

A payload holds some requests of one submission. Objects never change, so when some of its requests are dropped, a next
generation without them is written and the earlier ones are deleted; the newest generation counts. No digest of a
payload's bytes is kept anywhere: ids could be guessed from it. Its rows are compared with the log's keyed digests.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from tru_core.errors import IntegrityError, MissingObjectError
from tru_core.identity import IdentityKey
from workflows.data.requests import DeletionRequest
from workflows.deletions.ledger.records import LedgerRequest
from workflows.storage import ObjectStore, canonical_json
from workflows.storage.object_keys import ledger_payload_key, ledger_payload_prefix, ledger_payloads_prefix

REQUESTS_PER_PAYLOAD = 2048
_ATTEMPTS = 5


def subject_digest(request: DeletionRequest, key: IdentityKey) -> str:
    """The keyed digest of what a request asks to forget."""
    ids = {"user": (request.user_id,), "item": (request.item_id,), "interaction": (request.user_id, request.item_id)}
    return key.digest(request.kind, *ids[request.kind])


def write_payloads(
    store: ObjectStore, model: str, submission: str, requests: Sequence[DeletionRequest]
) -> dict[str, str]:
    """Write the outside ids of new requests. Returns the payload of each by request id."""
    names: dict[str, str] = {}
    for number, start in enumerate(range(0, len(requests), REQUESTS_PER_PAYLOAD)):
        part = requests[start : start + REQUESTS_PER_PAYLOAD]
        name = f"{submission}-{number:05d}"
        _write(store, model, name, generation=1, requests=part)
        names |= {request.request_id: name for request in part}
    return names


def delete_payloads(store: ObjectStore, model: str, names: Iterable[str]) -> None:
    """Delete payloads whole."""
    for name in set(names):
        for info in store.list(ledger_payload_prefix(model, name)):
            store.delete(info.key)


def read_payloads(
    store: ObjectStore, model: str, requests: Sequence[LedgerRequest], key: IdentityKey
) -> list[DeletionRequest]:
    """What requests ask for, in their order.

    Raises:
        MissingObjectError: A payload was dropped.
        IntegrityError: A payload was altered: its ids are not those whose digests the log has.
    """
    found: dict[str, DeletionRequest] = {}
    for name in sorted({request.payload for request in requests}):
        found |= {request.request_id: request for request in _read(store, model, name)[1]}
    for request in requests:
        payload = found.get(request.request_id)
        if payload is None:
            raise MissingObjectError(
                f"deletion request {request.request_id}: its ids were dropped from payload {request.payload}. It is "
                f"{request.state}. Submit it anew under another id if it must be carried out again."
            )
        if payload.kind != request.kind or subject_digest(payload, key) != request.subject_digest:
            raise IntegrityError(
                f"payload {request.payload} was altered: what it says for request {request.request_id} is not what was "
                "submitted. It was not used. Restore it from a backup."
            )
    return [found[request.request_id] for request in requests]


def drop_ids(store: ObjectStore, model: str, payload_of: Mapping[str, str]) -> int:
    """Take requests out of their payloads; delete a payload that holds no other.

    Args:
        payload_of: By request id.

    Returns:
        How many were taken out.
    """
    by_payload: dict[str, set[str]] = {}
    for request_id, name in payload_of.items():
        by_payload.setdefault(name, set()).add(request_id)
    return sum(_drop(store, model, name, request_ids) for name, request_ids in sorted(by_payload.items()))


def delete_unknown(store: ObjectStore, model: str, *, known: Collection[str], before: str) -> int:
    """Delete payloads that nothing names, of submissions that began earlier than the submission id ``before``."""
    prefix = ledger_payloads_prefix(model)
    names = {info.key[len(prefix) + 1 :].partition("/")[0] for info in store.list(prefix)}
    orphans = {name for name in names - set(known) if name[:16] < before[:16]}
    delete_payloads(store, model, orphans)
    return len(orphans)


def _drop(store: ObjectStore, model: str, name: str, request_ids: set[str]) -> int:
    while True:
        generation, held = _read(store, model, name)
        kept = [request for request in held if request.request_id not in request_ids]
        if kept and len(kept) < len(held) and not _write(store, model, name, generation=generation + 1, requests=kept):
            continue  # somebody else dropped others: their generation counts, ours is to be made from it
        newest = generation if kept and len(kept) == len(held) else generation + 1
        for info in store.list(ledger_payload_prefix(model, name)):
            if info.key < ledger_payload_key(model, name, newest):
                store.delete(info.key)
        return len(held) - len(kept)


def _write(store: ObjectStore, model: str, name: str, *, generation: int, requests: Sequence[DeletionRequest]) -> bool:
    lines = [canonical_json(_line(request), where="payload") for request in requests]
    return store.put_if_absent(ledger_payload_key(model, name, generation), b"\n".join(lines))


def _line(request: DeletionRequest) -> list[str | None]:
    return [
        request.request_id,
        request.kind,
        request.user_id,
        request.item_id,
        request.received_time,
        request.regulation,
    ]


def _read(store: ObjectStore, model: str, name: str) -> tuple[int, list[DeletionRequest]]:
    """The newest generation of a payload and its number; (0, nothing) if it was deleted."""
    for _ in range(_ATTEMPTS):
        infos = store.list(ledger_payload_prefix(model, name))
        if not infos:
            return 0, []
        try:
            body = store.read(infos[-1].key)
        except MissingObjectError:
            continue  # the next generation came while we looked
        return _generation(infos[-1].key), [_parse(line, infos[-1].key) for line in body.split(b"\n")]
    raise MissingObjectError(f"payload {name} changes while it is read. Nothing was changed. Run again.")


def _generation(key: str) -> int:
    number = key.rpartition("/")[2].removesuffix(".jsonl")
    if not number.isdecimal():
        raise IntegrityError(f"{key} is no generation of a payload. Find out who wrote it, and move it away.")
    return int(number)


def _parse(line: bytes, key: str) -> DeletionRequest:
    try:
        request_id, kind, user_id, item_id, received_time, regulation = json.loads(line)
    except (ValueError, TypeError, RecursionError):  # no cause: what the parser says could quote an id
        raise IntegrityError(f"{key} is damaged and was not used. Restore it from a backup.") from None
    return DeletionRequest(
        request_id=request_id,
        kind=kind,
        user_id=user_id,
        item_id=item_id,
        received_time=received_time,
        regulation=regulation,
        line=0,
    )
