"""One path for every method: what ``compare`` runs, ``unlearn``, ``delete run`` and ``sweep`` run too, and name it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError
from ray import tune

from tests.deletion_world import (
    LINES,
    copy_world,
    delete,
    make_job,
    model_tensors,
    must_not_run,
    policy,
    run_here,
)
from tru_core.backbones.base import Backbone
from tru_core.collective import LocalCollective
from tru_core.errors import ConfigError, IntegrityError
from tru_core.fit import TrainingState, parameter_values, set_parameters
from tru_core.interactions import positions_of
from tru_core.problem import Problem
from tru_core.receipts.receipt import verify_receipt
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.methods import METHODS
from tru_core.unlearning.rows import fresh_seed, reset_subject_rows
from tru_core.unlearning.tru.settings import TRUSettings
from workflows.config.job import JobConfig
from workflows.config.parsing import parse
from workflows.config.unlearn import UnlearnConfig
from workflows.data.snapshot import current_snapshot_entry
from workflows.deletions.batches.attempts import Attempt, attempt_names
from workflows.deletions.batches.plan import BatchPlan
from workflows.deletions.receipts.log import read_receipt
from workflows.deletions.runner import run_deletions
from workflows.experiments.compare.grid import compared_stage, list_grid
from workflows.experiments.sweep.trials import list_trials, run_trial, trial_stage
from workflows.key_files import read_public_key
from workflows.models.publish import current_version
from workflows.running import runs
from workflows.running.results import read_result
from workflows.running.worker import TaskRun
from workflows.storage import ObjectStore, open_store, write_json
from workflows.tasks import Stage, WorkerTask

BLOCKS: dict[str, Any] = {"storage": "store", "dataset": "d", "model": "m"}
SHARDED = sorted(name for name, method in METHODS.items() if not method.has_one_model)


class FadeSettings(Settings):
    """Settings of a method of one file: how much of a row fades in an epoch, and how many epochs."""

    rate: float = Field(default=0.5, gt=0, le=1)
    epochs: PositiveInt = 3


def fade(original: Backbone, problem: Problem, settings: FadeSettings, tools: Tools) -> Candidate:
    """Let the rows of users who lose anything fade; rows of deleted subjects become fresh. It can resume."""
    state = TrainingState() if tools.state is None else tools.state
    if state.parameters:
        set_parameters(original, state.parameters)
    touched = torch.from_numpy(problem.forget.users).unique()
    while state.epoch < settings.epochs:
        with torch.no_grad():
            original.get_parameter("user_table")[touched] *= 1.0 - settings.rate
        state.epoch += 1
        state.parameters = parameter_values(original)
        state.history.append({"epoch": state.epoch, "num_faded": len(touched)})
        if tools.on_epoch is not None:
            tools.on_epoch(state)
    reset_subject_rows(original, problem.shard, problem.request, seed=fresh_seed(tools.fit.seed))
    return candidate_of(original, problem, state.history)


FADE = Method(title="Fade", settings_type=FadeSettings, forget=fade)
INTERACTIONS = {"regime": "interaction", "share": 0.05, "seed": 4}


def method_of(**block: Any) -> UnlearnConfig:
    return UnlearnConfig.model_validate(block)


@pytest.fixture
def world(trained_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained world, workers in this process, and one method more."""
    monkeypatch.setitem(METHODS, "fade", FADE)
    monkeypatch.setattr(runs, "run_task", run_here)
    copy_world(trained_world, tmp_path)
    return tmp_path


def fade_job(folder: Path, **changes: Any) -> JobConfig:
    parts = {"unlearn": method_of(method="fade", rate=0.25), "forget": INTERACTIONS, "audit": {}, "compare": {}}
    return make_job(folder, **parts | changes)


def receipt_of(store: ObjectStore, job: JobConfig) -> dict[str, Any]:
    """What the verified receipt of the first request says."""
    body = read_receipt(store, job.model, "r1")
    assert body is not None
    key = read_public_key(Path(job.keys.folder) / "signing.pub")
    return verify_receipt(body, public_keys=[key]).predicate.model_dump()


# --- a method of one file and one line ----------------------------------------------------------


