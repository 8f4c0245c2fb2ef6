"""What a person reads at the end of a deletion run, of a purge, and about versions."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from workflows.tables import print_figures

Figures = dict[str, Any]

_OF_A_BATCH = ("version", "parent_version", "attempt", "audit", "num_interactions", "minimum_waived", "purge")


def print_run(figures: Figures) -> None:
    """Print what a run did, batch by batch, and what it left."""
    console = Console()
    for batch in figures["batches"]:
        console.print(f"batch {batch['batch_id']}", highlight=False)
        print_figures({name: batch[name] for name in (*_OF_A_BATCH, "num_receipts") if name in batch})
    names = ("num_requests", "num_waiting", "num_held", "states", "submitted")
    print_figures({name: figures[name] for name in names if name in figures})
    if not figures["batches"]:
        console.print("Nothing was due; nothing was changed.")
    for failed in figures.get("failed", ()):
        console.print(f"left: {failed['message']}", highlight=False, markup=False, soft_wrap=True)


def print_purge(figures: Figures) -> None:
    """Print what a purge found, item by item."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("what", "name", "outcome", "objects", "until", "why"):
        table.add_column(title, justify="right" if title == "objects" else "left")
    for item in figures["items"]:
        values = (item["kind"], item["name"], item["outcome"], item["num_objects"], item["until"] or "", item["reason"])
        table.add_row(*(str(value) for value in values))
    Console().print(table)


def print_versions(figures: Figures) -> None:
    """Print a model's versions, oldest first."""
    table = Table(box=box.SIMPLE_HEAD)
    names = ("version", "status", "files", "method", "parent_version", "snapshot_id", "created_at", "override")
    for name in names:
        table.add_column(name.replace("_", " "))
    for line in figures["versions"]:
        table.add_row(*("" if line[name] is None else str(line[name]) for name in names))
    Console().print(table)
