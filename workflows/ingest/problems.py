"""What is wrong with the data, as data: counted in every block, merged, then raised once with all rows counted."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tru_core.errors import DataError

MAX_ROWS_NAMED = 5
NOTHING_WRITTEN = "Nothing was written."


@dataclass(frozen=True)
class Problem:
    """One kind of fault in one column of one file.

    ``rows`` are the first rows that have it, counted from 0 without the header and blank lines. Ids never stand here.
    """

    file: str
    column: str
    expected: str
    found: str
    fix: str
    rows: tuple[int, ...]
    num_rows: int


def find_problem(
    is_bad: NDArray[np.bool_], rows: NDArray[np.int64], *, file: str, column: str, expected: str, found: str, fix: str
) -> list[Problem]:
    """A list with the problem of the marked rows, or an empty list if no row is marked.

    Args:
        is_bad: One mark for each row of the block.
        rows: The number of each row in its file.
    """
    num_bad = int(np.count_nonzero(is_bad))
    if num_bad == 0:
        return []
    first = tuple(int(row) for row in np.sort(rows[is_bad])[:MAX_ROWS_NAMED])
    return [Problem(file, column, expected, found, fix, first, num_bad)]


def merge_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Join the same problem of several blocks: rows are added up, the first ones named. Order of arrival is kept."""
    merged: dict[tuple[str, ...], Problem] = {}
    for problem in problems:
        kind = (problem.file, problem.column, problem.expected, problem.found)
        known = merged.get(kind)
        if known is not None:
            rows = tuple(sorted({*known.rows, *problem.rows})[:MAX_ROWS_NAMED])
            problem = replace(problem, rows=rows, num_rows=known.num_rows + problem.num_rows)
        merged[kind] = problem
    return list(merged.values())


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise DataError about everything that is wrong, or return if nothing is."""
    merged = sorted(merge_problems(problems), key=lambda problem: (problem.file, problem.column, problem.rows))
    if merged:
        raise DataError(" ".join([*(_sentence(problem) for problem in merged), NOTHING_WRITTEN]))


def _sentence(problem: Problem) -> str:
    return (
        f"{problem.file}, column {problem.column}: expected {problem.expected}, found {problem.found} in "
        f"{describe_rows(problem.rows, problem.num_rows)}. {problem.fix}"
    )


def describe_rows(rows: Iterable[int], num_rows: int) -> str:
    """``rows 3, 8, 9, 12, 20 (57 in all)``: the first rows and their number."""
    named = ", ".join(str(row) for row in rows)
    return f"row {named} (1 in all)" if num_rows == 1 else f"rows {named} ({num_rows} in all)"


def problems_as_json(problems: Iterable[Problem]) -> list[dict]:
    """For the way from a worker to the caller."""
    return [asdict(problem) for problem in problems]


def problems_from_json(values: Iterable[dict]) -> list[Problem]:
    """The inverse of ``problems_as_json``."""
    return [Problem(**{**value, "rows": tuple(value["rows"])}) for value in values]
