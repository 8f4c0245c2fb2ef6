"""The command ``tru audit``: its options, what it prints and its exit code."""

import argparse
from pathlib import Path
from typing import Any

from workflows.cli.command import Figures, add_command, load_job_file
from workflows.cli.terminal import whole_number

_TEXT = "Examine whether a model forgot: passed, failed or inconclusive, with all evidence. Exit code 6 unless passed."


def add_commands(commands: Any) -> None:
    """Add ``tru audit`` to the parser."""
    command = add_command(commands, "audit", _TEXT, _audit, _show)
    command.add_argument("job", help="job file (YAML); its block audit says what")
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--version", type=whole_number, metavar="N", help="examine this published version of the job's model"
    )
    which.add_argument("--batch", metavar="ID", help="examine what this batch of deletions published")
    help_text = "write the report to PATH.html, PATH.json, PATH.parquet or PATH.csv too; may be repeated"
    command.add_argument("--out", action="append", default=[], metavar="PATH", help=help_text)


def _audit(arguments: argparse.Namespace) -> Figures:
    from workflows.config.audit import AuditConfig
    from workflows.config.parsing import parse
    from workflows.experiments.audit.audit import audit
    from workflows.experiments.audit.output import FORMATS
    from workflows.output_files import check_outputs
    from workflows.running.cluster import connected

    needs_model = arguments.version is not None or bool(arguments.batch)
    job = load_job_file(arguments, needs="model" if needs_model else "dataset")
    outputs = [Path(path) for path in arguments.out]
    check_outputs(outputs, FORMATS)
    if arguments.version is not None or arguments.batch:
        asked = {"version": arguments.version, "batch": arguments.batch or ""}
        asked = parse(AuditConfig, job.audit.model_dump() | asked, where="tru audit")
        job = job.model_copy(update={"audit": asked})
    with connected(job.scaling):
        return audit(job, outputs=outputs)


def _show(figures: Figures) -> None:
    from workflows.experiments.audit.output import print_audits

    print_audits(figures)


def exit_code(figures: Figures) -> int:
    """6 where a candidate did not pass, else 0."""
    from workflows.experiments.audit.audit import verdict_error

    error = verdict_error(figures)
    return 0 if error is None else error.exit_code
