"""A comparison runs what is new and nothing else, side by side or in turn, and loses no run to another's failure."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from tests.tiny_jobs import FIT_EPOCHS, comparison_task, model_entry, tiny_job, without_seconds
from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.collective import LocalCollective
from tru_core.errors import ConfigError, NumericsError
from tru_core.fit import TrainingState
from tru_core.unlearning.tru.settings import TRUSettings
from workflows.cli.tables import print_comparison
from workflows.config.compare import CompareMethod, ForgetConfig
from workflows.config.job import JobConfig
from workflows.config.unlearn import UnlearnConfig
from workflows.data.snapshot import current_snapshot_entry
from workflows.experiments.compare import compare as compare_module
from workflows.experiments.compare.compare import compare, first_error, summary_rows
from workflows.experiments.compare.comparison import to_table
from workflows.experiments.compare.grid import Grid, compared_methods, list_grid
from workflows.experiments.compare.grid_runs import run_alone
from workflows.running.measuring import read_lists
from workflows.running.outcomes import newest_outcome
from workflows.running.runs import training_task
from workflows.running.worker import TaskRun
from workflows.storage import FileEntry, open_store, read_json
from workflows.storage.local import LocalStore
from workflows.tasks import Forget, Measure, Stage, WorkerTask

EDGES, RESET = {"name": "edge_deletion"}, {"name": "row_reset"}
ASCENT = {"name": "gradient_ascent", "settings": {"epochs": 2}}
OVERFLOW = {"name": "gradient_ascent", "label": "Too far", "settings": {"optimizer": "sgd", "learning_rate": 1e200}}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tables this small are slower on several threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store with the tiny data set and nothing else."""
    found = LocalStore(tmp_path / "store")
    write_tiny_snapshot(found)
    return found


def grid_job(store: LocalStore, folder: Path, methods: list[dict[str, Any]], **changes: Any) -> JobConfig:
    """The tiny job with methods to compare, changed by block or, for all else, inside the block ``compare``."""
    parts = {name: changes.pop(name) for name in ("fit", "scaling") if name in changes}
    if isinstance(changes.get("forget"), dict):
        parts["forget"] = changes.pop("forget")
    return tiny_job(store.url, folder, compare={"methods": methods} | changes, **parts)


def grid_of(job: JobConfig) -> Grid:
    return list_grid(job, current_snapshot_entry(open_store(job.storage), job.dataset)[1])


def keys_of(job: JobConfig) -> set[str]:
    grid = grid_of(job)
    return {run.key for run in [*grid.trainings, *grid.runs]}


def results_in(store: LocalStore) -> set[str]:
    """Keys of the results that runs left; those of whole commands stand apart."""
    keys = [info.key for info in store.list("runs")]
    return {key for key in keys if key.endswith("/result.json") and "/attempts/" not in key}


def figures_of(found: dict[str, Any], *, timed: bool = False) -> dict[tuple[str, int], dict[str, float]]:
    """The figures of each run by method and seed, without what no two runs share."""
    return {
        (run["method"], run["seed"]): {
            name: value for name, value in run["figures"].items() if timed or name != "seconds"
        }
        for run in found["runs"]
    }


def stage_alone(job: JobConfig, stage: Stage, **changes: Any) -> dict[str, Any]:
    """The result of one stage that starts from the Original of a fresh training."""
    store = open_store(job.storage)
    trained = TaskRun(training_task(job, current_snapshot_entry(store, job.dataset)[1]), LocalCollective()).run()
    original = model_entry(trained, "original")
    task = comparison_task(store, job, "grid-test", stages=[stage], original=original, **changes)
    return TaskRun(task, LocalCollective()).run()[stage.name].to_json()


