"""Which files are the table of interactions, by their names: one file, numbered parts, a folder of parts, or a split.

One rule: a source has one table. Two files that could each be the table are never merged, because the older of them
may hold people who were taken out by hand since.

    interactions.parquet                               one file
    interactions/part-0.parquet, interactions.csv/...  a folder of parts (Spark, Ray Data, Dask), nested or not
    interactions/date=2026-01-01/part-0.parquet        partitions; split=train/ says the split
    interactions-0001.parquet, part-00000-x.parquet    numbered parts
    interactions-train.csv, train.csv, train/0.csv     a given split, with -valid (val, dev) and -test
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from tru_core.errors import DataError
from workflows.data.snapshot import TEST, TRAIN, VALID
from workflows.ingest.problems import NOTHING_WRITTEN
from workflows.ingest.raw_files import UnusedFile
from workflows.ingest.settings import ColumnNames
from workflows.ingest.source_files import SourceFile
from workflows.ingest.suffixes import is_table, split_suffix
from workflows.ingest.table_names import SPLIT_WORDS, Role, has_leftover_word, is_writers_part, role_of

MAX_PARTS = 10_000  # each is opened to check its header, and is a task of its own
_SPLIT_NUMBERS = {"0": TRAIN, "1": VALID, "2": TEST}  # as in a column x_label
_PARTITION = re.compile(r"([^=]+)=(.*)")
_KEEP_ONE = (
    "Keep one, and move the other out of the source: merged, it could bring back rows that somebody took out. Parts of "
    "one table belong into a folder interactions/."
)


@dataclass(frozen=True)
class TablePart:
    """A file of the table of interactions, and the split that names say: TRAIN, VALID, TEST or None."""

    key: str
    split: int | None


@dataclass(frozen=True)
class FoundTable:
    """The files of the table of interactions, sorted by key, and the partition columns that are not read."""

    parts: tuple[TablePart, ...]
    notes: tuple[UnusedFile, ...]


@dataclass(frozen=True)
class _Candidate:
    file: SourceFile
    entry: str  # the file, or the top folder that it lies in
    role: Role

    @property
    def inner(self) -> list[str]:
        """The names below the table's own, down to the file's; empty where the file is the table."""
        parts = self.file.key.split("/")
        return parts if self.role.kind == "part" else parts[1:]


def find_interactions(files: Sequence[SourceFile], names: ColumnNames, *, url: str) -> FoundTable | None:
    """Choose the files of the table of interactions; None if no name is that of one.

    Raises:
        DataError: Two tables, a mixture of kinds or of splits, a part that is missing, or a partition by an id.
    """
    found = _one_name_each(_candidates(files))
    if not found:
        return None
    if len(found) > MAX_PARTS:
        raise DataError(
            f"source {url}: expected a table in at most {MAX_PARTS} files, found {len(found)}. {NOTHING_WRITTEN} Write "
            f"fewer and larger files (Spark: repartition, Ray Data: repartition)."
        )
    split_columns = {name.casefold() for name in ("split", "x_label", names.split) if name}
    notes = _partition_notes(found, names, split_columns)  # first: no later message names a folder by an id
    _refuse_several(found, url)
    _refuse_leftovers(found, url)
    _refuse_same_stem(found, url)
    _refuse_missing_parts(found, url)
    words = {candidate.file.key: _split_words(candidate, split_columns) for candidate in found}
    return FoundTable(tuple(_checked_split(words, url)), notes)


def named_as_interactions(files: Iterable[SourceFile]) -> list[str]:
    """The keys of tables that are named as interactions outright, not only by a split or as some program's part."""
    return [
        candidate.file.key
        for candidate in _candidates(files)
        if candidate.role.kind != "part" and not candidate.role.is_bare
    ]


def is_interaction_folder(name: str) -> bool:
    """Whether a folder at the top of a source is named as a table of interactions is."""
    return role_of(split_suffix(name)[0]) is not None


