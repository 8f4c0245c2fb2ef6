"""What judges look at: lines that a message names, a ledger's outcomes, what a data set holds now."""

import re
from dataclasses import dataclass

from tests.cases.worlds import Trial
from tru_core.errors import MissingObjectError
from workflows.data.snapshot import SnapshotManifest, current_snapshot, read_interactions, read_vocabulary
from workflows.deletions.ledger import open_ledger
from workflows.key_files import KeysConfig, load_identity_key
from workflows.storage.local import LocalStore

_PLACES = re.compile(r"\b(?:lines?|rows?|requests?)\s+((?:\d+(?:\s*(?:,|and|to|-|–)\s*)?)+)", re.IGNORECASE)
_RANGE = re.compile(r"(\d+)\s*(?:to|-|–)\s*(\d+)")


def places_named(text: str) -> set[int]:
    """The numbers that stand behind line, row or request: ``lines 2, 3 and 7 to 9`` names six."""
    found: set[int] = set()
    for numbers in _PLACES.findall(text):
        for first, last in _RANGE.findall(numbers):
            found |= set(range(int(first), min(int(last), int(first) + 1000) + 1))
        found |= {int(number) for number in re.findall(r"\d+", numbers)}
    return found


def says_unchanged(text: str) -> bool:
    """Whether a refusal says what is safe."""
    return (
        re.search(r"[Nn]othing (was|is|has been)|[Nn]o (request|row|file)s? w(as|ere) (taken|written)", text)
        is not None
    )


# --- the ledger ---------------------------------------------------------------------------------


def outcomes(trial: Trial, model: str = "tiny-mgcn") -> dict[str, tuple[str, str]]:
    """State and outcome of every request in the ledger, by request id."""
    key = load_identity_key(KeysConfig(folder=str(trial.place.keys)))
    ledger = open_ledger(store_of(trial), model, key)
    return {request.request_id: (request.state, request.outcome) for request in ledger.requests()}


def store_of(trial: Trial) -> LocalStore:
    return LocalStore(trial.place.store)


# --- a data set ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What the current snapshot of a data set holds."""

    manifest: SnapshotManifest
    users: list[str]
    items: list[str]
    pairs: set[tuple[str, str]]

    @property
    def splits(self) -> tuple[int, int, int]:
        counts = self.manifest.counts
        return counts.train, counts.valid, counts.test

    @property
    def modalities(self) -> dict[str, int]:
        return {name: entry.num_columns for name, entry in self.manifest.features.items()}


def held(trial: Trial, dataset: str) -> Held | None:
    """The current snapshot; None where there is no such data set."""
    store = store_of(trial)
    try:
        manifest = current_snapshot(store, dataset)
    except MissingObjectError:
        return None
    users, items = (read_vocabulary(store, entry) for entry in (manifest.user_vocabulary, manifest.item_vocabulary))
    user_of, item_of = (dict(zip(rows.tolist(), ids, strict=True)) for ids, rows in (users, items))
    table = read_interactions(store, manifest, range(manifest.num_user_buckets))
    rows = zip(table.user_rows.tolist(), table.item_rows.tolist(), strict=True)
    return Held(manifest, users[0], items[0], {(user_of[user], item_of[item]) for user, item in rows})
