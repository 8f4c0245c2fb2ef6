"""Commands on deletion requests: ``tru delete submit | list | explain | due | hold | release | cancel | ...``."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflows.cli.command import Figures, add_command, load_ledger_job_file
from workflows.cli.ledger_tables import print_due, print_explanation, print_requests, print_submission
from workflows.cli.tables import print_figures

if TYPE_CHECKING:
    from workflows.deletions.ledger.job import LedgerJob


STATES = [
    "received",
    "verified",
    "held",
    "denied",
    "duplicate",
    "queued",
    "processing",
    "published",
    "purged",
    "receipted",
    "failed_retryable",
    "failed_terminal",
    "cancelled",
]  # as workflows.deletions.ledger.STATES, which brings more along than a parser needs


def add_commands(group: Any) -> None:
    """Add the commands of this file, which stand under ``tru delete``."""

    def command(
        name: str,
        text: str,
        run: Callable[["LedgerJob", argparse.Namespace], Figures],
        show: Callable[[Figures], None] = print_figures,
        *,
        is_writing: bool = True,
    ) -> argparse.ArgumentParser:
        def run_on_job(arguments: argparse.Namespace) -> Figures:
            return run(load_ledger_job_file(arguments), arguments)

        parser = add_command(group, name, text, run_on_job, show, is_writing=is_writing)
        parser.add_argument("--job", default="job.yaml", help="job file (YAML); default job.yaml")
        return parser

    text = "Take deletion requests into the ledger. The same file again changes nothing."
    submitting = command("submit", text, _submit, print_submission)
    what = (
        "CSV, TSV, JSON, JSON lines or Parquet, also .gz or .zst, or a folder of these: files taken are not taken twice"
    )
    submitting.add_argument("requests", help=what)

    submitting.add_argument(
        "--as-written",
        action="store_true",
        help="ids that the data set does not know, or that only look like one that it knows, are meant as written",
    )

    listing = command(
        "list", "List deletion requests, nearest deadline first.", _list, print_requests, is_writing=False
    )
    listing.add_argument("--state", action="append", choices=STATES, help="only those in this state; may be repeated")
    listing.add_argument("--limit", type=_count, default=50, help="at most so many; default 50")
    listing.add_argument("--summary", action="store_true", help="only numbers: by state, oldest age, nearest deadline")
    listing.add_argument("--check", action="store_true", help="read and verify the whole history first")

    text = "Say where a request is, why, and what happens next."
    explaining = command("explain", text, _explain, print_explanation, is_writing=False)
    explaining.add_argument("request_id", metavar="ID")
    explaining.add_argument("--history", action="store_true", help="with all that happened to it; reads the whole log")

    handing = command("receipt", "Write the signed receipt of a request to a file; `tru verify` checks it.", _receipt)
    handing.add_argument("request_id", metavar="ID")
    handing.add_argument("--out", required=True, metavar="FILE", help="a file that ends with .json")

    being_due = command(
        "due",
        "List what is open, overdue first, with alerts at 50, 80 and 100 % of the time.",
        _due,
        print_due,
        is_writing=False,
    )
    being_due.add_argument("--limit", type=_count, default=50, help="at most so many; default 50")

    holding = command("hold", "Place a legal hold: what it covers is not deleted until it is released.", _hold)
    what = holding.add_mutually_exclusive_group(required=True)
    what.add_argument("request_id", nargs="?", metavar="ID", help="hold what this request asks to forget")
    what.add_argument("--subjects", metavar="FILE", help="hold each subject of a file like that of submit")
    what.add_argument("--dataset", action="store_true", help="hold the whole data set")
    holding.add_argument(
        "--level", choices=["subject", "user", "item"], default="subject", help="with ID: or the user or item it names"
    )
    holding.add_argument("--reason", required=True)

    releasing = command("release", "Release a legal hold; what no other hold covers is queued again.", _release)
    releasing.add_argument("hold_id", metavar="ID", help="the hold's id, or that of a request that one hold covers")
    releasing.add_argument("--reason", required=True)

    cancelling = command("cancel", "Take requests back that no batch has taken.", _cancel)
    cancelling.add_argument("request_ids", nargs="+", metavar="ID")
    cancelling.add_argument("--reason", required=True)

    verifying = command("verify-request", "Say that the requesters are who they claim to be.", _verify)
    verifying.add_argument("request_ids", nargs="+", metavar="ID")

    extending = command("extend", "Move the deadline of requests, with a reason to tell the requester.", _extend)
    extending.add_argument("request_ids", nargs="+", metavar="ID")
    extending.add_argument("--reason", required=True)
    extending.add_argument("--until", help="ISO 8601 with a zone; default as late as the regulation allows")

    text = "Note that subjects consented anew: what they do from then on is admitted by imports."
    command("reconsent", text, _reconsent).add_argument("requests", help="a file like that of submit")

    text = "Look in the current data set for what was deleted: exit code 6 if something is back."
    sweeping = command("sweep", text, _sweep)
    sweeping.add_argument("--queue", action="store_true", help="ask for the deletion of what is back, and exit with 0")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text!r}")
    return int(text)


def _submit(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.commands import submit

    return submit(job, Path(arguments.requests), is_as_written=arguments.as_written)


def _list(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.commands import list_requests, summarise

    if arguments.summary:
        return summarise(job)
    return list_requests(job, arguments.state or [], limit=arguments.limit, is_checked=arguments.check)


def _explain(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.commands import explain

    return explain(job, arguments.request_id, with_history=arguments.history)


def _receipt(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.receipts.hand_out import hand_out_receipt

    return hand_out_receipt(job, arguments.request_id, Path(arguments.out))


def _due(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.commands import due

    return due(job, limit=arguments.limit)


def _hold(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.actions import hold_dataset, hold_request, hold_subjects

    if arguments.dataset:
        return hold_dataset(job, reason=arguments.reason)
    if arguments.subjects:
        return hold_subjects(job, Path(arguments.subjects), reason=arguments.reason)
    return hold_request(job, arguments.request_id, level=arguments.level, reason=arguments.reason)


def _release(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.actions import release

    return release(job, arguments.hold_id, reason=arguments.reason)


def _cancel(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.actions import cancel

    return cancel(job, arguments.request_ids, reason=arguments.reason)


def _verify(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.actions import verify

    return verify(job, arguments.request_ids)


def _extend(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.actions import extend

    return extend(job, arguments.request_ids, reason=arguments.reason, until=arguments.until)


def _reconsent(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.commands import reconsent

    return reconsent(job, Path(arguments.requests))


def _sweep(job: "LedgerJob", arguments: argparse.Namespace) -> Figures:
    from workflows.deletions.ledger.actions import sweep

    return sweep(job, is_queued=arguments.queue)
