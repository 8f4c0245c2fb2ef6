"""Commands for keys, receipts and storage: ``tru keys new``, ``tru verify``, ``tru doctor``."""

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from tru_core.errors import ConfigError
from workflows.cli.command import Figures, add_command, add_storage_options, open_named_storage, storage_config


def add_commands(commands: Any) -> None:
    """Add the commands of this file to the command line."""
    keys = commands.add_parser("keys", help="keys for ids and receipts").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    text = "Make an identity key and a signing pair in a new folder, readable by nobody else."
    making = add_command(keys, "new", text, _keys_new)
    making.add_argument("folder", metavar="FOLDER")
    making.add_argument("--only-signing", action="store_true", help="a new signing pair for the same identity key")
    making.add_argument("--days", type=_days, help="the public key expires after so many days; default never")

    text = "Check a receipt with a public key alone; with the files and the id, check more."
    verifying = add_command(commands, "verify", text, _verify, print_verification, is_writing=False)
    verifying.add_argument("receipt", metavar="RECEIPT", help="the receipt's JSON file")
    help_text = "signing.pub; repeat it to accept the keys of other years too"
    verifying.add_argument("--public-key", action="append", required=True, metavar="FILE", help=help_text)
    where = verifying.add_mutually_exclusive_group()
    where.add_argument("--files", metavar="FOLDER", help="a copy of the storage, or of the part that the receipt names")
    where.add_argument("--storage", metavar="URL", help="the storage itself, folder or s3://bucket/prefix")
    add_storage_options(verifying)
    verifying.add_argument("--identity-key", metavar="FILE", help="identity.key: check whom the receipt is about")
    verifying.add_argument("--user", metavar="ID", help="outside id; with --item, of an interaction")
    verifying.add_argument("--item", metavar="ID", help="outside id")
    text = "Try out whether a storage keeps what publication and purge rest on."
    examining = add_command(commands, "doctor", text, _doctor, print_findings, is_writing=False)
    examining.add_argument("storage", metavar="STORAGE", help="folder or s3://bucket/prefix")
    add_storage_options(examining)
    examining.add_argument("--rounds", type=_count, default=100, help="races of 8 writers for one key; default 100")


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 36_500:
        raise argparse.ArgumentTypeError(f"expected a whole number of days from 1 to 36500, found {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 100000, found {text!r}")
    return int(text)


def _doctor(arguments: argparse.Namespace) -> Figures:
    from workflows.storage.config import is_s3
    from workflows.storage.doctor import diagnose
    from workflows.storage.existing import open_new

    config = storage_config(arguments, arguments.storage, where="STORAGE")
    if is_s3(config.url):  # a prefix needs no making: a bucket is tried out before the first import, too
        arguments.store, is_empty = open_new(config, where="STORAGE")
    else:
        is_empty = not open_named_storage(arguments, config, where="STORAGE").names("")
    return diagnose(arguments.store, num_rounds=arguments.rounds) | {"is_empty": is_empty}


def print_findings(figures: Figures) -> None:
    """Print what an examination of a storage found, a line for each property."""
    print(f"storage {figures['storage']}{' (nothing lies there yet)' if figures['is_empty'] else ''}")
    for finding in figures["findings"]:
        print(f"  {finding['outcome']:<9} {finding['name']:<27} {finding['detail']}")


def _keys_new(arguments: argparse.Namespace) -> Figures:
    from workflows.key_files import make_keys

    arguments.made = [arguments.folder]
    not_after = datetime.now(UTC) + timedelta(days=arguments.days) if arguments.days else None
    return dict(make_keys(Path(arguments.folder), only_signing=arguments.only_signing, not_after=not_after))


def _verify(arguments: argparse.Namespace) -> Figures:
    from tru_core.receipts.receipt import verify_receipt
    from tru_core.receipts.words import receipt_text
    from workflows.key_files import read_identity_key, read_public_key

    _check_options(arguments)
    keys = [read_public_key(Path(path)) for path in arguments.public_key]
    identity = read_identity_key(Path(arguments.identity_key)) if arguments.identity_key else None
    found = verify_receipt(_read_receipt_file(Path(arguments.receipt)), public_keys=keys, where=arguments.receipt)
    kind, ids = _subject(arguments)
    if identity is not None:
        from workflows.deletions.receipts.check import check_subject

        found = check_subject(found, identity, kind, ids)
    if arguments.files or arguments.storage:
        from workflows.deletions.receipts.check import check_absence, check_files, check_links

        where = "--files" if arguments.files else "--storage"
        config = storage_config(arguments, arguments.files or arguments.storage, where=where)
        store = open_named_storage(arguments, config, where=where, is_written=False)
        found = check_links(store, check_files(store, found))
        if identity is not None:
            found = check_absence(store, found, kind, ids)
    said = found.predicate
    return {
        "receipt_id": said.receipt_id,
        "request_id": found.leaf.request_id,
        "outcome": found.leaf.outcome,
        "claim": said.claim.word,
        "checked": list(found.checked),
        "attested_only": list(found.attested_only),
        "text": receipt_text(found),
    }


def _check_options(arguments: argparse.Namespace) -> None:
    """ConfigError for options that do not go together."""
    if bool(arguments.identity_key) != bool(arguments.user or arguments.item):
        raise ConfigError(
            "--identity-key and --user or --item belong together: the key tells whether it is about them."
        )
    if (arguments.endpoint_url or arguments.region) and not arguments.storage:
        raise ConfigError("--endpoint-url and --region belong to --storage.")
    if arguments.files and not Path(arguments.files).is_dir():
        raise ConfigError(f"--files {arguments.files} is no folder. Name a copy of the storage.")


def _subject(arguments: argparse.Namespace) -> tuple[Literal["user", "item", "interaction"], list[str]]:
    ids = [outside_id for outside_id in (arguments.user, arguments.item) if outside_id]
    return ("interaction" if len(ids) == 2 else "item" if arguments.item else "user"), ids


def _read_receipt_file(path: Path) -> bytes:
    from tru_core.receipts.receipt import MAX_RECEIPT_BYTES

    try:
        with path.open("rb") as file:
            return file.read(MAX_RECEIPT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"receipt {path} cannot be read: {error.strerror}. Name the receipt's JSON file.") from error


def print_verification(figures: Figures) -> None:
    """Print what a receipt says, what of it was checked, and what rests on the signer's word."""
    for line in figures["text"]:
        print(line)
    for title, name in (("CHECKED", "checked"), ("ATTESTED ONLY", "attested_only")):
        print(f"\n{title}")
        for line in figures[name]:
            print(f"  - {line}")
