"""What the pages of a Parquet column say of themselves, read before a library unpacks them.

A reader allocates what a page's header claims, whatever the footer says: a few kB can claim gigabytes. So the headers
are walked first. They are Thrift structs in the compact protocol, of which only what page headers hold is read here.
"""

from dataclasses import dataclass
from typing import Any

from tru_core.errors import DataError

MAX_PAGES = 100_000
MAX_HEADER_BYTES = 2**16
_MAX_PARTS = 10_000  # of one header
_INT32 = 2**31
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_COUNTED = {_DATA_PAGE: (5, 2), _DICTIONARY_PAGE: (7, 2), _DATA_PAGE_V2: (8, 4)}  # fields: the struct, its encoding


@dataclass(frozen=True)
class Page:
    """One page of a column.

    ``start``, ``stored_bytes``: where its body lies in the chunk. ``num_bytes``: its size unpacked. ``num_values``:
    with nulls.
    """

    is_dictionary: bool
    start: int
    stored_bytes: int
    num_bytes: int
    num_values: int
    encoding: int


class _DamagedError(Exception):
    """A header that breaks the rules of its format."""


def read_pages(chunk: memoryview, *, num_values: int, where: str, advice: str) -> list[Page]:
    """List the pages of a column chunk, up to the last one that a reader would open.

    Args:
        chunk: The bytes of the chunk as they lie in the file.
        num_values: How many values the footer says it has.
        where: File, row group and column, for messages.
        advice: What is safe and what to do, for messages.

    Raises:
        DataError: A header is damaged, a page goes beyond the chunk, or there are too many pages.
    """
    pages: list[Page] = []
    position = seen = 0
    while seen < num_values and position < len(chunk):
        if len(pages) == MAX_PAGES:
            raise DataError(f"{where}: expected at most {MAX_PAGES} pages, found more. {advice}")
        try:
            page, position = _read_page(chunk, position)
        except (_DamagedError, IndexError):
            raise DataError(f"{where}: the header of page {len(pages) + 1} is damaged. {advice}") from None
        if page is not None:
            pages.append(page)
            seen += 0 if page.is_dictionary else page.num_values
    return pages


def _read_page(chunk: memoryview, position: int) -> tuple[Page | None, int]:
    """The page at a position (None: of a kind that readers pass over), and the position behind it."""
    header = _Thrift(chunk[position : position + MAX_HEADER_BYTES])
    fields = header.read_struct(0)
    kind, num_bytes, stored = (_number(fields, place) for place in (1, 2, 3))
    start = position + header.position
    end = start + stored
    if end > len(chunk):
        raise _DamagedError
    if kind not in _COUNTED:
        return None, end
    struct, encoding = _COUNTED[kind]
    own = fields.get(struct)
    if not isinstance(own, dict):
        raise _DamagedError
    return Page(kind == _DICTIONARY_PAGE, start, stored, num_bytes, _number(own, 1), _number(own, encoding)), end


def _number(fields: dict[int, Any], place: int) -> int:
    value = fields.get(place)
    if not isinstance(value, int) or not 0 <= value < _INT32:
        raise _DamagedError
    return value


class _Thrift:
    """A cursor over a struct in Thrift's compact protocol. 32-bit integers become int; what is not needed, None."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0
        self._parts = 0

    def read_struct(self, depth: int) -> dict[int, Any]:
        """Read a struct by its field numbers. A field that stands there twice is damage: readers differ about it."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if number in fields:
                raise _DamagedError
            fields[number] = self._value(head & 0x0F, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        self._parts += 1
        if depth > 4 or self._parts > _MAX_PARTS:
            raise _DamagedError
        if kind == 5:
            return self._zigzag()
        if kind in (1, 2):  # a truth stands in the kind itself
            return None
        if kind == 12:
            return self.read_struct(depth + 1)
        if kind in (4, 6):
            self._zigzag()
        elif kind == 3:
            self._skip(1)
        elif kind == 7:
            self._skip(8)
        elif kind == 8:
            self._skip(self._varint())
        elif kind in (9, 10):
            self._skip_list(depth)
        else:
            raise _DamagedError  # page headers have no maps
        return None

    def _skip_list(self, depth: int) -> None:
        head = self._byte()
        size = self._varint() if head >> 4 == 15 else head >> 4
        for _ in range(size):
            if head & 0x0F in (1, 2):
                self._skip(1)
            self._value(head & 0x0F, depth + 1)

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _DamagedError

    def _byte(self) -> int:
        value = self.data[self.position]
        self.position += 1
        return value

    def _skip(self, num_bytes: int) -> None:
        self.position += num_bytes
        if self.position > len(self.data):
            raise _DamagedError
