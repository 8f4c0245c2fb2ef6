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
    table.add_column("System", no_wrap=True)
    for heading in ("Test Recall@20", "Test NDCG@20", "Forget Recall@20", "Seconds", "Faster"):
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
        "is Retrain's level, not zero. Seconds: training or unlearning, without starting Ray. Faster: than Retrain."
    )


def _number(value: float | None, digits: str) -> str:
    return "-" if value is None else format(value, digits)


def print_sweep(figures: dict[str, Any]) -> None:
    """Print a sweep's trials, the best marked, the errors of failed ones below, and where the best job file lies."""
    table = Table(title="What each setting of TRU does to validation and forget pairs")
    headings = ("Gate weight", "Branch scaling", "Module share", "Reverse rate")
    for heading in ("", *headings, "Valid Recall@20", "Forget Recall@20", "Score", "Seconds"):
        table.add_column(heading, justify="right")
    failed = []
    for row in figures["trials"]:
        is_best = row["trial"] == figures["best"]["trial"]
        if row["error"] is not None:
            failed.append(row)
        table.add_row(
            "best" if is_best else "" if row["error"] is None else f"failed ({len(failed)})",
            f"{row['gate_weight']:g}",
            "on" if row["branch_scaling"] else "off",
            f"{row['module_share']:g}",
            f"{row['reverse_learning_rate']:g}",
            _number(row["valid_recall20"], ".4f"),
            _number(row["forget_recall20"], ".4f"),
            _number(row["score"], ".4f"),
            _number(row["seconds"], ".1f"),
            style="bold" if is_best else None,
        )
    console = Console()
    console.print(table)
    for number, row in enumerate(failed, start=1):
        console.print(f"({number}) {row['error_kind']}: {row['error']}", highlight=False, markup=False)
    console.print(
        "Score: validation recall less its distance to forget recall; higher is better. Test pairs took no part in the "
        f"choice. The best setting as a job file: {figures['best_job']}",
        highlight=False,
        markup=False,
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
