"""What a command of the command line is: a parser, what it runs, how it shows what that found; and its job file.

What all commands share stands here once: the storage, data set and model that a job file names must exist, whatever a
command writes is said with its absolute place, and commands that messages print can be pasted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tru_core.errors import TruError
from workflows.cli.pasting import complete_figures, complete_text
from workflows.cli.tables import print_figures

if TYPE_CHECKING:
    from workflows.config.job import JobConfig
    from workflows.deletions.ledger.job import LedgerJob
    from workflows.storage import ObjectStore, StorageConfig
    from workflows.storage.existing import Need

Figures = dict[str, Any]


class _HelpWithMore(argparse.Action):
    """``--help`` with a text below that is made only when somebody asks for it."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, more: Callable[[], str], **others: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **others)
        self._more = more

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.epilog = self._more().replace("%", "%%")
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.print_help()
        parser.exit()


def add_command(
    group: Any,
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], Figures],
    show: Callable[[Figures], None] = print_figures,
    *,
    is_writing: bool = True,
    more_help: Callable[[], str] | None = None,
) -> argparse.ArgumentParser:
    """Add a command to a group of commands; its arguments are the caller's to add.

    Args:
        text: One sentence for the help.
        run: What the command does; the figures it returns are its JSON object.
        show: Prints them for a person.
        is_writing: Whether the command writes anything: then it says where at the end of what it prints.
        more_help: Makes the text at the end of the help.
    """
    parser: argparse.ArgumentParser = group.add_parser(
        name, help=text.replace("%", "%%"), description=text, add_help=more_help is None
    )
    if more_help is not None:
        parser.add_argument("-h", "--help", action=_HelpWithMore, more=more_help, help="show this help and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")

    def run_and_say_where(arguments: argparse.Namespace) -> Figures:
        try:
            figures = run(arguments)
        except TruError as error:
            _complete_error(error, arguments)
            raise
        return complete_figures(figures, job=_job_of(arguments)) | places_of(arguments)

    def show_with_places(figures: Figures) -> None:
        places = {key: figures[key] for key in _PLACES if key in figures} if is_writing else {}
        show({key: value for key, value in figures.items() if key not in places})
        print_places(places)

    parser.set_defaults(run=run_and_say_where, show=show_with_places)
    return parser


def _job_of(arguments: argparse.Namespace) -> str | None:
    """The job file of a command that has one."""
    return getattr(arguments, "job", None)


def _complete_error(error: TruError, arguments: argparse.Namespace) -> None:
    """Name the job file in the commands that an error and its notes print."""
    job = _job_of(arguments)
    if error.args:
        error.args = (complete_text(str(error.args[0]), job=job), *error.args[1:])
    if hasattr(error, "__notes__"):
        error.__notes__[:] = [complete_text(note, job=job) for note in error.__notes__]


# --- where a command writes ---------------------------------------------------------------------

_PLACES = ("storage", "is_new_storage", "new_model", "files_written")


def places_of(arguments: argparse.Namespace) -> Figures:
    """Where a command reads and writes, absolutely: its storage, and the files and folders that it was told to make."""
    store = getattr(arguments, "store", None)
    places: Figures = {} if store is None else {"storage": store.url}
    if getattr(arguments, "is_new_storage", False):
        places["is_new_storage"] = True
    if getattr(arguments, "new_model", ""):
        places["new_model"] = arguments.new_model
    out = getattr(arguments, "out", [])
    paths: list[str] = [*([out] if isinstance(out, str) else out), *getattr(arguments, "made", [])]
    if paths:
        places["files_written"] = [str(Path(path).absolute()) for path in paths]
    return places


def print_places(places: Figures) -> None:
    """Print where a command wrote."""
    if "storage" in places:
        print_figures({"made a new storage at" if places.get("is_new_storage") else "storage": places["storage"]})
    if "new_model" in places:
        print_figures({"made a new model": places["new_model"]})
    for path in places.get("files_written", ()):
        print_figures({"written": path})


# --- what a command is about --------------------------------------------------------------------


def load_job_file(arguments: argparse.Namespace, *, needs: "Need" = "model") -> "JobConfig":
    """Read the job file of a command; what it names must exist.

    Args:
        needs: ``model``: storage, data set and model; ``dataset``: the first two; ``storage``: that alone.

    Raises:
        ConfigError: If the file is wrong, or ``storage`` would vanish with a submitted job.
        MissingObjectError: If what it names does not exist.
    """
    from workflows.config.job import load_job

    job = load_job(Path(arguments.job))
    _require_named(arguments, job, needs=needs)
    return job


def load_ledger_job_file(arguments: argparse.Namespace, *, needs: "Need" = "model") -> "LedgerJob":
    """Read what the commands on requests need of a job file. Args and raises as :func:`load_job_file`."""
    from workflows.deletions.ledger.job import load_ledger_job

    job = load_ledger_job(Path(arguments.job))
    _require_named(arguments, job, needs=needs)
    return job


def _require_named(arguments: argparse.Namespace, job: "JobConfig | LedgerJob", *, needs: "Need") -> None:
    from workflows.storage.existing import require_dataset, require_model

    where = str(arguments.job)
    store = open_named_storage(arguments, job.storage, where=f"{where}, storage")
    if needs != "storage":
        require_dataset(store, job.dataset, where=f"{where}, dataset")
    if needs == "model":
        require_model(store, job.model, where=f"{where}, model")


def open_named_storage(
    arguments: argparse.Namespace, config: "StorageConfig", *, where: str, is_written: bool = True
) -> "ObjectStore":
    """Open the storage of a command, which must exist. Raises as ``workflows.storage.existing.open_existing``."""
    from workflows.storage.existing import open_existing

    arguments.store = open_existing(config, where=where, is_written=is_written)
    return arguments.store


def open_made_storage(arguments: argparse.Namespace, config: "StorageConfig", *, where: str) -> "ObjectStore":
    """Open the storage of a command that may make it, and say so on standard error before anything is written.

    Raises:
        ConfigError, AccessError: As ``workflows.storage.existing.open_new``.
    """
    from workflows.storage.existing import near_storages, open_new

    arguments.store, arguments.is_new_storage = open_new(config, where=where)
    if arguments.is_new_storage:
        near = near_storages(arguments.store)
        others = f" There is {' and '.join(near)} beside it: is that what you mean?" if near else ""
        sys.stderr.write(f"{where}: {arguments.store.url} holds nothing yet and becomes a new storage.{others}\n")
    return arguments.store


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    """Add what an S3 storage may need beside its url."""
    parser.add_argument("--endpoint-url", help="S3 endpoint, where it is not AWS")
    parser.add_argument("--region", help="region of the bucket, where it is not us-east-1")


def storage_config(arguments: argparse.Namespace, url: str, *, where: str) -> "StorageConfig":
    """A storage as the command line names it. ConfigError if the url or the endpoint is against the rules."""
    from workflows.config.parsing import parse
    from workflows.storage import StorageConfig

    asked = {"url": url, "endpoint_url": arguments.endpoint_url}
    region = getattr(arguments, "region", None)
    return parse(StorageConfig, asked | ({"region": region} if region else {}), where=where)
