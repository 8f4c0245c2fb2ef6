"""Files that a command writes beside its results: checked before anything starts, written whole or not at all."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from tru_core.errors import ConfigError


def check_outputs(paths: Sequence[Path], formats: Sequence[str]) -> None:
    """Check before anything starts that files can be written where they are asked for.

    Args:
        formats: The endings that are known.

    Raises:
        ConfigError: If a file's ending says no format, or its folder does not exist.
    """
    for path in paths:
        if path.suffix not in formats:
            raise ConfigError(
                f"--out {path}: expected a file that ends with {', '.join(formats)}. Nothing was started."
            )
        if not path.absolute().parent.is_dir() or path.is_dir():
            raise ConfigError(
                f"--out {path}: no file can be written there. Nothing was started. Make its folder first."
            )


def write_whole(path: Path, body: bytes) -> None:
    """Write a file whole or not at all; an older one is replaced.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        aside.write_bytes(body)
        aside.replace(path)
    except OSError as error:
        raise ConfigError(
            f"--out {path} cannot be written: {error.strerror}. Name a file in a folder of yours."
        ) from error
    finally:
        aside.unlink(missing_ok=True)
