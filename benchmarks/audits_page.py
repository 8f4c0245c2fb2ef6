"""The table of docs/audits.md, from the rows that were measured."""

from pathlib import Path


def write_page(page: Path, folder: Path) -> None:
    """Write the table between the page's two marks."""
