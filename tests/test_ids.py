"""The one reading of ids: what is taken off, what is refused, and that reading what was read changes nothing."""

import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.data.ids import NULL_WORDS, WHITESPACE, earlier_spellings, read_id_texts, read_ids
from workflows.data.known_ids import match_ids


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("17", "17"),
        (" 17\t", "17"),
        ("\u00a017\u3000", "17"),
        ("17.0", "17"),
        ("17.", "17"),
        ("9007199254740991.000", "9007199254740991"),
        ('"17"', "17"),
        ('="0017"', "0017"),
        ('="0017', '="0017'),
        ('"say ""so"" "', 'say "so"'),
        ('""" 17.0 """', "17"),
        ("0017", "0017"),
        ("+22", "+22"),
        ("12e5", "12e5"),
        ("１７", "１７"),
        ("Zoe\u0308", "Zoe\u0308"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("anna@example.invalid", "anna@example.invalid"),
        ("x-1.5", "x-1.5"),
        ("nanette", "nanette"),
    ],
)
def test_what_surrounds_an_id_is_taken_off_and_nothing_else(written: str, read: str) -> None:
    assert read_id_texts([written]) == ([read], [""])


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("", "no id"),
        (" \u2003 ", "no id"),
        ('""', "no id"),
        *((word, "no id") for word in NULL_WORDS),
        ("17.5", "fractions"),
        ("-3", "negative"),
        ("-3.0", "negative"),
        ("9007199254740992.0", "floats of 2**53 or more"),
        ("1.7E+01", "scientific"),
        ("1,23457E+11", "scientific"),
        ("2e+15", "scientific"),
        ("1.5e3", "scientific"),
        ("a\x1b[2Jb", "control"),
        ("a\x00", "control"),
        ("a\u202eb", "control"),
        ("M\ufffdller", "control characters or undecodable"),
        ("x" * 1001, "longer"),
    ],
)
def test_what_is_no_id_is_refused_and_not_quoted(written: str, found: str) -> None:
    (read,), (reason,) = read_id_texts([written])
    assert read == ""
    assert found in reason
    assert written not in reason or written in ("", "nan", "NA", "None")  # these stand in other words


@given(st.lists(st.text(max_size=12) | st.from_regex(r'[" =+0-9.eE]{0,9}', fullmatch=True), max_size=8))
def test_reading_what_was_read_changes_nothing(texts: list[str]) -> None:
    read, reasons = read_id_texts(texts)
    assert all(bool(one) != bool(reason) for one, reason in zip(read, reasons, strict=True))
    taken = [one for one in read if one]
    assert read_id_texts(taken) == (taken, [""] * len(taken))


@given(st.integers(min_value=0, max_value=2**53 - 1))
def test_a_whole_number_is_one_id_in_every_type(number: int) -> None:
    columns = [
        pa.array([number]),
        pa.array([number], pa.uint64()),
        pa.array([float(number)]),
        pa.array([decimal.Decimal(number)], pa.decimal128(20, 2)),
        pa.array([str(number)], pa.large_string()),
        pa.array([f"{number}.0"]),
    ]
    for column in columns:
        reading = read_ids(column)
        assert (reading.ids.to_pylist(), reading.faults) == ([str(number)], []), column.type


@pytest.mark.parametrize(("kind", "limit"), [(pa.float16(), 2**11), (pa.float32(), 2**24), (pa.float64(), 2**53)])
def test_a_float_is_read_as_far_as_its_type_is_exact(kind: pa.DataType, limit: int) -> None:
    reading = read_ids(pa.array(np.array([limit - 1, limit], dtype=kind.to_pandas_dtype())))
    (fault,) = reading.faults
    assert fault.is_bad.tolist() == [False, True]


def test_each_place_has_one_fault_and_nulls_have_one() -> None:
    for column in (pa.array([None, 1.5, -2.0]), pa.array([None, 3, -2]), pa.array([None, "", "-2"]), pa.nulls(3)):
        marks = sum(fault.is_bad.astype(int) for fault in read_ids(column).faults)
        assert max(marks) == 1
        assert marks[0] == 1


def test_a_type_that_holds_no_ids_is_a_fault_of_the_program() -> None:
    with pytest.raises(TypeError, match="list"):
        read_ids(pa.array([[1]]))


def test_ids_like_exponents_are_marked() -> None:
    assert read_ids(pa.array(["12e5", "12", "1.2e+5", "ab"])).is_exponent.tolist() == [True, False, False, False]


def test_earlier_versions_kept_whole_numbers_with_a_point_apart() -> None:
    assert earlier_spellings("17") == ["17.0"]
    assert [earlier_spellings(text) for text in ("x17", "１７", "", "-1")] == [[], [], [], []]


# --- looking ids up -----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True), st.data())
def test_a_known_id_is_found_at_its_place_whatever_surrounds_it(numbers: list[int], data: st.DataObject) -> None:
    stored = [str(number) for number in numbers]
    place = data.draw(st.integers(0, len(stored) - 1))
    blank = data.draw(st.sampled_from(WHITESPACE))
    (read,), _ = read_id_texts([f"{blank}{stored[place]}.0{blank}"])
    match = match_ids(stored, [read])
    assert (match.places, match.alike) == ({read: place}, {})


@given(st.integers(1, 10**9))
def test_a_number_in_another_dress_is_never_simply_unknown(number: int) -> None:
    digits = str(number)
    dresses = [f"+{digits}", f"0{digits}", f"{number:,}" if number > 999 else f"00{digits}", f"{digits},0"]
    dresses += ["".join(chr(0xFF10 + int(digit)) for digit in digits), "".join(chr(0x660 + int(d)) for d in digits)]
    read, reasons = read_id_texts(dresses)
    assert not any(reasons)
    match = match_ids([digits], read)
    assert not match.places
    assert set(match.alike) == set(read)


def test_an_exact_match_comes_before_a_look_alike_and_before_another_spelling() -> None:
    match = match_ids(["17.0", "0017", "17"], ["17", "0017"])
    assert (match.places, match.alike) == ({"17": 2, "0017": 1}, {})


def test_what_looks_like_nothing_is_only_unknown() -> None:
    stored = ["17", "Anna", "ab12e5", "José"]
    assert match_ids(stored, ["18", "170", "Annabel", "1e2", "zoe", "17a"]).alike == {}
