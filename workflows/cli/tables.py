"""What a person reads at the end of a command."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from workflows.cli.terminal import TERMINAL_COLUMNS, make_console
from workflows.experiments.compare.comparison import FigureSummary, SummaryRow


def _number(value: float | None, digits: str) -> str:
    return "-" if value is None else format(value, digits)


COLUMNS = {
    "test_recall20": "test R@20",
    "forget_recall20": "forget R@20",
    "residue": "residue",
    "distance": "distance",
}
MARKS = {"inside": "=", "below": "<", "above": ">", None: " "}


def _with_interval(summary: FigureSummary | None, digits: int) -> str:
    if summary is None:
        return "-"
    half = "" if summary.high is None else f" ±{summary.high - summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f}{half}"


def _against_band(summary: FigureSummary | None) -> str:
    return f"{_with_interval(summary, 4)} {MARKS[None if summary is None else summary.place]}"


def _seconds(summary: FigureSummary | None) -> str:
    return _with_interval(summary, 0 if summary is not None and summary.mean >= 100 else 1)


def _band(rows: Sequence[SummaryRow], figure: str) -> str:
    """The band is the same in every row of a block that has the figure."""
    for summary in (row.figures.get(figure) for row in rows):
        if summary is not None and summary.band_low is not None:
            return f"{summary.band_low:.4f}–{summary.band_high:.4f}  "
    return "-  "


def _block(rows: Sequence[SummaryRow]) -> Table:
    """One backbone and forget set: a line for each system, and the band that the marks mean."""
    title = f"{rows[0].backbone} · {rows[0].forget}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("method", overflow="fold")
    for heading in (*(f"{name}  " for name in COLUMNS.values()), "seconds", "speed-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        speedup = row.figures.get("speedup")
        table.add_row(
            row.method,
            *(_against_band(row.figures.get(figure)) for figure in COLUMNS),
            _seconds(row.figures.get("seconds")),
            "-" if speedup is None else f"{speedup.mean:.1f}x",
        )
    table.add_section()
    table.add_row("band", *(_band(rows, figure) for figure in COLUMNS), "", "", style="dim")
    return table


def format_table(rows: Sequence[SummaryRow]) -> str:
    """Lay a summary out for a terminal of 120 columns: a block for each backbone and forget set, and how to read it."""
    blocks: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in rows:
        blocks.setdefault((row.backbone, row.forget), []).append(row)
    text = io.StringIO()
    console = make_console(file=text, width=TERMINAL_COLUMNS)
    for block in blocks.values():
        console.print(_block(block))
    console.print(
        "Mean over seeds ± half of the 95 % interval (Student's t; none for one seed). Band: the least and the "
        "greatest of the Retrain runs. = inside the band, < below, > above: the goal is =, not the lowest or highest. "
        "Test: held-out pairs of everybody who stays. Forget: the deleted pairs themselves. Residue: 0.5 says that the "
        "vectors do not tell which rows the deleted pairs brought together. Distance: of the top-20 lists to "
        "Retrain's of the same seed, 0 to 1; the band is that between Retrains, and < is nearer than they are to each "
        "other. Speed-up: against the Retrain of the same seed."
    )
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def print_comparison(rows: Sequence[SummaryRow], failed: Sequence[Mapping[str, Any]]) -> None:
    """Print a comparison's table, and below it the runs that are missing in it with their errors."""
    console = make_console(width=TERMINAL_COLUMNS, soft_wrap=True)
    console.print(format_table(rows))
    for run in failed:
        where = ", ".join([run["backbone"], run["forget"] or "training", f"seed {run['seed']}"])
        console.print(f"failed: {where}: {run['method']}: {run['error_kind']}: {run['error']}")


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def print_sweep(figures: dict[str, Any]) -> None:
    """Print a sweep's trials, the best marked, the errors of failed ones below, and where the best job file lies."""
    from tru_core.unlearning.methods import METHODS  # not above: every command would load the training code

    title = f"What each setting of {METHODS[figures['method']].title} does to validation and forget pairs"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    settings = [name.replace("learning_rate", "rate").replace("_", "\n", 1) for name in figures["swept"]]
    for heading in ("", *settings, "valid\nR@20", "forget\nR@20", "score", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    failed = []
    for row in figures["trials"]:
        is_best = row["trial"] == figures["best"]["trial"]
        if row["error"] is not None:
            failed.append(row)
        table.add_row(
            "best" if is_best else "" if row["error"] is None else f"failed ({len(failed)})",
            *(_setting(row[name]) for name in figures["swept"]),
            _number(row["valid_recall20"], ".4f"),
            _number(row["forget_recall20"], ".4f"),
            _number(row["score"], ".4f"),
            _number(row["seconds"], ".1f"),
            style="bold" if is_best else None,
        )
    console = make_console(width=TERMINAL_COLUMNS, soft_wrap=True)
    console.print(table)
    for number, row in enumerate(failed, start=1):
        console.print(f"({number}) {row['error_kind']}: {row['error']}")
    console.print(
        "Score: validation recall less its distance to forget recall; higher is better. Test pairs took no part in the "
        f"choice.\nThe best setting as a job file: {figures['best_job']}"
    )


def print_figures(figures: dict[str, Any]) -> None:
    """Print figures, one on a line however narrow the terminal is: what is cut in two cannot be searched or copied."""
    console = make_console(soft_wrap=True)
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items()) or "-"
        elif isinstance(value, float):
            value = f"{value:.4f}"
        console.print(f"{name.replace('_', ' '):<22} {value}")
