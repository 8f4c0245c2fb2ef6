"""The columns of a table of deletion requests, and what is wrong with a first line that does not name them."""

import difflib
import re
from collections.abc import Sequence

from tru_core.errors import DataError

REQUIRED_COLUMNS = ("request_id", "kind", "user_id", "item_id")
OPTIONAL_COLUMNS = ("received_time", "regulation", "verified")
COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
ID_COLUMNS = ("user_id", "item_id")
UNCHANGED = "Nothing was started or changed."
_NOT_LETTERS = re.compile(r"[^a-z0-9]")
_COLUMN_LETTERS = frozenset(_NOT_LETTERS.sub("", name) for name in COLUMNS)
_MAX_NAME_LETTERS = 100
_MAX_STRANGE = 100


def check_columns(cells: Sequence[str], where: str) -> list[str]:
    """The columns' names in the file's order. Found names are not repeated: a file without header starts with ids.

    Raises:
        DataError: A column is missing, unknown or there twice, or nothing here is a column's name.
    """
    wanted = f"Expected {', '.join(REQUIRED_COLUMNS)}, and if wanted {', '.join(OPTIONAL_COLUMNS)}"
    if not any(is_like_column(cell) for cell in cells):
        raise DataError(
            f"{where}: this looks like a file without a header line: none of its {len(cells)} columns has a name that "
            f"is known. {wanted}, separated by commas. {UNCHANGED} Add the names as the first line."
        )
    for name in REQUIRED_COLUMNS:
        if name not in cells:
            strange = [cell.lower() for cell in cells if cell not in COLUMNS][:_MAX_STRANGE]
            near = difflib.get_close_matches(name, strange, n=1)
            place = [cell.lower() for cell in cells].index(near[0]) + 1 if near else 0
            hint = f"the name of column {place} is the nearest: rename it" if near else "add it"
            raise DataError(f"{where}: there is no column {name}; {hint}. {wanted}, separated by commas. {UNCHANGED}")
    for place, cell in enumerate(cells):
        if cell not in COLUMNS or cell in cells[:place]:
            problem = f"is {cell} for the second time" if cell in COLUMNS else f"is none of {', '.join(COLUMNS)}"
            raise DataError(f"{where}: column {place + 1} {problem}. {UNCHANGED} Rename or remove it.")
    return list(cells)


def is_like_column(cell: str) -> bool:
    """Whether a text is the name of a column, but for letter case, blanks and punctuation."""
    return len(cell) <= _MAX_NAME_LETTERS and _NOT_LETTERS.sub("", cell.lower()) in _COLUMN_LETTERS
