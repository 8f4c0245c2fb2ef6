"""Requests that name what the data set does not know: said at submission, held where they are many, never guessed.

An id that nobody has ever had is rare, an id that was written differently is not. So a request whose id only looks
like one of the data set is refused by line, and a submission or a batch in which many ids are unknown waits for a
person (``ledger.max_unknown_share``). Released, or submitted as written, it is carried out: the receipt then says that
no data was held.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tru_core.errors import DataError
from tru_core.identity import IdentityKey
from workflows.config.ledger import LedgerConfig
from workflows.data.known_ids import look_up
from workflows.data.requests import DeletionRequest
from workflows.data.snapshot import current_snapshot
from workflows.data.tombstones import TombstoneIndex, read_tombstones
from workflows.deletions.ledger.payloads import subject_digest
from workflows.storage import ObjectStore

_SHOWN = 5


@dataclass(frozen=True)
class Examination:
    """What a data set knows of the requests of a file.

    Attributes:
        dataset: Its name.
        num_ids, num_known: Different user and item ids that the requests name, and how many of them it knows.
        num_gone: Requests about what was deleted before: it is unknown because of that.
        unknown: Requests that name an id which it does not know and which was not deleted before.
        alike: Of these, the ones whose id looks like one that it knows: the request, the column, the difference.
    """

    dataset: str
    num_ids: int = 0
    num_known: int = 0
    num_gone: int = 0
    unknown: list[DeletionRequest] = field(default_factory=list)
    alike: list[tuple[DeletionRequest, str, str]] = field(default_factory=list)


def examine(store: ObjectStore, dataset: str, requests: Sequence[DeletionRequest], *, key: IdentityKey) -> Examination:
    """Compare what requests name with the current snapshot of a data set and with its tombstones.

    Raises:
        MissingObjectError: There is no such data set.
        ConfigError: Another identity key made the tombstones.
    """
    found = look_up(store, current_snapshot(store, dataset), requests)
    strange = [request for request in requests if not found.knows(request)]
    stones = TombstoneIndex()
    if strange:
        stones = read_tombstones(store, dataset)
        stones.require_key(key, f"data set {dataset}")
    unknown = [request for request in strange if not _is_gone(request, stones, key)]
    sides = [
        ({r.user_id for r in requests if r.kind != "item"}, found.users),
        ({r.item_id for r in requests if r.kind != "user"}, found.items),
    ]
    return Examination(
        dataset=dataset,
        num_ids=sum(len(ids) for ids, _ in sides),
        num_known=sum(len(ids & match.places.keys()) for ids, match in sides),
        num_gone=len(strange) - len(unknown),
        unknown=unknown,
        alike=[(request, column, why) for request in unknown for column, why in found.alike(request)],
    )


def refuse_alike(examination: Examination, source: str) -> None:
    """Refuse a file whose ids only look like ids of the data set.

    Raises:
        DataError: Naming lines, columns and the difference.
    """
    if not examination.alike:
        return
    places = [
        f"{request.where}, column {column}: it differs {difference}"
        for request, column, difference in sorted(examination.alike, key=lambda one: one[0].line)
    ]
    more = f"; ... ({len(places)} in all)" if len(places) > _SHOWN else ""
    raise DataError(
        f"{source}: expected ids as data set {examination.dataset} has them, found ids that only look like one of "
        f"them: {'; '.join(places[:_SHOWN])}{more}. Nothing was written. Write these ids as "
        "the data set has them; if other people or things are meant, submit the file with --as-written."
    )


def is_doubtful(num_unknown: int, num_requests: int, config: LedgerConfig) -> bool:
    """Whether so many requests of so many name what is not known that a person should look."""
    return num_unknown >= config.min_unknown and num_unknown > config.max_unknown_share * num_requests


def doubt_reason(num_unknown: int, num_requests: int, dataset: str) -> str:
    """Why requests are held, and what a person is to do."""
    return (
        f"{num_unknown} of {num_requests} requests name ids that data set {dataset} does not know. Compare how the "
        "file writes them; then release the hold, or cancel the requests and submit them anew"
    )


def find_doubtful(
    store: ObjectStore, dataset: str, requests: Sequence[DeletionRequest], *, key: IdentityKey, config: LedgerConfig
) -> list[tuple[str, list[DeletionRequest]]]:
    """The requests of a batch that have to wait for a person, with the reason. Raises as :func:`examine`.

    Args:
        requests: Those that no person has settled yet.
    """
    examination = examine(store, dataset, requests, key=key)
    alike = {request.request_id for request, _, _ in examination.alike}
    looking = [request for request in examination.unknown if request.request_id in alike]
    others = [request for request in examination.unknown if request.request_id not in alike]
    found = []
    if looking:
        found.append((f"their ids only look like ids that data set {dataset} knows", looking))
    if is_doubtful(len(others), len(requests), config):
        found.append((doubt_reason(len(others), len(requests), dataset), others))
    return found


def _is_gone(request: DeletionRequest, stones: TombstoneIndex, key: IdentityKey) -> bool:
    """Whether what a request names, or its user or item, was deleted before."""
    if stones.blocks(request.kind, subject_digest(request, key)):
        return True
    if request.kind != "interaction":
        return False
    return stones.blocks("user", key.digest("user", request.user_id)) or stones.blocks(
        "item", key.digest("item", request.item_id)
    )