def _candidates(files: Iterable[SourceFile]) -> list[_Candidate]:
    found = []
    for file in files:
        entry, *folders = file.key.split("/")[:-1] or [file.key]
        name = file.key.rpartition("/")[2]
        if not is_table(name):
            continue
        role = role_of(split_suffix(entry)[0])
        is_top = entry == name or all(_PARTITION.fullmatch(folder) for folder in (entry, *folders))
        if role is None and is_top and is_writers_part(split_suffix(name)[0]):
            role = Role("part")  # the source itself is the table's folder
        if role is not None:
            found.append(_Candidate(file, entry, role))
    return found


def _one_name_each(found: list[_Candidate]) -> list[_Candidate]:
    """Keep one name of files that are linked to each other, that of the whole table first."""
    order = ("whole", "split", "number", "part")
    chosen: dict[object, _Candidate] = {}
    for candidate in sorted(found, key=lambda candidate: (order.index(candidate.role.kind), candidate.file.key)):
        chosen.setdefault(candidate.file.real_path, candidate)
    return sorted(chosen.values(), key=lambda candidate: candidate.file.key)


def _refuse_several(found: list[_Candidate], url: str) -> None:
    """One table: a whole one, or parts of one kind, or the parts of a split."""
    first_of: dict[str, _Candidate] = {}
    for candidate in found:
        kind = f"{candidate.role.kind} {candidate.role.is_bare}"
        known = first_of.setdefault(kind, candidate)
        if candidate.role.kind == "whole" and candidate.entry != known.entry:
            raise _conflict(url, known.entry, candidate.entry)
    if len(first_of) > 1:
        first, second, *_ = first_of.values()
        raise _conflict(url, first.entry, second.entry)
    for candidate in found:  # within a folder, a whole table beside parts
        if candidate.inner and split_suffix(candidate.inner[-1])[0].lower() == "interactions":
            folder = candidate.file.key.rpartition("/")[0]
            others = (other.file.key for other in found if other is not candidate)
            beside = next((key for key in others if key.startswith(f"{folder}/")), None)
            if beside is not None:
                raise _conflict(url, candidate.file.key, beside)


def _conflict(url: str, first: str, second: str) -> DataError:
    return DataError(
        f"source {url}: expected one table of interactions, found {first} and {second}. {NOTHING_WRITTEN} {_KEEP_ONE}"
    )


def _refuse_leftovers(found: list[_Candidate], url: str) -> None:
    for candidate in found:
        if any(has_leftover_word(part) for part in candidate.file.key.split("/") if "=" not in part):
            raise DataError(
                f"source {url}: {candidate.file.key} lies among the parts of the table, and its name says that it was "
                f"put aside. {NOTHING_WRITTEN} Move it out of the source, or rename it if its rows belong to the table."
            )


def _refuse_same_stem(found: list[_Candidate], url: str) -> None:
    """``part-0.csv`` beside ``part-0.csv.gz``, Parquet beside text, ``train.csv`` beside ``train/``: one is a copy."""
    stems: dict[tuple[str, str], str] = {}
    splits: dict[tuple[str, str], list[str]] = {}
    kinds: dict[str, str] = {}
    for candidate in found:
        parts = candidate.file.key.split("/")
        for depth, name in enumerate(parts):
            parent, key = "/".join(parts[:depth]), "/".join(parts[: depth + 1])
            stem, suffix = split_suffix(name)
            known = stems.setdefault((parent, stem.casefold()), key)
            if known != key:
                raise _conflict(url, known, key)
            role = role_of(stem)
            if role is not None and role.word:
                known_keys = splits.setdefault((parent, role.word), [])
                known_keys += [key] if key not in known_keys[-1:] else []
            if depth == len(parts) - 1:
                kinds.setdefault(suffix.kind if suffix else "", key)
    for keys in splits.values():
        roles = [role_of(split_suffix(key.rpartition("/")[2])[0]) for key in keys]
        if len(keys) > 1 and not all(role.is_numbered for role in roles if role):
            raise _conflict(url, keys[0], keys[1])
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise _conflict(url, first, second)


