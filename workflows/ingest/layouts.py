"""Find and describe the raw files of the three layouts. Reads headers only.

``tru``      ``interactions.parquet`` (or .csv, .tsv, a folder of parts, or files by split: ``interaction_files``) with
             user_id, item_id and optionally split or x_label, timestamp; ``features/<modality>.npy`` (row i belongs to
             item_id i) or ``features/<modality>.parquet`` (item_id, list columns; a file or a folder of parts);
             ``users.parquet``, ``items.parquet`` (or .csv, .tsv) as id maps.
``mmrec``    MMRec: ``<name>.inter`` with userID, itemID, x_label; ``<modality>_feat.npy``;
             ``u_id_mapping.csv``, ``i_id_mapping.csv`` as id maps.
``recbole``  RecBole's atomic files: ``<name>.inter`` (or ``<name>.train.inter``, ``.valid``, ``.test``) with
             user_id:token, item_id:token; ``<name>.item``, whose float_seq columns are modalities;
             ``<name>.user`` (and a ``.item`` without modalities) as id map.

Names are read in any letter case, text files also as ``.gz`` and ``.zst``. Every other file is accounted for: a line
in the report, or, where it looks like data, an error.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from tru_core.errors import DataError, MissingObjectError
from workflows.data.snapshot import TEST, TRAIN, VALID
from workflows.ingest.feature_files import FeatureFiles, check_modalities, find_feature_files, find_map_files
from workflows.ingest.gates import check_text
from workflows.ingest.headers import Folder, open_lists, open_matrix, open_table, open_tables
from workflows.ingest.interaction_files import FoundTable, TablePart, find_interactions, named_as_interactions
from workflows.ingest.problems import NOTHING_WRITTEN
from workflows.ingest.raw_files import FeatureSource, IdMap, Layout, RawData, TableFile, UnusedFile
from workflows.ingest.settings import ColumnNames
from workflows.ingest.source_files import Listing, SourceFile, list_source
from workflows.ingest.suffixes import is_table, split_suffix
from workflows.ingest.unused import account_for, advise, strange_files
from workflows.storage import ObjectStore

__all__ = ["FeatureSource", "IdMap", "Layout", "RawData", "TableFile", "find_raw_data"]

_ATOMIC_TABLE = re.compile(r"([^/]+?)(?:\.(train|valid|test))?\.inter(?:\.(?:gz|zst))?", re.IGNORECASE)
_ATOMIC_PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}
_ATOMIC_OTHER = re.compile(r"[^/]+\.(inter|item|user|kg|link|net|ent)(\.(gz|zst))?", re.IGNORECASE)
_KNOWLEDGE = re.compile(r"[^/]+\.(kg|link|net|ent)(\.(gz|zst))?", re.IGNORECASE)
_MMREC_FEATURE = re.compile(r"([^/]+)_feat\.npy", re.IGNORECASE)
_MMREC_DERIVED = re.compile(r"(user|item)_graph_dict\.npy|[^/]*_adj(_[^/]*)?\.(pt|npy|npz)", re.IGNORECASE)
_MAPS = {
    "tru": (("users", "user_id"), ("items", "item_id")),
    "mmrec": (("u_id_mapping", "userID"), ("i_id_mapping", "itemID")),
}


def find_raw_data(
    source: ObjectStore, layout: Literal["auto"] | Layout, *, names: ColumnNames | None = None
) -> RawData:
    """Find the raw files of a source and check their headers. Links in a folder are followed.

    Every file is read, or named in ``unused`` with the reason, or refused.

    Args:
        names: The columns' names, where they are not the layout's own.

    Raises:
        ConfigError: The source is a file.
        MissingObjectError: The source has no file.
        DataError: It is in none of the layouts, or a file breaks the rules of its kind, or looks like data and is
            not understood, or two files could each be the table of interactions.
        IntegrityError: A file could run code when it is read.
        AccessError: A file or folder cannot be looked at.
    """
    names = names or ColumnNames()
    listing = list_source(source)
    filesystem, base = source.filesystem()
    folder = Folder(filesystem, base, source.url)
    chosen = _detect_layout(folder, listing.files, names) if layout == "auto" else layout
    others = {} if layout == "auto" else _of_other_layouts(listing.files, chosen)
    if chosen == "recbole":
        raw = _find_recbole(folder, listing, names, others)
    else:
        raw = (
            _find_mmrec(folder, listing, names, others)
            if chosen == "mmrec"
            else _find_tru(folder, listing, names, others)
        )
    unused = (*raw.unused, *_split_columns_not_read(raw.tables, names))
    return replace(raw, unused=tuple(sorted(unused, key=lambda entry: entry.file)))


def _split_columns_not_read(tables: Iterable[TableFile], names: ColumnNames) -> Iterator[UnusedFile]:
    """A line for each table whose name says the split and that has a column of it too: the name is what counts."""
    for table in tables:
        column = next((name for name in (names.split, "split", "x_label") if name and name in table.columns), None)
        if table.part is not None and column is not None:
            yield UnusedFile(
                table.key, f"its column {column} is not read: the names of files and folders say the split"
            )


def _detect_layout(folder: Folder, files: Sequence[SourceFile], names: ColumnNames) -> Layout:
    atomic = [file.key for file in files if _ATOMIC_TABLE.fullmatch(file.key)]
    tables = named_as_interactions(files)
    if atomic and tables:
        raise DataError(
            f"source {folder.url}: expected one layout, found {tables[0]} (layout tru) and {atomic[0]} (layouts mmrec, "
            f"recbole). {NOTHING_WRITTEN} Move one of them out of the source, or say which it is by --layout."
        )
    if atomic:
        suffix = split_suffix(atomic[0])[1]
        compression = suffix.compression if suffix else ""
        header = check_text(folder.filesystem, folder.path(atomic[0]), key=atomic[0], compression=compression).header
        return "recbole" if any(":" in name for name in header) else "mmrec"
    if find_interactions(files, names, url=folder.url) is None:
        raise DataError(
            f"source {folder.url}: expected either interactions.parquet or .csv (layout tru) or a .inter file (layouts "
            f"mmrec, recbole), found neither among {len(files)} files. {NOTHING_WRITTEN} {_near_miss(files)}"
        )
    return "tru"


def _near_miss(files: Sequence[SourceFile]) -> str:
    """What to do about a source without a table of interactions, by the files that look like data."""
    keys = strange_files(files)
    named = next((key for key in keys if "interaction" in key.rpartition("/")[2].lower()), None)
    if named is not None and "/" in named and is_table(named.rpartition("/")[2]):
        return f"{named} lies in a folder below: name that folder as the source."
    if named is not None:
        return f"{named}: {advise(named, (), 'tru')}"
    if keys:
        listed = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        return f"What looks like data is {listed}: name the table of interactions interactions.parquet, .csv or .tsv."
    return "Name the folder that holds the table of interactions."


def _of_other_layouts(files: Iterable[SourceFile], layout: Layout) -> dict[str, str]:
    """The tables of the layouts that were not asked for, where a person named one."""
    reason = f"of another layout than {layout}, which was asked for"
    if layout == "tru":
        return {file.key: reason for file in files if _ATOMIC_OTHER.fullmatch(file.key)}
    return dict.fromkeys(named_as_interactions(files), reason)


def _find_tru(folder: Folder, listing: Listing, names: ColumnNames, others: dict[str, str]) -> RawData:
    files = listing.files
    table = find_interactions(files, names, url=folder.url)
    features = find_feature_files(files)
    maps = [find_map_files(files, stem, url=folder.url) for stem, _ in _MAPS["tru"]]
    found = _required(table, folder, "tru")
    unused = _account(listing, found, features, maps, known=others, layout="tru")
    return _open(folder, "tru", found, features, maps, unused=unused, names=names)


def _find_mmrec(folder: Folder, listing: Listing, names: ColumnNames, others: dict[str, str]) -> RawData:
    files = listing.files
    table = FoundTable(tuple(_atomic_tables(folder, files)[1]), ())
    matches = [match for file in files if (match := _MMREC_FEATURE.fullmatch(file.key))]
    features = [FeatureFiles(match[1], (match[0],), is_matrix=True) for match in matches]
    maps = [find_map_files(files, stem, url=folder.url) for stem, _ in _MAPS["mmrec"]]
    derived = {
        file.key: "MMRec computed it from the other files" for file in files if _MMREC_DERIVED.fullmatch(file.key)
    }
    unused = _account(listing, table, features, maps, known=derived | others, layout="mmrec")
    return _open(folder, "mmrec", table, features, maps, unused=unused, names=names)


def _open(
    folder: Folder,
    layout: Literal["tru", "mmrec"],
    table: FoundTable,
    features: Sequence[FeatureFiles],
    maps: Sequence[tuple[str, ...]],
    *,
    unused: tuple[UnusedFile, ...],
    names: ColumnNames,
) -> RawData:
    """Read the headers of the files that were chosen by their names."""
    tables = open_tables(folder, table.parts)
    sources: list[FeatureSource] = []
    for feature in features:
        if feature.is_matrix:
            sources.append(open_matrix(folder, feature.keys[0], feature.name))
        else:
            sources += open_lists(folder, feature.keys, feature.name, id_column=names.item or "item_id")
    check_modalities(sources)
    found = [
        _id_map(open_tables(folder, [TablePart(key, None) for key in keys]), (own, column)) if keys else None
        for keys, own, (_, column) in zip(maps, (names.user, names.item), _MAPS[layout], strict=True)
    ]
    return RawData(layout, tuple(tables), tuple(sources), found[0], found[1], unused)


def _id_map(tables: Sequence[TableFile], columns: Sequence[str | None]) -> IdMap:
    """The list of ids in the first of these columns that its table has."""
    wanted = [column for column in columns if column]
    chosen = next((column for column in wanted if column in tables[0].columns), wanted[0])
    for table in tables:
        if chosen not in table.columns:
            raise DataError(
                f"{table.key}: a list of all valid ids, expected a column {' or '.join(wanted)}, found none of that "
                f"name among {len(table.columns)}. {NOTHING_WRITTEN} Rename the column, or move the file elsewhere."
            )
    return IdMap(tuple(tables), chosen)


def _find_recbole(folder: Folder, listing: Listing, names: ColumnNames, others: dict[str, str]) -> RawData:
    files, item_column = listing.files, names.item or "item_id"
    name, parts = _atomic_tables(folder, files)
    user_keys, item_keys = (_atomic_beside(folder, files, f"{name}.{side}") for side in ("user", "item"))
    graphs = {file.key: "a knowledge graph, which is not read" for file in files if _KNOWLEDGE.fullmatch(file.key)}
    table = FoundTable(tuple(parts), ())
    unused = _account(listing, table, (), (user_keys, item_keys), known=graphs | others, layout="recbole")
    tables = [open_table(folder, part.key, part=part.split, is_atomic=True) for part in parts]
    users = [_id_map([open_table(folder, key, is_atomic=True)], (names.user, "user_id")) for key in user_keys]
    items = [_id_map([open_table(folder, key, is_atomic=True)], (names.item, "item_id")) for key in item_keys]
    features = [
        FeatureSource(column, item.key, item.path, width, "float32", None, item, column, item_column)
        for item in (id_map.tables[0] for id_map in items)
        for column, width in (item.float_lists or {}).items()
        if width
    ]
    check_modalities(features)
    item_map = items[0] if items and not features else None
    return RawData("recbole", tuple(tables), tuple(features), users[0] if users else None, item_map, unused)


def _atomic_tables(folder: Folder, files: Iterable[SourceFile]) -> tuple[str, list[TablePart]]:
    """The .inter files, the name before their suffixes and the split that they say: one file, or one for each part."""
    matches = {file.key: match for file in files if (match := _ATOMIC_TABLE.fullmatch(file.key))}
    names = sorted({match[1] for match in matches.values()})
    parts = [(match[2] or "").lower() for match in matches.values()]
    if len(names) > 1 or (len(parts) > 1 and "" in parts) or len({*parts}) < len(parts):
        raise DataError(
            f"source {folder.url}: expected one .inter file, or <name>.train.inter, .valid.inter and .test.inter, "
            f"found {', '.join(list(matches)[:8])}. {NOTHING_WRITTEN} Put each data set into a folder of its own."
        )
    if not names:
        raise MissingObjectError(f"source {folder.url} has no .inter file. {NOTHING_WRITTEN} Check path and layout.")
    return names[0], [TablePart(key, _ATOMIC_PARTS.get(part)) for key, part in zip(matches, parts, strict=True)]


def _atomic_beside(folder: Folder, files: Iterable[SourceFile], name: str) -> tuple[str, ...]:
    wanted = {f"{name}{end}".lower() for end in ("", ".gz", ".zst")}
    keys = [file.key for file in files if file.key.lower() in wanted]
    if len(keys) > 1:
        raise DataError(f"source {folder.url}: expected one file {name}, found {', '.join(keys)}. {NOTHING_WRITTEN}")
    return tuple(keys)


def _required(table: FoundTable | None, folder: Folder, layout: Layout) -> FoundTable:
    if table is None:
        raise MissingObjectError(
            f"source {folder.url} has no interaction table of layout {layout}. {NOTHING_WRITTEN} Check path and layout."
        )
    return table


def _account(
    listing: Listing,
    table: FoundTable,
    features: Iterable[FeatureFiles],
    maps: Iterable[Collection[str]],
    *,
    known: dict[str, str],
    layout: Layout,
) -> tuple[UnusedFile, ...]:
    used = {part.key for part in table.parts}
    used |= {key for feature in features for key in feature.keys} | {key for keys in maps for key in keys}
    unused = account_for(listing.files, used, known=known, layout=layout)
    return (*listing.passed, *table.notes, *unused)
