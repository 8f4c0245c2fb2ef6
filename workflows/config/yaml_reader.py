"""Reading YAML that people write: plain decimal numbers, no tags, no second meaning, and limits on everything.

PyYAML reads YAML 1.1, in which ``010`` is 8, ``1:30`` is 90 and ``1_000`` is 1000. A file with one of these is refused
at its line, as are dates, tags, merge keys, keys that stand twice and keys that are no texts. A message never quotes
the file: what stands beside an error may be a secret.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from tru_core.errors import ConfigError
from tru_core.quoting import may_be_secret, names_a_secret, quoted, shown_kind
from tru_core.settings import MAX_WHOLE_NUMBER, Settings

MAX_FILE_BYTES = 256 * 1024
MAX_NODES = 10_000  # names, values, lists and blocks, with an alias counted as all that it stands for
MAX_DEPTH = 32  # settings are at most seven deep
MAX_TEXT = 4096  # characters of one text

_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|[-+]?(?:[0-9]|[1-9][0-9]+)?\.[0-9]*(?:[eE][-+]?[0-9]+)?")
_MISREAD = (
    (re.compile(r"[-+]?0x[0-9a-fA-F_]+"), "is a number in base 16"),
    (re.compile(r"[-+]?0b[01_]+"), "is a number in base 2"),
    (re.compile(r"[-+]?0o[0-7_]+"), "is a number in base 8"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?"), "is a number in base 60 to some YAML readers"),
    (re.compile(r"[-+]?0[0-9_]+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"), "begins with 0: to some YAML readers, base 8"),
    (re.compile(r"[-+]?[0-9.][0-9_.]*_[0-9_.]*(?:[eE][-+]?[0-9]+)?"), "is a number with underscores"),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"), "is no finite number"),
)
_HOW_TO_WRITE = "Write a number in plain decimal digits, such as 10, 0.5 or 1e-3, and a text in quotes."


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses what two readers of YAML could understand in two ways, and what is too large."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._path: list[str] = []  # names of the settings around what is being read
        self._num_nodes = 0
        self._depth = self._deepest = 0
        self._anchored: dict[str, tuple[int, int]] = {}  # how many nodes an anchor stands for, and how deep they are

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            num_nodes, depth = self._anchored.get(event.anchor, (0, 0))
            if not num_nodes:
                raise _refusal(event, "an alias (*) names nothing that stands whole above it")
            self._count(event, num_nodes, depth)
            return super().compose_node(parent, index)
        if event.tag is not None:
            raise _refusal(event, "a tag (!) is not read. Leave it out, and write a text in quotes")
        before, outer_deepest = self._num_nodes, self._deepest
        self._count(event, 1, 1)
        self._path.append(_name_of(index))
        self._depth += 1
        self._deepest = self._depth
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node)
        if event.anchor is not None:
            self._anchored[event.anchor] = (self._num_nodes - before, self._deepest - self._depth + 1)
        self._depth -= 1
        self._path.pop()
        self._deepest = max(outer_deepest, self._deepest)
        return node

    def _count(self, event: yaml.Event, num_nodes: int, depth: int) -> None:
        self._num_nodes += num_nodes
        self._deepest = max(self._deepest, self._depth + depth)
        if self._deepest > MAX_DEPTH:
            raise _refusal(event, f"it is nested too deeply, more than {MAX_DEPTH} blocks or lists in each other")
        if self._num_nodes > MAX_NODES:
            raise _refusal(event, f"it is too large: more than {MAX_NODES} values, an alias counted as all it names")

    def _check_scalar(self, node: yaml.ScalarNode) -> None:
        """Refuse a value that is too long, or that does not mean what it looks like."""
        if len(node.value) > MAX_TEXT:
            raise self._misread(node, f"a text or number of at most {MAX_TEXT} characters is expected", "Shorten it.")
        if node.style is not None:  # in quotes
            return
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind == "timestamp":
            raise self._misread(node, "a date without quotes is not read", "Put it in quotes where a text is meant.")
        if kind in ("merge", "value"):
            raise self._misread(node, "merge keys (<<) and = are not read", "Write the settings out.")
        for form, problem in _MISREAD:
            if form.fullmatch(text):
                raise self._misread(node, f"this {problem}", _HOW_TO_WRITE)
        if kind in ("int", "float") and not _DECIMAL.fullmatch(text):
            raise self._misread(node, "this number can be read in two ways", _HOW_TO_WRITE)
        if kind in ("int", "float") and (len(text) > 40 or abs(float(text)) > MAX_WHOLE_NUMBER):
            raise self._misread(node, "no setting takes so large a number, or so many digits", _HOW_TO_WRITE)

    def _misread(self, node: yaml.ScalarNode, problem: str, advice: str) -> ConfigError:
        where = ".".join(quoted(name)[1:-1] if not may_be_secret(name) else "..." for name in self._path if name)
        where = f"{where}: " if where else ""
        return _refusal(node, f"{where}{problem}, found {self._as_written(node.value)}. {advice}")

    def _as_written(self, text: str) -> str:
        """A value as it stands in the file, where it is the value of a setting that exists and is no secret."""
        names = [name for name in self._path if name and not name.isdigit()]
        is_secret = may_be_secret(text) or any(names_a_secret(name) for name in names)
        if is_secret or len(text) > 40 or not text.isprintable() or not set(names) <= _known_names(Settings):
            return f"{len(text)} characters"
        return text


def _known_names(kind: type[Settings]) -> set[str]:
    """The names of all settings of all models that are loaded."""
    return set(kind.model_fields).union(*(_known_names(inner) for inner in kind.__subclasses__()))


def _name_of(index: Any) -> str:
    """The name or number under which a value stands. Empty for a name itself, and for the whole file."""
    return "" if index is None else str(getattr(index, "value", index))


def _refusal(place: yaml.Node | yaml.Event, problem: str) -> ConfigError:
    return ConfigError(f"line {place.start_mark.line + 1}: {problem.removesuffix('.')}.")


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
            found = quoted(key.value) if isinstance(key, yaml.ScalarNode) else "a block or a list"
            raise _refusal(key, f"the name of a setting is a text; found {found}. Put a text in quotes")
        if key.value in seen:
            raise _refusal(key, f"the key {quoted(key.value)} stands twice in one block; keep one of them")
        seen.add(key.value)
    return loader.construct_mapping(node, deep=deep)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load_yaml(path: Path) -> Any:
    """Read a YAML file strictly.

    Raises:
        ConfigError: If it cannot be read, is too large, is not YAML, or holds what could be read in two ways.
    """
    text = _read_text(path)
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506, TID251 - a safe loader of our own
    except ConfigError as error:
        raise ConfigError(f"{path}: {error} Nothing was started.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_explain(error, text)} Nothing was started.") from None  # a cause quotes the file


def load_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings by name.

    Raises:
        ConfigError: As :func:`load_yaml`, or if it is something else than settings by name.
    """
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected settings by name, found {shown_kind(values)}. Nothing was started. Write a line "
            f"NAME: VALUE for each setting; README, job files, has an example."
        )
    return values


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError: a path with a NUL byte
        reason = getattr(error, "strerror", None) or "this is no path"
        raise ConfigError(f"{path}: cannot be read as text ({reason}). Name an existing job file.") from error
    if len(body) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is over {MAX_FILE_BYTES} bytes: it is no job file. Nothing was started.")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        kind = " It looks like UTF-16." if body[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ConfigError(
            f"{path}: cannot be read as text (line {line} is not UTF-8).{kind} Nothing was started. Save it as UTF-8."
        ) from None


def _explain(error: yaml.YAMLError, text: str) -> str:
    """What is wrong with a file that is no YAML, in one sentence and without a word of it."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: not valid YAML: there is a control character. Delete it."
    if not isinstance(error, yaml.MarkedYAMLError):
        return "not valid YAML."
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = str(error.problem)
    if "document" in problem:
        return f"{where}not valid YAML: a second document begins (---). A job file is one document."
    if "'\\t'" in problem:
        return f"{where}not valid YAML: there is a tab. Indent with blanks."
    return f"{where}not valid YAML: {_without_quotes(problem)}. Look at this line and the one above."


def _without_quotes(problem: str) -> str:
    """A message of PyYAML without what it quotes of the file; names of its tokens and single signs stay."""
    return re.sub(r"(['\"])(?!<)[^<].+?\1", "a word", problem)