def _refuse_missing_parts(found: list[_Candidate], url: str) -> None:
    """``-00000-of-00003`` says how many parts there are."""
    groups: dict[tuple[str, int], list[str]] = {}
    for candidate in found:
        folder, _, name = candidate.file.key.rpartition("/")
        stem = split_suffix(name)[0].lower()
        match = re.fullmatch(r"(.*?)\d+-of-(\d+)", stem)
        if match:
            groups.setdefault((f"{folder}/{match[1]}", int(match[2])), []).append(candidate.file.key)
    for (_, total), keys in groups.items():
        if len(keys) != total:
            raise DataError(
                f"source {url}: expected {total} parts, as the name of {keys[0]} says, found {len(keys)}. "
                f"{NOTHING_WRITTEN} Copy the missing ones."
            )


def _partition_notes(found: list[_Candidate], names: ColumnNames, split_columns: set[str]) -> tuple[UnusedFile, ...]:
    """Refuse ids and times that stand in folder names alone; name the other columns that do."""
    read = {"user_id", "item_id", "userid", "itemid", "timestamp"}
    read |= {name.casefold() for name in (names.user, names.item, names.timestamp) if name}
    counts: dict[tuple[str, str], int] = {}
    for candidate in found:
        way: list[str] = []
        for part in candidate.file.key.split("/")[:-1]:
            match = _PARTITION.fullmatch(part)
            way.append(f"{match[1]}=*" if match else part)
            if match and match[1].casefold() in read:
                raise DataError(
                    f"{'/'.join(way)}: the folders hold the values of column {match[1]}, expected them in a column of "
                    f"the files. {NOTHING_WRITTEN} Write the table without partitions by {match[1]}."
                )
            if match and match[1].casefold() not in split_columns:
                place = "/".join(way), match[1]
                counts[place] = counts.get(place, 0) + 1
    reason = "partition column {}: its values stand in folder names and are not read; the rows are"
    return tuple(UnusedFile(way, reason.format(column), count) for (way, column), count in counts.items())


def _split_words(candidate: _Candidate, split_columns: set[str]) -> set[str]:
    """The words for a split in the names on the way to a file."""
    words = {candidate.role.word} - {""}
    for part in candidate.inner[:-1]:
        match = _PARTITION.fullmatch(part)
        if match and match[1].casefold() in split_columns:
            words.add(unquote(match[2]).strip().lower())
        elif part.lower() in SPLIT_WORDS:
            words.add(part.lower())
    if candidate.inner:
        role = role_of(split_suffix(candidate.inner[-1])[0])
        words |= {role.word} - {""} if role else set()
    return words


def _checked_split(words: dict[str, set[str]], url: str) -> list[TablePart]:
    """All files say a split or none does, and each split is called by one word."""
    spellings: dict[int | None, tuple[str, str]] = {}
    parts = []
    for key, own in words.items():
        word = next(iter(own), "")
        split = SPLIT_WORDS.get(word, _SPLIT_NUMBERS.get(word))
        if len(own) > 1 or (own and split is None):
            raise DataError(
                f"source {url}: {key} lies under names that say more than one split, or one that is not known. "
                f"{NOTHING_WRITTEN} Expected one of train, valid and test."
            )
        known_word, known_key = spellings.setdefault(split, (word, key))
        if known_word != word:
            raise _conflict(url, known_key, key)
        parts.append(TablePart(key, split))
    if None in spellings and len(spellings) > 1:
        first, second, *_ = (key for _, key in spellings.values())
        raise DataError(
            f"source {url}: of {first} and {second} one is named by a split and the other is not. {NOTHING_WRITTEN} "
            f"Name all files by train, valid or test, or none."
        )
    if None not in spellings and (TRAIN not in spellings or len(spellings) == 1):
        names = ", ".join(key for _, key in spellings.values())
        raise DataError(
            f"source {url}: expected a train part with a valid or a test part, found {names} only. {NOTHING_WRITTEN} "
            f"Add the others, or name the table interactions.parquet or .csv, so that a split is drawn."
        )
    return parts
