"""Stores and a Ray cluster for the tests. Heavy packages are imported inside the fixtures only:
the tests in ``tests/core`` run in an environment that has none of them.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workflows.config.job import JobConfig
    from workflows.storage import ObjectStore, StorageConfig
    from workflows.storage.local import LocalStore
    from workflows.storage.s3 import S3Store

ACCESS_KEY = "tru-test-access-key"
SECRET_KEY = "tru-test-secret-key"
_GRPC_OFFSET = 10_000  # SeaweedFS opens gRPC at each port + 10000


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Credentials of the test servers in the environment, and nothing of this machine's own AWS settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture
def local_store(tmp_path: Path) -> "LocalStore":
    """An empty store in a folder."""
    from workflows.storage.local import LocalStore

    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="session")
def moto_endpoint(s3_credentials: None) -> Iterator[str]:
    """The URL of an S3 server in this process. It accepts any credentials."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto_config(moto_endpoint: str) -> "StorageConfig":
    """A fresh bucket on moto."""
    from workflows.storage import StorageConfig

    bucket = f"test-{uuid.uuid4().hex}"
    make_bucket(moto_endpoint, bucket)
    return StorageConfig(url=f"s3://{bucket}/store", endpoint_url=moto_endpoint, timeout_seconds=20)


@pytest.fixture
def moto_store(moto_config: "StorageConfig") -> "S3Store":
    """An empty store in a fresh bucket on moto."""
    from workflows.storage.s3 import S3Store

    return S3Store(moto_config)


@pytest.fixture(scope="session")
def seaweed_endpoint(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a SeaweedFS server on loopback, with the bucket ``tests``. It checks credentials."""
    folder = tmp_path_factory.mktemp("weed")
    (folder / "data").mkdir()
    access = {"name": "test", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}
    access["actions"] = ["Admin", "Read", "List", "Tagging", "Write"]
    (folder / "s3.json").write_text(json.dumps({"identities": [access]}))
    master, volume, filer, s3 = free_ports(4)
    command = [
        str(Path(sys.executable).with_name("weed")),
        f"-logdir={folder}",
        "mini",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.port={s3}",
        f"-s3.config={folder / 's3.json'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        "-s3.port.iceberg=0",
        "-s3.autoCreateBucket=false",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
    ]
    endpoint = f"http://127.0.0.1:{s3}"
    with ExitStack() as stack:
        output = stack.enter_context((folder / "output.txt").open("wb"))
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        stack.callback(process.wait)
        stack.callback(process.kill)  # SIGKILL: a polite stop takes seconds
        wait_for_bucket(endpoint, "tests", process=process, log=folder / "output.txt")
        yield endpoint


@pytest.fixture
def seaweed_config(seaweed_endpoint: str) -> "StorageConfig":
    """A fresh prefix on SeaweedFS."""
    from workflows.storage import StorageConfig

    return StorageConfig(url=f"s3://tests/{uuid.uuid4().hex}", endpoint_url=seaweed_endpoint, timeout_seconds=30)


@pytest.fixture
def seaweed_store(seaweed_config: "StorageConfig") -> "S3Store":
    """An empty store on SeaweedFS."""
    from workflows.storage.s3 import S3Store

    return S3Store(seaweed_config)


@pytest.fixture(params=["local", "moto"])
def store(request: pytest.FixtureRequest) -> "ObjectStore":
    """An empty store, once in a folder and once in a bucket."""
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture(scope="session")
def trained_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys and a store, in it the tiny data set and version 1 of a model. Not to be changed: copy it."""
    from tests.deletion_world import make_world, run_here
    from workflows.running import runs

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_task", run_here)
        make_world(folder)
    return folder


@pytest.fixture
def deletion_job(trained_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "JobConfig":
    """A job on a copy of that world in ``tmp_path``. Workers run in this process."""
    from tests.deletion_world import copy_world, run_here
    from workflows.running import runs

    monkeypatch.setattr(runs, "run_task", run_here)
    return copy_world(trained_world, tmp_path)


@pytest.fixture(scope="session")
def ray_session(s3_credentials: None) -> Iterator[None]:
    """One small private Ray cluster for all tests. Its processes know the credentials of the S3 servers."""
    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    folder = tempfile.mkdtemp(prefix="tru-", dir="/tmp")  # short: the paths of its sockets have a limit
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, value in settings.items():
            patch.setenv(name, value)
        import ray

        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",  # pyright: ignore[reportArgumentType]
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports on loopback that are free now, and whose gRPC port is free too.

    All lie below the range from which the system takes the ports of outgoing connections.
    """
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(range(20_000, 22_700), 2_700):
            with suppress(OSError):
                for number in (port, port + _GRPC_OFFSET):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError(f"no {count} free ports on loopback")


def make_bucket(endpoint: str, bucket: str) -> None:
    """Make a bucket, with one attempt."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1})
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)
    client.create_bucket(Bucket=bucket)
    client.close()


def wait_for_bucket(endpoint: str, bucket: str, *, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server has started, for at most 60 seconds."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + 60
    while True:
        try:
            return make_bucket(endpoint, bucket)
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"SeaweedFS did not start ({process.poll()=}): {error}\n{tail}") from error
        time.sleep(0.1)
