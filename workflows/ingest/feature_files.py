"""Which files hold features and id maps, by their names."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tru_core.errors import DataError, IntegrityError
from workflows.ingest.problems import NOTHING_WRITTEN
from workflows.ingest.raw_files import FeatureSource
from workflows.ingest.source_files import SourceFile
from workflows.ingest.suffixes import is_table, split_suffix
from workflows.ingest.table_names import has_leftover_word, is_writers_part
from workflows.storage import check_key


@dataclass(frozen=True)
class FeatureFiles:
    """The files of one feature source: a matrix, or a table in one file or several parts."""

    name: str
    keys: tuple[str, ...]
    is_matrix: bool


def find_feature_files(files: Iterable[SourceFile]) -> list[FeatureFiles]:
    """The files of ``features/``: ``<name>.npy``, ``<name>.parquet``, or a folder of Parquet parts."""
    found: list[FeatureFiles] = []
    folders: dict[tuple[str, str], list[str]] = {}
    for file in files:
        top, *names = file.key.split("/")
        if top.lower() != "features" or not names:
            continue
        stem, suffix = split_suffix(names[0])
        if len(names) == 1 and suffix is not None and suffix.kind in ("matrix", "parquet"):
            found.append(FeatureFiles(stem, (file.key,), suffix.kind == "matrix"))
        elif len(names) > 1:
            folders.setdefault((top, names[0]), []).append(file.key)
    for (_, folder), keys in folders.items():
        stem, suffix = split_suffix(folder)
        parts = {key: split_suffix(key.rpartition("/")[2]) for key in keys}
        tables = tuple(key for key, (_, kind) in parts.items() if kind is not None and kind.kind == "parquet")
        is_named = suffix is not None and suffix.kind == "parquet"
        if tables and (is_named or all(is_writers_part(parts[key][0]) for key in tables)):
            found.append(FeatureFiles(stem, tables, is_matrix=False))
    return found


def find_map_files(files: Iterable[SourceFile], stem: str, *, url: str) -> tuple[str, ...]:
    """The files of an id map at the top of a source: a table of this name, or a folder of parts. Empty if none.

    Raises:
        DataError: There are two.
    """
    entries: dict[str, list[str]] = {}
    for file in files:
        entry = file.key.partition("/")[0]
        if is_table(file.key.rpartition("/")[2]) and split_suffix(entry)[0].lower() == stem:
            entries.setdefault(entry, []).append(file.key)
    if len(entries) > 1:
        raise DataError(
            f"source {url}: expected one list of ids {stem}, found {' and '.join(entries)}. {NOTHING_WRITTEN} Keep one."
        )
    return tuple(next(iter(entries.values()), ()))


def check_modalities(features: Sequence[FeatureSource]) -> None:
    """Refuse modalities whose names cannot be kept apart or stored, and copies of one that were put aside.

    Raises:
        DataError: A name has a slash, a backslash or an invisible character, is too long, or differs from another
            in letter case, separators or the form of accents only; or it says "backup" beside the modality itself.
    """
    known: dict[str, FeatureSource] = {}
    for feature in features:
        name = feature.modality
        if "/" in name or not _is_key(name):
            raise DataError(
                f"{feature.key}: gives modality {name[:80]!r}, a name that cannot be part of a storage key. "
                f"{NOTHING_WRITTEN} Rename it: letters, digits, '-' and '_'."
            )
        first = known.setdefault(_spelling(name), feature)
        if first is not feature:
            raise DataError(
                f"modality {name} is in two files, {first.key} and {feature.key} (as {first.modality}). "
                f"{NOTHING_WRITTEN} Remove one."
            )
    for name, feature in known.items():
        origin = next((other for other in known if other != name and other in name), None)
        if has_leftover_word(name) and origin is not None:
            raise DataError(
                f"{feature.key}: its name says that it was put aside, and {known[origin].key} lies beside it. "
                f"{NOTHING_WRITTEN} Move it out of the source, or rename it if it is a modality of its own."
            )


def _is_key(name: str) -> bool:
    try:
        check_key(name)
    except IntegrityError:
        return False
    return True


def _spelling(name: str) -> str:
    """What two spellings of one modality have in common."""
    return unicodedata.normalize("NFKC", name).casefold().replace("_", "-").replace(" ", "-").strip("-")
