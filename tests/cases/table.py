"""Print what every shared case comes to, as a Markdown table: case, whether it holds, exit codes, what was said.

Usage: python -m tests.cases.table [--said] [words for pytest, such as -k imports]
"""

import contextlib
import sys
from typing import Any

import pytest

from tests.cases.commands import REPOSITORY

MAX_LETTERS = 240


class Table:
    """Collects what the tests of the cases recorded."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found: dict[str, Any] = dict(report.user_properties)
        if report.when == "call" and "case" in found:
            self.rows.append(found["case"] | {"said": found["said"], "holds": report.passed})


def row_of(row: dict[str, Any]) -> str:
    """One line of the table: of what does not hold the problems, else the last line that was said."""
    lines = [line for text in row["said"] for line in text.strip().splitlines() if not line.startswith("{")]
    lines = lines or [line for text in row["said"] for line in text.strip().splitlines()]
    text = lines[0] if lines else ""
    if not row["holds"]:
        text = "; ".join(row["problems"])
    plain = "".join(letter if letter.isprintable() else "?" for letter in text).replace("|", "\\|")
    short = plain if len(plain) <= MAX_LETTERS else plain[: MAX_LETTERS - 3] + "..."
    codes = ", ".join(str(code) for code in row["codes"])
    return f"| {row['key']} | {'yes' if row['holds'] else '**no**'} | {codes} | {short} |"


def main() -> int:
    """Run the cases and print the table; 0 if all hold."""
    words = [word for word in sys.argv[1:] if word != "--said"]
    table = Table()
    options = ["-q", "--no-header", "--tb=no", "-r", "N", str(REPOSITORY / "tests" / "test_shared_cases.py")]
    with contextlib.redirect_stdout(sys.stderr):  # what pytest itself prints
        code = pytest.main([*options, *words], plugins=[table])
    print("| case | holds | exit | what was said, or what does not hold |\n|---|---|---|---|")
    for row in table.rows:
        print(row_of(row))
        if "--said" in sys.argv:
            print("".join(row["said"]))
    print(f"\n{sum(row['holds'] for row in table.rows)} of {len(table.rows)} hold")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
