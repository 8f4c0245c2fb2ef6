"""Objects in a local folder, also one that several machines mount. Needs hard links."""

import errno
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tru_core.errors import (
    AccessError,
    ConflictError,
    IntegrityError,
    MissingObjectError,
    TransientError,
    TruError,
)
from workflows.storage.object_keys import ASIDE_FOLDER, ObjectInfo, check_key

if TYPE_CHECKING:
    import pyarrow.fs

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.ENOSYS)


class LocalStore:
    """The ObjectStore of a folder. The folder is made by the first write.

    A write goes aside, is flushed to disk, and gets its final name by a hard link, which fails if
    the name is taken: a reader sees a whole object or none, and of many writers one wins.
    """

    def __init__(self, folder: str | Path, *, unsafe_single_writer: bool = False) -> None:
        self._root = Path(os.path.realpath(Path(folder).expanduser()))
        self._unsafe_single_writer = unsafe_single_writer

    @property
    def url(self) -> str:
        return str(self._root)

    @property
    def command_options(self) -> tuple[str, ...]:
        return ()

    @property
    def unsafe_single_writer(self) -> bool:
        return self._unsafe_single_writer

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    def put_if_absent(self, key: str, body: bytes) -> bool:
        path = self._path(key)
        aside = self._root / ASIDE_FOLDER / uuid.uuid4().hex
        try:
            changed_folders = _make_folder(path.parent) | {path.parent}
            _make_folder(aside.parent)
            _write_and_flush(aside, body)
            os.link(aside, path)
            for folder in changed_folders:
                _flush_folder(folder)
        except FileExistsError:
            if path.is_file():
                return False
            raise _clash(path) from None
        except NotADirectoryError:
            raise _clash(path) from None
        except OSError as error:
            raise _explain("write", path, error) from error
        finally:
            _remove(aside)
        return True

    def read(self, key: str) -> bytes:
        path = self._path(key)
        try:
            return path.read_bytes()
        except _ABSENT:
            raise MissingObjectError(
                f"{path}: the object does not exist. Check the storage url and the name."
            ) from None
        except OSError as error:
            raise _explain("read", path, error) from error

    def exists(self, key: str) -> bool:
        path = self._path(key)
        try:
            return path.is_file()
        except OSError as error:
            raise _explain("look at", path, error) from error

    def list(self, prefix: str) -> list[ObjectInfo]:
        top = self._path(prefix) if prefix else self._root
        found = []
        try:
            for folder, folder_names, file_names in os.walk(top, onerror=_raise_unless_absent):
                if Path(folder) == self._root and ASIDE_FOLDER in folder_names:
                    folder_names.remove(ASIDE_FOLDER)
                for path in (Path(folder, name) for name in file_names):
                    size_bytes = _size_of_object(path)
                    if size_bytes is not None:
                        found.append(ObjectInfo(path.relative_to(self._root).as_posix(), size_bytes))
        except OSError as error:
            raise _explain("list", top, error) from error
        return sorted(found, key=lambda info: info.key)

    def names(self, prefix: str) -> "list[str]":
        top = self._path(prefix) if prefix else self._root
        try:
            return sorted(path.name for path in top.iterdir() if prefix or path.name != ASIDE_FOLDER)
        except _ABSENT:
            return []
        except OSError as error:
            raise _explain("list", top, error) from error

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
            _flush_folder(path.parent)
        except _ABSENT:
            return
        except OSError as error:
            raise _explain("delete", path, error) from error

    def delete_leftovers(self, *, older_than_seconds: float) -> int:
        folder = self._root / ASIDE_FOLDER
        num_deleted = 0
        try:
            for path in folder.iterdir() if folder.is_dir() else ():
                with suppress(FileNotFoundError):  # its writer, a lease's heartbeat say, ended in the meantime
                    if time.time() - path.stat().st_mtime >= older_than_seconds:
                        path.unlink()
                        num_deleted += 1
        except OSError as error:
            raise _explain("delete leftovers in", folder, error) from error
        return num_deleted

    def filesystem(self) -> "tuple[pyarrow.fs.FileSystem, str]":
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem(), str(self._root)

    def _path(self, key: str) -> Path:
        """Where an object lies. IntegrityError if the way there goes through a symbolic link."""
        path = self._root / check_key(key)
        if Path(os.path.realpath(path)) != path:
            raise IntegrityError(
                f"{path} goes through a symbolic link. Nothing was read or written. Remove the link, or open "
                f"the store at the folder where the link leads."
            )
        return path


def _write_and_flush(path: Path, body: bytes) -> None:
    with path.open("xb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> set[Path]:
    """Make a folder with its parents. Returns the folders that got a new member."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return {path.parent for path in new}


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(aside: Path) -> None:
    try:
        aside.unlink()
    except _ABSENT:
        return
    except OSError as error:
        raise _explain("remove", aside, error) from error


def _size_of_object(path: Path) -> int | None:
    """The size of a regular file. None for a link, a pipe, or a file that was deleted since it was listed."""
    try:
        return path.stat().st_size if path.is_file() and not path.is_symlink() else None
    except FileNotFoundError:
        return None


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, _ABSENT):
        raise error


def _clash(path: Path) -> ConflictError:
    return ConflictError(
        f"{path} cannot be written: this name, or a folder on the way to it, is taken by something else "
        f"(an object where a folder is needed, or the other way round). Nothing was written."
    )


def _explain(action: str, path: Path, error: OSError) -> TruError:
    """Say what it means that the operating system refused."""
    if error.errno in _FULL:
        return TransientError(f"cannot {action} {path}: the disk is full. Free space and run again.")
    if error.errno in _NO_LINKS or (error.errno == errno.EPERM and action == "write"):
        return AccessError(
            f"cannot {action} {path}: this filesystem makes no hard links ({error.strerror}). "
            f"Use a folder on another filesystem, or S3."
        )
    return AccessError(f"cannot {action} {path}: {error.strerror}. Check the path and its permissions.")
