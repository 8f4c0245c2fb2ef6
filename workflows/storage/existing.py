"""A thing that is named must exist: storage, data set and model. Only imports and trainings make new ones.

Every command opens its storage through :func:`open_existing` or :func:`open_new`, so a slip of the pen is an error and
never an empty store. Nothing is written here, and a store that is there costs three small requests.
"""

import difflib
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tru_core.errors import AccessError, ConfigError, MissingObjectError
from workflows.output_files import refuse_vanishing
from workflows.storage import (
    ObjectStore,
    StorageConfig,
    check_name,
    dataset_log,
    log_key,
    model_log,
    open_store,
)
from workflows.storage.config import folder_of_url, is_s3

Need = Literal["storage", "dataset", "model"]
"""What must exist: the storage; also the data set; also the model."""

MAX_NAMES_LISTED = 5
_TOPS = {"data set": "datasets", "model": "models"}


# --- storage ------------------------------------------------------------------------------------


def open_new(config: StorageConfig, *, where: str) -> tuple[ObjectStore, bool]:
    """Open a storage that may be made by this command.

    Args:
        where: What named it, such as ``--to``.

    Returns:
        The store, and whether it is new: nothing lies in it yet.

    Raises:
        ConfigError: If the folder would vanish with a submitted job.
        AccessError: If something else than a folder has this name, or it cannot be looked at.
    """
    _refuse_vanishing_storage(config, where=where)
    store = open_store(config)
    if not is_s3(config.url):
        _is_folder(config, store, where=where)
    return store, not store.names("")


def open_existing(config: StorageConfig, *, where: str, is_written: bool = True) -> ObjectStore:
    """Open a storage that must be there.

    Args:
        where: What named it, such as ``job.yaml: storage`` or ``--storage``.
        is_written: Whether the command may write to it: then it must not vanish with a submitted job.

    Raises:
        MissingObjectError: If there is no such folder, or nothing below the S3 prefix.
        AccessError: If the bucket does not exist, or the storage cannot be looked at.
        ConfigError: If the folder would vanish with a submitted job.
    """
    if is_written:
        _refuse_vanishing_storage(config, where=where)
    store = open_store(config)
    if is_s3(config.url):
        if not store.names(""):
            raise MissingObjectError(
                f"{where}: the storage {store.url} does not exist: nothing lies below this prefix. Nothing was "
                f"written. Correct it; only `tru data import` makes a new storage."
            )
    elif not _is_folder(config, store, where=where):
        raise MissingObjectError(
            f"{where}: the storage {store.url} does not exist{_written_as(config)}. Nothing was written.{_near(store)} "
            f"Correct it; only `tru data import` makes a new storage."
        )
    return store


def near_storages(store: ObjectStore) -> list[str]:
    """Folders beside a store's that hold a storage and have nearly its name."""
    root = Path(store.url)
    if is_s3(store.url) or not root.parent.is_dir():
        return []
    try:
        others = [path.name for path in root.parent.iterdir() if path != root and (path / "datasets").is_dir()]
    except OSError:  # this is advice only
        return []
    return [str(root.parent / name) for name in difflib.get_close_matches(root.name, others, n=2)]


def _near(store: ObjectStore) -> str:
    found = near_storages(store)
    return f" There is {' and '.join(found)}." if found else ""


def _refuse_vanishing_storage(config: StorageConfig, *, where: str) -> None:
    if not is_s3(config.url):
        refuse_vanishing(folder_of_url(config.url), where=where)


def _is_folder(config: StorageConfig, store: ObjectStore, *, where: str) -> bool:
    """Whether a local storage's folder is there. AccessError if it is something else, or nobody can tell."""
    try:
        mode = Path(store.url).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise AccessError(
            f"{where}: the storage {store.url} cannot be looked at: {error.strerror}. Nothing was written. Correct "
            f"the path or its permissions."
        ) from error
    if not stat.S_ISDIR(mode):
        raise AccessError(
            f"{where}: the storage {store.url} is no folder{_written_as(config)}. Nothing was written. Name a folder "
            f"or s3://bucket/prefix."
        )
    return True


def _written_as(config: StorageConfig) -> str:
    """How a folder's path was written, where that explains which folder is meant."""
    path = Path(folder_of_url(config.url)).expanduser()
    if path.is_symlink():
        return f" ({config.url!r} is a symbolic link to it)"
    if not path.is_absolute():
        return f" ({config.url!r} counts from the folder in which the command starts)"
    return ""


# --- data set and model -------------------------------------------------------------------------


def require_dataset(store: ObjectStore, dataset: str, *, where: str) -> None:
    """Do nothing if a data set was imported into a store.

    Raises:
        MissingObjectError: If not, with the names that are nearest.
    """
    if not _has_log(store, dataset_log(dataset)):
        raise MissingObjectError(
            f"{where}: the data set {dataset!r} does not exist in {store.url}."
            f"{_what_exists(store, 'data set', dataset)} Nothing was written. Correct `dataset:` or `storage:`; only "
            f"`tru data import` makes a data set."
        )


def require_model(store: ObjectStore, model: str, *, where: str) -> None:
    """Do nothing if a store has a published version of a model.

    Raises:
        MissingObjectError: If not, with the names that are nearest.
    """
    if not has_model(store, model):
        raise MissingObjectError(
            f"{where}: the model {model!r} does not exist in {store.url}.{_what_exists(store, 'model', model)} Nothing "
            f"was written. Correct `model:` or `storage:`, or train it first; only `tru train` makes a model."
        )


def has_model(store: ObjectStore, model: str) -> bool:
    """Whether a store has a published version of a model."""
    return _has_log(store, model_log(model))


def near_models(store: ObjectStore, model: str) -> list[str]:
    """The names of models of a store that are nearly this one."""
    return [name for name in _near_names(_names(store, "model"), model) if name != model]


def _has_log(store: ObjectStore, log: str) -> bool:
    """Whether a log has an entry. One without its first entry is damaged, which its reader says, and not missing."""
    return store.exists(log_key(log, 1)) or bool(store.names(log))


def _what_exists(store: ObjectStore, kind: Literal["data set", "model"], name: str) -> str:
    """A sentence on what has nearly this name, else on what there is; with a space before it."""
    names = _names(store, kind)
    if name in names:
        begun = "An import of it" if kind == "data set" else "A training of it"
        return f" {begun} stopped before its end."
    if near := _near_names(names, name):
        return f" There is {' and '.join(repr(found) for found in near)}."
    listed = ", ".join(repr(found) for found in names[:MAX_NAMES_LISTED])
    more = len(names) - MAX_NAMES_LISTED
    if not names:
        return f" It has no {kind}.{_near(store)}"
    return f" It has {listed}{f' and {more} more' if more > 0 else ''}."


def _near_names(names: Sequence[str], name: str) -> list[str]:
    return difflib.get_close_matches(name, names, n=3, cutoff=0.7)


def _names(store: ObjectStore, kind: Literal["data set", "model"]) -> list[str]:
    """The names of a store's data sets or models. What cannot be such a name is left out."""
    found = []
    for name in store.names(_TOPS[kind]):
        try:
            found.append(check_name(name))
        except ConfigError:
            continue
    return found
