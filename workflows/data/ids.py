"""The one reading of ids: what a data set holds and what a request may say are the same set.

Imports, requests, holds, consents, tombstones and the sweep read ids by :func:`read_ids` and by nothing else.

==============================  ==================================================================================
written                         read as
==============================  ==================================================================================
blanks around it                without them: the blanks of ``WHITESPACE``, in text files and in Parquet alike
``"17"``, ``="0017"``           17, 0017: quotes that a writer put around the whole id, and a spreadsheet's way to
                                keep zeros
``17.0``, ``17.``               17: a column of whole numbers with a gap is written so. From 2**53 on refused: a
                                float has lost digits there
a float, a decimal              the whole number that it is, below 2**53 (float32: 2**24); fractions are refused
``1.7E+01``, ``1,2e+11``        refused: a spreadsheet has rounded it
``12e5``, ``17,0``, ``1,234``   as it stands, for ids in hexadecimal or of two parts. An import whose other ids are all
                                whole numbers refuses it (``IdReading.is_exponent``)
empty, ``NaN``, ``None``, ...   refused: no id (``NULL_WORDS``)
``-3``                          refused: negative
control characters, U+FFFD      refused: nobody can type them, or a broken encoding made them
``0017``, ``+22``, ``Anna``     as it stands. 17 and 0017 are two ids, and so are Anna and anna
==============================  ==================================================================================

The Unicode form is kept: ids are equal when their code points are. What *looks* like an id of the data set and is none
(other zeros, sign, letter case, digits of another script, Unicode form) is found by :mod:`workflows.data.known_ids`
and is never answered with "not found".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

READING = "ids/1"  # the name of these rules in receipts
WHITESPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
NULL_WORDS = (
    *("NaN", "nan", "NAN", "null", "NULL", "Null", "None", "<NA>", "NaT", "NA", "N/A", "\\N"),
    *("#N/A", "#REF!", "#VALUE!", "#NAME?", "#NULL!", "#NUM!", "#DIV/0!"),
)
DOUBTFUL = r"^[0-9]+[eE][0-9]+$|^[+]?[0-9]+,0*$|^[+]?[0-9]{1,3}(,[0-9]{3})+$"
NO_ID = "no id"  # what an IdFault found where nothing stands, or one of the words above
ROUNDED = "numbers in scientific notation, which have lost digits; format the column as whole numbers"
MAX_ID_LETTERS = 1000
MAX_EXACT_FLOAT = 2**53

_IN_QUOTES = r'^="?([^"]*)"$|^"(.*)"$'
_DECIMAL = r"^[+-]?[0-9]+[.][0-9]*$"
_WHOLE_DECIMAL = r"^[+-]?[0-9]+[.]0*$"
_ROUNDED = r"^[+-]?[0-9]+([.,][0-9]*)?[eE][+-][0-9]+$|^[+-]?[0-9]+[.,][0-9]*[eE][0-9]+$"
_UNSEEN = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\x{FFFD}]"
_JOINERS = r"[\x{200C}\x{200D}]"  # letters of Persian and Hindi, and of composed emoji, need them

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class IdFault:
    """What is wrong with some ids of a column: which, what was expected, what was found. No id stands in it."""

    is_bad: Mask
    expected: str
    found: str


@dataclass(frozen=True)
class IdReading:
    """A column of ids as it is read.

    Attributes:
        ids: Strings; null or unspecified where a fault marks the place.
        faults: None of them is without a marked place.
        is_exponent: Marks ids such as ``12e5`` and ``17,0``: fine among letters, rewritten numbers among whole numbers.
    """

    ids: pa.Array
    faults: list[IdFault]
    is_exponent: Mask


def read_ids(values: pa.Array) -> IdReading:
    """Read a column of ids, of text, whole numbers, floats or decimals, by the table at the head of this file.

    Raises:
        TypeError: The column has another type. Check it before.
    """
    if pa.types.is_floating(values.type):
        return _read_floats(values)
    if pa.types.is_integer(values.type):
        ids, is_negative = values.cast(pa.string()), _mask(pc.less(values, pa.scalar(0, values.type)))
        return _reading(ids, [_no_id(_mask(values.is_null())), _negative(is_negative)])
    if pa.types.is_decimal(values.type):
        return _read_texts(values.cast(pa.string()), is_exact=True)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type):
        return _read_texts(values.cast(pa.string()), is_exact=False)
    raise TypeError(f"a column of {values.type} holds no ids")


def read_id_texts(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Read ids that came as text. Returns each id, "" where it is refused, and why: "" where it is not."""
    reading = read_ids(pa.array(texts, pa.string()))
    ids = reading.ids.to_pylist()
    reasons = [""] * len(ids)
    for fault in reading.faults:
        for place in np.flatnonzero(fault.is_bad):
            ids[place], reasons[place] = "", f"expected {fault.expected}, found {fault.found}"
    return ids, reasons


def earlier_spellings(text: str) -> list[str]:
    """Other texts that versions before ``ids/1`` kept apart from an id and that are now read as it.

    Their tombstones stand under these spellings, so whoever looks for tombstones looks for these too.
    """
    return [f"{text}.0"] if text.isascii() and text.isdecimal() else []