# --- what a job file may ask for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([{"name": "edge_delition"}], "'edge_delition' is unknown; choose one of algorithm_one, edge_deletion, "),
        ([{"name": "retrain"}], "retrain is the reference"),
        ([{"name": "sisa", "settings": {"num_shard": 3}}], "SISA: settings: num_shard: .*mean 'num_shards'"),
        ([{"name": "sisa", "label": "Shards", "settings": {"num_shards": 0}}], "Shards: settings: num_shards: .* 0"),
        ([EDGES, EDGES], "method 'EdgeDeletion' stands twice"),
        ([EDGES | {"label": "Retrain"}], "method 'Retrain' stands twice"),
        ([{"nmae": "sisa", "name": "sisa"}], r"compare\.methods\.0\.nmae: .* did you mean 'name'"),
    ],
)
def test_a_method_that_cannot_be_meant_is_refused_before_anything_starts(
    methods: list[dict[str, Any]], message: str, store: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        grid_job(store, tmp_path, methods)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 2, 1]}, "seed 1 stands twice"),
        ({"seeds": [1], "band_seeds": [2, 1]}, "seed 1 stands twice"),
        ({"seeds": [-1]}, r"compare\.seeds\.0"),
        ({"backbones": [{"name": "mgcm"}]}, "'mgcm' is unknown"),
        ({"backbones": [{"name": "mgcn"}, {"name": "mgcn"}]}, "backbone 'mgcn' stands twice"),
        ({"backbones": [{"name": "mgcn", "fit": {"epochs": 3}}]}, "mgcn: fit: epochs: .* mean 'max_epochs'"),
        ({"backbones": [{"name": "mgcn", "fit": {"seed": 3}}]}, r"seeds stand in compare\.seeds"),
        ({"forget": [{}, {"share": 0.05}]}, "forget set 'user 5 %' stands twice"),
        ({"forget": [{"share": 0.1, "count": 3}]}, "share or count, not both"),
        ({"forget": [{"selection": "popular"}]}, "users are not popular"),
        ({"forget": [{"count": 3, "batches": 4}]}, "3 users cannot be parted into 4 batches"),
        ({"max_concurrent_runs": 0}, "max_concurrent_runs"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused_before_anything_starts(
    changes: dict[str, Any], message: str, store: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        grid_job(store, tmp_path, [EDGES], **changes)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "user 5 %"),
        ({"regime": "item", "selection": "core", "share": 0.01}, "item core 1 %"),
        ({"regime": "interaction", "share": 0.125}, "interaction 12.5 %"),
        ({"count": 1}, "1 user"),
        ({"regime": "item", "selection": "popular", "count": 20}, "20 popular items"),
        ({"batches": 10}, "user 5 % in 10 batches"),
    ],
)
def test_a_forget_set_is_called_what_it_is(settings: dict[str, Any], label: str) -> None:
    config = ForgetConfig.model_validate(settings)
    assert config.label == label
    assert ForgetConfig.model_validate_json(config.model_dump_json()) == config


def test_settings_of_tru_are_on_top_of_the_jobs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    unlearn = UnlearnConfig(settings=TRUSettings(reverse_steps=7, gate=False))
    method = CompareMethod(name="tru", settings={"gate": True})
    assert method.parsed(unlearn, seed=0) == TRUSettings(reverse_steps=7, gate=True)


def test_tru_draws_by_the_seed_of_its_run_as_every_method_does_unless_its_row_has_a_seed(
    store: LocalStore, tmp_path: Path
) -> None:
    rows = [{"name": "tru"}, {"name": "tru", "label": "Pinned", "settings": {"seed": 9}}]
    runs = grid_of(grid_job(store, tmp_path, rows, seeds=[0, 1], ablations=True)).runs
    found = {(run.method, run.seed): run.stage.settings.get("seed") for run in runs if isinstance(run.stage, Forget)}
    assert [found["TRU", seed] for seed in (0, 1)] == [0, 1]
    assert [found["TRU, no reverse", seed] for seed in (0, 1)] == [0, 1]
    assert [found["Pinned", seed] for seed in (0, 1)] == [9, 9]


def test_ablations_are_rows_only_where_asked_for(store: LocalStore, tmp_path: Path) -> None:
    from tru_core.unlearning.ablations import ABLATIONS

    without = [method.title for method in compared_methods(grid_job(store, tmp_path, [EDGES]))]
    titles = [method.title for method in compared_methods(grid_job(store, tmp_path, [EDGES], ablations=True))]
    assert without == ["EdgeDeletion"]
    assert titles == [*without, *ABLATIONS]


# --- what runs are called -----------------------------------------------------------------------


