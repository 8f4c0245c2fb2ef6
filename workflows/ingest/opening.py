"""Open raw files: as they are, or the text that lies compressed in them, within bounds."""

import io

import pyarrow as pa
import pyarrow.fs as pafs

from tru_core.errors import AccessError, DataError, MissingObjectError
from workflows.ingest.problems import NOTHING_WRITTEN

SMALL_TEXT_BYTES = 256 * 2**20  # what any compressed file may unpack to
MAX_TEXT_BYTES = 2**40
_MAX_TEXT_RATIO = 100  # how many times its own size a larger one may unpack to


def open_raw(filesystem: pafs.FileSystem, path: str, *, key: str) -> pa.NativeFile:
    """Open a raw file for reading at any place. MissingObjectError or AccessError if that fails."""
    try:
        return filesystem.open_input_file(path)
    except FileNotFoundError as error:
        raise MissingObjectError(f"{key}: does not exist in the source. {NOTHING_WRITTEN} Check the path.") from error
    except OSError as error:
        raise AccessError(
            f"{key}: cannot be opened. {NOTHING_WRITTEN} Check the permissions and the endpoint."
        ) from error


def open_text(filesystem: pafs.FileSystem, path: str, *, key: str, compression: str = "") -> pa.NativeFile:
    """Open a text file for reading from its start on.

    Args:
        compression: ``gzip`` or ``zstd`` where the text lies compressed. What it unpacks to is bounded: reading beyond
            raises DataError.
    """
    file = open_raw(filesystem, path, key=key)
    return file if compression == "" else pa.PythonFile(_Unpacked(file, key=key, compression=compression), mode="r")


class _Unpacked(io.RawIOBase):
    """The text in a compressed file, read forward."""

    def __init__(self, file: pa.NativeFile, *, key: str, compression: str) -> None:
        super().__init__()
        self._key = key
        self._limit = min(MAX_TEXT_BYTES, max(SMALL_TEXT_BYTES, _MAX_TEXT_RATIO * file.size()))
        self._file = file
        self._stream = pa.CompressedInputStream(file, compression)
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._limit + 1 - self._position
        try:
            body = self._stream.read(left if size is None or size < 0 else min(size, left))
        except OSError as error:
            if error.errno is not None or "AWS Error" in str(error):
                raise
            raise DataError(
                f"{self._key}: the compressed data ends too early or is damaged. {NOTHING_WRITTEN} Copy the file again."
            ) from None
        self._position += len(body)
        if self._position > self._limit:
            raise DataError(
                f"{self._key}: unpacks to more than {self._limit >> 20} MiB, far more than a file of its size should. "
                f"{NOTHING_WRITTEN} Unpack it, look at it, and give it as it is."
            )
        return body

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
