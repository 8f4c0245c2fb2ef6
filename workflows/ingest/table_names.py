"""What the name of a file or folder says of a table: the whole, a part, a split, or something put aside."""

import re
from dataclasses import dataclass

from workflows.data.snapshot import TEST, TRAIN, VALID

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("valid", "validation", "val", "dev"), VALID),
    **dict.fromkeys(("test", "testing"), TEST),
}
_SPLIT = "|".join(SPLIT_WORDS)
_ROLE = re.compile(
    rf"(?:interactions(?:[-_.](?P<split>{_SPLIT}))?|(?P<bare>{_SPLIT}))"
    r"(?P<number>[-_.]?(?:part[-_.]?)?\d+(?:[-_.]\d+)*(?:-of-\d+)?)?"
)
_WRITER_PART = re.compile(r"part[-_.]?\d+([-_.][\w.-]+)?|\d+|data_\d+|(\w+_)?\d{6}_\d{6}(-\d+)?")
_LEFTOVER = re.compile(
    r"(^|[^a-z])(backups?|bak|old|copy|kopie|copie|copia|orig|original|tmp|temp|prev|previous|archived?|deleted|removed"
    r"|trash|draft)([^a-z]|$)|\(\d+\)|~"
)


@dataclass(frozen=True)
class Role:
    """What a name makes a table: ``whole``, ``split``, ``number`` or ``part`` (of a table whose folder is the source).

    ``word`` is that of the split; ``is_bare``: the name is the split's alone, without ``interactions``;
    ``is_numbered``: it is one of several.
    """

    kind: str
    word: str = ""
    is_bare: bool = False
    is_numbered: bool = False


def role_of(stem: str) -> Role | None:
    """The role of a file or folder by its name without suffixes; None if the name is not that of interactions."""
    match = _ROLE.fullmatch(stem.lower())
    if match is None:
        return None
    word = match["split"] or match["bare"] or ""
    kind = "split" if word else "number" if match["number"] else "whole"
    return Role(kind, word, match["bare"] is not None, match["number"] is not None)


def is_writers_part(stem: str) -> bool:
    """Whether a name is one that Spark, Ray Data, Dask, DuckDB or Polars give to a part of a table."""
    return _WRITER_PART.fullmatch(stem.lower()) is not None


def has_leftover_word(name: str) -> bool:
    """Whether a name says that a file was put aside: a backup, a copy, an old state."""
    return _LEFTOVER.search(name.lower()) is not None
