"""The base of every settings model: unknown names, NaN and infinity are refused, values do not change."""

import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

MAX_WHOLE_NUMBER = 2**63 - 1
_DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,3})?")

Place = tuple[str | int, ...]


class Settings(BaseModel):
    """Frozen settings, with numbers as they were written.

    A number in a text is taken as that number where it is written in plain decimal digits: YAML reads ``1e-3`` as a
    text. True and false are no numbers, and 2.0 is no whole number.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _as_written(cls, values: Any, handler: Callable[[Any], Any], info: Any) -> Any:
        """Refuse values that became numbers on the way in. JSON is left out: only programs write it, with types."""
        found = handler(values)
        if info.mode == "python" and isinstance(values, dict):
            problems = [
                problem
                for name in type(found).model_fields
                if name in values
                for problem in _misread(values[name], getattr(found, name), (name,))
            ]
            if problems:
                raise ValidationError.from_exception_data(cls.__name__, problems)
        return found


def _misread(written: Any, found: Any, place: Place) -> list[InitErrorDetails]:
    """The numbers in a checked value that were written as something else. Settings inside have looked at their own."""
    if written is found:
        return [_problem("a smaller number is expected", written, place)] if _is_too_large(found) else []
    if isinstance(found, list | tuple) and isinstance(written, list | tuple):
        return [
            problem
            for number, (one, other) in enumerate(zip(written, found, strict=False))
            if not (type(one) is type(other) is int) or _is_too_large(other)  # long lists of rows are common
            for problem in _misread(one, other, (*place, number))
        ]
    if isinstance(found, dict) and isinstance(written, dict):
        return [
            problem
            for name, value in written.items()
            if name in found
            for problem in _misread(value, found[name], (*place, name))
        ]
    if not isinstance(found, int | float) or isinstance(found, bool):
        return []
    expected = "a whole number" if isinstance(found, int) else "a number"
    if isinstance(written, bool):
        return [_problem(f"{expected} is expected", written, place)]
    if isinstance(written, str) and _DECIMAL.fullmatch(written) is None:
        return [_problem(f"{expected} in plain decimal digits is expected", written, place)]
    if isinstance(written, float) and isinstance(found, int):
        return [_problem(f"{expected} without a decimal point is expected", written, place)]
    return [_problem("a smaller number is expected", written, place)] if _is_too_large(found) else []


def _is_too_large(found: Any) -> bool:
    return isinstance(found, int) and abs(found) > MAX_WHOLE_NUMBER


def _problem(text: str, written: Any, place: Place) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("as_written", "{text}", {"text": text}), loc=place, input=written)
