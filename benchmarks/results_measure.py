"""Carrying out the plan of ``results.py``: what is missing is run piece by piece, and every row is kept at once."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from results_plan import IMPORT_SETTINGS, Cell, chosen_labels, job_of, row_digest
from results_rows import Record, add_row, new_sheet, read_sheet, valid_rows, write_sheet

from tru_core.errors import TransientError
from workflows.config.compare import ORIGINAL, RETRAIN, CompareMethod
from workflows.config.job import JobConfig

Figures = dict[str, Any]


@dataclass(frozen=True)
class Runner:
    """What carries out jobs.

    Attributes:
        compare: Carry out a job's comparison, as :func:`workflows.experiments.compare.compare.compare` does.
        has_results: Whether every run of a job's comparison has a result already.
        drop_results: Delete the results and the checkpoints of the named rows of a job's comparison.
    """

    compare: Callable[[JobConfig], Figures]
    has_results: Callable[[JobConfig], bool]
    drop_results: Callable[[JobConfig, Sequence[str]], None]


@dataclass(frozen=True)
class Measuring:
    """One call of this script.

    Attributes:
        folder: Where files of rows are kept.
        storage: The store's folder.
        data: :func:`results_plan.data_digest` by data set.
        machine: What this machine is, without what changes from minute to minute.
        words: Which rows are asked for; none: all.
        deadline: Start nothing after that time of :func:`time.monotonic`; None: no limit.
        without_retrain: Train no Retrain for other rows; where the store has none they have no distance to it.
    """

    runner: Runner
    folder: Path
    storage: str
    data: dict[str, str]
    machine: dict[str, Any]
    code: dict[str, Any]
    words: Sequence[str] = ()
    deadline: float | None = None
    side_by_side: bool = False
    without_retrain: bool = False

    def job(
        self, cell: Cell, seeds: Sequence[int], methods: Sequence[CompareMethod] = (), **changes: bool
    ) -> JobConfig:
        """A job of this call: the data set's name in the store has its digest, so that changed data is other data."""
        name = f"{cell.data}-{self.data[cell.data][:8]}"
        return job_of(cell, seeds, methods=methods, storage=self.storage, dataset=name, **changes)


def work_list(cells: Sequence[Cell], seeds: Sequence[int]) -> list[tuple[Cell, int]]:
    """What to do in which order: group by group, there the first seed of every cell before the second of any."""
    groups = list(dict.fromkeys(cell.group for cell in cells))
    work = [(cell, seed) for cell in cells for seed in cell.retrain_seeds if not seeds or seed in seeds]
    return sorted(work, key=lambda pair: (groups.index(pair[0].group), pair[1]))


def missing_labels(call: Measuring, cell: Cell, seed: int) -> list[str]:
    """The rows asked for that no file has with today's data and settings."""
    sheet = read_sheet(cell.path(call.folder, seed))
    is_same_data = sheet is not None and sheet["data_digest"] == call.data[cell.data]
    there = valid_rows(sheet, cell, seed) if sheet is not None and is_same_data else {}
    return [label for label in chosen_labels(cell, call.words, seed) if label not in there]


def pieces(cell: Cell, labels: Sequence[str], *, side_by_side: bool) -> list[list[str]]:
    """Part the missing rows into what is run between two looks at the clock."""
    if side_by_side:
        return [list(labels)] if labels else []
    references = [label for label in labels if label in (ORIGINAL, RETRAIN)]
    return [*([references] if references else []), *([label] for label in labels if label not in references)]


def measure(call: Measuring, work: Sequence[tuple[Cell, int]]) -> int:
    """Run what is missing until it is done or time is over, and keep each row as soon as it is there.

    Returns:
        How many rows are still missing.

    Raises:
        TruError: If an Original or a Retrain fails.
    """
    for cell, seed in work:
        for labels in pieces(cell, missing_labels(call, cell, seed), side_by_side=call.side_by_side):
            if call.deadline is not None and time.monotonic() >= call.deadline:
                return num_missing(call, work)
            say(f"{cell.title}, seed {seed}: {', '.join(labels)}")
            if call.side_by_side:
                _run_ahead(call, cell, labels, [later for other, later in work if other == cell])
            _measure_piece(call, cell, seed, labels)
        _measure_spread(call, cell)
    return num_missing(call, work)


def num_missing(call: Measuring, work: Sequence[tuple[Cell, int]]) -> int:
    """How many of the rows asked for are not there."""
    return sum(len(missing_labels(call, cell, seed)) for cell, seed in work)


def _run_ahead(call: Measuring, cell: Cell, labels: Sequence[str], seeds: Sequence[int]) -> None:
    """Run the same missing rows of all of a cell's seeds side by side; each seed's piece then finds them in the store.

    A single row of a single seed would leave all cores but one idle, for minutes where it is a Retrain.
    """
    alike = [seed for seed in seeds if missing_labels(call, cell, seed) == labels]
    if len(alike) > 1:
        methods = [method for method in cell.all_methods if method.title in labels]
        with_retrain = RETRAIN in labels or not call.without_retrain
        call.runner.compare(call.job(cell, alike, methods, side_by_side=True, retrain=with_retrain))


