"""What reaches a terminal, and how: texts of files, names and settings cannot steer it.

Whatever a command shows passes through here: figures before they are laid out, errors, complaints about arguments, log
lines. Control characters and invisible ones are written as ``\\x1b``; texts are never read as markup.
"""

import argparse
import json
import logging
import re
import sys
import traceback
from types import TracebackType
from typing import IO, Any, NoReturn

from rich.console import Console

from tru_core.quoting import printable, quoted, shortened

TERMINAL_COLUMNS = 120


def make_console(*, width: int | None = None, soft_wrap: bool = False, file: IO[str] | None = None) -> Console:
    """A console that takes texts as they are: without markup, emoji names and highlights.

    Args:
        width: Columns; None takes the terminal's.
        file: Where to write, without colours; None writes to standard output.
    """
    return Console(
        width=width,
        soft_wrap=soft_wrap,
        file=file,
        color_system="auto" if file is None else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def printable_figures(value: Any) -> Any:
    """Figures with every text in them made harmless, names included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_figures(name): printable_figures(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(printable_figures(inner) for inner in value)
    return value


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on standard output, in ASCII without a control character."""
    print(json.dumps(value, sort_keys=True, allow_nan=False).replace("\x7f", "\\u007f"))


def print_error(*messages: str) -> None:
    """Print messages on standard error, each short and on one line."""
    print("\n".join(printable(shortened(message)) for message in messages), file=sys.stderr)


def whole_number(text: str) -> int:
    """A whole number among the arguments, in plain decimal digits: not ``1_000`` and no digits of other scripts."""
    if not re.fullmatch(r"[-+]?(?:0|[1-9][0-9]{0,17})", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a whole number, found {quoted(text)}")
    return int(text)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are harmless and short, whatever the arguments hold."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(shortened(message)))


class _LogFormatter(logging.Formatter):
    """Log lines whose text is harmless; line ends of a traceback stay."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return printable(super().formatException(ei), keep="\n")


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace)), keep="\n"))


def make_output_harmless() -> None:
    """Escape tracebacks, and what is logged on standard error where nobody has set up logging otherwise."""
    sys.excepthook = _print_traceback
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_LogFormatter())
