"""A storage as a read-only fsspec filesystem, for people's own code: pandas, pyarrow, torch, duckdb.

Nothing of the project writes or reads through it: there, every byte is compared with a digest first. What is read here
is not, and a purge deletes what it deletes, also under an open file.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from tru_core.errors import IntegrityError
from workflows.storage import StorageConfig, open_store
from workflows.storage.config import is_s3
from workflows.storage.object_keys import ASIDE_FOLDER, check_key
from workflows.storage.s3 import MAX_ATTEMPTS, S3Store


def fsspec_filesystem(config: StorageConfig | str) -> "StorageFiles":
    """Open a storage for reading at its keys: ``open("datasets/shop/log/00000001.json")``, ``find("datasets")``.

    S3 is asked at the endpoint that the storage names, after the same check; credentials come from the standard AWS
    chain of the process that reads, and are never pickled. Many objects at once: ``cat([...])``.

    Raises:
        ConfigError: The URL is of no known kind, or its endpoint is against the policy.
    """
    return StorageFiles(StorageConfig(url=config) if isinstance(config, str) else config)


class StorageFiles(AbstractFileSystem):
    """The objects of a storage under their keys. Everything that would change one raises OSError (EROFS).

    Errors are those of fsspec: FileNotFoundError, PermissionError, OSError. A path that leads out of the storage, or
    through a symbolic link, is an IntegrityError.
    """

    protocol = "tru"
    cachable = False

    def __init__(self, config: StorageConfig) -> None:
        super().__init__(config)
        self._is_s3 = is_s3(config.url)
        store = open_store(config)
        if isinstance(store, S3Store):
            client, bucket, prefix = store.raw_client()
            self._inner: Any = _s3_files(config, endpoint_url=client.meta.endpoint_url)
            self._base = f"{bucket}/{prefix}".rstrip("/")
        else:
            self._inner, self._base = LocalFileSystem(), store.url

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What lies directly below a folder, or the object itself."""
        place = self._place(path)
        found = [self._entry(info) for info in self._inner.ls(place, detail=True) if self._is_shown(info)]
        found = sorted((info for info in found if info["name"]), key=lambda info: info["name"])
        return found if detail else [info["name"] for info in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and type of an object or folder."""
        return self._entry(self._inner.info(self._place(path)))

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **_: Any
    ) -> Any:
        """Every object below a folder: with S3 by listings of 1000 keys, not folder by folder."""
        if not self._is_s3:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail)
        found = self._inner.find(self._place(path), maxdepth=maxdepth, withdirs=withdirs, detail=True)
        entries = {entry["name"]: entry for entry in map(self._entry, found.values())}
        return entries if detail else sorted(entries)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of an object, or a range of them."""
        return self._inner.cat_file(self._place(path), start=start, end=end)

    def cat(self, path: str | Sequence[str], recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:
        """The bytes of one object, or of many by key; with S3 many are read at the same time."""
        keys = self.expand_path(path, recursive=recursive)
        if isinstance(path, str) and keys == [self._strip_protocol(path)]:
            return self.cat_file(keys[0])
        key_of = {self._place(key): key for key in keys}
        found = self._inner.cat(list(key_of), on_error=on_error)
        return {key_of[place]: body for place, body in found.items()}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            _refuse(path)
        return self._inner.open(self._place(path), "rb", block_size=options.get("block_size"))

    def created(self, path: str) -> Any:
        """When an object was written: it never changed since."""
        return self._inner.modified(self._place(path))

    modified = created

    # fsspec's own versions of these do nothing, or fail only after a part of their work.

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> NoReturn:
        """Refuse."""
        _refuse(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> NoReturn:
        """Refuse."""
        _refuse(path)

    def rmdir(self, path: str) -> NoReturn:
        """Refuse."""
        _refuse(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> NoReturn:
        """Refuse."""
        _refuse(path)

    def rm_file(self, path: str) -> NoReturn:
        """Refuse."""
        _refuse(path)

    def cp_file(self, path1: str, path2: str, **_: Any) -> NoReturn:
        """Refuse."""
        _refuse(path2)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> NoReturn:
        """Refuse."""
        _refuse(path)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> NoReturn:
        """Refuse."""
        _refuse(path1)

    def _place(self, path: str) -> str:
        """Where an object lies in the inner filesystem.

        Raises:
            IntegrityError: If the path is no key, or goes through a symbolic link.
        """
        key = str(self._strip_protocol(path))
        if not key:
            return self._base
        place = f"{self._base}/{check_key(key)}"
        if not self._is_s3 and os.path.realpath(place) != place:
            raise IntegrityError(f"{place} goes through a symbolic link. Nothing was read. Name the object itself.")
        return place

    def _is_shown(self, info: dict[str, Any]) -> bool:
        """Whether an entry is an object or folder: no link, and nothing that a crashed write left."""
        is_link = bool(info.get("islink")) or info["type"] not in ("file", "directory")
        return not is_link and info["name"].rstrip("/") not in (self._base, f"{self._base}/{ASIDE_FOLDER}")

    def _entry(self, info: dict[str, Any]) -> dict[str, Any]:
        name = str(Path(info["name"])) if not self._is_s3 else info["name"]
        key = name.rstrip("/").removeprefix(self._base).strip("/")
        return {"name": key, "size": info["size"], "type": info["type"]}


def _s3_files(config: StorageConfig, *, endpoint_url: str) -> Any:
    """s3fs at an endpoint that was checked. It finds the credentials itself, where boto3 finds them."""
    import s3fs  # takes half a second, and nothing else needs it

    seconds = min(20.0, config.timeout_seconds)
    return s3fs.S3FileSystem(
        endpoint_url=endpoint_url,
        client_kwargs={"region_name": config.region},
        config_kwargs={
            "connect_timeout": min(5.0, seconds),
            "read_timeout": seconds,
            "retries": {"total_max_attempts": MAX_ATTEMPTS, "mode": "standard"},
            "s3": {"addressing_style": "path" if config.endpoint_url else "auto"},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _refuse(path: Any) -> NoReturn:
    raise OSError(errno.EROFS, "this view of a storage is read-only; nothing was changed", str(path))
