"""Files that a command writes beside its results: checked before anything starts, written whole or not at all."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from tru_core.errors import ConfigError

_SUBMITTED_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it in the process that a submitted job starts
_COPIES_FOLDER = "runtime_resources"  # below Ray's temporary folder; uploaded working folders lie in it


def refuse_vanishing(path: str | Path, *, where: str) -> None:
    """Do nothing if what is written to a path outlives the command.

    A job that was submitted to Ray runs in a copy of its working folder, which Ray deletes. Everything that writes asks
    here first: storage, keys and files.

    Args:
        where: What named the path, such as ``--out`` or ``job.yaml: storage``.

    Raises:
        ConfigError: If the path lies in the working folder of a submitted job.
    """
    if _SUBMITTED_JOB not in os.environ:
        return
    place, here = Path(path).expanduser(), Path.cwd()
    is_in_copy = _COPIES_FOLDER in here.parts and Path(os.path.realpath(place)).is_relative_to(os.path.realpath(here))
    if not place.is_absolute() or is_in_copy:
        raise ConfigError(
            f"{where}: {str(path)!r} is {'in' if place.is_absolute() else 'relative to'} the working folder. A "
            f"submitted job runs in a copy of the working folder that is deleted afterwards, and what is written there "
            f"with it. Nothing was started. Name an absolute path on a disk that stays, or s3://bucket/prefix for a "
            f"storage."
        )


def check_outputs(paths: Sequence[Path], formats: Sequence[str]) -> None:
    """Check before anything starts that files can be written where they are asked for.

    Args:
        formats: The endings that are known.

    Raises:
        ConfigError: If a file's ending says no format, its folder does not exist, or it would vanish with a submitted
            job.
    """
    for path in paths:
        if path.suffix not in formats:
            raise ConfigError(
                f"--out {path}: expected a file that ends with {', '.join(formats)}. Nothing was started."
            )
        check_output(path)


def check_output(path: Path) -> None:
    """Check before anything starts that one file can be written. Raises as :func:`check_outputs`."""
    refuse_vanishing(path, where="--out")
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise ConfigError(
            f"--out {path}: no file can be written there: {path.absolute().parent} "
            f"{'is no folder' if not path.absolute().parent.is_dir() else 'has a folder of this name'}. Nothing was "
            f"started. Make its folder first."
        )


def write_whole(path: Path, body: bytes) -> None:
    """Write a file whole or not at all; an older one is replaced.

    Raises:
        ConfigError: If the folder cannot be written to, or the file would vanish with a submitted job.
    """
    refuse_vanishing(path, where="--out")
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        aside.write_bytes(body)
        aside.replace(path)
    except OSError as error:
        raise ConfigError(
            f"--out {path} cannot be written: {error.strerror}. Name a file in a folder of yours."
        ) from error
