"""One worker's run of a task, without Ray: nothing is made twice, nothing damaged is used, a break leaves no trace."""

import json
import logging
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.gloo_workers import in_processes
from tests.tiny_jobs import COMPARISON, FIT_EPOCHS, comparison_task, flat, model_entry, tiny_job, without_seconds
from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.artifact import pack_tensors, sha256_hex
from tru_core.collective import Collective, LocalCollective
from tru_core.errors import AuditError, ConfigError, DataError, IntegrityError, TruError
from tru_core.fit import TrainingState
from tru_core.testing.threads import in_threads
from workflows.running import stages
from workflows.running.checkpoints import list_checkpoints, read_newest_checkpoint, write_checkpoint
from workflows.running.results import Results
from workflows.running.stages import OnProgress
from workflows.running.worker import TaskRun, ignore_progress
from workflows.storage import FileEntry, canonical_json, model_log, put_file, read_json, run_prefix, write_json
from workflows.storage.local import LocalStore
from workflows.storage.object_keys import run_about_key
from workflows.storage.state_files import StateManifest, parse_state_manifest, read_state, write_state
from workflows.tasks import RequestRows, WorkerTask

Digests = dict[str, list[str]]
FIRST_STAGE = COMPARISON[:1]


class Broken(Exception):
    """The worker is lost here."""


class Watch:
    """Notes each epoch, and breaks after one of them."""

    def __init__(self, stage: str = "", epoch: int = 0) -> None:
        self.end = (stage, epoch)
        self.epochs: list[tuple[str, int]] = []

    def __call__(self, stage: str, state: TrainingState, max_epochs: int) -> None:
        self.epochs.append((stage, state.epoch))
        if (stage, state.epoch) == self.end:
            raise Broken


def run_alone(task: WorkerTask, on_progress: OnProgress = ignore_progress) -> Results:
    return TaskRun(task, LocalCollective(), on_progress).run()


def break_after(task: WorkerTask, stage: str, epoch: int) -> None:
    with pytest.raises(Broken):
        run_alone(task, Watch(stage, epoch))


