"""Which of the ids that requests name a data set knows, and which only look like one that it knows.

An id is known if the data set holds it as the request says it, both read by :mod:`workflows.data.ids`. Data sets of
earlier versions hold some ids in another spelling, such as ``17.0``: they are found by their reading.

What is not known may look like an id that is: by leading zeros, a sign, letter case, digits of another script, another
Unicode form, a number that a spreadsheet rewrote. To answer "not found" would be wrong if that id was meant, and to
take it would be wrong if it was not: so it is said, and a person decides.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflows.data.ids import read_id_texts, read_ids
from workflows.data.manifest import SnapshotManifest
from workflows.data.requests import DeletionRequest
from workflows.data.snapshot import read_vocabulary
from workflows.storage import FileEntry, ObjectStore

_SIGNED = r"^[+]?0*([0-9]+)$"
_GROUPED = r"^[+]?[0-9]{1,3}([,. '_][0-9]{3})+$"
_QUOTES = "\"'`=«»“”‘’ "
_SCIENTIFIC = re.compile(r"\+?([0-9]+)(?:[.,]([0-9]*))?e\+?([0-9]{1,2})")


@dataclass(frozen=True)
class Match:
    """What one side of a data set has of the ids that were asked for.

    Attributes:
        places: For each known id its place in the vocabulary.
        alike: For each id that is not known and looks like one that is: in what they differ.
    """

    places: Mapping[str, int] = field(default_factory=dict)
    alike: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lookup:
    """What a data set has of the ids that requests name: their rows, and what only looks like one of its ids.

    Keys are the ids as the requests hold them, also where an earlier version took them in before they were read.
    """

    users: Match
    items: Match

    def user_row(self, request: DeletionRequest) -> int | None:
        """The row of the user that a request names; None if it names none or the data set does not know it."""
        return self.users.places.get(request.user_id) if request.kind != "item" else None

    def item_row(self, request: DeletionRequest) -> int | None:
        """The row of the item that a request names; None if it names none or the data set does not know it."""
        return self.items.places.get(request.item_id) if request.kind != "user" else None

    def knows(self, request: DeletionRequest) -> bool:
        """Whether the data set knows every id of a request."""
        has_user = request.kind == "item" or request.user_id in self.users.places
        return has_user and (request.kind == "user" or request.item_id in self.items.places)

    def alike(self, request: DeletionRequest) -> list[tuple[str, str]]:
        """The columns of a request whose ids only look like ids of the data set, and in what they differ."""
        found = []
        if request.kind != "item" and request.user_id in self.users.alike:
            found.append(("user_id", self.users.alike[request.user_id]))
        if request.kind != "user" and request.item_id in self.items.alike:
            found.append(("item_id", self.items.alike[request.item_id]))
        return found


def look_up(store: ObjectStore, snapshot: SnapshotManifest, requests: Sequence[DeletionRequest]) -> Lookup:
    """Look up what requests name. Reads the vocabularies of the sides that they name, each once."""
    users = {request.user_id for request in requests if request.kind != "item"}
    items = {request.item_id for request in requests if request.kind != "user"}
    return Lookup(
        users=find_rows(store, snapshot.user_vocabulary, sorted(users)),
        items=find_rows(store, snapshot.item_vocabulary, sorted(items)),
    )


def find_rows(store: ObjectStore, vocabulary: FileEntry, asked: Sequence[str]) -> Match:
    """Find ids in one side of a snapshot: a match whose places are rows. ``asked`` need not be read yet."""
    if not len(asked):
        return Match()
    stored, rows = read_vocabulary(store, vocabulary)
    read, _ = read_id_texts(asked)
    as_read = {text: one or text for text, one in zip(asked, read, strict=True)}  # what cannot be read is not known
    match = match_ids(stored, sorted(set(as_read.values())))
    return Match(
        places={text: int(rows[match.places[one]]) for text, one in as_read.items() if one in match.places},
        alike={text: match.alike[one] for text, one in as_read.items() if one in match.alike},
    )


def match_ids(stored: Sequence[str], wanted: Sequence[str]) -> Match:
    """Find ids in a vocabulary.

    Args:
        stored: The ids of the data set.
        wanted: Ids as :func:`workflows.data.ids.read_ids` gives them. Each once.
    """
    if not len(wanted):
        return Match()
    held, asked = pa.array(stored, pa.string()), pa.array(wanted, pa.string())
    place = pc.index_in(asked, value_set=held)
    places = {text: where for text, where in zip(wanted, place.to_pylist(), strict=True) if where is not None}
    missing = [text for text in wanted if text not in places]
    if not missing:
        return Match(places)
    read = read_ids(held)
    is_other = pc.not_equal(read.ids, held).fill_null(False).to_numpy(zero_copy_only=False)
    is_readable = np.ones(len(held), dtype=bool)
    for fault in read.faults:
        is_readable &= ~fault.is_bad
    respelled = np.flatnonzero(is_other & is_readable)
    if len(respelled):
        found = pc.index_in(pa.array(missing, pa.string()), value_set=read.ids.take(pa.array(respelled)))
        places |= {
            text: int(respelled[where])
            for text, where in zip(missing, found.to_pylist(), strict=True)
            if where is not None
        }
        missing = [text for text in missing if text not in places]
    return Match(places, _alike(held, missing))


def _alike(held: pa.Array, missing: Sequence[str]) -> dict[str, str]:
    """Those of the missing ids that look like one that is held, with the difference."""
    if not missing:
        return {}
    sketches = _sketch(pa.array(missing, pa.string())).to_pylist()
    sketches = [_written_out(sketch) for sketch in sketches]
    found = pc.index_in(pa.array(sketches, pa.string()), value_set=_sketch(held)).to_pylist()
    alike = {}
    for text, where in zip(missing, found, strict=True):
        if where is not None:
            alike[text] = _difference(text, held[where].as_py())
    return alike


def _sketch(ids: pa.Array) -> pa.Array:
    """What remains of ids when all that people and programs change by mistake is gone."""
    if not pc.all(pc.string_is_ascii(ids)).as_py():
        ids = pc.utf8_normalize(ids, form="NFKC")
        ids = pc.replace_substring_regex(ids, r"[\p{Cf}\p{Cc}]", "")
        ids = _ascii_digits(ids)
    ids = pc.utf8_trim(pc.utf8_lower(ids), characters=_QUOTES)
    is_grouped = pc.match_substring_regex(ids, _GROUPED)
    if pc.any(is_grouped).as_py():
        ids = pc.if_else(is_grouped, pc.replace_substring_regex(ids, r"[,. '_]", ""), ids)
    ids = pc.replace_substring_regex(ids, r"^([+]?[0-9]+)[.,]0*$", r"\1")
    return pc.replace_substring_regex(ids, _SIGNED, r"\1")


def _ascii_digits(ids: pa.Array) -> pa.Array:
    """With the digits of other scripts (Arabic, Devanagari, ...) as 0 to 9."""
    is_number = pc.match_substring_regex(ids, r"^[+]?\p{Nd}+$")
    is_other = pc.and_not(is_number, pc.string_is_ascii(ids))
    if not pc.any(is_other).as_py():
        return ids
    texts = ids.to_pylist()
    for place in np.flatnonzero(is_other.fill_null(False).to_numpy(zero_copy_only=False)):
        texts[place] = str(int(texts[place]))
    return pa.array(texts, pa.string())


def _written_out(sketch: str) -> str:
    """A whole number in scientific notation in digits; other text as it is."""
    match = _SCIENTIFIC.fullmatch(sketch)
    if match is None:
        return sketch
    whole, part, exponent = match[1], match[2] or "", int(match[3])
    digits = part.rstrip("0")
    return (whole + digits.ljust(exponent, "0")).lstrip("0") or "0" if len(digits) <= exponent else sketch


def _difference(asked: str, held: str) -> str:
    """In what an id that was asked for differs from one that is held. Names neither."""
    if asked.lower() == held.lower():
        return "in letter case"
    if asked.isascii() and held.isascii():
        if asked.lstrip("0") == held.lstrip("0"):
            return "in leading zeros"
        if asked.lstrip("+") == held.lstrip("+"):
            return "in a sign"
        if _SCIENTIFIC.fullmatch(asked.lower()):
            return "in scientific notation"
        return "in the way a number is written"
    return "in its Unicode form"
