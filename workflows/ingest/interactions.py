"""Interactions on their way from raw tables to rows: a pass that checks and counts, a pass that translates."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from pyarrow.fs import FileSystem

from tru_core.errors import DataError
from tru_core.hashing import user_bucket
from workflows.data.ids import DOUBTFUL
from workflows.ingest.blocks import Block, read_block, read_ids
from workflows.ingest.columns import Columns
from workflows.ingest.problems import (
    NOTHING_WRITTEN,
    Problem,
    find_problem,
    problems_as_json,
    problems_from_json,
)
from workflows.ingest.raw_files import IdMap, RawData
from workflows.ingest.raw_tables import Piece, raise_by_line, read_piece, read_tables, unique_strings
from workflows.ingest.tasks import collect, map_pieces
from workflows.ingest.times import UnitCount, count_units, dates_read, odd_times
from workflows.ingest.tombstone_gate import BlockedIds, rows_blocked, without_rows
from workflows.storage import ObjectStore

_USER, _ITEM, _NOTE = 0, 1, 2
_SCAN_SCHEMA = pa.schema(
    [
        ("kind", pa.int8()),
        ("id", pa.string()),
        ("num_rows", pa.int64()),
        ("num_train", pa.int64()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True)
class RawInteractions:
    """What a task needs to read interactions. ``blocked``: ids whose rows are left out wherever they are read."""

    source: ObjectStore
    raw: RawData
    columns: Columns
    pieces: list[Piece]
    now_ms: int
    blocked: BlockedIds | None = None


@dataclass(frozen=True)
class IdCounts:
    """The different ids of one side, in no certain order, with their interactions and those in train."""

    ids: pa.Array
    num_rows: np.ndarray
    num_train: np.ndarray


@dataclass(frozen=True)
class Scan:
    """What the first pass over the interactions found."""

    users: IdCounts
    items: IdCounts
    num_rows: int
    num_early_times: int = 0  # before 1990
    has_one_time: bool = False
    dates: dict[str, int] = field(default_factory=dict)  # times that were written as the digits of a date, by form


@dataclass(frozen=True)
class Vocabulary:
    """Ids in row order."""

    ids: pa.Array
    are_integers: bool


def scan_interactions(work: RawInteractions) -> Scan:
    """Read all interactions once, check them, and count the ids.

    Raises:
        DataError: A row breaks the rules, timestamps are of several units, or there is no interaction.
    """
    filesystem, _ = work.source.filesystem()
    maps = [_read_map(work, id_map, filesystem) for id_map in (work.raw.user_map, work.raw.item_map)]
    tables = (
        collect(map_pieces(len(work.pieces), _scan_piece, work=ray.put(work), maps=ray.put(maps)))
        if work.pieces
        else []
    )
    found = pa.concat_tables(tables) if tables else _SCAN_SCHEMA.empty_table()
    notes = [json.loads(text) for text in found.column("note").drop_null().to_pylist()]
    problems = [problem for note in notes for problem in problems_from_json(note["problems"])]
    units = [UnitCount(**{**unit, "rows": tuple(unit["rows"])}) for note in notes for unit in note["units"]]
    doubts = [problem for note in notes for problem in problems_from_json(note["doubts"])]
    scan = Scan(
        _id_counts(found, _USER),
        _id_counts(found, _ITEM),
        sum(note["num_rows"] for note in notes),
        num_early_times=sum(unit.num_early for unit in units),
        has_one_time=len({time for unit in units for time in (unit.first_ms, unit.last_ms)}) == 1,
        dates=dates_read(units),
    )
    if not problems:
        problems = rewritten_ids(doubts, work.columns, scan)
        problems += odd_times(units, column=work.columns.timestamp or "")
    raise_by_line(filesystem, work.raw.tables, problems)
    if scan.num_rows == 0:
        files = ", ".join(table.key for table in work.raw.tables)
        raise DataError(f"{files}: expected interactions, found 0 rows. {NOTHING_WRITTEN} Check the source.")
    return scan


def rewritten_ids(doubts: list[Problem], columns: Columns, scan: Scan) -> list[Problem]:
    """Of ids such as 12e5, those in columns whose other ids are all whole numbers: a spreadsheet has rewritten them."""
    wrong = []
    for column, counts in ((columns.user, scan.users), (columns.item, scan.items)):
        own = [problem for problem in doubts if problem.column == column]
        is_other = pc.invert(pc.match_substring_regex(counts.ids, DOUBTFUL))
        is_whole = pc.match_substring_regex(counts.ids.filter(is_other), r"^[0-9]+$")
        wrong += own if pc.all(is_whole).as_py() is not False else []
    return wrong


def _read_map(work: RawInteractions, id_map: IdMap | None, filesystem: FileSystem) -> pa.Array | None:
    if id_map is None:
        return None
    parts, problems = [], []
    for file in id_map.tables:
        for table, rows in read_tables(filesystem, file, columns=[id_map.column]):
            ids, found = read_ids(table.column(id_map.column), rows, file=file, column=id_map.column)
            parts.append(ids)
            problems += found
    raise_by_line(filesystem, id_map.tables, problems)
    return unique_strings(parts)


def _read_blocks(piece: int, work: RawInteractions) -> Iterator[tuple[Block, list[Problem], str]]:
    filesystem, _ = work.source.filesystem()
    part = work.pieces[piece]
    file = work.raw.tables[part.table]
    for table, rows in read_piece(filesystem, file, part, columns=work.columns.present):
        block, problems = read_block(table, rows, file=file, columns=work.columns, now_ms=work.now_ms)
        if work.blocked is not None and not problems:
            block = without_rows(block, rows_blocked(block, work.blocked))
        yield block, problems, file.key


def _scan_piece(piece: int, *, work: RawInteractions, maps: list[pa.Array | None]) -> Iterator[pa.Table]:
    for block, problems, key in _read_blocks(piece, work):
        problems = problems + _unmapped(block, maps, work, key)
        note = {
            "num_rows": len(block.rows),
            "problems": problems_as_json(problems),
            "doubts": problems_as_json(block.doubts),
            "units": [asdict(unit) for unit in _units(block, key)],
        }
        yield pa.table(
            {"kind": [_NOTE], "id": [None], "num_rows": [0], "num_train": [0], "note": [json.dumps(note)]},
            schema=_SCAN_SCHEMA,
        )
        if not problems:
            yield _count_ids(block.users, block, _USER)
            yield _count_ids(block.items, block, _ITEM)


def _units(block: Block, key: str) -> list[UnitCount]:
    if block.timestamp is None or not len(block.rows):
        return []
    return count_units(block.timestamp, block.units, block.rows, file=key)


def _unmapped(block: Block, maps: list[pa.Array | None], work: RawInteractions, key: str) -> list[Problem]:
    problems = []
    sides = (
        (block.users, maps[0], work.raw.user_map, work.columns.user),
        (block.items, maps[1], work.raw.item_map, work.columns.item),
    )
    for ids, known, id_map, column in sides:
        if known is not None and id_map is not None:
            is_bad = ~pc.is_in(ids, value_set=known).to_numpy(zero_copy_only=False) & ids.is_valid().to_numpy(False)
            problems += find_problem(
                is_bad,
                block.rows,
                file=key,
                column=column,
                expected=f"ids that {id_map.key} lists",
                found="ids that it does not list",
                fix=f"Complete {id_map.key}, remove it, or leave these rows out.",
            )
    return problems


def _count_ids(ids: pa.Array, block: Block, kind: int) -> pa.Table:
    is_train = pa.array((block.split == 0).astype(np.int64))
    counts = pa.table({"id": ids, "train": is_train}).group_by("id", use_threads=False)
    table = counts.aggregate([("train", "count"), ("train", "sum")])
    size = table.num_rows
    return pa.table(
        [
            pa.array(np.full(size, kind, dtype=np.int8)),
            table.column("id"),
            table.column("train_count"),
            table.column("train_sum"),
            pa.nulls(size, pa.string()),
        ],
        schema=_SCAN_SCHEMA,
    )


def _id_counts(found: pa.Table, kind: int) -> IdCounts:
    own = found.filter(pc.equal(found.column("kind"), kind))
    total = own.group_by("id").aggregate([("num_rows", "sum"), ("num_train", "sum")])
    return IdCounts(
        ids=total.column("id").combine_chunks(),
        num_rows=total.column("num_rows_sum").to_numpy(),
        num_train=total.column("num_train_sum").to_numpy(),
    )


def order_ids(ids: pa.Array) -> Vocabulary:
    """Give ids their rows: by number where all are integers in decimal, else by their bytes."""
    is_integer = pc.match_substring_regex(ids, r"^(0|[1-9][0-9]*)$")
    are_integers = bool(pc.all(is_integer).as_py())
    table = pa.table({"id": ids, "length": pc.binary_length(ids)})
    # Of two integers the longer is larger, of the same length the larger in bytes: no limit of 64 bits.
    keys = [("length", "ascending"), ("id", "ascending")] if are_integers else [("id", "ascending")]
    ordered = ids.take(pc.sort_indices(table, sort_keys=keys))
    return Vocabulary(ids=ordered.cast(pa.string()), are_integers=are_integers)


def translate_interactions(
    work: RawInteractions, *, users: Vocabulary, items: Vocabulary, num_buckets: int
) -> ray.data.Dataset:
    """Read the interactions again as rows of the vocabularies, with the bucket of each. Lazy.

    Rows of users that have no row (cold ones that are dropped) are left out.
    Columns: bucket, user_row, item_row, split (-1 where none is given), timestamp (0 where none), file, source_row.
    """
    return map_pieces(
        len(work.pieces),
        _translate_piece,
        work=ray.put(work),
        users=ray.put(users.ids),
        items=ray.put(items.ids),
        num_buckets=num_buckets,
    )


def _translate_piece(
    piece: int, *, work: RawInteractions, users: pa.Array, items: pa.Array, num_buckets: int
) -> Iterator[pa.Table]:
    for block, _, _ in _read_blocks(piece, work):
        user_rows = pc.index_in(block.users, value_set=users)
        item_rows = pc.index_in(block.items, value_set=items)
        is_kept = user_rows.is_valid().to_numpy(zero_copy_only=False)
        if item_rows.null_count:
            key = work.raw.tables[work.pieces[piece].table].key
            raise DataError(f"{key}: changed while it was read. {NOTHING_WRITTEN} Run again when nobody writes to it.")
        own_users = user_rows.drop_null().to_numpy().astype(np.int64)
        timestamp = block.timestamp if block.timestamp is not None else np.zeros(len(is_kept), dtype=np.int64)
        yield pa.table(
            {
                "bucket": user_bucket(own_users, num_buckets),
                "user_row": own_users,
                "item_row": item_rows.filter(pa.array(is_kept)).cast(pa.int64()),
                "split": block.split[is_kept],
                "timestamp": timestamp[is_kept],
                "file": np.full(len(own_users), work.pieces[piece].table, dtype=np.int64),
                "source_row": block.rows[is_kept],
            }
        )