def test_a_method_or_a_seed_more_is_a_few_runs_more_and_no_other_name_changes(
    store: LocalStore, tmp_path: Path
) -> None:
    first = keys_of(grid_job(store, tmp_path, [EDGES], seeds=[0, 1]))
    assert len(first) == 2 * (1 + 3)  # a training; Original, EdgeDeletion, Retrain
    assert len(keys_of(grid_job(store, tmp_path, [EDGES, ASCENT], seeds=[0, 1])) - first) == 2
    assert len(keys_of(grid_job(store, tmp_path, [EDGES], seeds=[0, 1, 2])) - first) == 4
    assert keys_of(grid_job(store, tmp_path, [EDGES | {"label": "E"}], seeds=[1, 0])) == first
    assert keys_of(grid_job(store, tmp_path, [EDGES], seeds=[0, 1], scaling={"num_workers": 4})) == first
    other = keys_of(grid_job(store, tmp_path, [EDGES], seeds=[0, 1], forget={"seed": 5}))
    assert len(other & first) == 2  # the trainings
    assert not keys_of(grid_job(store, tmp_path, [EDGES], seeds=[0, 1], fit={"max_epochs": 9})) & first


def test_other_settings_of_a_method_are_another_run_of_that_method_alone(store: LocalStore, tmp_path: Path) -> None:
    twice = [ASCENT, ASCENT | {"label": "Longer", "settings": {"epochs": 3}}]
    runs = grid_of(grid_job(store, tmp_path, twice, band=False)).runs
    assert [run.method for run in runs] == ["Original", "GradientAscent", "Longer", "Retrain"]
    assert len({run.key for run in runs}) == 4
    assert len({run.task.run_id for run in runs}) == 1


def test_a_single_seed_gets_a_second_retrain_unless_it_is_not_wanted(store: LocalStore, tmp_path: Path) -> None:
    def retrains(**changes: Any) -> list[int]:
        runs = grid_of(grid_job(store, tmp_path, [], **changes)).runs
        return [run.seed for run in runs if run.method == "Retrain"]

    assert retrains(fit={"seed": 5}) == [5, 6]
    assert retrains(seeds=[3]) == [3, 4]
    assert retrains(seeds=[3], band=False) == [3]
    assert retrains(seeds=[3, 8]) == [3, 8]


def test_band_seeds_are_retrains_and_nothing_else(store: LocalStore, tmp_path: Path) -> None:
    def listed(methods: list[dict[str, Any]], **changes: Any) -> list[tuple[str, int]]:
        grid = grid_of(grid_job(store, tmp_path, methods, **changes))
        assert {run.seed for run in grid.trainings} == {run.seed for run in grid.runs if run.method == "Original"}
        return [(run.method, run.seed) for run in grid.runs]

    rows = [("Original", 0), ("EdgeDeletion", 0)]
    band = [("Retrain", 0), ("Retrain", 5), ("Retrain", 6)]
    assert listed([EDGES], seeds=[0], band_seeds=[5, 6]) == rows + band
    assert listed([EDGES], band_seeds=[5, 6]) == rows + band
    assert listed([], band_seeds=[5, 6]) == band[1:]
    assert listed([], band_seeds=[5], band=True) == [("Retrain", 5), ("Retrain", 6)]
    alone, beside = (grid_of(grid_job(store, tmp_path, [], seeds=seeds, band_seeds=[5])) for seeds in ([], [0]))
    assert alone.runs[0].key == beside.runs[-1].key


def test_every_row_starts_from_the_original_that_train_makes(store: LocalStore, tmp_path: Path) -> None:
    job = grid_job(store, tmp_path, [EDGES, ASCENT])
    grid = grid_of(job)
    [training] = grid.trainings
    assert training.task == training_task(job, current_snapshot_entry(store, job.dataset)[1])
    needs = {(run.method, run.seed): run.needs for run in grid.runs}
    assert needs.pop(("Retrain", 1)) is None
    assert set(map(id, needs.values())) == {id(training)}


