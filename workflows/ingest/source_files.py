"""List the files of a source. In a folder, links to files and folders are followed; what cannot be read is an error.

A source is not a store. The store refuses links, because its own files never are links; a source is what a person
laid together, and large features often lie on another disk.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tru_core.errors import AccessError, ConfigError, DataError, MissingObjectError
from workflows.ingest.problems import NOTHING_WRITTEN
from workflows.ingest.raw_files import UnusedFile
from workflows.ingest.suffixes import split_suffix
from workflows.storage import ObjectStore
from workflows.storage.local import LocalStore

MAX_ENTRIES = 1_000_000  # files and folders of a source; links can multiply few folders to endlessly many
_HIDDEN = "hidden: its name starts with a dot"
_LAKES = (
    (re.compile(r"(?:(.*)/)?_delta_log/.*"), "Delta", 'spark.read.format("delta").load(FOLDER)'),
    (re.compile(r"(?:(.*)/)?\.hoodie(?:/.*)?"), "Hudi", 'spark.read.format("hudi").load(FOLDER)'),
    (re.compile(r"(?:(.*)/)?metadata/[^/]*\.metadata\.json(?:\.gz)?"), "Iceberg", "spark.table(NAME)"),
)
_COMMIT = re.compile(r"(?:(.*)/)?_(started|committed)_(\d+)")


@dataclass(frozen=True)
class SourceFile:
    """A file of a source. ``real_path`` is where links lead: two keys of one real path name the same bytes."""

    key: str
    size_bytes: int
    real_path: str


@dataclass(frozen=True)
class Listing:
    """All files of a source, sorted by key, and what was passed over: hidden files and folders."""

    files: tuple[SourceFile, ...]
    passed: tuple[UnusedFile, ...]


def list_source(source: ObjectStore) -> Listing:
    """List all files of a source.

    Raises:
        ConfigError: The source is a file.
        MissingObjectError: It does not exist or has no file.
        AccessError: A file or folder of it cannot be looked at.
        DataError: A link leads nowhere or in a circle, a file is a pipe, a socket or a device, a name is not UTF-8,
            or the folder is a Delta, Iceberg or Hudi table or one that is still written.
    """
    if isinstance(source, LocalStore):
        root = Path(source.url)
        if _is_there(root) and not root.is_dir():
            raise ConfigError(
                f"source {source.url} is a file, expected a folder that holds interactions.parquet or .csv, and "
                f"features/. {NOTHING_WRITTEN} Put the file into a folder of its own, and name that folder."
            )
        listing = _list_folder(root)
    else:
        listing = _list_objects(source)
    if not listing.files:
        is_named_as_file = split_suffix(PurePosixPath(source.url).name)[1] is not None
        hint = "Name the folder that holds the files, not a file." if is_named_as_file else "Check the path."
        raise MissingObjectError(f"source {source.url} does not exist or is empty. {NOTHING_WRITTEN} {hint}")
    _refuse_lakes([file.key for file in listing.files] + [entry.file for entry in listing.passed])
    _refuse_unfinished([file.key for file in listing.files])
    return listing


def _list_objects(source: ObjectStore) -> Listing:
    files, hidden = [], set()
    for info in source.list(""):
        parts = info.key.split("/")
        depth = next((depth for depth, part in enumerate(parts) if part.startswith(".")), None)
        if depth is None:
            files.append(SourceFile(info.key, info.size_bytes, info.key))
        else:
            hidden.add("/".join(parts[: depth + 1]) + ("/" if depth + 1 < len(parts) else ""))
    return Listing(tuple(files), tuple(UnusedFile(name, _HIDDEN) for name in sorted(hidden)))


def _list_folder(root: Path) -> Listing:
    files: list[SourceFile] = []
    passed: list[UnusedFile] = []
    # Each folder still to be listed, with the real paths of the folders that lead to it: to meet one again is a loop.
    # Real paths and not inodes: a mounted bucket may give all files the same.
    open_folders: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))] if _is_there(root) else []
    num_entries = 0
    while open_folders:
        prefix, above = open_folders.pop()
        entries = _entries(root, prefix)
        num_entries += len(entries)
        if num_entries > MAX_ENTRIES:
            raise DataError(
                f"source {root}: expected at most {MAX_ENTRIES} files and folders, found more. Links to folders can "
                f"multiply them. {NOTHING_WRITTEN} Give the import a folder with its own files only."
            )
        for entry in entries:
            key = prefix + entry.name
            _refuse_bytes(key)
            if entry.name.startswith("."):
                passed.append(UnusedFile(f"{key}/" if entry.is_folder else key, _HIDDEN))
                continue
            found = _look_at(root / key, key)
            real_path = os.path.realpath(root / key) if entry.is_link else f"{above[-1]}/{entry.name}"
            if stat.S_ISDIR(found.st_mode):
                if real_path in above:
                    raise _loop(key)
                open_folders.append((f"{key}/", (*above, real_path)))
            elif stat.S_ISREG(found.st_mode):
                files.append(SourceFile(key, found.st_size, real_path))
            else:
                raise DataError(
                    f"{key}: is a pipe, a socket or a device, expected a file. It was not opened. {NOTHING_WRITTEN} "
                    f"Move it out of the source."
                )
    files.sort(key=lambda file: file.key)
    return Listing(tuple(files), tuple(sorted(passed, key=lambda entry: entry.file)))


def _is_there(root: Path) -> bool:
    try:
        return root.exists()
    except OSError as error:
        raise _denied(f"source {root}", error) from error


@dataclass(frozen=True)
class _Entry:
    """A name in a folder. A link to a folder is a link, not a folder."""

    name: str
    is_link: bool
    is_folder: bool


def _entries(root: Path, prefix: str) -> list[_Entry]:
    try:
        with os.scandir(root / prefix) as entries:
            return [_Entry(entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        raise _denied(f"source {root}, folder {prefix or '.'}", error) from error


def _denied(where: str, error: OSError) -> AccessError:
    return AccessError(
        f"{where}: cannot be looked at ({error.strerror}). {NOTHING_WRITTEN} Check the permissions, also of the folder "
        f"that a link leads to."
    )


def _look_at(path: Path, key: str) -> os.stat_result:
    """What lies at a path, or where its link leads."""
    try:
        return path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(
                f"{key}: is a link that leads to no file. {NOTHING_WRITTEN} Correct or remove it, or mount the disk "
                f"that it leads to."
            ) from error
        raise DataError(
            f"{key}: was removed while the source was listed. {NOTHING_WRITTEN} Run again when nobody writes to it."
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _loop(key) from error
        raise _denied(key, error) from error


def _loop(key: str) -> DataError:
    return DataError(f"{key}: is a link that leads back to itself or to a folder above. {NOTHING_WRITTEN} Remove it.")


def _refuse_bytes(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(key).decode("utf-8", "backslashreplace")
        raise DataError(f"{shown}: the name is not UTF-8. {NOTHING_WRITTEN} Rename the file.") from error


def _refuse_lakes(names: Iterable[str]) -> None:
    """A table with a log of its own keeps files of rows that were deleted or replaced: only its log tells which."""
    for name in names:
        for pattern, kind, read in _LAKES:
            match = pattern.fullmatch(name.rstrip("/"))
            if match:
                folder = match[1] or "."
                raise DataError(
                    f"{folder} (with {name}): is a {kind} table, whose Parquet files may hold rows that were deleted. "
                    f"{NOTHING_WRITTEN} Export what the table holds now into a new folder, and import that: "
                    f'{read}.write.parquet("new/interactions")'
                )


def _refuse_unfinished(keys: Iterable[str]) -> None:
    """Spark says by its markers whether a folder is whole."""
    started: dict[str, dict[str, str]] = {}
    committed: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split("/")
        if "_temporary" in parts[:-1]:
            folder = "/".join(parts[: parts.index("_temporary")]) or "."
            raise DataError(
                f"{folder}: holds _temporary, so its writer is at work or stopped half-way, and rows may be missing. "
                f"{NOTHING_WRITTEN} Write the folder again, or wait for its end."
            )
        match = _COMMIT.fullmatch(key)
        if match and match[2] == "started":
            started.setdefault(match[1] or ".", {})[match[3]] = key
        elif match:
            committed.setdefault(match[1] or ".", []).append(match[3])
    for folder in {*started, *committed}:
        done = committed.get(folder, [])
        is_open = any(number not in done for number in started.get(folder, {}))
        if is_open or len(done) > 1:
            found = "a write that did not end" if is_open else f"{len(done)} writes, and the later may replace files"
            raise DataError(
                f"{folder}: its markers _started and _committed tell of {found}. {NOTHING_WRITTEN} Write what the "
                f"table holds now into a new folder, and import that."
            )
