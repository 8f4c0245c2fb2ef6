"""What an audit leaves for a reader: a table on the terminal, one flat row for each finding, files of four kinds."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich import box
from rich.console import Console
from rich.table import Table

from workflows.experiments.audit.report import audit_page
from workflows.output_files import write_whole
from workflows.storage import canonical_json

Figures = dict[str, Any]
FORMATS = (".json", ".parquet", ".csv", ".html")
TERMINAL_COLUMNS = 120
MARKS = {"passed": "passed", "failed": "FAILED", "inconclusive": "inconclusive"}
_TEXTS = ("candidate", "attack", "paper", "statistic", "aspect", "reference", "verdict", "reason", "shows_not")
_NUMBERS = (
    "value",
    "low",
    "high",
    "original",
    "reference_value",
    "reference_low",
    "reference_high",
    "margin",
    "smallest_effect",
    "unseen_share",
    "num_references",
    "num_cases",
)
_FLAGS = ("positive_control", "negative_control", "is_optimised")


def write_output(path: Path, figures: Figures) -> None:
    """Write an audit in the format that the file's ending says; an older file is replaced.

    JSON holds all that an auditor needs to do it again; Parquet and CSV the findings; HTML is one page to read.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    body = io.BytesIO()
    if path.suffix == ".json":
        body.write(canonical_json({k: v for k, v in figures.items() if k != "result"}, where=str(path)))
    elif path.suffix == ".html":
        body.write(audit_page(figures).encode())
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(to_table(figures), body)
    else:
        pyarrow.csv.write_csv(to_table(figures), body)
    write_whole(path, body.getvalue())


def to_table(figures: Figures) -> pa.Table:
    """Lay the findings of all candidates out flat: one row each; what a finding has not is null."""
    rows = [finding | {"candidate": audit["candidate"]} for audit in figures["audits"] for finding in audit["findings"]]
    columns: dict[str, pa.Array] = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in _TEXTS}
    columns |= {name: pa.array([_float(row.get(name)) for row in rows], pa.float64()) for name in _NUMBERS}
    columns |= {name: pa.array([row.get(name) for row in rows], pa.bool_()) for name in _FLAGS}
    return pa.table(columns)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def number(value: float | None, digits: int = 3) -> str:
    """A figure for a reader; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _reference(finding: Figures) -> str:
    value, margin = finding["reference_value"], finding["margin"]
    return "-" if value is None else f"{value:.3f}" + (f" ±{margin:.3f}" if margin else "")


def _table(audit: Figures) -> Table:
    """The findings of one candidate that bear a verdict."""
    title = f"{audit['candidate']}: {audit['verdict']}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("what is measured", overflow="fold", min_width=50)
    for heading in ("Original", "candidate", "reference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for finding in audit["findings"]:
        if finding["verdict"] != "reported":
            mark = "*" if finding.get("is_optimised") else ""
            table.add_row(
                f"{finding['attack']}{mark}: {finding['statistic']}",
                number(finding["original"]),
                number(finding["value"]),
                _reference(finding),
                MARKS[finding["verdict"]],
            )
    return table


def format_audits(figures: Figures) -> str:
    """Lay an audit out for a terminal of 120 columns: a block for each candidate, and how to read it."""
    text = io.StringIO()
    console = Console(file=text, width=TERMINAL_COLUMNS, color_system=None, highlight=False, markup=False, emoji=False)
    console.print(f"{figures['backbone']} · {figures['dataset']} · {figures['forget']}\n")
    for audit in figures["audits"]:
        console.print(_table(audit))
        num_reported = sum(finding["verdict"] == "reported" for finding in audit["findings"])
        console.print(
            f"{audit['reason']} {num_reported} further figures bear no verdict: --out FILE.html shows them.\n"
        )
    first = figures["audits"][0]
    against = (
        f"Reference: the mean of {first['num_retrains']} Retrains ± how far one more may lie from it by chance."
        if first["reference"] == "retrain"
        else "Reference: the level of what no model ever saw; without a Retrain this is the weaker evidence."
    )
    console.print(
        f"{against} passed: as a model that never saw the deleted data, and the "
        "attack sees them in the Original. inconclusive: the attack sees nothing in the Original either, so its "
        f"silence proves nothing. {first['num_shadows']} shadow models. *: the method optimises this very statistic: "
        "it counts as no evidence for it. Audits bound what these attacks see; they are no proof of absence."
    )
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def print_audits(figures: Figures) -> None:
    """Print an audit's tables."""
    Console(width=TERMINAL_COLUMNS, soft_wrap=True, highlight=False, markup=False, emoji=False).print(
        format_audits(figures)
    )
