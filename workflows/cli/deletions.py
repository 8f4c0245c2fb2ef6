"""Commands that carry deletions out and look at what serves: ``delete run | purge | submission-id``, ``versions``."""

import argparse
from pathlib import Path
from typing import Any

from workflows.cli.command import Figures, add_command, load_job_file
from workflows.cli.deletion_tables import print_purge, print_run, print_versions
from workflows.cli.terminal import whole_number


def add_delete_commands(group: Any) -> None:
    """Add the commands of this file that stand under ``tru delete``."""

    def run(arguments: argparse.Namespace) -> Figures:
        from workflows.deletions.runner import run_deletions
        from workflows.running.cluster import connected

        arguments.job = arguments.job_file or arguments.job
        job = load_job_file(arguments)
        requests = Path(arguments.requests) if arguments.requests else None
        return run_deletions(
            job, requests, is_asked=arguments.now, connect=lambda: connected(job.scaling), run_id=arguments.run_id
        )

    def purge(arguments: argparse.Namespace) -> Figures:
        from workflows.deletions.runner import run_purge

        return run_purge(load_job_file(arguments))

    def name_submission(arguments: argparse.Namespace) -> Figures:
        from workflows.deletions.runner import name_submission

        return name_submission(load_job_file(arguments))

    text = "Carry out every deletion that is due: new versions, purge, receipts. Finishes what was interrupted."
    running = add_command(group, "run", text, run, print_run)
    running.add_argument("job_file", nargs="?", metavar="JOB", help="job file (YAML); the same as --job")
    _add_job(running)
    running.add_argument("--requests", help="submit this file first (CSV: request_id, kind, user_id, item_id)")
    help_text = "record how it ends under this name, for `tru result`; default: what `submission-id` prints"
    running.add_argument("--run-id", default="", metavar="ID", help=help_text)
    running.add_argument("--now", action="store_true", help="do not wait for delete.min_requests; receipts say so")
    text = "Delete what still holds deleted rows and was deferred, such as models after their days of grace."
    purging = add_command(group, "purge", text, purge, print_purge)
    _add_job(purging)
    text = "Print a name of what is due, for ray job submit --submission-id; nothing if nothing is due."
    _add_job(add_command(group, "submission-id", text, name_submission, _print_submission_id, is_writing=False))


def add_version_commands(commands: Any) -> None:
    """Add ``tru versions`` and ``tru rollback``."""

    def versions(arguments: argparse.Namespace) -> Figures:
        from workflows.models.versions import list_versions

        return list_versions(load_job_file(arguments))

    def rollback(arguments: argparse.Namespace) -> Figures:
        from workflows.models.versions import roll_back

        return roll_back(load_job_file(arguments), arguments.version, override=arguments.override)

    text = "List a model's versions: which serves, which are withdrawn or purged."
    listing = add_command(commands, "versions", text, versions, print_versions, is_writing=False)
    _add_job(listing)
    text = "Let an earlier version serve again; refused where it may know a deleted subject."
    rolling = add_command(commands, "rollback", text, rollback)
    rolling.add_argument("version", type=whole_number)
    _add_job(rolling)
    rolling.add_argument("--override", default="", metavar="REASON", help="do it all the same; the reason is recorded")


def _print_submission_id(figures: Figures) -> None:
    print(figures["submission_id"])


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job", default="job.yaml", help="job file (YAML); default job.yaml")
