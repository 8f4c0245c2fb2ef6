"""What the environment does to a command: each has a text and an exit code of its own, and never a traceback."""

import errno
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray.exceptions
import ray.train
from ray.exceptions import RayTaskError

from tru_core.errors import ConfigError, DataError, TransientError, TruError
from workflows.failures import own_error
from workflows.running import cluster
from workflows.running.cluster import check_cluster
from workflows.running.jobs import _training_error


def from_a_task(cause: Exception) -> Exception:
    """What ``ray.get`` raises where a task raised this."""
    return RayTaskError("work", f"Traceback: {cause}", cause, pid=1, ip="127.0.0.1").as_instanceof_cause()


# --- Ray's errors, and the operating system's ---------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ray.exceptions.OutOfMemoryError("user-0007"), "ran out of memory"),
        (ray.exceptions.WorkerCrashedError(), "worker process was lost"),
        (ray.exceptions.ObjectStoreFullError("user-0007"), "no space left for its objects"),
        (ray.exceptions.OutOfDiskError("user-0007"), "no space left for its objects"),
        (ray.exceptions.OwnerDiedError("ab" * 28, None, ""), "node of the cluster"),
        (ray.exceptions.GetTimeoutError("user-0007"), "did not answer in time"),
        (ray.exceptions.LocalRayletDiedError(), "Ray's own process"),
        (ray.exceptions.RaySystemError("user-0007"), "could not finish"),
        (from_a_task(MemoryError("user-0007")), "not enough memory"),
        (from_a_task(OSError(errno.ENOSPC, "No space left on device", "/tmp/out")), "/tmp/out: No space left"),
        (ray.train.ControllerError(ray.exceptions.ActorDiedError()), "worker process was lost"),
        (
            ray.train.WorkerGroupError("user-0007", {0: RuntimeError(), 1: ray.exceptions.OutOfMemoryError("")}),
            "memory",
        ),
    ],
)
def test_a_failure_of_ray_says_what_failed_what_is_safe_and_what_to_do(error: Exception, text: str) -> None:
    own = own_error(error)
    assert isinstance(own, TransientError)
    assert own.exit_code == 7
    assert text in str(own)
    assert "What was published before stays" in str(own)
    assert "user-0007" not in str(own)
    assert len(str(own)) < 500


@pytest.mark.parametrize("kind", [DataError, ConfigError, TransientError])
def test_an_error_of_a_worker_arrives_as_it_was_raised_there(kind: type[TruError]) -> None:
    cause = kind("row 17 is bad")
    wrapped = ray.train.WorkerGroupError("trouble", {1: from_a_task(cause)})
    for error in (cause, from_a_task(cause), wrapped, ray.train.ControllerError(wrapped)):
        own = own_error(error)
        assert (type(own), str(own)) == (kind, "row 17 is bad")


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), from_a_task(TypeError("x")), KeyboardInterrupt()])
def test_an_error_of_the_program_stays_one(error: BaseException) -> None:
    assert own_error(error) is None


def test_an_error_that_was_dealt_with_before_blames_nobody() -> None:
    """A bug in the handling of a missing object is a bug."""
    error = ValueError("a bug")
    error.__context__ = DataError("dealt with")
    assert own_error(error) is None


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/srv/out.json"), 7, "/srv/out.json: Read-only file system"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/home/x"), 7, "Free space there"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/home/somebody/.config"),
            7,
            "/home/somebody/.config: Permission denied",
        ),
        (OSError(errno.EMFILE, "Too many open files"), 7, "Too many open files"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), 7, "the working folder"),
        (ConnectionError("gone"), 7, "ConnectionError"),
        (MemoryError(), 7, "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), 3, "nested too deeply"),
        (UnicodeEncodeError("ascii", "\u00fc", 0, 1, "ordinal not in range"), 2, "LC_ALL=C.UTF-8"),
        (OSError(errno.ENOENT, "x" * 5000, "/" + "y" * 5000), 7, "xxx"),
    ],
)
def test_an_error_of_the_operating_system_names_the_place_and_what_to_do(
    error: Exception, code: int, text: str
) -> None:
    own = own_error(error)
    assert own is not None
    assert own.exit_code == code
    assert text in str(own)
    assert len(str(own)) < 800


def test_a_training_that_ray_gave_up_names_the_run_and_no_data() -> None:
    from tests.tiny_jobs import tiny_job
    from workflows.storage import FileEntry
    from workflows.tasks import WorkerTask

    job = tiny_job("/store", Path("/"), scaling={"max_failures": 1})
    task = WorkerTask(job=job, run_id="train-1", snapshot=FileEntry(key="k", size_bytes=1, sha256="0" * 64), stages=[])
    lost: Any = ray.train.WorkerGroupError("user-0007", {0: ray.exceptions.ActorDiedError()})
    assert str(_training_error(task, lost)).startswith(
        "run train-1: workers were lost 2 times. Nothing was published. A"
    )
    late: Any = ray.train.ControllerError(ray.exceptions.ActorPlacementGroupRemoved())
    assert "could not start or steer the workers. The cluster has no room" in str(_training_error(task, late))


# --- RAY_ADDRESS --------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which somebody listens who never says anything."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def guarded_port() -> Iterator[int]:
    """A port at which the head of a cluster refuses every token."""

    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: Authentication token is missing or incorrect")
        return b""

    class Head(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Head()])
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "host.invalid:6379", "127.0.0.1:2"])
@pytest.mark.usefixtures("quick")
def test_a_cluster_that_nobody_answers_for_is_said_soon(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"(127\.0\.0\.1:[12]|host\.invalid:6379) \(RAY_ADDRESS\) did not ans"):
        check_cluster(address)
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("quick")
def test_a_port_with_something_else_behind_it_is_no_cluster(silent_port: int) -> None:
    with pytest.raises(TransientError, match="did not answer"):
        check_cluster(f"127.0.0.1:{silent_port}")


def test_a_cluster_that_refuses_the_token_is_a_matter_of_settings(guarded_port: int) -> None:
    with pytest.raises(ConfigError, match=r"did not accept this command's token.*RAY_AUTH_TOKEN_PATH"):
        check_cluster(f"127.0.0.1:{guarded_port}")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("http://10.0.0.1:8265", "dashboard"),
        ("https://u:secret@10.0.0.1", "dashboard"),
        ("ray://u:secret@10.0.0.1:10001", "Ray Client"),
        ("u:secret@127.0.0.1:1", "HOST:PORT"),
        ("nonsense", "HOST:PORT"),
        ("10.0.0.1:port", "HOST:PORT"),
        ("10.0.0.1", "HOST:PORT"),
    ],
)
def test_an_address_of_no_cluster_is_a_wrong_setting(address: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        check_cluster(address)
    assert "secret" not in str(caught.value)


def test_auto_without_a_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(cluster.services, "canonicalize_bootstrap_address", none)
    with pytest.raises(TransientError, match="no Ray cluster runs on this machine"):
        check_cluster("auto")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the amount of memory on this node is less than 5 %\nmore"),
        OSError("AF_UNIX path length cannot exceed 107 bytes"),
        RuntimeError("This node has an IP address of 10.0.0.1"),
        ray.exceptions.RaySystemError("raylet died"),
    ],
)
def test_whatever_ray_fails_with_at_its_start_is_an_error_of_the_environment(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(TransientError, match=r"^no session \(.*Nothing was started") as caught:
        cluster._init({}, "no session")
    assert "\n" not in str(caught.value)
