"""What a command of the command line is: a parser, what it runs, how it shows what that found; and its job file."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tru_core.errors import ConfigError
from workflows.cli.tables import print_figures

if TYPE_CHECKING:
    from workflows.config.job import JobConfig
    from workflows.ledger.job import LedgerJob

Figures = dict[str, Any]


def add_command(
    group: Any,
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], Figures],
    show: Callable[[Figures], None] = print_figures,
) -> argparse.ArgumentParser:
    """Add a command to a group of commands; its arguments are the caller's to add.

    Args:
        text: One sentence for the help.
        run: What the command does; the figures it returns are its JSON object.
        show: Prints them for a person.
    """
    parser: argparse.ArgumentParser = group.add_parser(name, help=text.replace("%", "%%"), description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.set_defaults(run=run, show=show)
    return parser


def load_job_file(path: str) -> "JobConfig":
    """Read the job file; inside a submitted job, refuse storage that would vanish with the job's working folder.

    Raises:
        ConfigError: If the file is wrong, or ``storage`` is a relative folder inside a submitted job.
    """
    from workflows.config.job import load_job

    job = load_job(Path(path))
    _refuse_vanishing_storage(path, job.storage.url)
    return job


def load_ledger_job_file(path: str) -> "LedgerJob":
    """Read what the commands on requests need of a job file. Raises as :func:`load_job_file`."""
    from workflows.ledger.job import load_ledger_job

    job = load_ledger_job(Path(path))
    _refuse_vanishing_storage(path, job.storage.url)
    return job


def _refuse_vanishing_storage(path: str, url: str) -> None:
    from workflows.storage.config import folder_of_url, is_s3

    is_submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if is_submitted and not is_s3(url) and not Path(folder_of_url(url)).is_absolute():
        raise ConfigError(
            f"{path}: storage {url!r} is a relative folder. A submitted job runs in a copy of the working folder that "
            "is deleted afterwards. Nothing was started. Name an absolute folder that every node sees, or s3://..."
        )
