"""What a person reads about deletion requests."""

from typing import Any

from rich import box
from rich.table import Table

from workflows.cli.tables import print_figures
from workflows.cli.terminal import TERMINAL_COLUMNS, make_console

Figures = dict[str, Any]

_ALERTS = {"overdue": "OVERDUE", "used_80_percent": "80 % used", "used_50_percent": "50 % used", "": ""}


def print_submission(figures: Figures) -> None:
    """Print what became of a submission, what the data set does not know, and why files were refused or not read."""
    lists = ("failed", "unread", "exit_code", "unknown", "renamed", "warnings")
    print_figures({name: value for name, value in figures.items() if name not in lists})
    console = make_console()
    for text in figures.get("warnings", []):
        console.print(f"warning: {text}.", soft_wrap=True)
    for file in figures["failed"]:
        console.print(f"refused {file['file']}: {file['error']}", soft_wrap=True)
    for file in figures["unread"]:
        console.print(f"not read {file['file']}: {file['reason']}", soft_wrap=True)
    if figures["exit_code"] == 9:
        console.print("Requests wait: their requesters are not verified, or a hold covers them.")


def print_requests(figures: Figures) -> None:
    """Print requests as a table, or a summary's numbers."""
    if "requests" not in figures:
        print_figures({name: "-" if value is None else value for name, value in figures.items()})
        return
    _print_table(figures["requests"])
    by_state = ", ".join(f"{number} {state}" for state, number in figures["by_state"].items()) or "none"
    console = make_console()
    console.print(f"{len(figures['requests'])} of {figures['total']} shown. All: {by_state}.")
    if "verified_entries" in figures:
        console.print(
            f"The whole history was verified: {figures['verified_entries']} entries, the newest with sha256 "
            f"{figures['head_sha256']}.",
            soft_wrap=True,
        )


def print_due(figures: Figures) -> None:
    """Print what is open, overdue first, and the alerts."""
    _print_table(figures["requests"])
    alerts = figures["alerts"]
    console = make_console()
    console.print(
        f"{figures['total']} open: {alerts['overdue']} overdue, {alerts['used_80_percent']} have used 80 % of their "
        f"time, {alerts['used_50_percent']} half of it."
    )
    if figures["advice"]:
        console.print(figures["advice"], soft_wrap=True)


def print_explanation(figures: Figures) -> None:
    """Print where a request is, why, and what happens next."""
    console = make_console()
    lines = {
        "request": f"{figures['request_id']} ({figures['kind']})",
        "where": f"{figures['state']} since {figures['since']}",
        "why": figures["why"],
        "next": figures["next"],
        "deadline": f"{figures['deadline']} ({figures['regulation']}) {_ALERTS[figures['alert']]}".rstrip(),
        "received": figures["received_time"] + ("" if figures["is_time_stated"] else " (the time of submission)"),
        "batch": figures["batch_id"] or "-",
        "outcome": figures["outcome"] or "-",
        "holds": ", ".join(f"{hold['hold_id']} ({hold['level']})" for hold in figures["holds"]) or "-",
    }
    for name, text in lines.items():
        console.print(f"{name:<9} {text}", soft_wrap=True)
    for line in figures.get("history", []):
        text = f"{line['seq']:>6} {line['at']} {line['kind']:<9} {line['state'] or '-':<16} {line['reason']}".rstrip()
        console.print(text, soft_wrap=True)


def _print_table(requests: list[Figures]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("request", "kind", "state", "outcome", "deadline (UTC)", "", "by", "batch"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "request")
    for request in requests:
        table.add_row(
            request["request_id"],
            request["kind"],
            request["state"],
            request["outcome"] or "",
            request["deadline"][:16].replace("T", " "),
            _ALERTS[request["alert"]],
            request["regulation"],
            (request["batch_id"] or "")[:12],
            style="bold" if request["alert"] == "overdue" else None,
        )
    make_console(width=TERMINAL_COLUMNS).print(table)
