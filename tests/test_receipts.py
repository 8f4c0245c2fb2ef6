"""Receipts in storage: one for each batch whatever happens, and verified against the files that they name."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.receipt_samples import IDENTITY, SIGNING, nonces, requests, signed_receipts, statement, statement_values
from tests.tiny_snapshot import item_id, user_id, write_tiny_snapshot
from tru_core.collective import LocalCollective
from tru_core.errors import IntegrityError
from tru_core.identity import IdentityKey, IdentityKind
from tru_core.receipts.receipt import NO_CHAIN, NO_FILES, NO_SUBJECT
from tru_core.receipts.statement import BatchStatement, ReceiptRequest
from workflows.cli import main
from workflows.data.deletion import write_snapshot_without
from workflows.data.snapshot import current_snapshot_entry, read_interactions
from workflows.deletions.receipts import log as receipt_log
from workflows.deletions.receipts.log import issue_receipts, read_issued, read_receipt
from workflows.key_files import KeysConfig, load_identity_key, load_signing_key, make_keys
from workflows.models.model_record import code_state, data_state, model_state
from workflows.models.publish import publish_version
from workflows.storage import FileEntry, ObjectStore
from workflows.storage.local import LocalStore
from workflows.storage.state_files import write_state
from workflows.tasks import RequestRows

GONE_USER, GONE_ITEM = 7, 11


def issue(store: ObjectStore, batch: BatchStatement | None = None, sent: Sequence[ReceiptRequest] = ()) -> Any:
    return issue_receipts(store, batch or statement(), sent or requests(), signing=SIGNING, identity=IDENTITY)


# --- one receipt for each batch -----------------------------------------------------------------


def test_the_same_batch_again_has_the_receipt_that_is_there(store: ObjectStore) -> None:
    first = issue(store)
    later = statement(times=statement_values()["times"] | {"issued_at": "2026-11-27T00:00:00+00:00"})
    assert issue(store, later) == first
    assert len(read_issued(store, "shop")) == 1
    assert len(store.list("receipts/shop/batches")) == 1


def test_batches_are_chained_in_the_order_in_which_they_were_signed(store: ObjectStore) -> None:
    for number in range(1, 4):
        assert issue(store, statement(batch_id=f"batch-{number}")).number == number
    assert [link.batch_id for link in read_issued(store, "shop")] == ["batch-1", "batch-2", "batch-3"]
    assert len({link.envelope for link in read_issued(store, "shop")}) == 3


def test_batches_that_are_signed_at_once_get_a_number_each_and_one_that_is_signed_twice_one(store: ObjectStore) -> None:
    batches = [statement(batch_id=f"batch-{number % 4}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: issue(store, batch), batches))
    assert sorted({issued.number for issued in found}) == [1, 2, 3, 4]
    assert found[:4] == found[4:]


def test_a_batch_that_died_while_it_was_signed_gets_one_receipt(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(receipt_log, "append_log_entry", die)
        with pytest.raises(KeyboardInterrupt):
            issue(local_store)
    assert read_issued(local_store, "shop") == []
    later = statement(times=statement_values()["times"] | {"issued_at": "2026-11-27T00:00:00+00:00"})
    assert issue(local_store, later).number == 1
    assert len(local_store.list("receipts/shop")) == 2  # the log's entry, and one file of requests


def test_a_request_finds_its_receipt_and_an_unknown_one_none(store: ObjectStore) -> None:
    issue(store, statement(batch_id="first"), requests(2))
    issue(store, statement(batch_id="second"), requests(3)[2:])
    for request in requests():
        body = read_receipt(store, "shop", request.request_id)
        assert body is not None
        assert json.loads(body)["leaf"] == request.model_dump(mode="json")
    assert read_receipt(store, "shop", "unknown") is None
    assert read_receipt(store, "shop", requests()[0].request_id, batch_id="second") is None
    assert read_receipt(store, "other", "unknown") is None


def test_a_batch_that_another_identity_key_digested_gets_no_receipt(local_store: LocalStore) -> None:
    with pytest.raises(IntegrityError, match="No receipt was written"):
        issue_receipts(
            local_store,
            statement(),
            requests(),
            signing=SIGNING,
            identity=IdentityKey(b"another key of 32 bytes long!!!!"),
        )
    assert local_store.list("") == []


def test_a_damaged_file_of_requests_gives_no_receipt(local_store: LocalStore) -> None:
    issued = issue(local_store)
    path = Path(local_store.url, issued.receipts.key)
    path.write_bytes(path.read_bytes().replace(b"gdpr", b"ccpa"))
    with pytest.raises(IntegrityError, match="is not what its manifest says"):
        read_receipt(local_store, "shop", requests()[0].request_id)


# --- against the files --------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A storage after a deletion of a user, an item and a pair, and the receipts of it in files."""

    store: LocalStore
    folder: Path
    keys: Path
    pair: tuple[str, str]

    def receipt(self, request_id: str) -> Path:
        return self.folder / f"{request_id}.json"

    def verify(self, request_id: str, *options: str) -> int:
        public = str(self.keys / "signing.pub")
        return main(["verify", str(self.receipt(request_id)), "--public-key", public, "--json", *options])

    def verify_subject(self, request_id: str, *options: str) -> int:
        identity = str(self.keys / "identity.key")
        return self.verify(request_id, "--files", self.store.url, "--identity-key", identity, *options)


