"""A sweep tries every setting, survives failed trials, leaves numbers only, and writes a job file that can be run."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import tune

from tests.tiny_model import JOB, make_job, publish_original
from tru_core.errors import ConfigError, ConflictError, NumericsError
from tru_core.problem import candidate_score
from tru_core.unlearning.tru.settings import TRUSettings
from tru_core.unlearning.tru.stop_rule import Statistics
from workflows.cli.tables import print_sweep
from workflows.config.job import load_job
from workflows.data.snapshot import current_snapshot_entry
from workflows.experiments.sweep.job_file import job_text, write_job_file
from workflows.experiments.sweep.sweep import best_of, sweep
from workflows.experiments.sweep.trials import list_trials, run_trial, trial_stage
from workflows.models.publish import current_version, read_versions
from workflows.running.outcomes import newest_outcome
from workflows.storage import read_json, run_prefix
from workflows.tasks import WorkerTask, with_absolute_storage

GRID = {
    "gate_weight": [0.0, 1e-4],
    "branch_scaling": [True],
    "module_share": [0.7],
    "reverse_learning_rate": [1e-3, 5e-2],
}
# Where every setting of the grid counts, and a trial takes all its epochs.
LITERAL = {"method": "algorithm_one", "epochs": 2, "batch_size": 128}
LITERAL_GRID = {name: values for name, values in GRID.items() if name != "reverse_learning_rate"} | {
    "ascent_learning_rate": GRID["reverse_learning_rate"]
}


def kill_the_ungated_trials(config: dict[str, Any], tasks: dict[str, str]) -> None:
    """A trial whose process dies, as out of memory, whenever its gate is off."""
    if not WorkerTask.model_validate_json(tasks[config["trial"]]).job.unlearn.setting("gate", None):
        os.kill(os.getpid(), signal.SIGKILL)
    run_trial(config, tasks)


def test_every_combination_is_one_trial_and_no_weight_means_no_gate(tmp_path: Path) -> None:
    lists = {"gate_weight": [0, 1e-3, 0], "branch_scaling": [True, False], "module_share": [0.5]}
    lists |= {"reverse_learning_rate": [0.05], "shared_learning_rate": [1e-3]}
    trials = list_trials(make_job(tmp_path, sweep=lists, unlearn=JOB["unlearn"] | {"repair": True}))
    assert [(trial.settings["gate_weight"], trial.settings["branch_scaling"]) for trial in trials] == [
        (0.0, True),
        (0.0, False),
        (1e-3, True),
        (1e-3, False),
    ]
    assert [trial.job.unlearn.setting("gate", None) for trial in trials] == [False, False, True, True]
    assert len({trial.name for trial in trials}) == len(trials)
    assert trials[2].job.unlearn.settings == TRUSettings(
        **JOB["unlearn"],
        repair=True,
        gate_weight=1e-3,
        branch_scaling=True,
        module_share=0.5,
        reverse_learning_rate=0.05,
        shared_learning_rate=1e-3,
    )


def test_a_setting_without_effect_beside_the_others_is_not_tried_twice(tmp_path: Path) -> None:
    lists = {"gate_weight": [1e-4, 0.0], "module_share": [0.5], "reverse_learning_rate": [0.05]}
    lists |= {"shared_learning_rate": [0.0, 1e-3]}
    trials = list_trials(make_job(tmp_path, sweep=lists))
    tried = [(trial.settings["gate_weight"], trial.settings["shared_learning_rate"]) for trial in trials]
    assert tried == [(1e-4, 0.0), (1e-4, 1e-3), (0.0, 1e-3)]
    scaled = lists | {"branch_scaling": [True, False], "gate_weight": [0.0]}
    for repair, number in ((False, 2), (True, 4)):
        assert len(list_trials(make_job(tmp_path, sweep=scaled, unlearn={"repair": repair}))) == number
    names = {"reverse_learning_rate": "ascent_learning_rate", "shared_learning_rate": "energy_batches"}
    literal_lists = {names.get(name, name): [1] if name == "shared_learning_rate" else v for name, v in lists.items()}
    literal = list_trials(make_job(tmp_path, sweep=literal_lists, unlearn={"method": "algorithm_one"}))
    assert [trial.settings["gate_weight"] for trial in literal] == [1e-4, 0.0]


def test_the_job_file_of_any_trial_means_the_same_when_it_is_read_back(tmp_path: Path) -> None:
    s3 = {"url": "s3://bucket/a-prefix", "endpoint_url": "https://s3.example.org", "timeout_seconds": 7}
    odd = {"unlearn": {"excluded_modules": ["user_id"], "tolerance": 1e-7}, "dataset": "1e5", "model": "null"}
    for number, storage in enumerate(("store", str(tmp_path), s3)):
        lists = {"reverse_learning_rate": [1e-20, 3.0]}
        for trial in list_trials(make_job(storage, sweep=lists, **odd)):
            path = tmp_path / f"{number}-{trial.name}.yaml"
            write_job_file(path, job_text(trial.job, comment="a comment: {with} # marks"))
            assert load_job(path) == trial.job


def test_the_best_has_the_highest_score_then_the_better_validation_recall_and_has_not_failed() -> None:
    def row(valid: float, forget: float, error: str | None = None) -> dict[str, Any]:
        score = candidate_score(valid, forget)
        return {"score": score, "valid_recall20": valid, "forget_recall20": forget, "error": error}

    remembers, forgot_too_much, level = row(0.9, 0.99), row(0.9, 0.1), row(0.7, 0.7)
    assert best_of([remembers, forgot_too_much, level, row(0.99, 0.99, error="lost")]) == remembers
    assert best_of([forgot_too_much, level]) == level
    # Below the level of validation the score is the forget recall itself: 0.6, but for rounding.
    assert best_of([row(0.81, 0.6), row(0.93, 0.6), row(0.87, 0.6)])["valid_recall20"] == 0.93


def test_a_job_file_is_not_replaced_and_no_half_of_it_is_left(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    write_job_file(path, "a: 1\n")
    write_job_file(path, "a: 1\n")
    with pytest.raises(ConflictError, match="other content"):
        write_job_file(path, "a: 2\n")
    assert path.read_text() == "a: 1\n"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_job_file(tmp_path / "no-such-folder" / "best.yaml", "a: 1\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.yaml"]


@pytest.mark.parametrize("is_literal", [True, False], ids=["Algorithm 1", "the sequence"])
def test_a_trial_tells_every_epoch_or_round_and_ends_with_the_recalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_literal: bool
) -> None:
    unlearn = LITERAL if is_literal else JOB["unlearn"] | {"max_quality_loss": 1.0}
    grid = LITERAL_GRID if is_literal else GRID | {"shared_learning_rate": [1e-3]}
    lists = {name: values[:1] for name, values in grid.items()}
    job = make_job(tmp_path / "store", sweep=lists, unlearn=unlearn)
    store = publish_original(job)
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reports.append)
    monkeypatch.setattr(Statistics, "unsettled", lambda *_, **__: frozenset({"forget", "residue"}))
    (trial,) = list_trials(job)
    task = WorkerTask(
        job=trial.job,
        run_id="sweep-tiny",
        snapshot=current_snapshot_entry(store, job.dataset)[1],
        stages=[trial_stage(trial)],
        forget=job.forget,
        original=current_version(store, job.model).manifest,
    )
    run_trial({"trial": trial.name}, {trial.name: task.model_dump_json()})
    *rounds, last = reports
    assert [row["epochs"] for row in rounds] == [1, 2]
    assert all(("valid_recall20" if is_literal else "residue_auc") in row for row in rounds)
    assert last["score"] == candidate_score(last["valid_recall20"], last["forget_recall20"])


@pytest.mark.ray
def test_a_sweep_judges_by_validation_and_forget_pairs_and_is_done_once(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path / "store", sweep=LITERAL_GRID, unlearn=LITERAL)
    store = publish_original(job)
    best_path = tmp_path / "best.yaml"
    figures = sweep(job, best_job_path=best_path)

    rows = figures["trials"]
    assert [(row["gate_weight"], row["ascent_learning_rate"]) for row in rows] == [
        (0.0, 1e-3),
        (0.0, 5e-2),
        (1e-4, 1e-3),
        (1e-4, 5e-2),
    ]
    for row in rows:
        assert row["error"] is None
        assert row["score"] == candidate_score(row["valid_recall20"], row["forget_recall20"])
        assert row["epochs"] == 2
    assert rows[0]["valid_recall20"] != rows[1]["valid_recall20"]
    assert figures["best"] == best_of(rows)
    assert not any("test" in name or "retrain" in name for row in rows for name in row)

    best = load_job(best_path)
    assert best.unlearn.setting("ascent_learning_rate", None) == figures["best"]["ascent_learning_rate"]
    assert best.unlearn.setting("gate", None) == (figures["best"]["gate_weight"] > 0)
    assert best.model_copy(update={"unlearn": job.unlearn}) == job

    printed = capfd.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if " trial " in line]
    assert [line.split(" trial ")[1].split(":")[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("validation recall@20 0." in line for line in lines)

    # Numbers are kept; nothing that could hold a person's rows is, and nothing was published.
    run = run_prefix(figures["run_id"])
    assert {info.key.removeprefix(f"{run}/") for info in store.list(run)} == {
        "about.json",
        "trials.json",
        "attempts/00000001/result.json",
        *(f"{row['trial']}/result.json" for row in rows),
    }
    assert not (tmp_path / "store" / run / "tune").exists()
    assert read_json(store, figures["trials_file"])["trials"] == rows
    assert newest_outcome(store, figures["run_id"])["exit_code"] == 0
    assert len(read_versions(store, job.model)) == 1

    # Again, from the file it wrote: the same run, the same numbers (seconds too: no trial ran twice).
    again = sweep(best, best_job_path=best_path)
    assert again | {"result": None} == figures | {"result": None}

    best_path.write_text("mine: 1\n")
    with pytest.raises(ConflictError):
        sweep(job, best_job_path=best_path)
    assert best_path.read_text() == "mine: 1\n"
    assert newest_outcome(store, figures["run_id"])["exit_code"] == 5

    print_sweep(figures)
    assert str(figures["best_job"]) in capfd.readouterr().out


@pytest.mark.ray
def test_a_failed_trial_is_listed_and_all_failed_is_an_error(ray_session: None, tmp_path: Path) -> None:
    # A step of 1e30 makes the model's loss overflow; the ungated trials' processes die.
    scaling = {"max_failures": 0}
    lists = LITERAL_GRID | {"ascent_learning_rate": [1e-3, 1e30]}
    job = make_job(tmp_path / "store", sweep=lists, unlearn=LITERAL, scaling=scaling)
    store = publish_original(job)
    figures = sweep(job, best_job_path=tmp_path / "best.yaml", show_progress=False, function=kill_the_ungated_trials)
    assert [row["error_kind"] for row in figures["trials"]] == [
        "TransientError",
        "TransientError",
        None,
        "NumericsError",
    ]
    assert "it was lost (ActorDiedError)" in figures["trials"][0]["error"]
    assert re.search(r"(norm|loss) is (nan|inf)", figures["trials"][3]["error"])
    assert figures["best"] == figures["trials"][2]
    assert figures["num_failed"] == 3
    assert read_json(store, figures["trials_file"])["num_failed"] == 3
    print_sweep(figures)

    # The lost ones are tried again, the finished one is not.
    mended = sweep(job, best_job_path=tmp_path / "best-2.yaml", show_progress=False)
    assert [row["error_kind"] for row in mended["trials"]] == [None, "NumericsError", None, "NumericsError"]
    assert mended["trials"][2] == figures["trials"][2]

    lists = LITERAL_GRID | {"ascent_learning_rate": [1e30]}
    hopeless = make_job(tmp_path / "store", sweep=lists, unlearn=LITERAL, scaling=scaling)
    with pytest.raises(NumericsError, match="all 2 trials failed"):
        sweep(hopeless, best_job_path=tmp_path / "best-3.yaml", show_progress=False)
    assert not (tmp_path / "best-3.yaml").exists()


def test_no_number_and_no_path_is_cut_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    row = {"trial": "one", "gate_weight": 1e-4, "branch_scaling": False, "module_share": 0.75}
    row |= {"reverse_learning_rate": 0.00125, "shared_learning_rate": 1e-5, "seconds": 12345.678}
    row |= {"valid_recall20": 0.01234, "forget_recall20": 0.02345, "score": -0.03456}
    lost = {"trial": "two", "valid_recall20": None, "forget_recall20": None, "score": None}
    trials = [row | {"error": None}, row | lost | {"error_kind": "NumericsError", "error": "the loss is nan " * 9}]
    best_job = "/" + "folder/" * 20 + "best.yaml"
    figures = {"method": "tru", "swept": [*GRID, "shared_learning_rate"]}
    print_sweep(figures | {"trials": trials, "best": trials[0], "best_job": best_job})
    printed = capsys.readouterr().out
    settings = "0.0001 off 0.75 0.00125 1e-05"
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert f"best {settings} 0.0123 0.0234 -0.0346 12345.7" in lines
    assert f"failed (1) {settings} - - - 12345.7" in lines
    assert f"(1) NumericsError: {trials[1]['error'].strip()}" in lines
    assert f"The best setting as a job file: {best_job}" in lines


def test_a_grid_that_is_too_large_is_refused_before_anything_starts(tmp_path: Path) -> None:
    lists = LITERAL_GRID | {"module_share": [0.1, 0.2, 0.3], "max_trials": 11}
    job = make_job(tmp_path / "store", sweep=lists, unlearn=LITERAL)
    store = publish_original(job)
    with pytest.raises(ConfigError, match=r"combine to 12 trials .*max_trials allows 11"):
        sweep(job, best_job_path=tmp_path / "best.yaml")
    run_ids = {info.key.split("/")[1] for info in store.list("runs") if "/sweep-" in info.key}
    assert newest_outcome(store, run_ids.pop())["exit_code"] == 2


def test_workers_are_given_the_folder_that_the_job_file_means_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_absolute_storage(make_job("store")).storage.url == str(tmp_path.resolve() / "store")
    bucket = make_job({"url": "s3://bucket/store", "region": "eu-west-1"})
    assert with_absolute_storage(bucket) == bucket


def test_the_written_job_file_is_plain_yaml(tmp_path: Path) -> None:
    text = job_text(make_job(tmp_path), comment="c")
    assert yaml.safe_load(text)["unlearn"]["gate"] is True