def digests(store: LocalStore, results: Results) -> Digests:
    """The digests of every model's files."""
    found = {}
    for stage, result in results.items():
        if result.model is not None:
            manifest = StateManifest.model_validate(read_json(store, model_entry(results, stage).key))
            found[stage] = [entry.sha256 for entry in (manifest.shared, *manifest.rows)]
    return found


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tables this small are slower on several threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the data set and nothing else."""
    folder = tmp_path_factory.mktemp("data") / "store"
    write_tiny_snapshot(LocalStore(folder))
    return folder


@pytest.fixture
def store(data: Path, tmp_path: Path) -> LocalStore:
    """A copy of its own for each test."""
    shutil.copytree(data, tmp_path / "store")
    return LocalStore(tmp_path / "store")


@pytest.fixture
def task(store: LocalStore, tmp_path: Path) -> WorkerTask:
    return comparison_task(store, tiny_job(store.url, tmp_path))


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Digests]:
    """What a run gives that nothing disturbs."""
    folder = tmp_path_factory.mktemp("unbroken")
    shutil.copytree(data, folder / "store")
    store = LocalStore(folder / "store")
    results = run_alone(comparison_task(store, tiny_job(store.url, folder)))
    return results, digests(store, results)


# --- stages -------------------------------------------------------------------------------------


def test_a_stage_that_has_a_result_is_never_run_again(task: WorkerTask, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_alone(task)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this was to be read, not made")

    for name in ("fit", "forget_batches", "evaluate"):
        monkeypatch.setattr(stages, name, refuse)
    assert run_alone(task) == first


def test_the_stages_do_what_their_names_say(task: WorkerTask, unbroken: tuple[Results, Digests]) -> None:
    results, digests_ = unbroken
    assert list(results) == ["original", "edges", "tru", "retrain"]
    assert len({json.dumps(found) for found in digests_.values()}) == 3
    assert {result.num_forget for result in results.values()} == {results["tru"].history[0]["num_rows_visited"]}
    assert results["original"].history[-1]["loss"] < results["original"].history[0]["loss"]
    assert results["edges"].history == []
    assert all(0 <= (result.test_recall20 or 0.0) <= 1 for result in results.values())


def test_a_task_without_a_request_reports_no_forget_figures(task: WorkerTask) -> None:
    found = run_alone(task.model_copy(update={"forget": None, "stages": FIRST_STAGE}))["original"]
    assert found.num_forget == 0
    assert not [name for name in found.to_json() if name.startswith("forget")]


def test_a_request_that_names_nothing_cannot_be_unlearned(task: WorkerTask) -> None:
    with pytest.raises(DataError, match="nothing to forget"):
        run_alone(task.model_copy(update={"forget": None}))


def test_a_stage_whose_source_nobody_made_is_refused(task: WorkerTask) -> None:
    with pytest.raises(ConfigError, match="stage edges starts from original, which no earlier stage has made"):
        run_alone(task.model_copy(update={"stages": COMPARISON[1:2]}))


# --- interruptions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "epoch"), [("original", 1), ("original", FIT_EPOCHS), ("tru", 1), ("tru", 2), ("retrain", 3)]
)
def test_an_interrupted_run_ends_with_the_same_figures_and_the_same_model_bit_for_bit(
    stage: str, epoch: int, task: WorkerTask, store: LocalStore, unbroken: tuple[Results, Digests]
) -> None:
    break_after(task, stage, epoch)
    watch = Watch()
    found = run_alone(task, watch)
    assert (stage, epoch) not in watch.epochs  # it went on, it did not start again
    assert without_seconds(found) == without_seconds(unbroken[0])
    assert digests(store, found) == unbroken[1]


def test_a_run_interrupted_after_every_single_epoch_ends_the_same(
    task: WorkerTask, store: LocalStore, unbroken: tuple[Results, Digests]
) -> None:
    for stage in COMPARISON:
        for epoch in range(1, unbroken[0][stage.name].epochs + 1):
            break_after(task, stage.name, epoch)
    found = run_alone(task)
    assert without_seconds(found) == without_seconds(unbroken[0])
    assert digests(store, found) == unbroken[1]


def interrupted_by_two(collective: Collective, task_json: str, stage: str, epoch: int) -> None:
    try:
        TaskRun(WorkerTask.model_validate_json(task_json), collective, Watch(stage, epoch)).run()
    except Broken:
        return


@pytest.mark.parametrize(("stage", "epoch"), [("original", 2), ("tru", 1)])
def test_what_two_workers_began_one_ends_with_the_same_figures(
    stage: str, epoch: int, task: WorkerTask, unbroken: tuple[Results, Digests]
) -> None:
    in_processes(2, interrupted_by_two, task.model_dump_json(), stage, epoch)
    watch = Watch()
    found = run_alone(task, watch)
    assert watch.epochs[0] == (stage, epoch + 1)
    assert flat(without_seconds(found)) == pytest.approx(flat(without_seconds(unbroken[0])), rel=1e-9, abs=1e-12)


# --- checkpoints --------------------------------------------------------------------------------


def checkpoint_folder(task: WorkerTask, stage: str) -> str:
    return f"{run_prefix(task.run_id)}/{stage}/checkpoints"


def test_at_most_two_checkpoints_are_kept_and_none_after_the_stage(task: WorkerTask, store: LocalStore) -> None:
    seen: list[list[str]] = []

    def look(stage: str, state: TrainingState, max_epochs: int) -> None:
        seen.append(list_checkpoints(store, checkpoint_folder(task, stage)))
        assert f"/epoch-{state.epoch:06d}-" in seen[-1][-1]

    run_alone(task, look)
    assert {len(keys) for keys in seen} == {1, 2}
    assert not [info.key for info in store.list(run_prefix(task.run_id)) if "/checkpoints/" in info.key]


def test_nothing_half_written_is_left_after_the_stage(task: WorkerTask, store: LocalStore) -> None:
    folder = checkpoint_folder(task, "original")
    put_file(store, f"{folder}/epoch-000002-{'0' * 16}/rows-00000.safetensors", b"half of the users' rows")
    run_alone(task.model_copy(update={"stages": FIRST_STAGE}))
    assert store.list(folder) == []


def test_checkpoints_that_a_crash_left_behind_a_whole_stage_are_dropped(task: WorkerTask, store: LocalStore) -> None:
    run_alone(task)
    folder = checkpoint_folder(task, "original")
    put_file(store, f"{folder}/epoch-000004-{'0' * 16}/manifest.json", b"{}")
    run_alone(task)
    assert store.list(folder) == []


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_byte(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-9] ^= 1
    path.write_bytes(body)


DAMAGES: list[Callable[[Path], None]] = [truncate, flip_a_byte, Path.unlink]
FILES = ["manifest.json", "shared.safetensors", "rows-00000.safetensors"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_instead_of_a_damaged_checkpoint_the_one_before_is_used(
    damage: Callable[[Path], None],
    file: str,
    task: WorkerTask,
    store: LocalStore,
    unbroken: tuple[Results, Digests],
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = task.model_copy(update={"stages": FIRST_STAGE})
    break_after(task, "original", 3)
    newest = list_checkpoints(store, checkpoint_folder(task, "original"))[-1]
    damage((Path(store.url) / newest).with_name(file))
    watch = Watch()
    with caplog.at_level(logging.WARNING):
        found = run_alone(task, watch)
    assert watch.epochs[0] == ("original", 3)
    assert without_seconds(found)["original"] == without_seconds(unbroken[0])["original"]
    assert digests(store, found)["original"] == unbroken[1]["original"]
    is_half_written = (file, damage) == ("manifest.json", Path.unlink)
    assert (f"checkpoint {newest} is damaged; the one before is used" in caplog.text) is not is_half_written


def test_damaged_checkpoints_do_not_crowd_out_the_fresh_ones(
    task: WorkerTask, store: LocalStore, unbroken: tuple[Results, Digests], caplog: pytest.LogCaptureFixture
) -> None:
    task = task.model_copy(update={"stages": FIRST_STAGE})
    break_after(task, "original", 3)
    for key in list_checkpoints(store, checkpoint_folder(task, "original")):
        flip_a_byte((Path(store.url) / key).with_name("shared.safetensors"))
    break_after(task, "original", 1)
    assert caplog.text.count("is damaged") == 2
    watch = Watch()
    found = run_alone(task, watch)
    assert watch.epochs[0] == ("original", 2)
    assert digests(store, found)["original"] == unbroken[1]["original"]


def tiny_state() -> TrainingState:
    values = {"weight": torch.arange(3.0), "user_embedding": torch.arange(8.0).reshape(4, 2)}
    moments = {f"exp_avg/{name}": value + 1 for name, value in values.items()} | {"steps": torch.tensor([5, 5])}
    history = [{"epoch": 12.0, "loss": 0.5, "valid_recall20": 0.25}]
    numbers = {"epoch": 12, "optimizer_steps": 5, "best_epoch": 11, "best_score": 0.5, "seconds": 1.5}
    return TrainingState(parameters=values, moments=moments, best=values, history=history, **numbers)


def read_tiny(store: LocalStore) -> TrainingState | None:
    rows = {"user_embedding": np.arange(4)}
    told: list[str] = []
    return read_newest_checkpoint(store, "c", rows=rows, collective=LocalCollective(), on_damaged=told.append)


def as_text(state: TrainingState) -> str:
    return repr({name: sorted(v.items()) if isinstance(v, dict) else v for name, v in sorted(vars(state).items())})


def test_no_flipped_byte_of_a_manifest_makes_another_state(local_store: LocalStore) -> None:
    alone, rows = LocalCollective(), {"user_embedding": np.arange(4)}
    write_checkpoint(local_store, "c", tiny_state(), rows=rows, collective=alone)
    [key] = list_checkpoints(local_store, "c")
    body = local_store.read(key)
    path = Path(local_store.url) / key
    expected = as_text(tiny_state())
    found = read_tiny(local_store)
    assert found is not None
    assert as_text(found) == expected
    saved = {file: file.read_bytes() for file in path.parent.iterdir()}
    for place in range(len(body)):
        for file, content in saved.items():  # a damaged checkpoint may have been dropped
            file.write_bytes(content)
        path.write_bytes(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
        found = read_tiny(local_store)
        assert found is None or as_text(found) == expected, f"byte {place}: {body[place - 20 : place + 20]!r}"


def test_a_checkpoint_that_names_a_tensor_twice_is_not_used(local_store: LocalStore) -> None:
    alone, rows = LocalCollective(), {"user_embedding": np.arange(4)}
    write_checkpoint(local_store, "c", tiny_state(), rows=rows, collective=alone)
    [key] = list_checkpoints(local_store, "c")
    manifest = json.loads(local_store.read(key))
    one = '"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f"{{{one},{one}}}".encode()
    body = struct.pack("<Q", len(header)) + header + bytes(4)
    twice = {"key": manifest["shared"]["key"], "size_bytes": len(body), "sha256": sha256_hex(body)}
    (Path(local_store.url) / manifest["shared"]["key"]).write_bytes(body)
    (Path(local_store.url) / key).write_bytes(canonical_json(manifest | {"shared": twice}, where=key))
    assert read_tiny(local_store) is None


# --- states of several workers ------------------------------------------------------------------


def test_a_state_written_by_two_workers_is_read_by_one_and_by_four(local_store: LocalStore) -> None:
    whole = torch.arange(20.0).reshape(10, 2)

    def own(collective: Collective) -> np.ndarray:
        return np.arange(10)[np.arange(10) * 7 % 5 % collective.world_size == collective.rank]

    def write(collective: Collective) -> FileEntry:
        rows = own(collective)
        tensors = {"parameters/user_embedding": whole[rows], "moments/a/user_embedding": -whole[rows]}
        tensors["parameters/weight"] = torch.ones(3)
        return write_state(
            local_store, "s", tensors, local_rows={"user_embedding": rows}, meta={"n": 1}, collective=collective
        )

    first, second = in_threads(2, write)
    assert first == second
    manifest = parse_state_manifest(local_store.read(first.key), first.key)
    assert manifest.meta == {"n": 1}

    def read(collective: Collective) -> dict[str, torch.Tensor]:
        return read_state(local_store, manifest, local_rows={"user_embedding": own(collective)}, collective=collective)

    for world_size in (1, 4):
        for rank, found in enumerate(in_threads(world_size, read)):
            rows = np.arange(10)[np.arange(10) * 7 % 5 % world_size == rank]
            torch.testing.assert_close(found["parameters/user_embedding"], whole[rows], rtol=0, atol=0)
            torch.testing.assert_close(found["moments/a/user_embedding"], -whole[rows], rtol=0, atol=0)
            torch.testing.assert_close(found["parameters/weight"], torch.ones(3), rtol=0, atol=0)

    lacking = manifest.model_copy(update={"rows": manifest.rows[:1]})
    with pytest.raises(DataError, match=r"s: table user_embedding lacks \d+ of 10 wanted rows"):
        read_state(local_store, lacking, local_rows={"user_embedding": np.arange(10)}, collective=LocalCollective())


# --- models and requests ------------------------------------------------------------------------


def later_stages(store: LocalStore, task: WorkerTask, folder: Path, **changes: Any) -> WorkerTask:
    """A run of its own that starts from the model that ``task`` trained, with another job."""
    original = model_entry(run_alone(task.model_copy(update={"stages": FIRST_STAGE})), "original")
    job = tiny_job(store.url, folder, **changes)
    return comparison_task(store, job, "other", stages=COMPARISON[1:3], original=original)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"backbone": {"settings": {"embedding_size": 16}}}, ["'embedding_size': 8", "'embedding_size': 16"]),
        (
            {"backbone": {"settings": {"embedding_size": 8, "contrastive_weight": 0.5}}},
            ["'contrastive_weight': 0.01", "'contrastive_weight': 0.5"],
        ),
        ({"precision": "float32"}, ["precision 'float64'", "'float32'"]),
        ({"feature_scaling": "raw"}, ["feature_scaling 'standardised'", "'raw'"]),
    ],
)
def test_a_saved_model_of_another_job_is_refused_naming_both(
    changes: dict[str, Any], named: list[str], task: WorkerTask, store: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        run_alone(later_stages(store, task, tmp_path, **changes))
    assert caught.value.exit_code == 3
    assert all(text in str(caught.value) for text in named)


def test_a_saved_model_of_another_data_set_is_refused_naming_both(
    task: WorkerTask, store: LocalStore, tmp_path: Path
) -> None:
    write_tiny_snapshot(store, dataset="other", seed=1)
    with pytest.raises(DataError, match="has dataset 'tiny', the job 'other'"):
        run_alone(later_stages(store, task, tmp_path, dataset="other"))


def test_a_saved_model_of_another_user_count_is_refused_naming_both(
    task: WorkerTask, store: LocalStore, tmp_path: Path
) -> None:
    moved = later_stages(store, task, tmp_path)
    grown = LocalStore(tmp_path / "grown")
    write_tiny_snapshot(grown, num_users=61)
    shutil.copytree(Path(store.url) / "runs", Path(grown.url) / "runs")
    job = tiny_job(grown.url, tmp_path)
    with pytest.raises(DataError, match="has num_users 60, the job 61"):
        run_alone(comparison_task(grown, job, "other", stages=moved.stages, original=moved.original))


def test_a_saved_model_with_a_flipped_byte_is_never_loaded(task: WorkerTask, store: LocalStore, tmp_path: Path) -> None:
    moved = later_stages(store, task, tmp_path)
    if moved.original is None:
        raise AssertionError
    folder = (Path(store.url) / moved.original.key).parent
    for file in FILES:
        flip_a_byte(folder / file)
        with pytest.raises(IntegrityError, match=file) as caught:
            run_alone(moved)
        assert caught.value.exit_code == 8
        flip_a_byte(folder / file)
    run_alone(moved)


def test_parameters_of_another_backbone_are_named(store: LocalStore, task: WorkerTask, tmp_path: Path) -> None:
    moved = later_stages(store, task, tmp_path)
    if moved.original is None:
        raise AssertionError
    manifest = parse_state_manifest(store.read(moved.original.key), moved.original.key)
    shared = put_file(store, "forged/shared.safetensors", pack_tensors({"parameters/a_tower.weight": torch.ones(2)}))
    forged = manifest.model_copy(update={"shared": shared}).model_dump(mode="json")
    with pytest.raises(DataError, match=r"unexpected a_tower\.weight"):
        run_alone(moved.model_copy(update={"original": write_json(store, "forged/manifest.json", forged)}))


def test_a_request_whose_count_the_workers_do_not_find_changes_nothing(task: WorkerTask, store: LocalStore) -> None:
    rows = RequestRows(users=[3, 5], items=[], pairs=[(7, 1)], num_train_pairs=4711)
    request = write_json(store, "request.json", rows.model_dump(mode="json"))
    before = store.list("")
    with pytest.raises(AuditError, match="of the 4711 interactions that the request names") as caught:
        run_alone(task.model_copy(update={"forget": None, "request": request}))
    assert caught.value.exit_code == 6
    about = run_about_key(task.run_id)  # of which data a run is: what a purge goes by
    assert [info for info in store.list("") if info.key != about] == before
    assert not store.list(model_log("tiny-mgcn"))


def test_a_request_that_was_changed_on_the_way_is_not_used(task: WorkerTask, store: LocalStore) -> None:
    rows = RequestRows(users=[3], items=[], pairs=[], num_train_pairs=8)
    request = write_json(store, "request.json", rows.model_dump(mode="json"))
    flip_a_byte(Path(store.url) / "request.json")
    with pytest.raises(TruError) as caught:
        run_alone(task.model_copy(update={"forget": None, "request": request}))
    assert isinstance(caught.value, IntegrityError)


def test_a_planned_request_of_users_items_and_pairs_is_forgotten_whole(task: WorkerTask, store: LocalStore) -> None:
    data = TaskRun(task, LocalCollective()).data.shard.train
    pair = (int(data.users[-1]), int(data.items[-1]))
    named = np.isin(data.users, [3, 5]) | (data.items == 2) | ((data.users == pair[0]) & (data.items == pair[1]))
    rows = RequestRows(users=[3, 5], items=[2], pairs=[pair], num_train_pairs=int(named.sum()))
    request = write_json(store, "request.json", rows.model_dump(mode="json"))
    asked = [COMPARISON[0], COMPARISON[2]]
    found = run_alone(task.model_copy(update={"forget": None, "request": request, "stages": asked}))["tru"]
    assert found.num_forget == int(named.sum())
    assert {row["num_rows_visited"] for row in found.history} == {found.num_forget}
