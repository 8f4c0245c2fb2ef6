"""Objects in a local folder, also one that several machines mount. Needs hard links."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tru_core.errors import AccessError, ConflictError, IntegrityError, MissingObjectError, TransientError
from workflows.storage import ASIDE_FOLDER, ObjectInfo, check_key

if TYPE_CHECKING:
    import pyarrow.fs


class LocalStore:
    """The ObjectStore of a folder. The folder is made by the first write.

    A write goes aside, is flushed to disk, and gets its final name by a hard link, which fails if
    the name is taken: a reader sees a whole object or none, and of many writers one wins.
    """

    def __init__(self, folder: str | Path) -> None:
        self._root = Path(os.path.realpath(Path(folder).expanduser()))

    @property
    def url(self) -> str:
        return str(self._root)

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    def put_if_absent(self, key: str, body: bytes) -> bool:
        path = self._path(key)
        with _os_errors_named("write", path):
            made = _make_folder(path.parent)
            _make_folder(self._root / ASIDE_FOLDER)
            aside = self._root / ASIDE_FOLDER / uuid.uuid4().hex
            try:
                _write_and_flush(aside, body)
                is_created = _link(aside, path)
            finally:
                aside.unlink(missing_ok=True)
            for folder in {path.parent, *made} if is_created else ():
                _flush_folder(folder)
        return is_created

    def read(self, key: str) -> bytes:
        path = self._path(key)
        try:
            with _os_errors_named("read", path):
                return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise MissingObjectError(f"{path} does not exist. Check the storage url and the name.") from None

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> list[ObjectInfo]:
        top = self._path(prefix) if prefix else self._root
        found = []
        with _os_errors_named("list", top):
            for folder, folder_names, file_names in os.walk(top, onerror=_raise_unless_absent):
                if Path(folder) == self._root and ASIDE_FOLDER in folder_names:
                    folder_names.remove(ASIDE_FOLDER)
                for name in file_names:
                    path = Path(folder, name)
                    found.append(ObjectInfo(path.relative_to(self._root).as_posix(), path.stat().st_size))
        return sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _os_errors_named("delete", path):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            _flush_folder(path.parent)

    def filesystem(self) -> "tuple[pyarrow.fs.FileSystem, str]":
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem(), str(self._root)

    def _path(self, key: str) -> Path:
        """Where an object lies. IntegrityError if the key leaves the root, also by a symbolic link."""
        path = self._root / check_key(key)
        if Path(os.path.realpath(path)) != path:
            raise IntegrityError(
                f"{path} goes through a symbolic link. Nothing was read or written. Remove the link, or open the "
                f"store at the folder where the link leads."
            )
        return path


def _write_and_flush(path: Path, body: bytes) -> None:
    with path.open("xb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def _link(aside: Path, path: Path) -> bool:
    try:
        os.link(aside, path)
    except FileExistsError:
        if path.is_dir():
            raise ConflictError(f"{path} is a folder that holds objects, so no object can have this name.") from None
        return False
    return True


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder with its parents. Returns the folders that got a new member and need a flush."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return [path.parent for path in missing]


def _flush_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _os_errors_named(action: str, path: Path) -> Iterator[None]:
    """Turn what the operating system says into this project's errors. Absence passes through."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError):
        raise
    except OSError as error:
        if action == "read" and isinstance(error, NotADirectoryError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransientError(f"cannot {action} {path}: the disk is full. Free space and run again.") from error
        if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK) or (
            error.errno == errno.EPERM and action == "write"
        ):
            raise AccessError(
                f"cannot {action} {path}: the filesystem makes no hard links here ({error.strerror}). "
                f"Use a folder on another filesystem, or S3."
            ) from error
        raise AccessError(f"cannot {action} {path}: {error.strerror}. Check the path and its permissions.") from error
