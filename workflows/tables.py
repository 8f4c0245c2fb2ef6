"""What a person reads at the end of a command."""

from typing import Any

from rich.console import Console
from rich.table import Table

SYSTEMS = {
    "original": "Original",
    "edges": "Edges deleted only",
    "tru": "TRU",
    "retrain": "Retrain",
}


def _factor(seconds: float, retrain_seconds: float | None) -> str:
    if retrain_seconds is None or seconds <= 0:
        return "-"
    return f"{retrain_seconds / seconds:.1f}x"


def print_comparison(systems: dict[str, dict[str, Any]]) -> None:
    """Print the systems against each other, and one line on how to read it."""
    table = Table(title="What each system still recommends, and what it cost")
    table.add_column("System")
    for heading in ("Test Recall@20", "Test NDCG@20", "Forget Recall@20", "Seconds", "Faster than Retrain"):
        table.add_column(heading, justify="right")
    retrain_seconds = systems.get("retrain", {}).get("seconds")
    for name, title in SYSTEMS.items():
        if name not in systems:
            continue
        row = systems[name]
        is_unlearned = name in ("edges", "tru")
        table.add_row(
            title,
            f"{row['test_recall20']:.4f}",
            f"{row['test_ndcg20']:.4f}",
            f"{row['forget_recall20']:.4f}",
            "-" if name == "edges" else f"{row['seconds']:.1f}",
            _factor(row["seconds"], retrain_seconds) if is_unlearned else "-",
        )
    console = Console()
    console.print(table)
    console.print(
        "Test: held-out pairs of everybody who stays; higher is better. Forget: the deleted pairs themselves; the goal "
        "is Retrain's level, not zero. Seconds: training or unlearning, without starting Ray."
    )


def print_figures(figures: dict[str, Any]) -> None:
    """Print figures, one on a line."""
    console = Console()
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items()) or "-"
        elif isinstance(value, float):
            value = f"{value:.4f}"
        console.print(f"{name.replace('_', ' '):<22} {value}", highlight=False, markup=False)