def _read_floats(values: pa.Array) -> IdReading:
    limit = {pa.float16(): 2**11, pa.float32(): 2**24}.get(values.type, MAX_EXACT_FLOAT)
    numbers = values.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy(zero_copy_only=False)
    is_null = _mask(values.is_null())
    is_exact = (numbers == np.floor(numbers)) & (np.abs(numbers) < limit)
    ids = pa.array(np.where(is_exact, numbers, 0).astype(np.int64)).cast(pa.string())
    found = "fractions, NaN or floats too large to be exact"
    faults = [_no_id(is_null), IdFault(~is_exact & ~is_null, "exact integers or text", found)]
    return _reading(ids, [*faults, _negative(is_exact & (numbers < 0))])


def _read_texts(texts: pa.Array, *, is_exact: bool) -> IdReading:
    """Read text; ``is_exact``: a decimal number has all its digits, however many these are."""
    ids = _trimmed(texts)
    is_whole = pc.match_substring_regex(ids, _WHOLE_DECIMAL)
    is_fraction = _mask(pc.and_not(pc.match_substring_regex(ids, _DECIMAL), is_whole))
    ids = _replaced(ids, is_whole, r"[.]0*$", "")
    is_lost = np.zeros(len(ids), dtype=bool) if is_exact else _mask(is_whole) & _is_beyond_floats(ids)
    is_null = _mask(ids.is_null()) | _mask(pc.equal(ids, "")) | _mask(pc.is_in(ids, pa.array(NULL_WORDS)))
    faults = [
        _no_id(is_null),
        IdFault(is_fraction, "exact integers or text", "fractions"),
        IdFault(is_lost, "whole numbers without '.0'", "floats of 2**53 or more, which have lost digits"),
        IdFault(_mask(pc.match_substring_regex(ids, _ROUNDED)), "all digits of the ids", ROUNDED),
        _negative(_mask(pc.match_substring_regex(ids, r"^-[0-9]+$"))),
        IdFault(_has_unseen(ids), "letters that can be seen and typed", "control characters or undecodable bytes"),
        IdFault(
            _mask(pc.greater(pc.utf8_length(ids), MAX_ID_LETTERS)), f"at most {MAX_ID_LETTERS} letters", "longer ids"
        ),
    ]
    return _reading(ids, faults, _mask(pc.match_substring_regex(ids, DOUBTFUL)))


def _trimmed(texts: pa.Array) -> pa.Array:
    """Without blanks around, and without quotes around the whole, so that reading what was read changes nothing."""
    ids = pc.utf8_trim(texts, characters=WHITESPACE)
    while pc.any(is_quoted := pc.match_substring_regex(ids, _IN_QUOTES)).as_py():
        inner = pc.replace_substring(pc.replace_substring_regex(ids, _IN_QUOTES, r"\1\2"), '""', '"')
        ids = pc.utf8_trim(pc.if_else(is_quoted, inner, ids), characters=WHITESPACE)
    return ids


def _replaced(ids: pa.Array, is_chosen: pa.Array, pattern: str, replacement: str) -> pa.Array:
    return pc.if_else(is_chosen, pc.replace_substring_regex(ids, pattern, replacement), ids)


def _is_beyond_floats(ids: pa.Array) -> Mask:
    """Marks whole numbers that a float64 cannot tell from their neighbours; of others the mark says nothing."""
    digits = pc.utf8_ltrim(pc.utf8_ltrim(ids, characters="+-"), characters="0")
    length = pc.utf8_length(digits)
    as_long = pc.and_(pc.equal(length, 16), pc.greater_equal(digits, str(MAX_EXACT_FLOAT)))
    return _mask(pc.or_(pc.greater(length, 16), as_long))


def _has_unseen(ids: pa.Array) -> Mask:
    if pc.all(pc.string_is_ascii(ids)).as_py() is not False:
        return _mask(pc.match_substring_regex(ids, r"[\x00-\x1f\x7f]"))
    return _mask(pc.match_substring_regex(pc.replace_substring_regex(ids, _JOINERS, ""), _UNSEEN))


def _no_id(is_bad: Mask) -> IdFault:
    return IdFault(is_bad, "an id in every row", NO_ID)


def _negative(is_bad: Mask) -> IdFault:
    return IdFault(is_bad, "ids from 0 on", "negative ids")


def _reading(ids: pa.Array, faults: list[IdFault], is_exponent: Mask | None = None) -> IdReading:
    """The reading, each place under its first fault only."""
    seen = np.zeros(len(ids), dtype=bool)
    own = []
    for fault in faults:
        is_bad = fault.is_bad & ~seen
        seen |= is_bad
        if is_bad.any():
            own.append(IdFault(is_bad, fault.expected, fault.found))
    return IdReading(ids, own, np.zeros(len(ids), dtype=bool) if is_exponent is None else is_exponent & ~seen)


def _mask(values: pa.Array) -> Mask:
    return values.fill_null(False).to_numpy(zero_copy_only=False)
