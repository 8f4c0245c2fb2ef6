"""A drop folder: every file in it is one to be taken, or is named with the reason why it is not.

Sub-folders are looked through and links followed; a folder that is reached in two ways is looked through once.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from tru_core.errors import DataError
from tru_core.quoting import printable
from workflows.deletions.ledger.request_files import (
    PACKINGS,
    PARSERS,
    SAVE_AS_CSV,
    SHEETS,
    RequestFile,
    kind_of_content,
    open_request_file,
    split_packing,
)

MAX_DEPTH = 32
_HEAD_BYTES = 2**16
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".lz4", ".br", ".z", *PACKINGS)
_KINDS = ", ".join(PARSERS)


@dataclass(frozen=True)
class Unread:
    """A file or folder that was not read: its name below the drop folder, why, and whether that is a fault."""

    file: str
    reason: str
    is_fault: bool

    @property
    def exit_code(self) -> int:
        """What a command that left it out should end with: 0 if it is no file of requests."""
        return DataError.exit_code if self.is_fault else 0


@dataclass(frozen=True)
class FoundFile:
    """A file to be taken, and what to call it: its path below the drop folder."""

    path: Path
    name: str

    def open(self) -> RequestFile:
        """Read its bytes. Raises as :func:`workflows.deletions.ledger.request_files.open_request_file`."""
        return open_request_file(self.path, name=self.name)


@dataclass
class _Walk:
    """What was found so far. ``folders``: the name of each that was looked through, by device and inode."""

    files: list[FoundFile] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    folders: dict[tuple[int, int], str] = field(default_factory=dict)


def find_request_files(path: Path) -> tuple[list[FoundFile], list[Unread]]:
    """The files of a folder that are to be taken, by name, and what is not, with the reason. Of a file: itself."""
    if not path.is_dir():
        return [FoundFile(path, path.name)], []
    walk = _Walk()
    _look_through(walk, path, name="", above=())
    return walk.files, walk.unread


def _look_through(walk: _Walk, path: Path, *, name: str, above: tuple[tuple[int, int], ...]) -> None:
    try:
        info = path.stat()
        entries = sorted(path.iterdir())
    except OSError as error:
        walk.unread.append(Unread(name or ".", f"this folder cannot be read ({error.strerror})", is_fault=True))
        return
    place = (info.st_dev, info.st_ino)
    if place in above:
        walk.unread.append(Unread(name, "is a link that leads back to a folder above it", is_fault=True))
    elif place in walk.folders:
        reason = f"is the folder {walk.folders[place]} by another way, and was looked through there"
        walk.unread.append(Unread(name, reason, is_fault=False))
    elif len(above) > MAX_DEPTH:
        walk.unread.append(Unread(name, f"lies deeper than {MAX_DEPTH} folders", is_fault=True))
    else:
        walk.folders[place] = name or "."
        for entry in entries:
            _look_at(walk, entry, name=f"{name}{printable(entry.name)}", above=(*above, place))


def _look_at(walk: _Walk, path: Path, *, name: str, above: tuple[tuple[int, int], ...]) -> None:
    if path.name.startswith((".", "_")):
        walk.unread.append(Unread(name, "its name begins as that of a hidden or unfinished file", is_fault=False))
        return
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            _look_through(walk, path, name=f"{name}/", above=above)
            return
        unread = _fault_of_name(path.name) or _fault_of_file(path, info)
    except OSError as error:
        what = "is a link that leads nowhere or to itself" if path.is_symlink() else "cannot be read"
        unread = (f"{what} ({error.strerror})", True)
    if unread is None:
        walk.files.append(FoundFile(path, name))
    else:
        walk.unread.append(Unread(name, unread[0], is_fault=unread[1]))


def _fault_of_name(name: str) -> tuple[str, bool] | None:
    """Why a file is not read, by its name alone, and whether that is a fault."""
    stem, packing = split_packing(name)
    kind = PurePath(stem).suffix.lower()
    if kind in SHEETS:
        return f"is a spreadsheet: open it and {SAVE_AS_CSV}", True
    if kind in _ARCHIVES or (packing and kind not in PARSERS):
        return f"is packed, and its name does not say that requests are in it: unpack it, or name it {_packed()}", True
    return None


def _fault_of_file(path: Path, info: os.stat_result) -> tuple[str, bool] | None:
    """Why a file is not read, by what it is and how it begins, and whether that is a fault."""
    suffixes = [suffix.lower().rstrip("~") for suffix in path.suffixes]
    is_named = any(suffix in PARSERS for suffix in suffixes)
    kind = PurePath(split_packing(path.name)[0]).suffix.lower()
    if not stat.S_ISREG(info.st_mode):
        return "is a pipe, a socket or a device", is_named
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip(b"\xef\xbb\xbf \t\r\n") and (kind in PARSERS or is_named):
        return f"is empty ({info.st_size} bytes): not even a header line is there", True
    if kind in PARSERS:
        return None
    found = kind_of_content(head) if head.strip() else ""
    if found and kind == ".txt":
        return None
    if found or is_named:
        return f"looks like requests, and its name does not end with one of {_KINDS}, .txt: rename it or move it", True
    return "does not look like requests: its first line names no columns of them", False


def _packed() -> str:
    return " or ".join(f".csv{packing}" for packing in PACKINGS)