def test_a_new_method_reaches_unlearn_which_names_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, store = fade_job(world), open_store(make_job(world).storage)
    before = model_tensors(store, current_version(store, job.model))
    figures = runs.unlearn(job)
    version = current_version(store, job.model)
    assert (figures["version"], figures["epochs"], version.method, version.parent_version) == (2, 3, "fade", 1)
    kept = read_result(store, f"runs/{version.run_id}/fade/result.json")
    assert kept.model == version.manifest
    after = model_tensors(store, version)
    shard = TaskRun(runs.training_task(job, current_snapshot_entry(store, "tiny")[1]), LocalCollective()).data.shard
    changed = (after["parameters/user_table"] != before["parameters/user_table"]).any(axis=1)
    assert changed.sum() == kept.history[0]["num_faded"] > 0
    assert len(positions_of(shard, shard.user_rows)[0]) == len(changed)
    ratio = after["parameters/user_table"][changed] / before["parameters/user_table"][changed]
    assert ratio == pytest.approx(0.75**3)  # with the settings of the job file
    monkeypatch.setattr(runs, "run_task", must_not_run)
    assert runs.unlearn(job)["version"] == 2


def test_a_new_method_reaches_delete_run_its_attempt_version_and_receipt(world: Path) -> None:
    job = fade_job(world)
    store = open_store(job.storage)
    figures = delete(job, world, *LINES)
    assert (figures["version"], figures["attempt"]) == (2, "unlearn")
    assert current_version(store, job.model).method == "fade"
    said = receipt_of(store, job)
    assert said["method"] == {
        "name": "fade",
        "settings": {"rate": 0.25, "epochs": 3},
        "seeds": {"seed": job.fit.seed},
    }
    assert said["claim"]["word"] == "approximate_unaudited"


