"""Checking values that people write against a settings model, with errors that say the mend."""

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from tru_core.errors import ConfigError
from tru_core.quoting import may_be_secret, names_a_secret, quoted, shortened, shown_kind

Model = TypeVar("Model", bound=BaseModel)

_MAX_PROBLEM = 700  # characters
_UNKNOWN = "unknown_setting"
_WITH_CREDENTIALS = ("storage", "keys", "url", "endpoint_url", "region", "folder")  # people paste credentials there
_YES_AND_NO = "YAML reads yes, no, on and off as true and false; put a text in quotes"


def _is_model(owner: Any) -> bool:
    return isinstance(owner, type) and issubclass(owner, BaseModel)


def _inner_type(owner: Any, part: str | int) -> Any:
    """The type of one setting of a model, or of the entries of a list."""
    if isinstance(part, int):
        return next(iter(get_args(owner)), None)
    field = owner.model_fields.get(part) if _is_model(owner) else None
    return field.annotation if field else None


def _name(part: str | int) -> str:
    """One part of a setting's place. It was written by the user, so it may be anything."""
    text = str(part)
    return f"(a name of {len(text)} characters)" if may_be_secret(text) else quoted(text)[1:-1]


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say the first problem of a refused value: where, expected, found, and the nearest known name.

    The value of a setting that is unknown, or whose name looks secret, is never quoted.
    """
    problems = error.errors(include_url=False, include_context=False)
    problem = problems[0]
    where = ".".join(_name(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        owner: Any = kind
        for part in problem["loc"][:-1]:
            owner = _inner_type(owner, part)
        known = list(owner.model_fields) if _is_model(owner) else []
        return f"{where}: {_unknown(problem['loc'][-1], known)}"
    if problem["type"] == _UNKNOWN:
        return f"{where}: {problem['msg']}"
    more = len(problems) - 1
    also = f" (and {more} more)" if more else ""
    if problem["type"] == "missing":
        return f"{where}: this setting is needed and is not there{also}"
    return f"{where}: {_expected(problem)}, found {_found(problem['input'], problem['loc'])}{also}"


def _unknown(name: str | int, known: Sequence[str], *, of: str = "") -> str:
    near = difflib.get_close_matches(str(name)[:80], known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"
    return f"there is no such setting{of and f' of {of}'}{hint}"


def _expected(problem: Any) -> str:
    """What a setting is expected to be."""
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "a block of settings by name is expected, below it and indented"
    text = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    return shortened(text, _MAX_PROBLEM)


def _found(value: Any, place: tuple[str | int, ...]) -> str:
    """What stands there, unless it may be a secret by its own form, or by the setting in which somebody put it."""
    if isinstance(value, str) and any(names_a_secret(str(part)) or part in _WITH_CREDENTIALS for part in place):
        return f"{shown_kind(value)} of {len(value)} characters"
    if isinstance(value, bool):
        return f"{quoted(value)} ({_YES_AND_NO})"
    if value is None:
        return "nothing"
    return shown_kind(value) if isinstance(value, dict | list) else quoted(value)


def checked(kind: type[Model], values: Any, *, also: Sequence[str] = (), of: str = "") -> Model:
    """Check a block whose type follows from another setting, inside a validator of the block that holds it.

    Args:
        also: Names that stand beside the block's own, for hints.
        of: Whose settings they are, where the message has to say so.

    Raises:
        ValidationError: The same problems in the same places, but an unknown name with its hint: from outside nobody
            sees which names this type has.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            kind.__name__, [_with_hint(problem, [*kind.model_fields, *also], of=of) for problem in error.errors()]
        ) from None


def _with_hint(problem: Any, known: Sequence[str], *, of: str) -> InitErrorDetails:
    is_unknown = problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1
    text = _unknown(problem["loc"][-1], known, of=of) if is_unknown else problem["msg"]
    kind = PydanticCustomError(_UNKNOWN if is_unknown else problem["type"], "{text}", {"text": text})
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"])


def parse(kind: type[Model], values: Any, *, where: str) -> Model:
    """Check values against a settings model.

    Raises:
        ConfigError: Naming the first problem, and where.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error, kind)}. Nothing was started.") from None
    except ConfigError as error:  # of a part that checks itself
        raise ConfigError(f"{where}: {shortened(str(error), _MAX_PROBLEM)}") from None