def publish_model(store: ObjectStore, number: int, snapshot_id: str) -> Any:
    table = torch.arange(20.0).reshape(10, 2) + number
    manifest = write_state(
        store,
        f"runs/r-{number}/model",
        {"parameters/users": table, "parameters/weight": torch.ones(3)},
        local_rows={"users": torch.arange(10).numpy()},
        meta={"backbone": {"name": "mgcn", "settings": {}}},
        collective=LocalCollective(),
    )
    return publish_version(
        store,
        "tiny-mgcn",
        manifest=manifest,
        parent_version=number - 1 or None,
        method="fit" if number == 1 else "tru",
        dataset="tiny",
        snapshot_id=snapshot_id,
        run_id=f"r-{number}",
        job_digest=f"{number}",
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("receipts")
    store = LocalStore(folder / "store")
    make_keys(folder / "keys")
    config = KeysConfig(folder=str(folder / "keys"))
    identity = load_identity_key(config)
    write_tiny_snapshot(store, "tiny")
    before, entry_before = current_snapshot_entry(store, "tiny")
    table = read_interactions(store, before, range(before.num_user_buckets))
    place = next(p for p, row in enumerate(table.user_rows) if row != GONE_USER and table.item_rows[p] != GONE_ITEM)
    pair_rows = (int(table.user_rows[place]), int(table.item_rows[place]))
    rows = RequestRows(users=[GONE_USER], items=[GONE_ITEM], pairs=[pair_rows], num_train_pairs=0)
    after, entry_after = write_snapshot_without(store, before, rows, snapshot_id="after", created_at=before.created_at)
    versions = [publish_model(store, 1, before.snapshot_id), publish_model(store, 2, after.snapshot_id)]
    pair = (user_id(pair_rows[0]), item_id(pair_rows[1]))
    subjects: list[tuple[str, IdentityKind, tuple[str, ...]]] = [
        ("a-user", "user", (user_id(GONE_USER),)),
        ("an-item", "item", (item_id(GONE_ITEM),)),
        ("a-pair", "interaction", pair),
        ("a-lie", "user", (user_id(3),)),
    ]
    sent = [
        requests(1)[0].model_copy(
            update={"request_id": name, "kind": kind, "subject_digest": identity.digest(kind, *ids)}
        )
        for name, kind, ids in subjects
    ]
    batch = statement(
        model="tiny-mgcn",
        dataset="tiny",
        data_before=data_state(entry_before, before),
        data_after=data_state(entry_after, after),
        model_before=model_state(store, versions[0]),
        model_after=model_state(store, versions[1]),
        code=code_state(),
        identity_key_id=identity.key_id,
    )
    for number in range(1, 4):  # two batches before this one
        batch_id = "this" if number == 3 else f"batch-{number}"
        own = batch.model_copy(update={"batch_id": batch_id})
        issue_receipts(
            store, own, sent if number == 3 else requests(), signing=load_signing_key(config), identity=identity
        )
    for request in sent:
        (folder / f"{request.request_id}.json").write_bytes(read_receipt(store, "tiny-mgcn", request.request_id) or b"")
    return World(store, folder, folder / "keys", pair)


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy of the storage that a test may damage."""
    shutil.copytree(made.store.url, tmp_path / "store")
    return World(LocalStore(tmp_path / "store"), made.folder, made.keys, made.pair)


def test_a_receipt_and_a_public_key_are_enough(made: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert made.verify("a-user") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["outcome"] == "published"
    assert len(shown["checked"]) == 4
    assert {NO_FILES, NO_CHAIN, NO_SUBJECT} <= set(shown["attested_only"])


def test_with_the_files_all_digests_are_recomputed(made: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert made.verify("a-user", "--storage", made.store.url) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {NO_FILES, NO_CHAIN, NO_SUBJECT} & set(shown["attested_only"]) == {NO_SUBJECT}
    checked = "\n".join(shown["checked"])
    for part in (
        "data set after the deletion, snapshot after: recomputed",
        "data set before",
        "tensor of the model after the deletion, version 2: recomputed",
        "version 1: recomputed",
        "chain of 3 receipts up to this one has no gap",
    ):
        assert part in checked


def test_what_a_person_reads_parts_checked_from_attested(made: World, capsys: pytest.CaptureFixture[str]) -> None:
    public = str(made.keys / "signing.pub")
    assert main(["verify", str(made.receipt("a-user")), "--public-key", public]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Receipt tiny-mgcn-00000003 for request a-user (user)")
    assert text.index("\nCHECKED\n") < text.index("was signed by key") < text.index("\nATTESTED ONLY\n")
    assert text.index("\nATTESTED ONLY\n") < text.index("Method tru ran")


@pytest.mark.parametrize(
    ("request_id", "options"),
    [("a-user", ["--user", user_id(GONE_USER)]), ("an-item", ["--item", item_id(GONE_ITEM)]), ("a-pair", [])],
)
def test_the_subject_is_under_the_root_and_not_in_the_data_any_more(
    made: World, request_id: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = options or ["--user", made.pair[0], "--item", made.pair[1]]
    assert made.verify_subject(request_id, *options) == 0
    checked = "\n".join(json.loads(capsys.readouterr().out)["checked"])
    assert "that was named, and its leaf is under the signed root" in checked
    assert "snapshot after, does not hold this" in checked


def refused(world: World, capsys: pytest.CaptureFixture[str], *call: str, subject: bool = False) -> dict[str, Any]:
    code = world.verify_subject(*call) if subject else world.verify(*call, "--files", world.store.url)
    shown = json.loads(capsys.readouterr().out)
    assert code == shown["exit_code"] == 8
    return shown


def test_a_subject_that_is_still_there_is_found(made: World, capsys: pytest.CaptureFixture[str]) -> None:
    shown = refused(made, capsys, "a-lie", "--user", user_id(3), subject=True)
    assert "says that a user is gone" in shown["message"]
    assert user_id(3) not in shown["message"]


def test_another_subject_and_another_identity_key_are_told_apart(
    made: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in (["--user", user_id(8)], ["--item", user_id(GONE_USER)], ["--user", user_id(GONE_USER).upper()]):
        shown = refused(made, capsys, "a-user", *options, subject=True)
        assert "is about another subject" in shown["message"]
        assert options[1] not in shown["message"]
    make_keys(tmp_path / "other")
    options = ["--identity-key", str(tmp_path / "other" / "identity.key"), "--user", user_id(GONE_USER)]
    shown = refused(made, capsys, "a-user", *options)
    assert shown["error"] == "UnknownKeyError"


def of_kind(world: World, part: str) -> Path:
    return next(path for path in sorted(Path(world.store.url).rglob("*")) if part in str(path) and path.is_file())


@pytest.mark.parametrize(
    "part",
    [
        "snapshots/after/manifest.json",
        "snapshots/tiny-0/manifest.json",
        "r-2/model/manifest.json",
        "r-2/model/shared",
        "r-2/model/rows",
        "r-1/model/rows",
    ],
)
def test_a_file_that_is_not_what_the_receipt_says_is_refused(
    world: World, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = of_kind(world, part)
    body = bytearray(path.read_bytes())
    body[-3] ^= 1
    path.write_bytes(bytes(body))
    assert refused(world, capsys, "a-user")["error"] == "IntegrityError"


def test_what_was_purged_since_is_said_not_to_be_checked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("runs/r-1", "datasets/tiny/snapshots/tiny-0"):
        shutil.rmtree(Path(world.store.url, folder))
    assert world.verify("a-user", "--files", world.store.url) == 0
    shown = json.loads(capsys.readouterr().out)
    assert any("model before the deletion, version 1: not there" in line for line in shown["attested_only"])
    assert any("data set before the deletion" in line and "not there" in line for line in shown["attested_only"])
    assert any("version 2: recomputed" in line for line in shown["checked"])


def test_a_folder_that_holds_none_of_the_files_is_told_as_such(
    made: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.verify("a-user", "--files", str(tmp_path)) == 4
    assert "none of the files" in capsys.readouterr().err


def log_path(world: World, number: int) -> Path:
    return Path(world.store.url, f"receipts/tiny-mgcn/log/{number:08d}.json")


def swap(world: World) -> None:
    first, second = log_path(world, 1).read_bytes(), log_path(world, 2).read_bytes()
    log_path(world, 1).write_bytes(second)
    log_path(world, 2).write_bytes(first)


def exchange(world: World) -> None:
    entry = json.loads(log_path(world, 2).read_bytes())
    entry["envelope"] = json.loads(log_path(world, 1).read_bytes())["envelope"] | {"payloadType": "other"}
    log_path(world, 2).write_bytes(json.dumps(entry).encode())


def take_out(world: World) -> None:
    log_path(world, 2).write_bytes(log_path(world, 3).read_bytes())
    log_path(world, 3).unlink()


def cut_off(world: World) -> None:
    log_path(world, 3).unlink()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (swap, "ChainOrderError"),
        (exchange, "ChainGapError"),
        (take_out, "ChainOrderError"),
        (cut_off, "ChainGapError"),
        (lambda world: log_path(world, 2).unlink(), "IntegrityError"),
    ],
)
def test_a_chain_in_storage_that_was_changed_is_refused(
    world: World, damage: Callable[[World], None], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(world)
    assert refused(world, capsys, "a-user")["error"] == error


def test_a_receipt_that_names_a_file_outside_the_storage_is_refused(
    made: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when the operator's own key signed it (catalogue row 69)."""
    signing = load_signing_key(KeysConfig(folder=str(made.keys)))
    for key in ("../outside", "/etc/passwd", "a/../../b", "a//b", "a\\b"):
        data = statement_values()["data_after"]
        data["manifest"] |= {"key": key}
        body = signed_receipts(statement(data_after=data), requests(1), key=signing, nonces=nonces(1))[0]
        (tmp_path / "receipt.json").write_bytes(body)
        public = str(made.keys / "signing.pub")
        command = ["verify", str(tmp_path / "receipt.json"), "--public-key", public, "--files", made.store.url]
        assert main([*command, "--json"]) == 8
        assert "Nothing was read or written" in json.loads(capsys.readouterr().out)["message"]


def test_a_file_that_is_far_too_large_is_refused_before_it_is_read_whole(
    made: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "receipt.json").open("wb") as file:
        file.truncate(2**40)  # no disk has to hold it
    public = str(made.keys / "signing.pub")
    assert main(["verify", str(tmp_path / "receipt.json"), "--public-key", public, "--json"]) == 8
    assert "a receipt at most" in json.loads(capsys.readouterr().out)["message"]


@pytest.mark.parametrize(
    "options",
    [
        ["--user", "somebody"],
        ["--endpoint-url", "https://example.org"],
        ["--files", "no-such-folder"],
        ["--public-key", "no-such-file"],
    ],
)
def test_options_that_mean_nothing_are_refused(
    made: World, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.verify("a-user", *options) == 2
    assert "somebody" not in capsys.readouterr().err


# --- secrets and persons (S2, S3) ---------------------------------------------------------------


def test_no_secret_and_no_outside_id_is_in_any_object_log_or_message(
    made: World, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Ids are in the data set's own vocabularies and nowhere else; keys are in their files and nowhere else."""
    caplog.set_level(logging.DEBUG)
    config = KeysConfig(folder=str(made.keys))
    secret_keys = [load_identity_key(config).secret, load_signing_key(config).secret]
    secrets = [part for key in secret_keys for part in (key, key.hex().encode())]
    ids = [name.encode() for name in (user_id(GONE_USER), item_id(GONE_ITEM), *made.pair, user_id(3))]
    bodies = {
        path: path.read_bytes()
        for folder in (made.store.url, made.folder)
        for path in Path(folder).rglob("*")
        if path.is_file() and made.keys not in path.parents
    }
    made.verify_subject("a-user", "--user", user_id(GONE_USER))
    made.verify_subject("a-user", "--user", user_id(3))
    made.verify_subject("a-lie", "--user", user_id(3))
    captured = capsys.readouterr()
    bodies[Path("output")] = (captured.out + captured.err + caplog.text).encode()
    assert len(bodies) > 30
    for path, body in bodies.items():
        assert not any(secret in body for secret in secrets), path
        if "vocabulary" not in path.parts:
            assert not any(name in body for name in ids), path


def test_the_digests_of_a_receipt_are_those_of_the_files_in_storage(made: World) -> None:
    said = json.loads(log_path(made, 3).read_bytes())
    assert FileEntry.model_validate(said["receipts"]).size_bytes == len(made.store.read(said["receipts"]["key"]))
