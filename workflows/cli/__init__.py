"""The command line: ``tru data import | train | unlearn | compare | audit | sweep | delete run | result | demo``.

Every command takes ``--json`` and then prints one JSON object on standard output and nothing else
there; progress and errors go to standard error. Exit codes are those of ``tru_core.errors``.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tru_core.errors import ConfigError
from workflows.cli import audit as cli_audit
from workflows.cli import deletions as cli_deletions
from workflows.cli import export as cli_export
from workflows.cli import ledger as cli_ledger
from workflows.cli import receipts as cli_receipts
from workflows.cli.command import (
    Figures,
    add_command,
    add_storage_options,
    load_job_file,
    load_ledger_job_file,
    open_made_storage,
    open_named_storage,
    storage_config,
)
from workflows.cli.streams import steady_streams
from workflows.cli.tables import print_comparison, print_figures, print_sweep
from workflows.cli.terminal import (
    Parser,
    make_output_harmless,
    print_error,
    print_json,
    printable_figures,
    whole_number,
)
from workflows.failures import own_error
from workflows.running.interrupts import interruptible
from workflows.running.private_ray import protect_private_session, remove_dead_sessions

EXIT_CODES = """exit codes: 0 ok, 2 wrong configuration, 3 bad data, 4 storage unreachable, denied or missing,
5 conflict, 6 audit not passed, 7 retries used up, 8 damaged or unsafe file, 9 refused by policy, 130 interrupted"""


def split_dataset_url(url: str) -> tuple[str, str]:
    """Part ``<storage>/datasets/<name>`` into the storage's URL and the data set's name.

    Raises:
        ConfigError: If the URL does not end so, or the name is not allowed.
    """
    from workflows.storage.object_keys import check_name

    root, found, name = url.rstrip("/").rpartition("/datasets/")
    if not found or not root or "/" in name:
        raise ConfigError(
            f"--to {url}: expected <storage>/datasets/<name>, for example store/datasets/tiktok or "
            "s3://bucket/prefix/datasets/tiktok. Nothing was read or written."
        )
    return root, check_name(name)


def _data_import(arguments: argparse.Namespace) -> Figures:
    from workflows.config.job import ScalingConfig, parse
    from workflows.config.yaml_reader import load_settings
    from workflows.ingest import IngestConfig, import_dataset
    from workflows.ingest.raw_files import UnusedFile
    from workflows.key_files import KeysConfig
    from workflows.running.cluster import connected
    from workflows.storage import StorageConfig

    root, name = split_dataset_url(arguments.to)
    values = load_settings(Path(arguments.settings)) if arguments.settings else {}
    given = {
        key: getattr(arguments, key)
        for key in ("layout", "split", "split_seed", "missing_feature", "neighbour_features")
    }
    values |= {key: value for key, value in given.items() if value is not None}
    settings = parse(IngestConfig, values, where=arguments.settings or "data import")
    source_endpoint, to_endpoint = _endpoints(arguments, root)
    storage = parse(StorageConfig, {"url": root, "endpoint_url": to_endpoint}, where="--to")
    source = parse(StorageConfig, {"url": arguments.source, "endpoint_url": source_endpoint}, where="source")
    store = open_made_storage(arguments, storage, where="--to")
    unused: list[UnusedFile] = []
    with connected(ScalingConfig()):
        keys = KeysConfig(folder=arguments.keys)
        manifest = import_dataset(source, store, name, settings, keys=keys, on_unused=unused.extend)
    return {
        "dataset": name,
        "snapshot_id": manifest.snapshot_id,
        "num_users": manifest.num_users,
        "num_items": manifest.num_items,
        "train": manifest.counts.train,
        "valid": manifest.counts.valid,
        "test": manifest.counts.test,
        "modalities": {modality: entry.num_columns for modality, entry in sorted(manifest.features.items())},
        "report": manifest.report,
        "files_unused": [
            {"file": entry.file, "reason": entry.reason}
            | ({"num_files": entry.num_files} if entry.num_files > 1 else {})
            for entry in unused
        ],
    }


def _endpoints(arguments: argparse.Namespace, to_url: str) -> tuple[str | None, str | None]:
    """The endpoints of an import's source and target: ``--endpoint-url`` is for every side that is S3."""
    from workflows.storage.config import is_s3

    common = arguments.endpoint_url
    if common is not None and not is_s3(arguments.source) and not is_s3(to_url):
        raise ConfigError("--endpoint-url is for S3, but source and --to are folders: leave it out, or name s3://...")
    source, to = (common if is_s3(url) else None for url in (arguments.source, to_url))
    return arguments.source_endpoint_url or source, arguments.to_endpoint_url or to


