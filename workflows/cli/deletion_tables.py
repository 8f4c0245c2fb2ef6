"""What a person reads about batches of deletions and the versions they made."""

from typing import Any

from rich import box
from rich.table import Table

from workflows.cli.tables import print_figures
from workflows.cli.terminal import TERMINAL_COLUMNS, make_console

Figures = dict[str, Any]

_BATCH_LINES = {
    "version": "model version",
    "snapshot_id": "data snapshot",
    "num_interactions": "interactions deleted",
    "attempt": "made by",
    "seconds": "seconds to unlearn",
    "test_recall20": "test Recall@20",
    "forget_recall20": "forget Recall@20",
    "audit": "audit",
    "purge": "purge",
    "num_receipts": "receipts",
    "minimum_waived": "smaller than policy asks, because",
}


def print_run(figures: Figures) -> None:
    """Print what a run did: its batches, what waits, where all requests stand, and why some were left."""
    console = make_console(soft_wrap=True)
    outcomes = _counts(figures.get("num_requests", {}))
    console.print(f"{outcomes} in this run; {figures.get('num_waiting', 0)} wait until there are enough for a batch.")
    for batch in figures.get("batches", []):
        console.print(f"\nbatch {batch['batch_id']}")
        for name, title in _BATCH_LINES.items():
            value = batch.get(name)
            if value not in (None, ""):
                console.print(f"  {title:<34} {_text(value)}")
    if figures.get("states"):
        console.print(f"\nall requests: {_counts(figures['states'])}")
    for left in figures.get("failed", []):
        console.print(f"left: {left['message']}")


def print_versions(figures: Figures) -> None:
    """Print a model's versions, the one that serves marked."""
    table = Table(title=f"model {figures['model']}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("version", "status", "files", "made by", "from", "snapshot", "created (UTC)", "remark"):
        table.add_column(heading, overflow="fold")
    for version in figures["versions"]:
        remark = f"rollback to {version['rollback_of']}" if version["rollback_of"] else ""
        if version["override"]:
            remark += f", override: {version['override']}"
        table.add_row(
            str(version["version"]),
            version["status"],
            version["files"],
            version["method"],
            "-" if version["parent_version"] is None else str(version["parent_version"]),
            version["snapshot_id"][:23],
            version["created_at"][:16].replace("T", " "),
            remark,
            style="bold" if version["status"] == "serving" else None,
        )
    make_console(width=TERMINAL_COLUMNS).print(table)


def print_purge(figures: Figures) -> None:
    """Print what a purge did, item by item where something is left."""
    print_figures({"purge": figures["purge"]})
    console = make_console(soft_wrap=True)
    for item in figures["items"]:
        if item["outcome"] in ("deferred", "held"):
            until = f" until {item['until']}" if item["until"] else ""
            console.print(f"  {item['outcome']} {item['kind']} {item['name']}{until} {item['reason']}".rstrip())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "nothing due"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return _counts(value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
