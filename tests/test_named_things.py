"""A thing that is named must exist: storage, data set and model of every command. Starts no Ray and trains nothing."""

import argparse
import json
import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.ledger_world import KEY
from tests.tiny_snapshot import name_a_data_set, name_a_model, write_tiny_snapshot
from tru_core.errors import DataError
from workflows import cli, ingest
from workflows.running import cluster, runs
from workflows.running.outcomes import recorded
from workflows.storage import StorageConfig
from workflows.storage.existing import open_existing, open_new, require_dataset, require_model
from workflows.storage.local import LocalStore
from workflows.storage.s3 import S3Store

REQUESTS = "request_id,kind,user_id,item_id\nr1,user,user-0003,\n"

# Every command, as it is typed in the folder of the world. {job} is the job file.
OF_A_MODEL = {
    "unlearn": "unlearn {job}",
    "sweep": "sweep {job} --out best.yaml",
    "audit": "audit {job} --version 1",
    "versions": "versions --job {job}",
    "rollback": "rollback 1 --job {job}",
    "delete run": "delete run --now --job {job}",
    "delete purge": "delete purge --job {job}",
    "delete submission-id": "delete submission-id --job {job}",
    "delete submit": "delete submit requests.csv --job {job}",
    "delete list": "delete list --check --job {job}",
    "delete explain": "delete explain r1 --job {job}",
    "delete receipt": "delete receipt r1 --out receipt.json --job {job}",
    "delete due": "delete due --job {job}",
    "delete hold": "delete hold --dataset --reason x --job {job}",
    "delete release": "delete release hold-1 --reason x --job {job}",
    "delete cancel": "delete cancel r1 --reason x --job {job}",
    "delete verify-request": "delete verify-request r1 --job {job}",
    "delete extend": "delete extend r1 --reason x --job {job}",
    "delete reconsent": "delete reconsent requests.csv --job {job}",
    "delete sweep": "delete sweep --queue --job {job}",
}
OF_A_DATASET = OF_A_MODEL | {"train": "train {job}", "compare": "compare {job}"}
OF_A_STORAGE = OF_A_DATASET | {"result": "result run-1 --job {job}"}
MAKING = {"data import", "keys new", "demo"}
NAMING_A_STORAGE = {
    "doctor": "doctor {storage}",
    "result": "result run-1 --storage {storage} --wait 9",
    "data export": "data export tiny --format pyg --storage {storage} --out tiny.safetensors",
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "TRU_IDENTITY_KEY_FILE", "TRU_SIGNING_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster, "connected", lambda scaling: nullcontext())
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class World:
    """A folder with a storage, keys, requests and job files; commands run in it."""

    def __init__(self, folder: Path, template: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        shutil.copytree(template, folder / "store")
        self.store = LocalStore(folder / "store")
        (folder / "keys").mkdir()
        (folder / "keys" / "identity.key").touch(mode=0o600)
        (folder / "keys" / "identity.key").write_text(KEY.secret.hex())
        (folder / "requests.csv").write_text(REQUESTS)
        self.job = self.write_job()

    def write_job(self, **changes: str) -> str:
        values = {"storage": str(self.folder / "store"), "dataset": "tiny", "model": "tiny-mgcn"} | changes
        (self.folder / "job.yaml").write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
        return str(self.folder / "job.yaml")

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): b"" if path.is_dir() or path.is_symlink() else path.read_bytes()
            for path in self.folder.rglob("*")
        }

    def run(self, command: str, **names: str) -> tuple[int, dict[str, Any]]:
        words = [word.format(job=self.folder / "job.yaml", **names) for word in command.split()]
        code = cli.main([*words, "--json"])
        return code, json.loads(self.capsys.readouterr().out)

    def refused(self, command: str, **names: str) -> str:
        """The message of a command that must be refused as missing, and must leave everything as it was."""
        before = self.files()
        code, found = self.run(command, **names)
        assert (code, found["exit_code"]) == (4, 4), found
        assert self.files() == before
        assert len(found["message"]) < 600
        return found["message"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a data set and the name of a model, to be copied."""
    folder = tmp_path_factory.mktemp("template") / "store"
    write_tiny_snapshot(LocalStore(folder), modalities={})
    name_a_model(LocalStore(folder), "tiny-mgcn")
    return folder


@pytest.fixture
def world(tmp_path: Path, template: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, template, capsys)


def leaves(parser: argparse.ArgumentParser, prefix: str = "") -> set[str]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        return {prefix.strip()}
    return {name for group in groups for key, part in group.choices.items() for name in leaves(part, f"{prefix} {key}")}


def test_every_command_of_the_command_line_is_tried_here() -> None:
    tried = OF_A_STORAGE.keys() | NAMING_A_STORAGE.keys() | MAKING | {"verify"}
    assert leaves(cli._parser()) == tried


# --- storage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", OF_A_STORAGE.values(), ids=OF_A_STORAGE)
def test_a_mistyped_storage_is_an_error_of_every_command_that_has_a_job(command: str, world: World) -> None:
    world.write_job(storage="stroe")
    message = world.refused(command)
    assert str(world.folder / "stroe") in message
    assert f"There is {world.folder / 'store'}." in message


@pytest.mark.parametrize("command", NAMING_A_STORAGE.values(), ids=NAMING_A_STORAGE)
def test_a_mistyped_storage_on_the_command_line_is_an_error_at_once(command: str, world: World) -> None:
    assert str(world.folder / "store-2") in world.refused(command, storage="store-2")


def test_a_receipt_is_not_checked_against_a_storage_that_is_not_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.cli.receipts._read_receipt_file", lambda path: b"")
    monkeypatch.setattr("workflows.key_files.read_public_key", lambda path: None)
    monkeypatch.setattr("tru_core.receipts.receipt.verify_receipt", lambda body, **_: None)
    assert "/nothere" in world.refused("verify r.json --public-key k.pub --storage nothere")


def make_file(folder: Path) -> None:
    (folder / "odd").write_text("a file")


def make_dangling_link(folder: Path) -> None:
    (folder / "odd").symlink_to(folder / "unmounted")


def make_loop(folder: Path) -> None:
    (folder / "odd").symlink_to(folder / "odd")


@pytest.mark.parametrize(
    ("make", "storage", "expected"),
    [
        (make_file, "odd", "is no folder"),
        (make_file, "odd/below", "does not exist"),
        (make_dangling_link, "odd", "is a symbolic link to it"),
        (make_dangling_link, "odd", "/unmounted does not exist"),
        (make_loop, "odd", "/odd"),
        (make_loop, "file:///nowhere/at%20all", "/nowhere/at all does not exist"),
        (make_loop, "sub/../no", "counts from the folder in which the command starts"),
    ],
)
def test_what_is_no_folder_is_no_storage(make: Any, storage: str, expected: str, world: World) -> None:
    make(world.folder)
    world.write_job(storage=storage)
    for command in ("delete due --job {job}", "delete reconsent requests.csv --job {job}"):
        assert expected in world.refused(command)


def test_a_timer_that_starts_in_another_folder_is_told_where_it_looked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write_job(storage="store")
    assert world.run("delete due --job {job}")[0] == 0
    (world.folder / "elsewhere").mkdir()
    monkeypatch.chdir(world.folder / "elsewhere")
    message = world.refused("delete run --job {job}")
    assert f"the storage {world.folder / 'elsewhere' / 'store'} does not exist" in message
    assert "counts from the folder in which the command starts" in message


def test_a_storage_that_cannot_be_looked_at_is_not_taken_for_a_missing_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: Any) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    config = StorageConfig(url=str(world.folder / "store"))
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(Exception, match="cannot be looked at: Permission denied") as caught:
        open_existing(config, where="job.yaml, storage")
    assert getattr(caught.value, "exit_code", None) == 4


def test_an_empty_prefix_and_a_missing_bucket_are_no_storage(moto_store: S3Store, moto_config: StorageConfig) -> None:
    with pytest.raises(Exception, match="nothing lies below this prefix") as caught:
        open_existing(moto_config, where="--storage")
    assert moto_store.url in str(caught.value)
    name_a_data_set(moto_store, "tiny")
    name_a_model(moto_store, "tiny-mgcn")
    opened = open_existing(moto_config, where="--storage")
    require_dataset(opened, "tiny", where="job.yaml")
    require_model(opened, "tiny-mgcn", where="job.yaml")
    for require, name, near in ((require_dataset, "tinny", "'tiny'"), (require_model, "tiny-mgnc", "'tiny-mgcn'")):
        with pytest.raises(Exception, match=f"{name}.*{moto_store.url}.*There is {near}"):
            require(opened, name, where="job.yaml")
    lost = moto_config.model_copy(update={"url": "s3://no-such-bucket-here/x"})
    for open_it in (open_existing, open_new):
        with pytest.raises(Exception, match="bucket 'no-such-bucket-here' does not exist") as caught:
            open_it(lost, where="--storage")
        assert getattr(caught.value, "exit_code", None) == 4


def test_names_are_those_directly_below_a_folder(local_store: LocalStore, moto_store: S3Store) -> None:
    for store in (local_store, moto_store):
        assert store.names("") == store.names("a") == []
        for key in ("a/b/1", "a/b/2", "a/c", "ab/d", "e"):
            store.put_if_absent(key, b"x")
        assert store.names("") == ["a", "ab", "e"]
        assert store.names("a") == ["b", "c"]
        assert store.names("a/c") == store.names("a/none") == []


# --- data set and model -------------------------------------------------------------------------


@pytest.mark.parametrize("command", OF_A_DATASET.values(), ids=OF_A_DATASET)
def test_a_mistyped_data_set_is_an_error_of_every_command_that_has_a_job(command: str, world: World) -> None:
    world.write_job(dataset="tinny")
    message = world.refused(command)
    assert f"the data set 'tinny' does not exist in {world.store.url}. There is 'tiny'." in message


@pytest.mark.parametrize("command", OF_A_MODEL.values(), ids=OF_A_MODEL)
def test_a_mistyped_model_is_an_error_of_every_command_but_those_that_train_it(command: str, world: World) -> None:
    world.write_job(model="tiny-mgnc")
    message = world.refused(command)
    assert f"the model 'tiny-mgnc' does not exist in {world.store.url}. There is 'tiny-mgcn'." in message


def test_what_is_there_is_said_where_nothing_has_nearly_the_name(world: World) -> None:
    for number in range(7):
        name_a_data_set(world.store, f"other-{number}")
    world.write_job(dataset="movies")
    message = world.refused("delete list --job {job}")
    assert "It has 'other-0', 'other-1', 'other-2', 'other-3', 'other-4' and 3 more." in message
    world.write_job(model="movies")
    assert "It has 'tiny-mgcn'." in world.refused("versions --job {job}")


def test_an_empty_folder_is_a_storage_without_data_sets(world: World) -> None:
    (world.folder / "stor").mkdir()
    world.write_job(storage=str(world.folder / "stor"))
    message = world.refused("delete due --job {job}")
    assert f"It has no data set. There is {world.store.url}." in message


def test_what_was_begun_and_never_published_does_not_exist(world: World) -> None:
    world.store.put_if_absent("datasets/half/snapshots/s1/vocabulary/users.parquet", b"x")
    world.store.put_if_absent("models/half-mgcn/versions/v1/shared.safetensors", b"x")
    world.write_job(dataset="half")
    assert "An import of it stopped before its end." in world.refused("delete due --job {job}")
    world.write_job(model="half-mgcn")
    assert "A training of it stopped before its end." in world.refused("rollback 1 --job {job}")


def test_a_log_without_its_first_entry_is_damaged_and_not_missing(world: World) -> None:
    name_a_data_set(world.store, "torn")
    body = world.store.read("datasets/torn/log/00000001.json")
    world.store.put_if_absent("datasets/torn/log/00000002.json", body)
    world.store.delete("datasets/torn/log/00000001.json")
    require_dataset(world.store, "torn", where="job.yaml")
    world.write_job(dataset="torn")
    assert world.run("delete sweep --job {job}")[0] == 8


@pytest.mark.parametrize("name", ["Tiny", "tiny ", "tiny/x", "../tiny"])
def test_a_name_that_no_data_set_can_have_is_a_wrong_setting(name: str, world: World) -> None:
    world.write_job(dataset=f"'{name}'")
    assert world.run("delete due --job {job}")[0] == 2


def test_a_model_that_was_never_trained_is_no_empty_ledger(world: World) -> None:
    world.write_job(model="brand-new")
    assert "train it first; only `tru train" in world.refused("delete submit requests.csv --job {job}")


@pytest.mark.parametrize("command", ["delete due", "delete list", "delete submission-id", "versions"])
def test_a_storage_that_is_there_and_has_no_request_yet_is_no_error(
    command: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.deletions.batches.choice.deferred_and_due", lambda *_, **__: 0)
    monkeypatch.setattr("workflows.deletions.batches.choice.read_versions", lambda *_: [])
    monkeypatch.setattr("workflows.models.versions.read_versions", lambda *_: [])
    code, found = world.run(f"{command} --job {{job}}")
    assert (code, found["storage"]) == (0, world.store.url)


# --- who makes a thing says so ------------------------------------------------------------------


def test_an_import_says_that_it_made_a_storage_and_what_is_beside_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ingest, "import_dataset", lambda source, store, name, *_, **__: write_tiny_snapshot(store, dataset=name)
    )
    assert cli.main(["data", "import", "raw", "--to", "stores/datasets/new"]) == 0
    said = world.capsys.readouterr()
    assert f"made a new storage at  {world.folder / 'stores'}\n" in said.out
    assert f"There is {world.store.url} beside it" in said.err
    assert cli.main(["data", "import", "raw", "--to", "store/datasets/new"]) == 0
    said = world.capsys.readouterr()
    assert "new storage" not in said.out + said.err
    assert f"{world.store.url}\n" in said.out
    code, found = world.run("data import raw --to stroe/datasets/new")
    assert (code, found["storage"], found["is_new_storage"]) == (0, str(world.folder / "stroe"), True)


def test_a_training_says_that_its_model_is_new_and_which_nearly_has_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "train", lambda job: {"version": 1})
    assert cli.main(["train", world.write_job(model="tiny-mgnc")]) == 0
    said = world.capsys.readouterr()
    assert ["made", "a", "new", "model", "tiny-mgnc"] in [line.split() for line in said.out.splitlines()]
    assert "model tiny-mgnc is new" in said.err
    assert "tiny-mgcn" in said.err
    assert cli.main(["train", world.write_job()]) == 0
    said = world.capsys.readouterr()
    assert "new" not in said.out + said.err


@pytest.mark.parametrize("command", ["delete submit requests.csv", "delete hold --dataset --reason x", "delete sweep"])
def test_a_command_that_writes_says_where_for_people_and_for_programs(command: str, world: World) -> None:
    assert cli.main([*command.split(), "--job", world.write_job(storage="store")]) == 0
    assert f"storage                {world.store.url}\n" in world.capsys.readouterr().out
    assert world.run(f"{command} --job {{job}}")[1]["storage"] == world.store.url


def test_files_that_were_asked_for_are_said_absolutely(world: World) -> None:
    code, found = world.run("keys new more/keys")
    assert (code, found["files_written"]) == (0, [str(world.folder / "more" / "keys")])
    assert found["public_key"] == str(world.folder / "more" / "keys" / "signing.pub")
    assert cli.main(["keys", "new", "others"]) == 0
    assert f"written                {world.folder / 'others'}\n" in world.capsys.readouterr().out


def test_only_the_submission_id_is_printed_for_a_script(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.deletions.runner.name_submission", lambda job: {"submission_id": "delete-1"})
    assert cli.main(["delete", "submission-id", "--job", world.job]) == 0
    assert world.capsys.readouterr().out == "delete-1\n"


# --- inside a submitted job ---------------------------------------------------------------------

WRITERS = [
    "data import raw --to store/datasets/new",
    "data import raw --to ./store/datasets/new",
    "keys new mykeys",
    "keys new ./a/../mykeys --only-signing",
    "demo",
    "demo --folder world",
    "doctor store",
    "data export tiny --format pyg --storage store --out tiny.safetensors",
    "delete receipt r1 --out receipt.json --job {job}",
    "compare {job} --out table.csv",
    "audit {job} --out report.html",
    "sweep {job}",
    "sweep {job} --out best.yaml",
]


@pytest.mark.parametrize("command", WRITERS)
def test_a_submitted_job_writes_nothing_into_the_folder_that_vanishes(
    command: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    before = world.files()
    code, found = world.run(command)
    assert (code, found["error"]) == (2, "ConfigError")
    assert "copy of the working folder that is deleted" in found["message"]
    assert "absolute path" in found["message"]
    assert world.files() == before


@pytest.mark.parametrize("command", OF_A_STORAGE.values(), ids=OF_A_STORAGE)
def test_a_submitted_job_takes_no_relative_storage(command: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    world.write_job(storage="store")
    assert world.run(command)[0] == 2


def test_absolute_paths_go_on_working_inside_a_submitted_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("HOME", str(world.folder))
    config = world.write_job(keys=f"{{folder: {world.folder / 'keys'}}}")
    assert world.run(f"keys new {world.folder}/mine")[0] == 0
    assert world.run(f"delete due --job {config}")[0] == 0
    world.write_job(storage="~/store", keys="{folder: ~/keys}")
    assert world.run("delete due --job {job}")[0] == 0


def test_an_absolute_path_into_the_copy_vanishes_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = world.folder / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert world.run(f"keys new {copy}/keys")[0] == 2
    assert world.run(f"keys new {world.folder}/mine")[0] == 0


def test_the_recorded_outcome_can_be_asked_for_by_the_command_that_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(tmp_path / "a store; with $odd `name")
    name_a_data_set(store, "tiny")

    def fail() -> dict[str, Any]:
        raise DataError("row 3")

    with pytest.raises(Exception, match="row 3") as caught:
        recorded(store, "run-1", "train", fail)
    printed = caught.value.__notes__[0].partition("`")[2].removesuffix("`.")
    assert cli.main(shlex.split(printed)[1:]) == 3