def _show_import(figures: Figures) -> None:
    """Print the figures of an import, and a line for each file that was not used."""
    print_figures({name: value for name, value in figures.items() if name != "files_unused"})
    for entry in figures["files_unused"]:
        number = f" ({entry['num_files']} files)" if "num_files" in entry else ""
        print_figures({"not used": f"{entry['file']}{number}: {entry['reason']}"})


def _train(arguments: argparse.Namespace) -> Figures:
    from workflows.running import runs
    from workflows.running.cluster import connected
    from workflows.storage.existing import has_model, near_models

    job = load_job_file(arguments, needs="dataset")
    if not has_model(arguments.store, job.model):
        arguments.new_model = job.model
        near = ", ".join(near_models(arguments.store, job.model))
        others = f" It is not one of those that nearly have its name: {near}." if near else ""
        sys.stderr.write(f"model {job.model} is new in {arguments.store.url}.{others}\n")
    with connected(job.scaling):
        return runs.train(job)


def _unlearn(arguments: argparse.Namespace) -> Figures:
    from workflows.config.unlearn import check_publishable
    from workflows.running import runs
    from workflows.running.cluster import connected

    job = load_job_file(arguments)
    check_publishable(job.unlearn)
    with connected(job.scaling):
        return runs.unlearn(job)


def _compare(arguments: argparse.Namespace) -> Figures:
    from workflows.experiments.compare.compare import FORMATS, compare
    from workflows.output_files import check_outputs
    from workflows.running.cluster import connected

    job = load_job_file(arguments, needs="dataset")  # it trains its own Originals and publishes nothing
    outputs = [Path(path) for path in arguments.out]
    check_outputs(outputs, FORMATS)
    with connected(job.scaling):
        return compare(job, outputs=outputs)


def _sweep(arguments: argparse.Namespace) -> Figures:
    from workflows.experiments.sweep.sweep import sweep
    from workflows.output_files import check_output
    from workflows.running.cluster import connected

    job = load_job_file(arguments)
    check_output(Path(arguments.out))
    with connected(job.scaling):
        return sweep(job, best_job_path=Path(arguments.out))


def _result(arguments: argparse.Namespace) -> Figures:
    from workflows.running.outcomes import newest_outcome

    if arguments.job:
        load_ledger_job_file(arguments, needs="storage")
    else:
        config = storage_config(arguments, arguments.storage, where="--storage")
        open_named_storage(arguments, config, where="--storage", is_written=False)
    return newest_outcome(arguments.store, arguments.run_id, wait_seconds=arguments.wait)


def _import_settings_help() -> str:
    from workflows.ingest.settings import settings_help

    return settings_help()


def _demo(arguments: argparse.Namespace) -> Figures:
    from workflows.cli.demo import demo_job, run_demo

    open_made_storage(arguments, demo_job(arguments.folder).storage, where="--folder")
    return run_demo(Path(arguments.folder))


