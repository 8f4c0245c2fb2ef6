"""A look at the disk before a long piece of work that would fill it."""

import shutil
from pathlib import Path

from tru_core.errors import TransientError
from workflows.storage import ObjectStore
from workflows.storage.local import LocalStore


def require_space(store: ObjectStore, size_bytes: int, *, what: str) -> None:
    """Do nothing if a folder's disk has room for so many bytes. Stores elsewhere are not asked.

    Raises:
        TransientError: If it has not, with what is free and what is needed.
    """
    if not isinstance(store, LocalStore):
        return
    folder = next(path for path in (Path(store.url), *Path(store.url).parents) if path.exists())
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes:
        raise TransientError(
            f"{what} needs about {_text(size_bytes)} in {store.url}, the disk has {_text(free_bytes)} free. Nothing "
            f"was started. Free space and run the same command again."
        )


def _text(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