def test_a_new_method_that_was_killed_after_an_epoch_goes_on_and_ends_the_same(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, told = fade_job(world), []

    class KilledError(Exception):
        pass

    def told_until(last: int) -> Any:
        def on_progress(stage: str, state: TrainingState, max_epochs: int) -> None:
            told.append((stage, state.epoch, max_epochs))
            if state.epoch == last:
                raise KilledError

        return lambda task, *, show_progress: TaskRun(task, LocalCollective(), on_progress).run()

    store = open_store(job.storage)
    monkeypatch.setattr(runs, "run_task", told_until(2))
    with pytest.raises(KilledError):
        runs.unlearn(job)
    monkeypatch.setattr(runs, "run_task", told_until(0))
    runs.unlearn(job)
    assert told == [("fade", epoch, 3) for epoch in (1, 2, 3)]
    broken = model_tensors(store, current_version(store, job.model))
    for info in store.list("runs"):
        if "/fade/" in info.key:
            store.delete(info.key)
    task = WorkerTask(
        job=job,
        run_id="unbroken",
        snapshot=current_snapshot_entry(store, job.dataset)[1],
        stages=[runs.forget_stage(job.unlearn)],
        forget=job.forget,
        original=runs.read_versions(store, job.model)[0].manifest,
    )
    made = TaskRun(task, LocalCollective()).run()["fade"]
    version = current_version(store, job.model).model_copy(update={"manifest": made.model})
    unbroken = model_tensors(store, version)
    assert {name: value.tobytes() for name, value in broken.items()} == {n: v.tobytes() for n, v in unbroken.items()}


def test_a_new_method_reaches_compare_audit_and_sweep(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = fade_job(world, sweep={"rate": [0.5, "1e-1"]})
    store = open_store(job.storage)
    _, entry = current_snapshot_entry(store, job.dataset)
    assert "Fade" in [run.method for run in list_grid(job, entry).runs]
    assert [candidate.name for candidate in job.audit.candidates] == ["fade"]
    trials = list_trials(job)
    assert [trial.job.unlearn.settings for trial in trials] == [FadeSettings(rate=0.5), FadeSettings(rate=0.1)]
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reports.append)
    task = WorkerTask(
        job=trials[1].job,
        run_id="sweep-fade",
        snapshot=entry,
        stages=[trial_stage(trials[1])],
        forget=job.forget,
        original=current_version(store, job.model).manifest,
    )
    run_trial({"trial": "one"}, {"one": task.model_dump_json()})
    assert [row["epochs"] for row in reports] == [1, 2, 3, 3]
    assert reports[-1]["score"] <= reports[-1]["valid_recall20"]


# --- what can be published ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARDED)
def test_a_method_of_several_models_is_refused_before_anything_starts(
    name: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "run_task", must_not_run)
    job = make_job(world, unlearn=method_of(method=name))
    store = open_store(job.storage)
    before = store.list("")
    for command in (runs.unlearn, run_deletions):
        with pytest.raises(ConfigError, match=f"unlearn.method: {name} adds the scores of several models") as caught:
            command(job)
        assert caught.value.exit_code == 2
        assert "Nothing was started" in str(caught.value)
        assert "row_reset, scale_gun, scif, tru" in str(caught.value)
    assert store.list("") == before


def test_retrain_as_the_jobs_method_is_exact_and_equals_a_model_that_never_saw_the_deleted(world: Path) -> None:
    job = make_job(world, unlearn=method_of(method="retrain"), delete=policy(audit="required", max_share=0.01))
    store = open_store(job.storage)
    figures = delete(job, world, *LINES)
    version = current_version(store, job.model)
    assert (figures["attempt"], figures["audit"], version.method) == ("retrain", "none", "retrain")
    assert receipt_of(store, job)["claim"]["word"] == "exact_retrain"
    runs.train(job.model_copy(update={"model": "fresh"}))
    fresh = model_tensors(store, current_version(store, "fresh"))
    found = model_tensors(store, version)
    assert {name: value.tobytes() for name, value in found.items()} == {n: v.tobytes() for n, v in fresh.items()}
    runs.unlearn(job.model_copy(update={"model": "fresh"}))
    assert current_version(store, "fresh").method == "retrain"


# --- the block of a job file --------------------------------------------------------------------


def refused(**blocks: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(JobConfig, BLOCKS | blocks, where="job.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"method": "scif", "dampin": 1}, "unlearn.dampin: there is no such setting of scif; did you mean 'damping'?"),
        ({"method": "mmrecun", "epochs": 0}, "unlearn.epochs: Input should be greater than 0, found 0"),
        ({"method": "algorithm_one", "reverse_steps": 3}, "unlearn.reverse_steps: there is no such setting"),
        ({"method": "retrain", "epochs": 3}, "unlearn.epochs: there is no such setting of retrain; known: method"),
        ({"method": "tru", "metod": "x"}, "unlearn.metod: there is no such setting; did you mean 'method'?"),
        ({"method": "TRU"}, "unlearn.method: 'TRU' is unknown; choose one of algorithm_one, "),
        ({"method": None}, "unlearn.method: the name of a method is expected, found nothing"),
        ({"method": "row_refit", "learning_rate": "nan"}, "unlearn.learning_rate: Input should be a finite number"),
        ({"settings": {"gate": True}}, "unlearn.settings: there is no such setting"),
    ],
)
def test_settings_that_a_method_has_not_are_refused_with_the_nearest_name(block: dict[str, Any], message: str) -> None:
    assert message in refused(unlearn=block)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_any_method_may_stand_in_a_job_file_and_comes_back_from_its_json(name: str) -> None:
    job = parse(JobConfig, BLOCKS | {"unlearn": {"method": name}}, where="job.yaml")
    assert type(job.unlearn.settings) is METHODS[name].settings_type
    assert JobConfig.model_validate_json(job.model_dump_json()) == job


LITERAL: dict[str, Any] = {"paper_literal": True, "epochs": 5, "reverse_learning_rate": "5e-3", "gate": False}


@pytest.mark.parametrize(
    ("blocks", "place"),
    [
        ({"unlearn": LITERAL}, "unlearn.paper_literal"),
        ({"compare": {"methods": [{"name": "tru", "settings": LITERAL}]}}, "TRU: settings.paper_literal"),
        ({"audit": {"candidates": [{"settings": LITERAL}]}}, "TRU: settings.paper_literal"),
        ({"delete": {"stronger": LITERAL}}, "delete.stronger.paper_literal"),
    ],
)
def test_a_job_that_asks_for_paper_literal_is_told_the_new_lines_and_these_work(
    blocks: dict[str, Any], place: str
) -> None:
    message = refused(**blocks)
    assert place in message
    lines = yaml.safe_load(message.partition("Write instead: ")[2].partition(". Nothing was started")[0])
    if "unlearn" in lines:
        job = parse(JobConfig, BLOCKS | lines, where="job.yaml")
        found = job.unlearn.settings
    else:
        job = parse(JobConfig, BLOCKS | {"compare": {"methods": [lines]}}, where="job.yaml")
        found = job.compare.methods[0].parsed(job.unlearn, seed=0)
    expected = {"epochs": 5, "ascent_learning_rate": 0.005, "gate": False}
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("earlier", [{"epochs": 5}, {"paper_literal": False, "repair_batches": None}, {"patience": 1}])
def test_settings_that_had_no_effect_on_tru_are_still_read_and_change_nothing(earlier: dict[str, Any]) -> None:
    plain = parse(JobConfig, BLOCKS | {"unlearn": {"gate": False}}, where="job.yaml")
    assert parse(JobConfig, BLOCKS | {"unlearn": earlier | {"gate": False}}, where="job.yaml") == plain
    assert "unlearn: epochs: " in refused(unlearn={"epochs": "many"})


def test_runs_of_tru_have_the_names_that_they_always_had() -> None:
    stage = compared_stage("tru", TRUSettings(batch_size=256), where="test")
    assert stage.name == "tru-c9abcf6411ec96d3"  # as the version before Algorithm 1 was a method wrote it


def test_another_method_has_a_stronger_attempt_only_where_the_job_says_what_that_is() -> None:
    plan = BatchPlan.model_construct(method="unlearn")

    def names(**delete_block: Any) -> list[str]:
        blocks = {"unlearn": {"method": "mmrecun"}, "delete": delete_block}
        return list(attempt_names(parse(JobConfig, BLOCKS | blocks, where="job.yaml"), plan))

    assert attempt_names(parse(JobConfig, BLOCKS, where="job.yaml"), plan) == ["unlearn", "stronger", "retrain"]
    assert names() == ["unlearn", "retrain"]
    assert names(stronger={"epochs": 9}) == ["unlearn", "stronger", "retrain"]
    asked = {"unlearn": {"method": "mmrecun"}, "delete": {"on_refused": ["stronger", "stop"]}}
    assert "delete.on_refused: stronger has no settings for mmrecun" in refused(**asked)
    wrong = {"unlearn": {"method": "mmrecun"}, "delete": {"stronger": {"reverse_steps": 64}}}
    assert "delete.stronger: reverse_steps: there is no such setting" in refused(**wrong)


# --- what earlier versions left -----------------------------------------------------------------


def test_attempts_and_results_of_the_version_before_are_read(local_store: ObjectStore) -> None:
    entry = {"key": "runs/a/tru/model/manifest.json", "size_bytes": 3, "sha256": "0" * 64}
    earlier = {"paper_literal": False, "epochs": 3, "seed": 0}
    attempt = {"name": "unlearn", "method": "tru", "settings": earlier, "seed": 0, "run_id": "a", "stage": "tru"}
    assert Attempt.model_validate(attempt | {"manifest": entry, "audit": None}).method == "tru"
    recalls = {"test_recall20": 0.1, "test_ndcg20": 0.1, "valid_recall20": 0.1, "num_forget": 0}
    trained = {"seconds": 1.0, "epochs": 2, "best_epoch": 1, "history": [{"epoch": 1, "loss": 0.5}], "model": entry}
    compared = {"seconds": 1.0, "seconds_before": 0.5, "shifts": None, "cka": {"id-text": 0.5}, "lists": entry}
    shadow = {"seconds": 1.0, "epochs": 3, "valid_recall20": 0.2, "members_sha256": "1" * 64, "look": entry}
    for number, body in enumerate((trained | recalls, compared | recalls, shadow)):
        key = f"runs/{number}/x/result.json"
        write_json(local_store, key, body)
        assert read_result(local_store, key).to_json() == body


@pytest.mark.parametrize("body", [{"epochs": 3}, {"seconds": "long"}, {"seconds": 1.0, "recall": 0.5}])
def test_what_is_no_result_of_a_stage_is_never_taken_for_one(local_store: ObjectStore, body: dict[str, Any]) -> None:
    write_json(local_store, "runs/1/x/result.json", body)
    with pytest.raises(IntegrityError, match=r"runs/1/x/result.json is no result of a stage") as caught:
        read_result(local_store, "runs/1/x/result.json")
    assert caught.value.exit_code == 8


@pytest.mark.parametrize(
    "stage",
    [
        {"kind": "audit", "name": "a"},
        {"kind": "fit", "name": "a", "method": "tru"},
        {"kind": "measure", "name": "a", "settings": {}},
        {"kind": "shadow", "name": "a"},
        {"name": "a"},
    ],
)
def test_a_stage_has_a_known_kind_and_its_own_fields_alone(stage: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Stage).validate_python(stage)
