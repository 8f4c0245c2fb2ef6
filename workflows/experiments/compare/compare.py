"""``tru compare``: backbones, forget sets, methods and seeds -> one table, each figure beside what Retrain spans.

Original and Retrain are trained once for each backbone and seed; every method starts from the same Original and is
measured by the same lists, masks and judge. Publishes nothing and keeps no model but Originals and Retrains.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet

import tru_core.errors
from tru_core.errors import IntegrityError, TransientError, TruError
from tru_core.measures.diagnostics import TopLists, list_distance
from workflows.config.compare import ORIGINAL, RETRAIN
from workflows.config.job import JobConfig
from workflows.data.snapshot import current_snapshot_entry
from workflows.experiments.compare.comparison import (
    FigureSummary,
    RunFigures,
    SummaryRow,
    flat_residue,
    summarise,
    to_json,
    to_table,
)
from workflows.experiments.compare.grid import Grid, GridRun, list_grid
from workflows.experiments.compare.grid_runs import RunFunction, run_alone, run_missing
from workflows.output_files import check_outputs, write_whole
from workflows.running.measuring import read_lists
from workflows.running.outcomes import recorded
from workflows.running.results import StageResult, read_result
from workflows.running.runs import run_name
from workflows.storage import ObjectStore, canonical_json, open_store

Figures = dict[str, Any]
FORMATS = (".json", ".parquet", ".csv")
_RECALLS = ("test_recall20", "test_ndcg20", "valid_recall20", "forget_recall20", "forget_ndcg20")
_DETAILS = ("num_forget", "seconds_before", "epochs", "residue", "shifts", "cka")


def write_output(path: Path, figures: Figures) -> None:
    """Write a comparison whole or not at all, in the format that the file's ending says; an older file is replaced.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    body = io.BytesIO()
    if path.suffix == ".json":
        body.write(canonical_json({name: figures[name] for name in ("rows", "runs", "failed")}, where=str(path)))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(to_table(summary_rows(figures)), body)
    else:
        pyarrow.csv.write_csv(to_table(summary_rows(figures)), body)
    write_whole(path, body.getvalue())


def summary_rows(figures: Figures) -> list[SummaryRow]:
    """Read the rows of a comparison back from its JSON."""
    return [
        SummaryRow(**row | {"figures": {name: FigureSummary(**value) for name, value in row["figures"].items()}})
        for row in figures["rows"]
    ]


def first_error(figures: Figures) -> TruError | None:
    """The error of the first failed run of a comparison, or None."""
    if not figures["failed"]:
        return None
    first = figures["failed"][0]
    name = f"{first['backbone']}, {first['forget'] or 'training'}, seed {first['seed']}: {first['method']}"
    more = len(figures["failed"]) - 1
    also = f" And {more} more." if more else ""
    kind = getattr(tru_core.errors, first["error_kind"], TransientError)
    return kind(f"{name}: {first['error']}{also} Finished runs are kept: the same command tries the failed ones again.")


def _place(run: GridRun) -> tuple[str, str]:
    return run.backbone, run.forget


def _lists(store: ObjectStore, run: GridRun, result: StageResult) -> TopLists:
    if result.lists is None:
        raise IntegrityError(f"{run.key} names no lists. Delete it, and run the same command again.")
    return read_lists(store, result.lists)


def _reference_lists(grid: Grid, results: dict[str, StageResult], store: ObjectStore) -> dict[tuple[str, str], dict]:
    """The lists of every Retrain, by backbone and forget set, then by seed."""
    found: dict[tuple[str, str], dict[int, TopLists]] = {}
    for run in grid.runs:
        if run.method == RETRAIN and run.key in results:
            found.setdefault(_place(run), {})[run.seed] = _lists(store, run, results[run.key])
    return found


