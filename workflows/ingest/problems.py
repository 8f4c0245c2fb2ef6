"""What is wrong with the data, as data: counted in every block, merged, then raised once with all rows counted."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tru_core.errors import DataError

MAX_ROWS_NAMED = 5
NOTHING_WRITTEN = "Nothing was written."
_USUAL_NAMES = {  # a first line with none of these is no header
    *("user_id", "userid", "user", "uid", "item_id", "itemid", "item", "iid", "x_label", "split", "timestamp", "time"),
    *("rating", "label", "title", "date", "id", "price", "category", "name"),
}


@dataclass(frozen=True)
class Problem:
    """One kind of fault in one column of one file.

    ``rows`` are the first rows that have it, counted from 1 without the header and blank lines; where ``unit`` is
    ``line``, lines as an editor counts them; where it is ``index``, places of a matrix from 0 on. Ids never stand here.
    """

    file: str
    column: str
    expected: str
    found: str
    fix: str
    rows: tuple[int, ...]
    num_rows: int
    unit: str = "row"


def find_problem(
    is_bad: NDArray[np.bool_],
    rows: NDArray[np.int64],
    *,
    file: str,
    column: str,
    expected: str,
    found: str,
    fix: str,
    is_matrix: bool = False,
) -> list[Problem]:
    """A list with the problem of the marked rows, or an empty list if no row is marked.

    Args:
        is_bad: One mark for each row of the block.
        rows: The number of each row in its file, from 0.
        is_matrix: Name the rows from 0 on, as ``array[row]`` does.
    """
    num_bad = int(np.count_nonzero(is_bad))
    if num_bad == 0:
        return []
    first = tuple(int(row) + (not is_matrix) for row in np.sort(rows[is_bad])[:MAX_ROWS_NAMED])
    return [Problem(file, column, expected, found, fix, first, num_bad, "index" if is_matrix else "row")]


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
        f"{describe_rows(problem.rows, problem.num_rows, unit=problem.unit)}. {problem.fix}"
    )


def describe_rows(rows: Iterable[int], num_rows: int, *, unit: str = "row") -> str:
    """``rows 3, 8, 9, 12, 20 (57 in all)``: the first rows and their number."""
    named = ", ".join(str(row) for row in rows)
    several = "indices" if unit == "index" else f"{unit}s"
    return f"{unit} {named} (1 in all)" if num_rows == 1 else f"{several} {named} ({num_rows} in all)"


def missing_column(file: str, names: Sequence[str], *, wanted: str, is_text: bool, fix: str) -> DataError:
    """The error about a column that is not there. It repeats no name: without a header, names are persons' ids.

    Args:
        names: The names in the first line of the file, or in its schema.
        wanted: What was looked for, as ``user_id``.
    """
    lower = [name.strip().lower() for name in names]
    has_header = not is_text or bool(_USUAL_NAMES & set(lower))
    near = difflib.get_close_matches(wanted.lower(), lower, n=1, cutoff=0.75)
    count = f"{len(names)} column{'s' if len(names) != 1 else ''}"
    if has_header or near:
        place = f" Did you mean column {lower.index(near[0]) + 1} of {len(names)}?" if near else ""
        return DataError(f"{file}: expected a column {wanted}, found none in {count}.{place} {NOTHING_WRITTEN} {fix}")
    one = " Cells are separated by tab, comma, semicolon or |." if len(names) == 1 else ""
    return DataError(
        f"{file}: this looks like a file without a header: the first line has no column {wanted}; it has {count}.{one} "
        f"{NOTHING_WRITTEN} Write a first line that names the columns, such as {wanted}."
    )


def problems_as_json(problems: Iterable[Problem]) -> list[dict]:
    """For the way from a worker to the caller."""
    return [asdict(problem) for problem in problems]


def problems_from_json(values: Iterable[dict]) -> list[Problem]:
    """The inverse of ``problems_as_json``."""
    return [Problem(**{**value, "rows": tuple(value["rows"])}) for value in values]