def test_a_grid_is_every_backbone_with_every_forget_set(store: LocalStore, tmp_path: Path) -> None:
    backbones = [{"name": "mgcn"}, {"name": "lightgcn", "label": "Ids", "fit": {"max_epochs": 2}}]
    forget = [{"count": 1}, {"regime": "item"}]
    grid = grid_of(grid_job(store, tmp_path, [EDGES], backbones=backbones, forget=forget, seeds=[0, 1]))
    places = [(backbone, forget) for backbone in ("mgcn", "Ids") for forget in ("1 user", "item 5 %")]
    assert list(dict.fromkeys((run.backbone, run.forget) for run in grid.runs)) == places
    assert [(run.backbone, run.seed) for run in grid.trainings] == [("mgcn", 0), ("mgcn", 1), ("Ids", 0), ("Ids", 1)]
    assert [run.task.job.fit.max_epochs for run in grid.trainings] == [FIT_EPOCHS, FIT_EPOCHS, 2, 2]
    assert len({run.key for run in grid.runs}) == 2 * 2 * 3 * 2


# --- what a run measures ------------------------------------------------------------------------


def test_a_method_is_measured_as_a_stage_of_its_own_kind_is(store: LocalStore, tmp_path: Path) -> None:
    job = tiny_job(store.url, tmp_path)
    alone = TaskRun(comparison_task(store, job), LocalCollective()).run()
    original = model_entry(alone, "original")
    stages = [
        Measure(name="original"),
        Forget(name="edges", method="edge_deletion", is_compared=True),
        Forget(name="retrain", method="retrain", is_compared=True),
    ]
    task = comparison_task(store, job, "grid-test", stages=stages, original=original)
    found = {name: result.to_json() for name, result in TaskRun(task, LocalCollective()).run().items()}
    for name in ("original", "edges", "retrain"):
        expected = {key: value for key, value in alone[name].to_json().items() if "recall" in key or "ndcg" in key}
        assert found[name].items() >= expected.items(), name
        assert found[name]["num_forget"] == alone[name].num_forget
    assert found["retrain"]["epochs"] == alone["retrain"].epochs

    assert set(found["edges"]["shifts"].values()) == {0.0}
    assert min(found["retrain"]["shifts"].values()) > 0
    assert found["original"]["cka"].keys() == found["edges"]["cka"].keys() == {"id-text", "id-visual", "text-visual"}
    residues = [found[name]["residue"] for name in found]
    assert all(residue["counts"] == residues[0]["counts"] for residue in residues)
    assert sum(residues[0]["counts"]) > 0
    lists = [read_lists(store, FileEntry.model_validate(found[name]["lists"])) for name in found]
    assert all((users == lists[0][0]).all() for users, _ in lists)
    assert {items.shape for _, items in lists} == {(len(lists[0][0]), 20)}
    assert (lists[0][1] != lists[2][1]).any()


def test_an_interrupted_retrain_goes_on_and_its_checkpoints_take_no_time(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny_job(store.url, tmp_path)
    stage = Forget(name="retrain", method="retrain", source=None, is_compared=True)
    task = comparison_task(store, job, "grid-whole", stages=[stage])
    epochs: list[int] = []
    pause, pauses = 1000.0, 0
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + pause * pauses)

    class BrokenError(Exception):
        pass

    def slow(stage: str, state: TrainingState, max_epochs: int) -> None:
        nonlocal pauses
        pauses += 1

    def broken(stage: str, state: TrainingState, max_epochs: int) -> None:
        epochs.append(state.epoch)
        if state.epoch == 2:
            raise BrokenError

    whole = TaskRun(task, LocalCollective(), slow).run()
    assert pauses == FIT_EPOCHS
    assert whole["retrain"].seconds < pause
    assert whole["retrain"].shifts is None  # there is no Original to have moved from
    task = task.model_copy(update={"run_id": "grid-broken"})
    with pytest.raises(BrokenError):
        TaskRun(task, LocalCollective(), broken).run()
    again = TaskRun(task, LocalCollective(), lambda stage, state, most: epochs.append(state.epoch)).run()
    assert epochs == [1, 2, 3, 4]
    parts = [without_seconds(results)["retrain"] for results in (whole, again)]
    for part in parts:
        del part["lists"]
    assert parts[0] == parts[1]