def _reference_seed(run: GridRun, seeds: Sequence[int]) -> int | None:
    """The Retrain to which a run's lists are compared: of its own seed, for a Retrain of the next one there is."""
    if run.method != RETRAIN:
        return run.seed if run.seed in seeds else None
    others = [*(seed for seed in seeds if seed > run.seed), *(seed for seed in seeds if seed < run.seed)]
    return others[0] if others else None


def _entry(run: GridRun, results: dict[str, StageResult], store: ObjectStore, retrains: dict[int, TopLists]) -> Figures:
    """A run's line in the JSON: its figures, and what stands beside them."""
    result = results[run.key]
    measured = result.to_json()
    figures = {name: measured[name] for name in _RECALLS}
    figures["seconds"] = result.seconds
    if run.method == ORIGINAL and run.needs is not None:
        figures["seconds"] = results[run.needs.key].seconds
    figures |= flat_residue(measured["residue"])
    seed = _reference_seed(run, sorted(retrains))
    if seed is not None:
        figures["distance"] = list_distance(_lists(store, run, result), retrains[seed])
    named = RunFigures(backbone=run.backbone, forget=run.forget, method=run.method, seed=run.seed, figures=figures)
    details = {name: measured[name] for name in _DETAILS if name in measured}
    forget = run.task.forget
    if forget is not None and forget.batches > 1:
        details["drift"] = measured["history"]
    return asdict(named) | {"details": details, "result": run.key}


def _failed(run: GridRun, error: TruError) -> Figures:
    where = {"backbone": run.backbone, "forget": run.forget, "method": run.method, "seed": run.seed}
    return where | {"error_kind": type(error).__name__, "error": str(error), "exit_code": error.exit_code}


def _report(grid: Grid, errors: dict[str, TruError], store: ObjectStore) -> Figures:
    everything = [*grid.trainings, *grid.runs]
    failed = [_failed(run, errors[run.key]) for run in everything if run.key in errors]
    results = {run.key: read_result(store, run.key) for run in everything if run.key not in errors}
    retrains = _reference_lists(grid, results, store)
    done = [run for run in grid.runs if run.key in results]
    runs = [_entry(run, results, store, retrains.get(_place(run), {})) for run in done]
    names = ("backbone", "forget", "method", "seed", "figures")
    rows = summarise([RunFigures(**{name: run[name] for name in names}) for run in runs], reference=RETRAIN)
    for row in rows:
        if row.method == ORIGINAL:  # its seconds are those of its training: no way to forget
            row.figures.pop("speedup", None)
    return {"rows": to_json(rows), "runs": runs, "failed": failed}


def compare(
    job: JobConfig,
    *,
    outputs: Sequence[Path] = (),
    show_progress: bool = True,
    function: RunFunction = run_alone,
) -> Figures:
    """Carry out the runs of a job's grid that have no result yet, and put all of them into one table.

    Args:
        outputs: Files to write the table to, each in the format of its ending: JSON, Parquet or CSV.
        function: What a Ray task does with a run.

    Returns:
        ``rows``: a summary over seeds for each backbone, forget set and method; ``runs``: every run's figures;
        ``failed``: the runs that ended without, with their errors. With a failed run the recorded outcome is its
        error, see :func:`first_error`.

    Raises:
        ConfigError: If the table cannot be written where it is asked for.
        TruError: What the first run failed with, if all did.
    """
    check_outputs(outputs, FORMATS)
    store = open_store(job.storage)
    _, entry = current_snapshot_entry(store, job.dataset)
    grid = list_grid(job, entry)
    named = [[run.backbone, run.forget, run.method, run.seed, run.key] for run in grid.runs]

    def body() -> Figures:
        errors = run_missing(
            grid,
            store,
            job.scaling,
            max_concurrent_runs=job.compare.max_concurrent_runs,
            show_progress=show_progress,
            function=function,
        )
        figures = _report(grid, errors, store)
        error = first_error(figures)
        if error is not None and not figures["runs"]:
            raise error
        for path in outputs:
            write_output(path, figures)
        return figures

    return recorded(store, run_name("compare", named), "compare", body, error_of=first_error)
