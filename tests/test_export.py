"""An exported data set is its current snapshot: all of it, no outside id, and readable without this project."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.deletion_world import LINES, delete, with_policy
from tests.tiny_snapshot import item_id, user_id, write_tiny_snapshot
from tru_core.errors import DataError
from workflows.cli import main
from workflows.config.job import JobConfig
from workflows.data.exchange import to_hetero_data
from workflows.data.snapshot import FeatureEntry, current_snapshot
from workflows.storage import StorageConfig, open_store
from workflows.storage.local import LocalStore

EXAMPLE = Path(__file__).parents[1] / "examples" / "pyg_lightgcn.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pyg_lightgcn", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the tiny data set. Not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "store"
    write_tiny_snapshot(LocalStore(folder))
    return folder


def export(capsys: pytest.CaptureFixture[str], storage: Path | str, out: Path, *more: str, dataset: str = "tiny"):
    """The exit code and the JSON of the command."""
    command = ["data", "export", dataset, "--format", "pyg", "--storage", str(storage), "--out", str(out), "--json"]
    code = main([*command, *more])
    return code, json.loads(capsys.readouterr().out)


def assert_is_the_snapshot(example: ModuleType, out: Path, storage: StorageConfig | str) -> dict:
    store = open_store(storage)
    manifest = current_snapshot(store, "tiny")
    expected = to_hetero_data(store, manifest)
    found, about = example.load(str(out))
    assert found.validate()
    assert (found.node_types, set(found.edge_types)) == (expected.node_types, set(expected.edge_types))
    for one, other in zip(
        (*found.node_stores, *found.edge_stores),
        (expected[part._key] for part in (*found.node_stores, *found.edge_stores)),
        strict=True,
    ):
        assert set(one.keys()) == set(other.keys())
        for name, value in other.items():
            same = torch.equal(one[name], value) if isinstance(value, torch.Tensor) else one[name] == value
            assert same, (one._key, name)
    assert about["snapshot_id"] == manifest.snapshot_id
    return about


def test_the_file_holds_the_snapshot_and_says_which(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], example: ModuleType
) -> None:
    out = tmp_path / "tiny.safetensors"
    code, figures = export(capsys, storage, out)
    assert code == 0
    assert figures["files_written"] == [str(out)]
    about = assert_is_the_snapshot(example, out, str(storage))
    assert figures["snapshot_id"] == about["snapshot_id"]
    assert about["kind"] == "tru.export.pyg"
    body = out.read_bytes()
    assert figures["size_bytes"] == len(body)
    assert not any(text.encode() in body for text in (user_id(3), item_id(7), str(storage)))
    assert export(capsys, storage, out)[0] == 0, "an older file is replaced"
    assert out.read_bytes() == body


def test_a_bucket_is_exported_alike(
    moto_config: StorageConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], example: ModuleType
) -> None:
    write_tiny_snapshot(open_store(moto_config))
    out = tmp_path / "tiny.safetensors"
    assert moto_config.endpoint_url is not None
    assert export(capsys, moto_config.url, out, "--endpoint-url", moto_config.endpoint_url)[0] == 0
    assert_is_the_snapshot(example, out, moto_config)


def test_after_a_deletion_the_export_is_of_the_new_snapshot_without_the_deleted(
    deletion_job: JobConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], example: ModuleType
) -> None:
    delete(with_policy(deletion_job), tmp_path, *LINES)
    out = tmp_path / "tiny.safetensors"
    assert export(capsys, deletion_job.storage.url, out)[0] == 0
    assert_is_the_snapshot(example, out, deletion_job.storage)
    data, _ = example.load(str(out))
    for name in ("interacts", "interacts_valid", "interacts_test"):
        users, items = data["user", name, "item"].edge_index
        assert not (users == 3).any()
        assert not (items == 7).any()
    assert data["item"].is_deleted.nonzero().flatten().tolist() == [7]
    assert not data["item"]["text"][7].any()


@pytest.mark.parametrize(
    ("dataset", "out", "code", "words"),
    [
        ("tinny", "a.safetensors", 4, "There is 'tiny'"),
        ("other", "a.safetensors", 4, "does not exist"),
        ("Tiny", "a.safetensors", 2, "not allowed"),
        ("tiny", "a.pt", 2, ".safetensors"),
        ("tiny", "a", 2, ".safetensors"),
        ("tiny", "no/such/folder/a.safetensors", 2, "is no folder"),
    ],
)
def test_what_cannot_be_exported_writes_nothing(
    dataset: str, out: str, code: int, words: str, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, figures = export(capsys, storage, tmp_path / out, dataset=dataset)
    assert found == code
    assert words in figures["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_snapshot_is_not_exported(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(storage, tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    path = Path(store.url) / current_snapshot(store, "tiny").features["text"].files[0].key
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    out = tmp_path / "tiny.safetensors"
    out.write_bytes(b"an older export")
    assert export(capsys, tmp_path / "store", out)[0] == 8
    assert out.read_bytes() == b"an older export"


@pytest.mark.parametrize("name", ["num_nodes", "is_deleted"])
def test_a_modality_that_would_hide_something_is_refused(name: str, storage: Path) -> None:
    store = LocalStore(storage)
    manifest = current_snapshot(store, "tiny")
    entry = FeatureEntry.model_validate(manifest.features["text"])
    with pytest.raises(DataError, match=name):
        to_hetero_data(store, manifest.model_copy(update={"features": {name: entry}}))


def test_the_loader_needs_nothing_of_this_project() -> None:
    text = EXAMPLE.read_text()
    assert "tru_core" not in text
    assert "import workflows" not in text
    assert "from workflows" not in text
    assert np.char.count(text, "pickle") == 0
