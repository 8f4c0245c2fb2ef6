"""Judges of the cases about requests: read as what they mean and carried out, or refused by line with nothing kept."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.cases.reading import held, outcomes, places_named, says_unchanged, store_of
from tests.cases.worlds import Trial
from workflows.data.tombstones import read_tombstones
from workflows.key_files import KeysConfig, load_identity_key
from workflows.storage.object_keys import ledger_payloads_prefix

_UNKNOWN = re.compile(r"unknown|not (?:known|in the data set|held)|does not (?:know|hold|have)|no id of", re.IGNORECASE)
_DROP_FOLDER = {
    "b.jsonl": "rk-2",
    "c.tsv": "rk-3",
    "d.txt": "rk-4",
    "2026-11": "rk-5",
    "f.csv.gz": "rk-6",
    "g.xlsx": "rk-7",
}


def _read_or_refused(
    trial: Trial,
    *,
    places: Sequence[int],
    users: Sequence[str] = (),
    items: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    words: Sequence[str] = (),
) -> Iterator[str]:
    """Refused by place, or carried out, or set aside as unknown with a word at submission.

    Args:
        places: Lines, rows or requests that a refusal names.
        users, items, pairs: What is gone when the file is read as it is meant.
        words: What a refusal has to hold beside.
    """
    found = outcomes(trial)
    if "not_found" in {outcome for _, outcome in found.values()}:
        yield "an outcome not_found for what the data set holds"
    if trial.is_refused:
        yield from _wrong_refusal(trial, places, words)
    elif {state for state, _ in found.values()} & {"received", "held"} or not found:
        missing = set(places) - places_named(trial.said[0].text)
        if missing or not _UNKNOWN.search(trial.said[0].text):
            yield f"set aside, and the submission does not say so of {sorted(missing)}"
    else:
        yield from _left(trial, found, users=users, items=items, pairs=pairs)


def _wrong_refusal(trial: Trial, places: Sequence[int], words: Sequence[str] = ()) -> Iterator[str]:
    """What is wrong with a refusal: a place not named, nothing said of what is safe, or something kept."""
    text = trial.said[0].text
    if missing := sorted(set(places) - places_named(text)):
        yield f"refused without naming {missing}"
    names = (Path(trial.case.entry["files"][0]).name, *words)
    if lacking := [word for word in names if word not in text]:
        yield f"refused without naming {lacking}"
    if not says_unchanged(text):
        yield "refused without a word on what is safe"
    if outcomes(trial):
        yield "refused, and the ledger has requests of it"


def _left(
    trial: Trial,
    found: dict[str, tuple[str, str]],
    *,
    users: Sequence[str] = (),
    items: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> Iterator[str]:
    """What a deletion left that it should not have, or took too much."""
    now = held(trial, "tiny")
    if now is None:
        yield "the data set is gone"
        return
    if open_ones := {request_id: has for request_id, has in found.items() if has[1] != "published"}:
        yield f"not carried out: {open_ones}"
    left = [*(set(users) & set(now.users)), *(set(items) & set(now.items)), *(set(pairs) & now.pairs)]
    if left:
        yield f"{len(left)} of what was asked for is still in the data set"
    if len(now.users) != 40 - len(users) or len(now.items) < 30 - len(items) - 1:
        yield f"{len(now.users)} users and {len(now.items)} items are left"


def _carried_out(trial: Trial, *, users: Sequence[str] = (), items: Sequence[str] = ()) -> Iterator[str]:
    """A control: taken, carried out, and no word of trouble."""
    found = outcomes(trial)
    if len(found) != len(users) + len(items):
        yield f"{len(found)} requests in the ledger"
    yield from _left(trial, found, users=users, items=items)


def _null_words(trial: Trial) -> Iterator[str]:
    yield from _wrong_refusal(trial, (2, 3, 4), ("user_id", "item_id"))


def _float_column(trial: Trial) -> Iterator[str]:
    if "damaged" in trial.text:
        yield "the file is called damaged"
    if trial.is_refused:
        yield from _wrong_refusal(trial, (), ("user_id",))
        if not re.search(r"double|float|decimal", trial.text):
            yield "refused without the column's type"
    else:
        yield from _carried_out(trial, users=("17",), items=("4",))


def _ids_outside_payloads(trial: Trial, text: str) -> Iterator[str]:
    """Objects, by key, that hold a text although they are no payload; and keys that hold it."""
    store = store_of(trial)
    for info in store.list(""):
        if text in info.key:
            yield "a key of the storage holds the id"
        if not info.key.startswith(ledger_payloads_prefix("tiny-mgcn")) and text.encode() in store.read(info.key):
            yield f"{info.key.rpartition('/')[0]} holds the id"


def _id_inside_request_id(trial: Trial) -> Iterator[str]:
    if trial.is_refused:
        yield from _wrong_refusal(trial, (2,), ("request_id",))
    elif 2 not in places_named(trial.text) or "request_id" not in trial.text:
        yield "taken without a warning that names line 2 and the column"
    yield from _ids_outside_payloads(trial, "customer-48213")


def _id_in_file_name(trial: Trial) -> Iterator[str]:
    if trial.is_refused:
        if not re.search(r"another name|[Rr]ename", trial.text):
            yield "refused without asking for another name"
    elif "rj-1" not in outcomes(trial):
        yield "not taken in"
    if "customer-48214" in trial.said[0].out:
        yield "standard output holds the id"
    yield from _ids_outside_payloads(trial, "customer-48214")


def _drop_folder(trial: Trial) -> Iterator[str]:
    found = outcomes(trial)
    if "rk-1" not in found:
        yield "a.csv was not taken"
    for name, request_id in _DROP_FOLDER.items():
        if request_id not in found and name not in trial.text:
            yield f"{name} was neither taken nor named"


def _no_header(trial: Trial) -> Iterator[str]:
    yield from _wrong_refusal(trial, (), ("request_id", "kind", "user_id", "item_id"))
    if not re.search(r"header", trial.text.replace("no_header.csv", "")):
        yield "not a word of the header line that is missing"


def _large_table(trial: Trial) -> Iterator[str]:
    said = trial.said[0]
    if said.peak_bytes > 10**9:
        yield f"{said.peak_bytes >> 20} MiB of memory"
    if said.cpu_seconds > 20:
        yield f"{said.cpu_seconds:.0f} s of processor"
    if "page is damaged" in said.text:
        yield "the file is called damaged"
    if not re.search(r"too large|larger|at most|too long|too many|limit", said.text):
        yield "refused without a word on the size"
    yield from _wrong_refusal(trial, ())


def _really_unknown(trial: Trial) -> Iterator[str]:
    state, outcome = outcomes(trial).get("rp-1", ("", ""))
    if (state, outcome) != ("receipted", "not_found"):
        yield f"it ended as {state!r} with outcome {outcome!r}"
    if re.search(r"\bpublished\b", trial.text):
        yield "the word published"
    listed = trial.run("tru delete list --job {job} --json").figures.get("requests", [])
    if [line["outcome"] for line in listed] != ["not_found"]:
        yield "the list does not say the outcome"
    receipt = trial.run("tru delete receipt rp-1 --job {job} --out {out}/rp-1.json")
    if receipt.exit != 0 or not (trial.place.out / "rp-1.json").is_file():
        yield "there is no receipt"
    key = load_identity_key(KeysConfig(folder=str(trial.place.keys)))
    if not read_tombstones(store_of(trial), "tiny").blocks("user", key.digest("user", "999")):
        yield "there is no tombstone"


def _ordinary_request_ids(trial: Trial) -> Iterator[str]:
    yield from _carried_out(trial, users=("17", "1"))
    if re.search(r"warn|request_id\b.*\b(holds|contains|looks)", trial.text, re.IGNORECASE):
        yield "a warning because of the request ids"


REQUESTS: dict[str, Callable[[Trial], Iterator[str]]] = {
    "requests/float_ids": partial(_read_or_refused, places=(2,), users=("17", "21")),
    "requests/exponent_ids": partial(_read_or_refused, places=(2, 3), users=("10", "17")),
    "requests/plus_sign": partial(_read_or_refused, places=(2,), users=("22",)),
    "requests/padded_with_zeros": partial(_read_or_refused, places=(2,), users=("19",)),
    "requests/full_width_digits": partial(_read_or_refused, places=(2,), users=("17",)),
    "requests/null_words": _null_words,
    "requests/float_column": _float_column,
    "requests/number_as_text": partial(_read_or_refused, places=(1,), users=("17", "18")),
    "requests/one_bad_among_good": partial(_read_or_refused, places=(3, 4), users=("3", "4", "6"), pairs=(("5", "7"),)),
    "requests/id_inside_request_id": _id_inside_request_id,
    "requests/id_in_file_name": _id_in_file_name,
    "requests/drop_folder": _drop_folder,
    "requests/no_header": _no_header,
    "requests/small_file_large_table": _large_table,
    "requests/bom_crlf_blank_lines": partial(_carried_out, users=("8",), items=("3",)),
    "requests/plain_types": partial(_carried_out, users=("9",), items=("5",)),
    "requests/leading_zeros_are_ids": partial(_carried_out, users=("0017",)),
    "requests/really_unknown": _really_unknown,
    "requests/ordinary_request_ids": _ordinary_request_ids,
}
