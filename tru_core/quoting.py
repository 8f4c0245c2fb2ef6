"""How texts from outside stand in messages, tables and logs: harmless to a terminal, short, and without secrets."""

import re
from typing import Any

MAX_QUOTED = 60  # characters of a value in a message
MAX_MESSAGE = 2_000  # characters of a whole message: a few lines

_INVISIBLE_LETTERS = "\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800"  # letters by class, blank on the screen
_SECRET_NAMES = re.compile(r"secret|passw|passphrase|pwd|token|credential|auth|cookie|(?:access|api|private).?key")
_SECRET_STARTS = re.compile(r"\b(?:AKIA|ASIA|gh[a-z]_|glpat-|github_pat_|sk-|hf_|xox[a-z]-|eyJ|ya29\.)|-----BEGIN")
_TOKEN = re.compile(  # 12 letters and digits, or 32 signs of base 64
    r"(?=[A-Za-z]{0,64}[0-9])(?=[0-9]{0,64}[A-Za-z])[A-Za-z0-9]{12,}"
    r"|(?=\S{0,64}[a-z])(?=\S{0,64}[A-Z])(?=\S{0,64}[0-9])[A-Za-z0-9+/=]{32,}"
)
_USER_INFO = re.compile(r"//[^/\s]*(?:@|:[^/\s0-9])")


def printable(text: str, *, keep: str = "") -> str:
    r"""Write every control character, bidirectional mark and invisible character as ``\x1b`` or ``\u202e``.

    Args:
        keep: Characters to leave as they are, such as a line end.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or _is_visible(letter) else _escape(letter) for letter in text)


def _is_visible(letter: str) -> bool:
    return letter.isprintable() and letter not in _INVISIBLE_LETTERS


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def shortened(text: str, limit: int = MAX_MESSAGE) -> str:
    """A text of at most ``limit`` characters. What is left out is counted; the end stays, which says what to do."""
    if len(text) <= limit:
        return text
    gap = f" ... ({len(text)} characters in all) ... "
    end = max(0, (limit - len(gap)) // 3)
    return text[: max(0, limit - len(gap) - end)] + gap + text[len(text) - end :]


def may_be_secret(text: str) -> bool:
    """Whether a text has the form of a token, a key, or an address with a user and a password."""
    return any(form.search(text) for form in (_SECRET_STARTS, _USER_INFO, _TOKEN))


def names_a_secret(name: str) -> bool:
    """Whether a setting's name says that its value is secret."""
    return _SECRET_NAMES.search(name.lower()) is not None


def quoted(value: Any) -> str:
    """Name a value in a message: a short text in quotes, a number as it is; a block, a list or a secret by its kind."""
    if isinstance(value, str):
        if may_be_secret(value):
            return f"a text of {len(value)} characters"
        return f"'{printable(shortened(value, MAX_QUOTED))}'"
    return shown_kind(value) if not _is_number(value) else _number(value)


def shown_kind(value: Any) -> str:
    """What kind of value it is, in the words of a job file, without its content."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {str: "a text", int: "a number", float: "a number", dict: "a block of settings", list: "a list"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: int | float) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
    return repr(value)
