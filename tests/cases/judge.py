"""What every case asks for, and the judge of each. A judge names what does not hold; nothing named means that it holds.

What an entry of ``cases.yaml`` says in words stands here in code: ``expect.exit`` is read from the entry, ``must`` and
``never`` are functions by kind. A case without a judge fails.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

from tests.cases.commands import Said
from tests.cases.judge_imports import IMPORTS
from tests.cases.judge_jobs import JOBS
from tests.cases.judge_requests import REQUESTS
from tests.cases.worlds import Case, Trial

Judge = Callable[[Trial], Iterator[str]]

JUDGES: dict[str, Judge] = REQUESTS | IMPORTS | JOBS

CODES = (0, 2, 3, 4, 5, 6, 7, 8, 9, 130)
MAX_MESSAGE_LETTERS = 2000
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# Cells of the inputs that stand for a person. No message may hold them.
PLANTED: dict[str, tuple[str, ...]] = {
    "requests/float_ids": ("17.0", "21.0"),
    "requests/exponent_ids": ("1.7E+01",),
    "requests/plus_sign": ("+22",),
    "requests/padded_with_zeros": ("0019",),
    "requests/full_width_digits": ("\uff11\uff17",),
    "requests/number_as_text": ("17.0",),
    "requests/one_bad_among_good": ("4.0", "5.0"),
    "requests/id_inside_request_id": ("customer-48213",),
    "requests/leading_zeros_are_ids": ("0017",),
    "requests/no_header": ("example.invalid",),
    "imports/no_header": ("example.invalid",),
    "imports/excel_scientific": ("E+11",),
    "imports/control_csv_text": ("00000", "00009"),
}


def problems_of(trial: Trial) -> list[str]:
    """Everything about a case that is not as its entry and the README of the cases ask."""
    found = [f"{said.words}: {problem}" for said in trial.said for problem in _always(trial.case, said)]
    judge = JUDGES.get(trial.case.key)
    return [*found, *(judge(trial) if judge else ["no judge knows this case"])]


def allowed_codes(expected: str) -> set[int]:
    """The exit codes that the words of ``expect.exit`` allow."""
    codes = {int(code) for code in re.findall(r"\b\d+\b", expected)}
    if "refusal" in expected:
        codes |= {2, 3}
    return set(CODES) if "not 0" in expected else codes


def _always(case: Case, said: Said) -> Iterator[str]:
    allowed = allowed_codes(case.expect["exit"])
    if said.exit not in allowed:
        yield f"exit code {said.exit}, expected one of {sorted(allowed)}"
    if "Traceback (most recent" in said.text or "error of the program itself" in said.text:
        yield "a traceback, or an error of the program itself"
    strange = sorted({letter for letter in said.text + _decoded(said) if _is_strange(letter)})
    if strange:
        yield f"control characters in the output: {strange}"
    if said.exit != 0 and len(said.err) > MAX_MESSAGE_LETTERS:
        yield f"a message of {len(said.err)} letters"
    for cell in PLANTED.get(case.key, ()):
        if cell in said.text or cell in _decoded(said):
            yield f"the output holds {cell!r}"


def _decoded(said: Said) -> str:
    """The texts of the JSON object as a program shows them that reads it."""
    return "".join(_texts(said.figures))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from (str(name), *_texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _is_strange(letter: str) -> bool:
    return letter in _BIDIRECTIONAL or (unicodedata.category(letter) == "Cc" and letter not in "\n\t\r")
