"""An audit through the workflow: trains what is missing and nothing twice, judges, reports, and guards a gate."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
import yaml

from tests.tiny_jobs import model_entry, tiny_job
from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.artifact import sha256_hex
from tru_core.audits.shadows import draw_members
from tru_core.collective import Collective, LocalCollective
from tru_core.errors import ConfigError, DataError, IntegrityError, MissingObjectError
from tru_core.interactions import make_request
from tru_core.problem import make_problem
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import Part, shards_of, tiny_world
from workflows import cli
from workflows.cli.audit import exit_code
from workflows.config.job import JobConfig
from workflows.data.snapshot import current_snapshot_entry
from workflows.experiments.audit import audit as audit_module
from workflows.experiments.audit.audit import audit, examine_alone, verdict_error
from workflows.experiments.audit.gate import audit_batch
from workflows.experiments.audit.grid import list_audit
from workflows.experiments.audit.output import FORMATS, format_audits, to_table
from workflows.experiments.audit.report import audit_page
from workflows.experiments.audit.scope import scope_of
from workflows.experiments.compare.grid import Grid, list_grid, work_order
from workflows.experiments.compare.grid_runs import RunFunction, run_alone
from workflows.models.publish import publish_version
from workflows.running import shadow_models
from workflows.running.outcomes import newest_outcome
from workflows.running.worker import TaskRun
from workflows.storage import FileEntry, ObjectStore, read_json, write_json
from workflows.storage.local import LocalStore
from workflows.tasks import Forget, RequestRows, Shadow, WorkerTask

CANDIDATES = [{"name": "original"}, {"name": "masked"}, {"name": "row_reset"}, {"name": "retrain", "seed": 9}]
AUDIT = {"candidates": CANDIDATES, "seeds": [3, 4, 5], "shadows": 16, "shadow_fit": {"max_epochs": 3}}
Figures = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tables this small are slower on several threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def job_of(store: ObjectStore, folder: Path, **changes: Any) -> JobConfig:
    """The tiny job, in float32 and trained long enough to remember, with the audit's block changed key by key."""
    fit = {"max_epochs": 10, "patience": 10, "learning_rate": 0.03}
    return tiny_job(store.url, folder, precision="float32", fit=fit, audit=AUDIT | changes)


