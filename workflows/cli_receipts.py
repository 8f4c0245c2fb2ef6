"""Commands for keys and receipts: ``tru keys new``."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
Add = Callable[[Any, str, str, Callable[[argparse.Namespace], Figures]], argparse.ArgumentParser]


def add_commands(commands: Any, add: Add) -> None:
    """Add the commands of this file to the command line."""
    keys = commands.add_parser("keys", help="keys for ids and receipts").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    text = "Make an identity key and a signing pair in a new folder, readable by nobody else."
    making = add(keys, "new", text, _keys_new)
    making.add_argument("folder", metavar="FOLDER")
    making.add_argument("--only-signing", action="store_true", help="a new signing pair for the same identity key")
    making.add_argument("--days", type=_days, help="the public key expires after so many days; default never")


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 36_500:
        raise argparse.ArgumentTypeError(f"expected a whole number of days from 1 to 36500, found {text!r}")
    return int(text)


def _keys_new(arguments: argparse.Namespace) -> Figures:
    from workflows.keys import make_keys

    not_after = datetime.now(UTC) + timedelta(days=arguments.days) if arguments.days else None
    return dict(make_keys(Path(arguments.folder), only_signing=arguments.only_signing, not_after=not_after))