def _show_comparison(figures: Figures) -> None:
    from workflows.experiments.compare.compare import summary_rows

    print_comparison(summary_rows(figures), figures["failed"])


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number of seconds of at least 0, found {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="tru",
        description="Make a trained multimodal recommender forget users, items or single interactions.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="data sets").add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "Check raw tables and features and store them as a data set; the storage is made where it is new."
    importing = add_command(data, "import", text, _data_import, _show_import, more_help=_import_settings_help)
    importing.add_argument("source", help="folder or s3:// prefix with interactions and features")
    importing.add_argument("--to", required=True, help="<storage>/datasets/<name>")
    importing.add_argument(
        "--endpoint-url", help="S3 endpoint of the side that is S3 (or of both), where it is not AWS"
    )
    importing.add_argument("--source-endpoint-url", metavar="URL", help="S3 endpoint of the source alone")
    importing.add_argument("--to-endpoint-url", metavar="URL", help="S3 endpoint of the target alone")
    importing.add_argument(
        "--keys", default="keys", help="folder of the identity key, where the storage has tombstones"
    )
    importing.add_argument("--settings", metavar="FILE", help="YAML file with import settings; they are listed below")
    importing.add_argument("--layout", choices=["auto", "tru", "mmrec", "recbole"])
    importing.add_argument("--split", choices=["auto", "given", "random", "time"])
    importing.add_argument("--split-seed", type=whole_number)
    importing.add_argument("--missing-feature", choices=["error", "zero"])
    importing.add_argument(
        "--neighbour-features", choices=["raw", "standardised"], help="before the item graphs' cosine"
    )
    cli_export.add_export_command(data)

    texts = {
        "train": ("Train a recommender and publish it as a model version; the model is made where it is new.", _train),
        "unlearn": (
            "Draw the job's forget set, unlearn it by the job's method and publish the next version.",
            _unlearn,
        ),
    }
    for name, (text, run) in texts.items():
        add_command(commands, name, text, run).add_argument("job", help="job file (YAML)")
    text = "Measure methods, backbones and seeds against Original and Retrain, on the same lists."
    comparing = add_command(commands, "compare", text, _compare, _show_comparison)
    comparing.add_argument("job", help="job file (YAML); its block compare says what")
    help_text = "write the table to PATH.json, PATH.parquet or PATH.csv too; may be repeated"
    comparing.add_argument("--out", action="append", default=[], metavar="PATH", help=help_text)
    cli_audit.add_commands(commands)
    sweeping = add_command(
        commands, "sweep", "Search the settings of the job's method with Ray Tune.", _sweep, print_sweep
    )
    sweeping.add_argument("job", help="job file (YAML)")
    sweeping.add_argument("--out", default="best-job.yaml", help="where to write the job file with the best setting")
    delete = commands.add_parser("delete", help="deletion requests").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    cli_deletions.add_delete_commands(delete)
    cli_deletions.add_version_commands(commands)
    cli_ledger.add_commands(delete)
    text = "Say how a run's newest attempt ended, with its exit code."
    result = add_command(commands, "result", text, _result, is_writing=False)
    result.add_argument("run_id")
    where = result.add_mutually_exclusive_group(required=True)
    where.add_argument("--storage", help="folder or s3://bucket/prefix")
    where.add_argument("--job", help="job file (YAML) that names the storage")
    add_storage_options(result)
    result.add_argument("--wait", type=_seconds, default=0.0, metavar="SECONDS", help="wait for a first outcome")
    cli_receipts.add_commands(commands)
    demo = add_command(
        commands, "demo", "A small world goes the whole way, with a table at the end.", _demo, _show_comparison
    )
    demo.add_argument("--folder", default="store/demo", help="where the demo keeps its world and its models")
    return parser


def _exit_code(arguments: argparse.Namespace, figures: Figures) -> int:
    """The code of a command that has figures: of another run's outcome, or of what failed in a comparison."""
    if arguments.command == "audit":
        return cli_audit.exit_code(figures)
    if "exit_code" in figures:
        return int(figures["exit_code"])
    failed = figures.get("failed", [])
    return int(failed[0]["exit_code"]) if failed else 0


def _end(arguments: argparse.Namespace, error: BaseException, message: str, exit_code: int) -> int:
    """Say how a command ended that did not succeed."""
    if arguments.json:
        print_json({"error": type(error).__name__, "message": message, "exit_code": exit_code})
    print_error(f"tru: {message}", *getattr(error, "__notes__", []))
    return exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    with interruptible(), steady_streams():
        arguments = _parser().parse_args(argv)
        make_output_harmless()
        protect_private_session()
        try:
            return _run(arguments)
        except KeyboardInterrupt as error:
            return _end(arguments, error, "interrupted. Whole checkpoints are kept: the same command resumes.", 130)
        except Exception as error:
            own = own_error(error)
            if own is None:
                _end(arguments, error, "an error of the program itself; the traceback follows. Please report it.", 1)
                raise
            if own is not error:
                own.__notes__ = getattr(error, "__notes__", [])
            return _end(arguments, own, str(own), own.exit_code)


def _run(arguments: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints there too
        remove_dead_sessions()
        figures = arguments.run(arguments)
    if arguments.json:
        print_json(figures)
    else:
        arguments.show(printable_figures(figures))
    sys.stdout.flush()
    return _exit_code(arguments, figures)
