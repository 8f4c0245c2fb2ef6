"""Standard streams that fail no command: a closed pipe swallows what is written, a narrow encoding shows escapes."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


class _SteadyFile(io.FileIO):
    """A descriptor whose reader may go away: what is written then is dropped. Another error is raised once."""

    is_broken = False

    def write(self, body: object, /) -> int:
        size = memoryview(body).nbytes  # pyright: ignore[reportArgumentType]
        if self.is_broken:
            return size
        try:
            return super().write(body)  # pyright: ignore[reportArgumentType]
        except BrokenPipeError:
            self.is_broken = True
            return size
        except OSError as error:
            self.is_broken = True
            raise OSError(error.errno, error.strerror, "standard output") from error


@contextmanager
def steady_streams() -> Iterator[None]:
    """Write to steady standard output and error inside the block. Streams that a caller has replaced are left alone.

    A stream that was closed at the start becomes ``/dev/null``: the next file to be opened would take its descriptor,
    and get what libraries print.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _steady(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _steady(2, sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _steady(number: int, stream: TextIO | None) -> io.TextIOWrapper:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    body = io.BufferedWriter(_SteadyFile(number, "w", closefd=False))
    return io.TextIOWrapper(
        body, encoding=encoding, errors="backslashreplace", line_buffering=number == 2 or os.isatty(number)
    )