class Here:
    """Carries out the runs of a grid in this process, in place of Ray, and notes their titles."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def __call__(self, grid: Grid, store: ObjectStore, scaling: Any, *, function: RunFunction, **_: Any) -> Figures:
        for run in work_order(grid):
            if not store.exists(run.key):
                task = run.task
                if run.needs is not None:
                    entry = FileEntry.model_validate(read_json(store, run.needs.key)["model"])
                    task = task.model_copy(update={"original": entry})
                found = function(task.model_dump_json(), run.title, None)
                assert not found, found
                self.titles.append(run.title)
        return {}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    found = Here()
    monkeypatch.setattr(audit_module, "run_missing", found)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, Figures]:
    """A store in which an audit was carried out, and what it gave."""
    folder = tmp_path_factory.mktemp("audit")
    store = LocalStore(folder / "store")
    write_tiny_snapshot(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_module, "run_missing", Here())
        outputs = [folder / f"audit{suffix}" for suffix in FORMATS]
        return store, audit(job_of(store, folder), outputs=outputs) | {"folder": folder}


@pytest.fixture
def store(finished: tuple[LocalStore, Figures], tmp_path: Path) -> LocalStore:
    """A copy of that store."""
    shutil.copytree(finished[0].url, tmp_path / "store")
    return LocalStore(tmp_path / "store")


def audits_of(figures: Figures) -> dict[str, Figures]:
    return {found["candidate"]: found for found in figures["audits"]}


def retrain_entry(store: ObjectStore, job: JobConfig, seed: int) -> FileEntry:
    run = list_audit(job, scope_of(job, store), store).retrains[seed]
    return FileEntry.model_validate(read_json(store, run.key)["model"])


def original_entry(store: ObjectStore, job: JobConfig) -> FileEntry:
    run = list_audit(job, scope_of(job, store), store).original
    assert run is not None
    return FileEntry.model_validate(read_json(store, run.key)["model"])


# --- verdicts -----------------------------------------------------------------------------------


def test_what_forgets_nothing_fails_and_a_retrain_does_not(finished: tuple[LocalStore, Figures]) -> None:
    verdicts = {name: found["verdict"] for name, found in audits_of(finished[1]).items()}
    assert verdicts["Do nothing"] == "failed"
    assert verdicts["Masked outputs"] == "failed"
    assert verdicts["Retrain, seed 9"] != "failed"
    assert all(found["reference"] == "retrain" for found in finished[1]["audits"])
    assert all((found["num_retrains"], found["num_shadows"]) == (3, 16) for found in finished[1]["audits"])


def test_unless_all_pass_the_exit_code_is_6_and_the_outcome_is_kept_so(finished: tuple[LocalStore, Figures]) -> None:
    store, figures = finished
    error = verdict_error(figures)
    assert error is not None
    assert exit_code(figures) == error.exit_code == 6
    assert "Do nothing: failed" in str(error)
    outcome = newest_outcome(store, figures["run_id"])
    assert (outcome["outcome"], outcome["exit_code"]) == ("failed", 6)
    passed = [found | {"verdict": "passed"} for found in figures["audits"]]
    assert exit_code(figures | {"audits": passed}) == 0


def test_every_digest_in_the_report_is_that_of_a_file_in_the_store(finished: tuple[LocalStore, Figures]) -> None:
    store, figures = finished
    for found in figures["audits"]:
        names = set(found["inputs"])
        assert {"original", "candidate", "snapshot", "retrain_seed_3", "shadow_0", "shadow_15"} <= names
        for entry in found["inputs"].values():
            assert sha256_hex(store.read(entry["key"])) == entry["sha256"]
        assert found["audit_seed"] == figures["settings"]["audit"]["seed"]


# --- nothing twice ------------------------------------------------------------------------------


def test_the_same_audit_again_runs_nothing(store: LocalStore, here: Here, tmp_path: Path, finished: Any) -> None:
    again = audit(job_of(store, tmp_path))
    assert here.titles == []
    assert [found["findings"] for found in again["audits"]] == [found["findings"] for found in finished[1]["audits"]]


def test_another_candidate_costs_its_own_run_and_its_examination(store: LocalStore, here: Here, tmp_path: Path) -> None:
    audit(job_of(store, tmp_path, candidates=[*CANDIDATES, {"name": "edge_deletion"}]))
    assert here.titles == ["mgcn, user 10 %, seed 0: EdgeDeletion", "mgcn, user 10 %, seed 0: audit of EdgeDeletion"]


def test_an_audit_takes_original_and_retrains_from_a_comparison(store: LocalStore, tmp_path: Path) -> None:
    job = job_of(store, tmp_path).model_copy(update={})
    grid = list_audit(job, scope_of(job, store), store)
    compared = job.model_copy(update={"compare": job.compare.model_copy(update={"seeds": [0, 3, 4, 5, 9]})})
    runs = list_grid(compared, current_snapshot_entry(store, job.dataset)[1])
    keys = {run.key for run in [*runs.trainings, *runs.runs]}
    assert grid.original is not None
    assert {grid.original.key, *(run.key for run in grid.retrains.values())} <= keys
    assert grid.candidates["Retrain, seed 9"].key in keys
    assert grid.candidates["RowReset"].key not in keys  # a comparison keeps no candidate's model


def test_a_retrain_that_was_measured_before_models_were_kept_is_run_beside(store: LocalStore, tmp_path: Path) -> None:
    job = job_of(store, tmp_path)
    run = list_audit(job, scope_of(job, store), store).retrains[3]
    result = read_json(store, run.key)
    store.delete(run.key)
    write_json(store, run.key, {name: value for name, value in result.items() if name != "model"})
    again = list_audit(job, scope_of(job, store), store).retrains[3]
    assert again.stage.name == "retrain-kept"
    assert again.task.run_id == run.task.run_id


def test_a_killed_audit_trains_only_the_shadow_models_that_are_missing(
    store: LocalStore, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(store, tmp_path)
    group = list_audit(job, scope_of(job, store), store).shadows[1]
    last = store.read(group.key)
    for stage in group.task.stages[2:]:
        store.delete(f"runs/{group.task.run_id}/{stage.name}/result.json")
    trained: list[int] = []
    train = shadow_models.train_shadow

    def counted(asked: Shadow, *rest: Any, **named: Any) -> Any:
        trained.append(asked.number)
        return train(asked, *rest, **named)

    monkeypatch.setattr("workflows.running.stages.train_shadow", counted)
    audit(job)
    assert trained == [6, 7]
    assert here.titles[0] == "mgcn, user 10 %, seed 20261126: shadow models 5 to 8 of 16"
    before, after = (FileEntry.model_validate(json.loads(body)["look"]) for body in (last, store.read(group.key)))
    looks = [
        shadow_models.read_look(store, entry, user_rows=torch.arange(60).numpy(), collective=LocalCollective())
        for entry in (before, after)
    ]
    assert torch.equal(looks[0].vectors[1], looks[1].vectors[1])


def test_shadow_models_of_another_draw_are_not_judged(store: LocalStore, tmp_path: Path) -> None:
    job = job_of(store, tmp_path)
    other = list_audit(job_of(store, tmp_path, seed=7), scope_of(job, store), store).shadows[0]
    mine = list_audit(job, scope_of(job, store), store).shadows[0]
    assert other.task.run_id != mine.task.run_id
    exam = next(info.key for info in store.list("runs") if re.match(r"runs/audit-[0-9a-f]{16}/audit/result", info.key))
    entries = read_json(store, exam)["inputs"]
    swapped = [entries[f"shadow_{number}"] for number in (1, 0)]
    task = WorkerTask(
        job=job,
        run_id="audit-swapped",
        snapshot=current_snapshot_entry(store, job.dataset)[1],
        stages=[],
        forget=job.forget,
    )
    from workflows.experiments.audit.case import ExamineSettings, Kept, make_case

    original = Kept(name="Original", seed=0, model=original_entry(store, job))
    asked = ExamineSettings(original=original, candidate=original, shadows=swapped, seed=job.audit.seed)
    with pytest.raises(IntegrityError, match="shadow model 1 was trained on other subjects"):
        make_case(TaskRun(task, LocalCollective()), asked)


def test_two_workers_name_the_members_of_a_shadow_model_as_one_does() -> None:
    world = tiny_world()
    pairs = world.train[::3]
    request = make_request(users=np.arange(0, 24, 5), pair_users=pairs[:, 0], pair_items=pairs[:, 1])

    def digest(part: Part, collective: Collective) -> str:
        problem = make_problem(part.shard, request, part.item_neighbours, collective)
        return shadow_models.members_digest(problem, draw_members(problem, num_shadows=4, seed=1)[2])

    parts = shards_of(world, 2)
    alone = digest(shards_of(world, 1)[0], LocalCollective())
    assert in_threads(2, lambda collective: digest(parts[collective.rank], collective)) == [alone, alone]


# --- what is asked for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": [{"name": "trru"}]}, "'trru' is unknown; choose one of algorithm_one"),
        ({"candidates": [{"name": "retrain"}]}, "need a seed"),
        ({"candidates": [{"name": "tru", "seed": 3}]}, "need a seed"),
        ({"candidates": [{"name": "masked", "settings": {"a": 1}}]}, "masked has nothing to set"),
        ({"candidates": [{"name": "tru"}, {"name": "tru"}]}, "audit: candidate 'TRU' stands twice"),
        ({"candidates": [{"name": "sisa", "settings": {"num_shard": 2}}]}, "did you mean 'num_shards'"),
        ({"shadows": 15}, "an even number is needed"),
        ({"seeds": [1, 1]}, "audit: seed 1 stands twice"),
        ({"seeds": [1, 2]}, r"audit\.seeds: 2 Retrains give no band; expected at least 3"),
        ({"shadow_fit": {"max_epoch": 2}}, "audit.shadow_fit: max_epoch: .*did you mean 'max_epochs'"),
        ({"shadow_fit": {"seed": 2}}, "a seed of its own"),
        ({"version": 2, "batch": "abc"}, "version or batch, not both"),
        ({"injection": {"num_probes": 0}}, r"audit\.injection\.num_probes"),
    ],
)
def test_an_audit_that_cannot_be_meant_is_refused(changes: Figures, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        job_of(LocalStore(tmp_path / "store"), tmp_path, **changes)


def test_nothing_is_started_for_an_unknown_attack_or_a_reference_as_candidate(
    store: LocalStore, here: Here, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"audit\.attacks: 'residues' is unknown; choose of branch_probe"):
        audit(job_of(store, tmp_path, attacks=["residues"]))
    with pytest.raises(ConfigError, match="seed 4 is a reference's too"):
        audit(job_of(store, tmp_path, candidates=[{"name": "retrain", "seed": 4}]))
    with pytest.raises(ConfigError, match=r"ends with \.json, \.parquet, \.csv, \.html"):
        audit(job_of(store, tmp_path), outputs=[tmp_path / "report.pdf"])
    items = job_of(store, tmp_path, injection={})
    items = items.model_copy(update={"forget": items.forget.model_copy(update={"regime": "item"})})
    with pytest.raises(ConfigError, match="says nothing of deleted items"):
        audit(items)
    assert here.titles == []


def test_only_the_attacks_asked_for_are_run(store: LocalStore, here: Here, tmp_path: Path) -> None:
    found = audit(job_of(store, tmp_path, attacks=["residue"], candidates=[{"name": "row_reset"}]))
    assert {finding["attack"] for finding in found["audits"][0]["findings"]} == {"residue"}


def test_the_command_takes_its_block_from_the_options_and_ends_with_6(
    store: LocalStore, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("workflows.running.cluster.connected", lambda scaling: nullcontext())
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(job_of(store, tmp_path).model_dump(mode="json")))
    assert cli.main(["audit", str(path), "--out", str(tmp_path / "page.html")]) == 6
    assert "Do nothing: failed" in capsys.readouterr().out
    assert (tmp_path / "page.html").stat().st_size > 0
    assert cli.main(["audit", str(path), "--version", "7", "--json"]) == 4
    assert "the model 'tiny-mgcn' does not exist" in json.loads(capsys.readouterr().out)["message"]
    with pytest.raises(SystemExit):
        cli.main(["audit", str(path), "--version", "7", "--batch", "b"])


# --- published versions -------------------------------------------------------------------------


def published(store: LocalStore, job: JobConfig, manifest: FileEntry, parent: int | None, digest: str) -> None:
    snapshot, _ = current_snapshot_entry(store, job.dataset)
    publish_version(
        store,
        job.model,
        manifest=manifest,
        parent_version=parent,
        method="fit" if parent is None else "tru",
        dataset=job.dataset,
        snapshot_id=snapshot.snapshot_id,
        run_id=digest,
        job_digest=digest,
    )


def test_a_published_version_is_held_against_the_one_it_was_made_from(
    store: LocalStore, here: Here, tmp_path: Path
) -> None:
    job = job_of(store, tmp_path, version=2)
    plain = job_of(store, tmp_path)
    published(store, plain, original_entry(store, plain), None, "first")
    published(store, plain, retrain_entry(store, plain, 5), 1, "second")
    found = audit(job)
    assert here.titles == ["mgcn, user 10 %, seed 0: audit of version 2 (tru)"]
    [examined] = found["audits"]
    assert examined["candidate"] == "version 2 (tru)"
    assert examined["inputs"]["original"]["sha256"] == original_entry(store, plain).sha256
    with pytest.raises(ConfigError, match="was trained from scratch"):
        audit(job_of(store, tmp_path, version=1))
    with pytest.raises(MissingObjectError, match="has 2 versions, no version 3"):
        audit(job_of(store, tmp_path, version=3))


def request_rows() -> RequestRows:
    """Six users; each has eight training pairs."""
    return RequestRows(users=list(range(0, 60, 10)), items=[], pairs=[], num_train_pairs=48)


def test_a_batch_is_audited_with_its_own_requests(store: LocalStore, here: Here, tmp_path: Path) -> None:
    job = job_of(store, tmp_path, batch="b" * 32, shadows=0)
    plain = job_of(store, tmp_path)
    published(store, plain, original_entry(store, plain), None, "first")
    with pytest.raises(MissingObjectError, match="no batch bbbb"):
        audit(job)
    plan = {
        "snapshot": current_snapshot_entry(store, job.dataset)[1].model_dump(mode="json"),
        "original": original_entry(store, plain).model_dump(mode="json"),
        "rows": request_rows().model_dump(mode="json"),
    }
    write_json(store, f"deletions/{job.model}/{'b' * 32}/plan.json", plan)
    write_json(store, f"deletions/{job.model}/{'b' * 32}/request.json", plan["rows"])
    with pytest.raises(ConfigError, match="has published no version"):
        audit(job)
    published(store, plain, retrain_entry(store, plain, 5), 1, "b" * 32)
    found = audit(job)
    retrained = [title for title in here.titles if title.endswith("Retrain")]
    assert retrained == [f"mgcn, batch bbbbbbbb, seed {seed}: Retrain" for seed in (3, 4, 5)]
    assert found["audits"][0]["num_forget"] == 48
    assert found["audits"][0]["inputs"]["request"]["key"].endswith("/request.json")


# --- the gate -----------------------------------------------------------------------------------


def gate(store: LocalStore, job: JobConfig, original: FileEntry, candidate: FileEntry) -> Figures:
    request = write_json(store, "requests/gate.json", request_rows().model_dump(mode="json"))
    return audit_batch(
        store,
        job,
        original=original,
        candidate=candidate,
        snapshot=current_snapshot_entry(store, job.dataset)[1],
        request=request,
        show_progress=False,
    )


def test_the_gate_refuses_the_original_itself_and_says_that_its_reference_is_the_weaker_one(
    store: LocalStore, tmp_path: Path
) -> None:
    job = job_of(store, tmp_path)
    found = gate(store, job, original_entry(store, job), original_entry(store, job))
    assert (found["verdict"], found["reference"]) == ("failed", "never_seen")
    failed = {finding["attack"] for finding in found["findings"] if finding["verdict"] == "failed"}
    assert "optimizer_state" in failed
    assert all(not isinstance(value, dict | list) for finding in found["findings"] for value in finding.values())
    assert found["version"] >= 1
    assert json.dumps(found, allow_nan=False)


def test_the_gate_finds_no_trained_row_of_a_deleted_user_in_a_model_that_never_had_one(
    store: LocalStore, tmp_path: Path
) -> None:
    job = job_of(store, tmp_path)
    train = TaskRun(
        WorkerTask(
            job=job,
            run_id="retrained",
            snapshot=current_snapshot_entry(store, job.dataset)[1],
            stages=[Forget(name="retrain", method="retrain", source=None)],
            request=write_json(store, "requests/gate.json", request_rows().model_dump(mode="json")),
        ),
        LocalCollective(),
    ).run()
    found = gate(store, job, original_entry(store, job), model_entry(train, "retrain"))
    assert found["verdict"] != "failed", found["reason"]
    [rows] = [finding for finding in found["findings"] if finding["attack"] == "optimizer_state"]
    assert (rows["verdict"], rows["value"]) == ("passed", 0)


def test_the_gate_refuses_a_model_of_other_settings(store: LocalStore, tmp_path: Path) -> None:
    job = job_of(store, tmp_path)
    other = tiny_job(store.url, tmp_path, backbone={"settings": {"embedding_size": 4}}, precision="float32")
    with pytest.raises(DataError, match="the saved model has backbone"):
        gate(store, other, original_entry(store, job), original_entry(store, job))


# --- injection in the worker --------------------------------------------------------------------

INJECTION = {"num_probes": 5, "users_per_pair": 3, "pairs_per_user": 2}


def test_the_injection_audit_trains_on_planted_data_that_the_data_set_never_holds(
    store: LocalStore, here: Here, tmp_path: Path
) -> None:
    job = job_of(store, tmp_path, injection=INJECTION, attacks=["forget_ranks"], candidates=CANDIDATES[2:])
    before = {info.key for info in store.list("datasets")}
    found = audit(job)
    planted = [title for title in here.titles if "planted" in title]
    assert planted == ["mgcn, training, seed 0: Original on planted data", "mgcn, planted data, seed 0: RowReset"]
    assert {info.key for info in store.list("datasets")} == before
    for examined in found["audits"]:
        [finding] = [finding for finding in examined["findings"] if finding["attack"] == "injection"]
        assert finding["num_cases"] == 5
        assert {"detail_power", "detail_hits", "detail_alarm_threshold"} <= set(finding)
        assert finding["num_references"] == 4  # the Original and three Retrains of the real data


def test_a_model_of_planted_data_is_never_taken_for_one_of_the_real_data(
    store: LocalStore, here: Here, tmp_path: Path
) -> None:
    job = job_of(store, tmp_path, injection=INJECTION, attacks=["forget_ranks"], candidates=[{"name": "row_reset"}])
    audit(job)
    run = list_audit(job, scope_of(job, store), store).planted
    assert run is not None
    entry = FileEntry.model_validate(read_json(store, run.key)["model"])
    real = TaskRun(run.task.model_copy(update={"planting": None}), LocalCollective())
    with pytest.raises(DataError, match="num_users"):
        real.load_model(entry)
    planted = TaskRun(run.task, LocalCollective())
    assert planted.load_model(entry).get_parameter("user_table").shape[0] == 60 + 9


# --- what a reader sees -------------------------------------------------------------------------


def test_the_page_stands_alone_and_says_what_is_not_shown(finished: tuple[LocalStore, Figures]) -> None:
    page = (finished[1]["folder"] / "audit.html").read_text()
    assert page == audit_page(finished[1])
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", page)
    assert "What this does not show" in page
    for found in finished[1]["audits"]:
        assert found["candidate"] in page
        assert found["reason"].replace("'", "&#x27;") in page
    assert page.count("<svg") == page.count("</svg>") > 20


def test_a_label_in_the_job_file_cannot_write_into_the_page(finished: tuple[LocalStore, Figures]) -> None:
    bad = "<script>alert(1)</script>"
    page = audit_page(finished[1] | {"audits": [finished[1]["audits"][0] | {"candidate": bad}]})
    assert "<script" not in page


def test_the_files_hold_every_finding(finished: tuple[LocalStore, Figures]) -> None:
    folder, figures = finished[1]["folder"], finished[1]
    num_findings = sum(len(found["findings"]) for found in figures["audits"])
    assert pyarrow.parquet.read_table(folder / "audit.parquet").num_rows == num_findings
    assert pyarrow.csv.read_csv(folder / "audit.csv").num_rows == num_findings
    assert to_table(figures).num_rows == num_findings
    kept = json.loads((folder / "audit.json").read_text())
    assert [found["findings"] for found in kept["audits"]] == [found["findings"] for found in figures["audits"]]


def test_the_table_fits_a_terminal_and_has_a_block_for_each_candidate(finished: tuple[LocalStore, Figures]) -> None:
    text = format_audits(finished[1])
    assert all(len(line) <= 120 for line in text.splitlines())
    for found in finished[1]["audits"]:
        assert f"{found['candidate']}: {found['verdict']}" in text


def test_no_row_or_id_of_a_person_is_in_the_report(finished: tuple[LocalStore, Figures]) -> None:
    text = (finished[1]["folder"] / "audit.json").read_text()
    assert not re.search(r"user-\d|item-\d", text)


# --- Ray ----------------------------------------------------------------------------------------


@pytest.mark.ray
def test_shadow_models_and_examinations_are_ray_tasks_with_the_same_figures(
    ray_session: None, store: LocalStore, tmp_path: Path, finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shadows = [info.key for info in store.list("runs") if re.match(r"runs/shadow-\w+/shadow-001[2-5]", info.key)]
    exams = [info.key for info in store.list("runs") if re.match(r"runs/audit-[0-9a-f]{16}/", info.key)]
    assert shadows
    assert exams
    for key in shadows + exams:
        store.delete(key)
    job = job_of(store, tmp_path, candidates=CANDIDATES[1:3])
    found = audit(job, train=run_alone, examine=examine_alone)
    said = capsys.readouterr().err
    assert "shadow models 13 to 16 of 16" in said
    assert "audit of RowReset" in said
    for again, before in zip(found["audits"], finished[1]["audits"][1:3], strict=True):
        assert again["findings"] == before["findings"]
