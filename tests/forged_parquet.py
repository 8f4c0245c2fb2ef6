"""Parquet files that lie: pages and footers written field by field, as no library would."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

BYTE_ARRAY, INT64, FLOAT = 6, 2, 4
PLAIN, RLE, RLE_DICTIONARY, DELTA_LENGTH_BYTE_ARRAY = 0, 3, 8, 6
ZSTD = 6


@dataclass(frozen=True)
class ForgedPage:
    """A page whose header says what it wants. ``num_bytes``: said instead of the size that ``body`` has."""

    body: bytes
    num_values: int
    encoding: int = PLAIN
    is_dictionary: bool = False
    num_bytes: int | None = None
    extra: bytes = b""  # fields behind the others

    def written(self) -> bytes:
        stored = pa.compress(self.body, "zstd", asbytes=True)
        kind, struct_field = (2, 7) if self.is_dictionary else (0, 5)
        own = i32(1, self.num_values) + i32(1, self.encoding)
        own += b"" if self.is_dictionary else i32(1, RLE) + i32(1, RLE)
        size = len(self.body) if self.num_bytes is None else self.num_bytes
        head = i32(1, kind) + i32(1, size) + i32(1, len(stored)) + bytes([((struct_field - 3) << 4) | 12]) + own + b"\0"
        return head + self.extra + b"\0" + stored


def varint(value: int) -> bytes:
    """An unsigned number, seven bits a byte."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def i32(step: int, value: int) -> bytes:
    """A field of 32 bits, ``step`` fields behind the one before."""
    return bytes([step << 4 | 5]) + varint(value << 1 if value >= 0 else -value * 2 - 1)


def i64(step: int, value: int) -> bytes:
    """A field of 64 bits."""
    return bytes([step << 4 | 6]) + varint(value << 1 if value >= 0 else -value * 2 - 1)


def text(step: int, value: bytes) -> bytes:
    """A field of text."""
    return bytes([step << 4 | 8]) + varint(len(value)) + value


def run_of_levels(level: int, count: int) -> bytes:
    """``count`` equal levels of one bit, with their length before them."""
    run = varint(count << 1) + bytes([level])
    return struct.pack("<I", len(run)) + run


def entry(value: bytes) -> bytes:
    """Text as plain pages hold it."""
    return struct.pack("<I", len(value)) + value


def forged(
    pages: Sequence[ForgedPage],
    *,
    num_rows: int,
    num_values: int | None = None,
    kind: int = BYTE_ARRAY,
    is_list: bool = False,
    total_rows: int | None = None,
) -> bytes:
    """A file of one column, ``user_id`` (or the lists ``vector``), whose footer says what it is told."""
    start, body = 4, b"".join(page.written() for page in pages)
    offset = start + len(pages[0].written()) if pages[0].is_dictionary else start
    if is_list:
        schema = [
            text(4, b"r") + i32(1, 1),
            i32(3, 0) + text(1, b"vector") + i32(1, 1) + i32(1, 3),
            i32(3, 2) + text(1, b"list") + i32(1, 1),
            i32(1, kind) + i32(2, 0) + text(1, b"element"),
        ]
        path = [b"vector", b"list", b"element"]
    else:
        utf8 = i32(2, 0) if kind == BYTE_ARRAY else b""
        schema = [text(4, b"r") + i32(1, 1), i32(1, kind) + i32(2, 1) + text(1, b"user_id") + utf8]
        path = [b"user_id"]
    count = num_rows if num_values is None else num_values
    column = i32(1, kind) + b"\x19\x15" + varint(PLAIN << 1)
    column += bytes([0x19, len(path) << 4 | 8]) + b"".join(varint(len(part)) + part for part in path)
    column += i32(1, ZSTD) + i64(1, count) + i64(1, 100) + i64(1, len(body)) + i64(2, offset)
    column += i64(2, start) if pages[0].is_dictionary else b""
    chunk = i64(2, start) + b"\x1c" + column + b"\0\0"
    group = b"\x19\x1c" + chunk + i64(1, 100) + i64(1, num_rows) + b"\0"
    footer = i32(1, 2) + bytes([0x19, len(schema) << 4 | 12]) + b"".join(part + b"\0" for part in schema)
    footer += i64(1, num_rows if total_rows is None else total_rows) + b"\x19\x1c" + group + b"\0"
    return b"PAR1" + body + footer + struct.pack("<I", len(footer)) + b"PAR1"
