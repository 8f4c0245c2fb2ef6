"""Checking what people write: strict YAML, and values against a settings model, with errors that say the mend."""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tru_core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice in one mapping."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for place, key in enumerate(keys):
        if key in keys[:place]:
            line = node.value[place][0].start_mark.line + 1
            raise ConfigError(f"line {line}: the key {key!r} stands twice in one block; keep one of them")
    return loader.construct_mapping(node, deep=deep)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _is_model(owner: Any) -> bool:
    return isinstance(owner, type) and issubclass(owner, BaseModel)


def _inner_type(owner: Any, part: str | int) -> Any:
    """The type of one setting of a model, or of the entries of a list."""
    if isinstance(part, int):
        return next(iter(get_args(owner)), None)
    field = owner.model_fields.get(part) if _is_model(owner) else None
    return field.annotation if field else None


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say the first problem of a refused value: where, expected, found, and the nearest known name."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        owner: Any = kind
        for part in problem["loc"][:-1]:
            owner = _inner_type(owner, part)
        known = list(owner.model_fields) if _is_model(owner) else []
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
        return f"{where}: there is no such setting{hint}"
    more = len(error.errors()) - 1
    also = f" (and {more} more)" if more else ""
    if problem["type"] == "missing":
        return f"{where}: this setting is needed and is not there{also}"
    text = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{where}: {text}, found {problem['input']!r}{also}"


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
        raise ConfigError(f"{where}: {error}") from error


def load_yaml(path: Path) -> Any:
    """Read a YAML file strictly.

    Raises:
        ConfigError: If it cannot be read, is not YAML, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}). Name an existing job file.") from error
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506, TID251 - a safe loader of our own
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def load_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings by name.

    Raises:
        ConfigError: As :func:`load_yaml`, or if it is something else than settings by name.
    """
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings by name, found {type(values).__name__}. See README, job files.")
    return values
