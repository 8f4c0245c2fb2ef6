"""Writing job files: complete, whole or not at all, and never over somebody's own."""

import os
import secrets
from pathlib import Path

import yaml

from tru_core.errors import ConfigError, ConflictError
from workflows.config.job import JobConfig
from workflows.output_files import refuse_vanishing


def job_text(job: JobConfig, *, comment: str) -> str:
    """A complete job file as YAML, every default written out, with one line of comment above."""
    body = yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return f"# {comment}\n{body}"


def write_job_file(path: Path, text: str) -> None:
    """Write a job file whole or not at all. The same text may be there already.

    Raises:
        ConflictError: If a file with another text is there.
        ConfigError: If the folder cannot be written to, or the file would vanish with a submitted job.
    """
    refuse_vanishing(path, where="--out")
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with aside.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        refuse_other_file(path, {text})
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Name a file in a folder of yours.") from error
    finally:
        aside.unlink(missing_ok=True)


def refuse_other_file(path: Path, texts: set[str]) -> None:
    """Do nothing if no file is there, or one with one of the texts.

    Raises:
        ConflictError: If a file with another text is there.
        ConfigError: If it cannot be read.
    """
    try:
        found = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Name a file in a folder of yours.") from error
    if found not in texts:
        raise ConflictError(
            f"{path} exists with other content and was left as it is. Nothing that is in storage was lost. Name "
            "another file, or move this one away, and run the same command again."
        )
