"""A storage as a read-only filesystem of fsspec: the same objects, and no way to change one."""

import errno
import io
import os
import pickle  # noqa: TID251, other people's loaders send filesystems so
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tru_core.errors import ConfigError, IntegrityError
from workflows.storage import ObjectStore, StorageConfig, open_store
from workflows.storage.fsspec_files import StorageFiles, fsspec_filesystem

OBJECTS = {"datasets/a/log/00000001.json": b"{}", "datasets/a/b.bin": b"0123456789", "models/m": b"", "top": b"t"}


@pytest.fixture(params=["local", "moto"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    if request.param == "local":
        return StorageConfig(url=str(tmp_path / "store"))
    return request.getfixturevalue("moto_config")


@pytest.fixture
def store(config: StorageConfig) -> ObjectStore:
    store = open_store(config)
    for key, body in OBJECTS.items():
        store.put_if_absent(key, body)
    return store


@pytest.fixture
def files(store: ObjectStore, config: StorageConfig) -> StorageFiles:
    return fsspec_filesystem(config)


def test_objects_lie_at_their_keys(files: StorageFiles) -> None:
    assert files.find("") == sorted(OBJECTS)
    assert files.find("datasets/a") == ["datasets/a/b.bin", "datasets/a/log/00000001.json"]
    assert files.ls("", detail=False) == ["datasets", "models", "top"]
    assert [(e["name"], e["type"], e["size"]) for e in files.ls("datasets/a") if e["type"] == "file"] == [
        ("datasets/a/b.bin", "file", 10)
    ]
    assert files.glob("datasets/*/*.bin") == ["datasets/a/b.bin"]
    assert (files.exists("top"), files.exists("to"), files.isdir("models")) == (True, False, True)
    assert files.cat_file("datasets/a/b.bin", start=2, end=5) == b"234"
    assert files.cat("datasets/a/b.bin") == b"0123456789"
    assert files.cat(list(OBJECTS)) == OBJECTS
    with files.open("datasets/a/b.bin") as file:
        file.seek(7)
        assert file.read() == b"789"
    with pytest.raises(FileNotFoundError):
        files.cat_file("datasets/a/c.bin")


def test_pandas_and_pyarrow_read_a_table_through_it(store: ObjectStore, config: StorageConfig) -> None:
    import pandas as pd

    sink = io.BytesIO()
    pq.write_table(pa.table({"row": np.arange(5), "id": list("abcde")}), sink)
    store.put_if_absent("tables/part-0.parquet", sink.getvalue())
    files = fsspec_filesystem(config)
    frame = pd.read_parquet("tables/part-0.parquet", filesystem=files, columns=["id"])
    assert frame["id"].tolist() == list("abcde")
    assert pq.read_table("tables", filesystem=files).column("row").to_pylist() == [0, 1, 2, 3, 4]


def test_nothing_can_be_changed_through_it(files: StorageFiles, store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"new")
    attempts = [
        lambda: files.open("top", "wb"),
        lambda: files.open("new", "x"),
        lambda: files.open("top", "ab"),
        lambda: files.open("top", "r+b"),
        lambda: files.pipe("new", b"1"),
        lambda: files.pipe({"top": b"1"}),
        lambda: files.write_text("new", "1"),
        lambda: files.put(str(tmp_path / "local"), "new"),
        lambda: files.put_file(str(tmp_path / "local"), "top"),
        lambda: files.upload(str(tmp_path / "local"), "new"),
        lambda: files.rm("top"),
        lambda: files.rm("", recursive=True),
        lambda: files.delete("datasets", recursive=True),
        lambda: files.rm_file("top"),
        lambda: files.mv("top", "new"),
        lambda: files.rename("top", "new"),
        lambda: files.cp("top", "new"),
        lambda: files.cp_file("top", "new"),
        lambda: files.touch("new"),
        lambda: files.touch("top", truncate=False),
        lambda: files.mkdir("new"),
        lambda: files.makedirs("new"),
        lambda: files.rmdir("models"),
        lambda: files.get_mapper("")["top"].__class__ and files.get_mapper("").__setitem__("new", b"1"),
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(OSError, match="read-only") as caught:
            attempt()
        assert caught.value.errno == errno.EROFS, f"attempt {number}"
    assert {info.key: store.read(info.key) for info in store.list("")} == OBJECTS


@pytest.mark.parametrize("path", ["../up", "datasets/../../up", "a//b", ".aside/x", "a\nb"])
def test_no_path_leads_out_of_the_storage(files: StorageFiles, path: str) -> None:
    for call in (files.cat_file, files.info, files.ls, files.find, files.open):
        with pytest.raises(IntegrityError):
            call(path)


def test_a_symbolic_link_is_neither_listed_nor_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    open_store(str(tmp_path / "store")).put_if_absent("a/b", b"1")
    (tmp_path / "store" / "a" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "store" / "out").symlink_to(tmp_path)
    files = fsspec_filesystem(str(tmp_path / "store"))
    assert files.find("") == ["a/b"]
    for path in ("a/link", "out/secret"):
        with pytest.raises(IntegrityError, match="symbolic link"):
            files.cat_file(path)


def test_it_travels_by_pickle_without_credentials(files: StorageFiles) -> None:
    files.find("")  # a client is open, with credentials inside
    frozen = pickle.dumps(files)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ.get(name, "no such credential").encode() not in frozen
    assert pickle.loads(frozen).cat("top") == b"t"


@pytest.mark.parametrize(
    "endpoint", ["http://169.254.169.254", "http://storage.example", "https://user:word@storage.example"]
)
def test_an_endpoint_against_the_policy_is_asked_for_nothing(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, s3_credentials: None
) -> None:
    with pytest.raises(ConfigError):
        fsspec_filesystem(StorageConfig(url="s3://bucket/prefix", endpoint_url=endpoint))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(ConfigError):
        fsspec_filesystem("s3://bucket/prefix")


def test_s3fs_is_imported_only_where_a_bucket_is_opened() -> None:
    code = "import sys, workflows.storage.fsspec_files; sys.exit('s3fs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