def test_a_request_in_batches_ends_where_it_ends_at_once_and_says_how_it_went(
    store: LocalStore, tmp_path: Path
) -> None:
    stage = Forget(name="edges", method="edge_deletion", is_compared=True)
    at_once = stage_alone(tiny_job(store.url, tmp_path, forget={"count": 6, "share": None}), stage)
    shutil.rmtree(Path(store.url) / "runs" / "grid-test")
    found = stage_alone(tiny_job(store.url, tmp_path, forget={"count": 6, "share": None, "batches": 3}), stage)
    assert [row["batch"] for row in found["history"]] == [1, 2, 3]
    for name in ("test_recall20", "forget_recall20", "num_forget", "residue"):
        assert found[name] == at_once[name]


# --- side by side -------------------------------------------------------------------------------


@pytest.mark.ray
def test_runs_side_by_side_give_the_figures_of_one_after_the_other_and_only_what_is_new_is_run(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stores = [LocalStore(tmp_path / name / "store") for name in ("one", "two")]
    found = []
    for store, limit in zip(stores, (1, 4), strict=True):
        write_tiny_snapshot(store)
        job = grid_job(store, tmp_path, [EDGES, RESET], max_concurrent_runs=limit)
        found.append(compare(job, show_progress=limit == 4))
    assert figures_of(found[0]) == figures_of(found[1])
    assert list(figures_of(found[0])) == [
        ("Original", 0),
        ("EdgeDeletion", 0),
        ("RowReset", 0),
        ("Retrain", 0),
        ("Retrain", 1),
    ]
    lines = [line for line in capfd.readouterr().err.splitlines() if " run " in line]
    assert [line.split(" run ")[1].split(":")[0] for line in lines] == [f"{number}/6" for number in range(1, 7)]

    store, first = stores[1], found[1]
    assert newest_outcome(store, first["run_id"])["exit_code"] == 0
    band = [run["figures"]["test_recall20"] for run in first["runs"] if run["method"] == "Retrain"]
    reset = {row["method"]: row for row in first["rows"]}["RowReset"]["figures"]
    assert (reset["test_recall20"]["band_low"], reset["test_recall20"]["band_high"]) == (min(band), max(band))
    assert 0 < reset["distance"]["mean"] < 1
    assert "speedup" in reset
    assert "speedup" not in first["rows"][0]["figures"]
    models = [info.key for info in store.list("runs") if "/model-" in info.key and "/train-" not in info.key]
    assert {key.split("/")[2] for key in models} == {"retrain"}  # an audit holds candidates against them

    # A method more: one run; a seed more: that seed's training, Original and rows, its Retrain being there.
    before = results_in(store)
    more = compare(grid_job(store, tmp_path, [EDGES, RESET, ASCENT]), show_progress=False)
    assert len(results_in(store) - before) == 1
    assert figures_of(more, timed=True).items() >= figures_of(first, timed=True).items()
    before = results_in(store)
    seeds = compare(grid_job(store, tmp_path, [EDGES, RESET, ASCENT], seeds=[0, 1]), show_progress=False)
    assert len(results_in(store) - before) == 5
    assert figures_of(seeds, timed=True).items() >= figures_of(more, timed=True).items()
    assert {row["num_seeds"] for row in seeds["rows"]} == {2}
    before = results_in(store)
    again = compare(grid_job(store, tmp_path, [EDGES, RESET, ASCENT], seeds=[0, 1]), show_progress=False)
    assert again | {"result": None} == seeds | {"result": None}
    assert results_in(store) == before


@pytest.mark.ray
def test_a_run_that_fails_leaves_the_others_and_its_error_is_the_outcome(
    ray_session: None, tmp_path: Path, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    backbones = [{"name": "mgcn", "settings": {"embedding_size": 8}}]
    broken = {"name": "lightgcn", "fit": {"learning_rate": 1e200}}
    job = grid_job(store, tmp_path, [OVERFLOW, EDGES], backbones=[*backbones, broken], band=False)
    found = compare(job, show_progress=False)
    assert [row["method"] for row in found["rows"]] == ["Original", "EdgeDeletion", "Retrain"]
    failed = {(run["backbone"], run["forget"], run["method"]): run for run in found["failed"]}
    assert list(failed) == [
        ("lightgcn", "", "Original"),
        ("mgcn", "user 10 %", "Too far"),
        *(("lightgcn", "user 10 %", method) for method in ("Original", "Too far", "EdgeDeletion", "Retrain")),
    ]
    assert {(run["error_kind"], run["exit_code"]) for run in failed.values()} == {("NumericsError", 6)}
    assert "no Original to start from" in failed["lightgcn", "user 10 %", "EdgeDeletion"]["error"]
    outcome = newest_outcome(store, found["run_id"])
    assert (outcome["outcome"], outcome["exit_code"], outcome["error"]) == ("failed", 6, "NumericsError")
    assert outcome["figures"]["rows"] == found["rows"]
    print_comparison(summary_rows(found), found["failed"])
    assert "failed: mgcn, user 10 %, seed 0: Too far: NumericsError: " in capsys.readouterr().out

    hopeless = grid_job(store, tmp_path, [], backbones=[broken])
    with pytest.raises(NumericsError, match="lightgcn, training, seed 0: Original"):
        compare(hopeless, show_progress=False)


def die_once(task_json: str, title: str, board: Any) -> dict[str, str]:
    """A run whose process dies, as out of memory: EdgeDeletion the first time, GradientAscent always."""
    method = getattr(WorkerTask.model_validate_json(task_json).stages[0], "method", "")
    mark = Path(WorkerTask.model_validate_json(task_json).job.storage.url).with_name("died")
    if method == "gradient_ascent" or (method == "edge_deletion" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run_alone(task_json, title, board)


@pytest.mark.ray
def test_a_lost_process_is_started_again_and_given_up_in_the_end(
    ray_session: None, tmp_path: Path, store: LocalStore
) -> None:
    job = grid_job(store, tmp_path, [EDGES, ASCENT], band=False, scaling={"max_failures": 1})
    outputs = [tmp_path / f"table{ending}" for ending in (".json", ".csv", ".parquet")]
    found = compare(job, show_progress=False, function=die_once, outputs=outputs)
    assert [(run["method"], run["error_kind"]) for run in found["failed"]] == [("GradientAscent", "TransientError")]
    error = first_error(found)
    assert error is not None
    assert "its process was lost 2 times, last by WorkerCrashedError" in str(error)
    assert ("EdgeDeletion", 0) in figures_of(found)

    # The files say what the command said.
    assert json.loads(outputs[0].read_text()) == {name: found[name] for name in ("rows", "runs", "failed")}
    table = pyarrow.parquet.read_table(outputs[2])
    assert table.equals(to_table(summary_rows(found)))
    assert table["method"].to_pylist() == ["Original", "EdgeDeletion", "Retrain"]
    options = pyarrow.csv.ConvertOptions(
        column_types=table.schema, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    assert pyarrow.csv.read_csv(outputs[1], convert_options=options).equals(table)
    assert {path.name for path in tmp_path.glob("*table*")} == {path.name for path in outputs}

    mended = compare(job, show_progress=False, outputs=outputs)
    assert mended["failed"] == []
    assert read_json(store, mended["runs"][0]["result"])["num_forget"] == mended["runs"][0]["details"]["num_forget"]
    assert pyarrow.parquet.read_table(outputs[2]).num_rows == 4


@pytest.mark.ray
@pytest.mark.long
def test_several_workers_in_turn_find_the_same_and_go_on_behind_a_failure(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [LocalStore(tmp_path / name / "store") for name in ("one", "two")]
    found = []
    for store, num_workers in zip(stores, (1, 2), strict=True):
        write_tiny_snapshot(store)
        job = grid_job(store, tmp_path, [OVERFLOW, RESET], band=False, scaling={"num_workers": num_workers})
        found.append(compare(job, show_progress=False))
    assert [run["method"] for run in found[1]["failed"]] == ["Too far"]
    assert [(run["method"], run["error_kind"]) for run in found[1]["failed"]] == [("Too far", "NumericsError")]
    alone, shared = (figures_of(figures) for figures in found)
    assert alone.keys() == shared.keys()
    for run, figures in shared.items():
        assert figures == pytest.approx(alone[run], rel=1e-9, abs=1e-12), run

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this was made already")

    monkeypatch.setattr(compare_module, "run_missing", lambda *_, **__: {})
    assert figures_of(compare(grid_job(stores[1], tmp_path, [RESET], band=False), show_progress=False)).items() <= (
        shared.items()
    )