def _measure_piece(call: Measuring, cell: Cell, seed: int, labels: Sequence[str]) -> None:
    methods = [method for method in cell.all_methods if method.title in labels]
    started = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "load": round(os.getloadavg()[0], 2)}
    with_retrain = RETRAIN in labels or not call.without_retrain or call.runner.has_results(call.job(cell, [seed]))
    found = call.runner.compare(call.job(cell, [seed], methods, side_by_side=call.side_by_side, retrain=with_retrain))
    runs = {run["method"]: run for run in found["runs"]}
    errors = {run["method"]: run for run in found["failed"]}
    measured = started | call.code | {"side_by_side": call.side_by_side}
    for label in labels:
        if label in runs:
            record: Record = {name: runs[label][name] for name in ("figures", "details")}
            if RETRAIN in runs:
                record["retrain_seconds"] = runs[RETRAIN]["figures"]["seconds"]
        elif label in errors and errors[label]["error_kind"] != TransientError.__name__:
            record = {"error": {"kind": errors[label]["error_kind"], "text": errors[label]["error"]}}
        else:
            raise TransientError(
                f"{cell.title}, seed {seed}: {label}: {errors.get(label, {}).get('error', 'no result')}"
            )
        _keep(call, cell, seed, label, record | {"measured": dict(measured)})


def _keep(call: Measuring, cell: Cell, seed: int, label: str, record: Record) -> None:
    path, data = cell.path(call.folder, seed), call.data[cell.data]
    sheet = read_sheet(path)
    if sheet is None or sheet["data_digest"] != data:
        sheet = new_sheet(cell, seed, data)
    add_row(sheet, label, {"digest": row_digest(cell, seed, label, data=data)} | record, machine=call.machine)
    write_sheet(path, sheet, cell.labels)


def _measure_spread(call: Measuring, cell: Cell) -> None:
    """Add to the Retrains' rows how far their lists are from each other, where the store has two of them."""
    sheets = {seed: read_sheet(cell.path(call.folder, seed)) for seed in cell.retrain_seeds}
    rows = {
        seed: valid_rows(sheet, cell, seed).get(RETRAIN, {})
        for seed, sheet in sheets.items()
        if sheet is not None and sheet["data_digest"] == call.data[cell.data]
    }
    if all("distance" in row.get("figures", {"distance": 0.0}) for row in rows.values()):
        return
    seeds = [seed for seed in rows if call.runner.has_results(call.job(cell, [seed]))]
    if len(seeds) < 2:
        return
    for run in call.runner.compare(call.job(cell, seeds))["runs"]:
        row = rows.get(run["seed"], {})
        sheet = sheets[run["seed"]]
        if run["method"] == RETRAIN and sheet is not None and "figures" in row and "distance" in run["figures"]:
            row["figures"]["distance"] = round(run["figures"]["distance"], 6)
            write_sheet(cell.path(call.folder, run["seed"]), sheet, cell.labels)


def drop_rows(call: Measuring, work: Sequence[tuple[Cell, int]]) -> None:
    """Forget the rows asked for, in their files and in the store, so that they are measured again."""
    for cell, seed in work:
        labels = chosen_labels(cell, call.words, seed)
        methods = [method for method in cell.all_methods if method.title in labels]
        call.runner.drop_results(call.job(cell, [seed], methods), labels)
        path = cell.path(call.folder, seed)
        if (sheet := read_sheet(path)) is not None:
            sheet["rows"] = {label: row for label, row in sheet["rows"].items() if label not in labels}
            write_sheet(path, sheet, cell.labels)


def drop_run(store: Any, result_key: str) -> None:
    """Delete a run's result and all that lies beside it: from checkpoints a run would go on, with older code's weights.

    Args:
        store: A :class:`workflows.storage.ObjectStore`.
    """
    for found in store.list(result_key.rpartition("/")[0]):
        store.delete(found.key)


def ray_runner(sources: dict[str, Path], storage: str) -> Runner:
    """Carry out jobs on Ray with results in a store; a data set is imported when it is first asked for."""
    from workflows.data.snapshot import current_snapshot_entry
    from workflows.experiments.compare.compare import compare
    from workflows.experiments.compare.grid import list_grid
    from workflows.ingest import IngestConfig, import_dataset
    from workflows.storage import StorageConfig, dataset_log, open_store, read_log

    store = open_store(storage)

    def grid_of(job: JobConfig) -> Any:
        return list_grid(job, current_snapshot_entry(store, job.dataset)[1])

    def is_imported(job: JobConfig) -> bool:
        return bool(read_log(store, dataset_log(job.dataset)))

    def run(job: JobConfig) -> Figures:
        if not is_imported(job):
            source = sources[job.dataset.rpartition("-")[0]]
            say(f"importing {source}")
            settings = IngestConfig.model_validate(IMPORT_SETTINGS)
            import_dataset(StorageConfig(url=str(source)), store, job.dataset, settings)
        return compare(job)

    def has_results(job: JobConfig) -> bool:
        return is_imported(job) and all(store.exists(run.key) for run in grid_of(job).runs)

    def drop_results(job: JobConfig, labels: Sequence[str]) -> None:
        if is_imported(job):
            for run in grid_of(job).runs:
                if run.method in labels:
                    drop_run(store, run.key)

    return Runner(compare=run, has_results=has_results, drop_results=drop_results)


def say(text: str) -> None:
    """Tell the time and a text on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}\n")
