"""A private Ray session: closed to others, on loopback, and nothing of it is left, however its command ends."""

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.errors import ConfigError, TransientError
from workflows.config.job import ScalingConfig
from workflows.running import private_ray
from workflows.running.cluster import connected
from workflows.running.private_ray import MARK, private_folder, remove_dead_sessions
from workflows.storage.local import LocalStore

ROOT = Path(__file__).parents[1]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place for sessions, with a path that is short enough."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setattr(private_ray, "_places", lambda: [folder])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def environment(temporary: Path) -> dict[str, str]:
    """Of a process that starts a session of its own there."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return own | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


def start(environment: dict[str, str], *argv: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def sessions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("tru-*"))


def running(numbers: list[int]) -> list[int]:
    found = [psutil.Process(number) for number in numbers if psutil.pid_exists(number)]
    return [process.pid for process in found if process.status() != psutil.STATUS_ZOMBIE]


def wait_for(condition: Any, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.ray
def test_after_a_kill_the_next_command_leaves_no_process_and_no_folder(
    temporary: Path, environment: dict[str, str]
) -> None:
    """Before the kill: only loopback is listened on, and only the owner can look into the folder."""
    process = start(environment, "-m", "tests.private_session", "300")
    assert process.stdout is not None
    seen = json.loads(process.stdout.readline())
    try:
        assert seen["answer"] == 42
        assert seen["addresses"]
        for text in seen["addresses"]:
            address = ipaddress.ip_address(text)
            assert (getattr(address, "ipv4_mapped", None) or address).is_loopback, text
        (folder,) = temporary.glob("tru-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        remove_dead_sessions()
        assert sessions(temporary) == [folder.name]  # its owner lives
        assert set(running(seen["processes"])) >= set(seen["processes"][:1])
    finally:
        process.kill()
        process.communicate()
    with private_folder() as other:
        assert running(seen["processes"]) != []  # Ray's agents outlive their command
        remove_dead_sessions()
        assert running(seen["processes"]) == []
        assert sessions(temporary) == [other.parent.name]


@pytest.mark.ray
@pytest.mark.parametrize(("number", "moment"), [(signal.SIGTERM, "start"), (signal.SIGHUP, "training")])
def test_a_signal_ends_a_training_with_130_and_leaves_nothing(
    number: signal.Signals, moment: str, temporary: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """The whole process group gets it, as from a closed terminal or ``ray job stop``, and gets it three times."""
    write_tiny_snapshot(LocalStore(tmp_path / "store"))
    job = {"storage": str(tmp_path / "store"), "dataset": "tiny", "model": "m", "scaling": {"num_workers": 1}}
    job |= {"backbone": {"name": "lightgcn", "settings": {"embedding_size": 8}}}
    (tmp_path / "job.yaml").write_text(json.dumps(job | {"fit": {"max_epochs": 100_000, "patience": 100_000}}))
    process = start(environment, "-m", "workflows", "train", str(tmp_path / "job.yaml"), "--json")
    if moment == "start":
        wait_for(lambda: list(temporary.glob("tru-*/ray/session_2*/logs/*")), process)
        wait_for(lambda: psutil.Process(process.pid).children(recursive=True), process)  # a log is there before them
    else:
        wait_for(lambda: list((tmp_path / "store").rglob("checkpoints/*/manifest.json")), process)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert children
    for _ in range(3):
        if process.poll() is None:
            os.killpg(process.pid, number)
        time.sleep(0.4)
    printed, errors = process.communicate(timeout=120)
    assert (process.returncode, json.loads(printed)["exit_code"]) == (130, 130), errors
    assert "Traceback" not in errors
    assert sessions(temporary) == []
    assert running(children) == []


# --- without Ray --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["disabled", "off", ""])
def test_a_session_without_authentication_is_refused(
    mode: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ConfigError, match=r"RAY_AUTH_MODE switches .* off"), connected(ScalingConfig()):
        pass
    assert sessions(temporary) == []


def test_a_folder_is_closed_to_others_and_gone_at_the_end_of_the_block(temporary: Path) -> None:
    with suppress(KeyboardInterrupt), private_folder() as folder:
        folder.mkdir()
        (folder / "spilled").write_bytes(b"rows")
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []


def test_a_folder_is_removed_when_its_owner_is_dead_and_not_before(temporary: Path) -> None:
    holds = (
        "import sys, time, workflows.running.private_ray as own\nfrom pathlib import Path\n"
        "own._places = lambda: [Path(sys.argv[1])]\n"
        "with own.private_folder() as folder:\n"
        "    folder.mkdir(); (folder / 'spilled').touch(); print('held', flush=True); time.sleep(60)\n"
    )
    process = start(dict(os.environ), "-c", holds, str(temporary))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    remove_dead_sessions()
    assert len(list(temporary.glob("tru-*/ray/spilled"))) == 1
    process.kill()
    process.communicate()
    remove_dead_sessions()
    assert list(temporary.iterdir()) == []


def test_what_is_not_a_session_of_this_user_is_never_touched(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / MARK).touch()
    tmp_path.chmod(0o700)
    (temporary / "tru-link").symlink_to(tmp_path)
    for name, mode in (("tru-unmarked", 0o700), ("tru-open", 0o755), ("other", 0o700)):
        (temporary / name).mkdir(mode=mode)
        (temporary / name).chmod(mode)
    for name in ("tru-open", "other"):
        (temporary / name / MARK).touch()
    (temporary / "tru-file").touch()
    before = sorted(temporary.rglob("*"))
    remove_dead_sessions()
    assert sorted(temporary.rglob("*")) == before
    assert (tmp_path / MARK).exists()


def test_only_processes_that_ray_started_with_the_folder_are_ended(temporary: Path) -> None:
    waits = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    folder = temporary / "tru-dead"
    logs = [f"--log-dir={folder}/ray/logs", f"--log-dir={folder}2/ray/logs", f"{folder}/ray/logs"]
    processes = [
        subprocess.Popen([*waits, word], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=temporary) for word in logs
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        private_ray.end_processes(folder)
        assert [process.poll() is None for process in processes] == [False, True, True]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("length", [27, 90, 200])
def test_a_temporary_folder_with_a_long_path_is_passed_over_for_a_short_one(
    length: int, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    long = Path("/tmp").joinpath("x" * (length - len("/tmp/")))
    monkeypatch.setattr(private_ray, "_places", lambda: [long, temporary])
    with private_folder() as folder:
        assert folder.parent.parent == temporary
        socket = f"{folder}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
        assert len(socket) <= 103
    assert "too long" in caplog.text
    monkeypatch.setattr(private_ray, "_places", lambda: [long])
    with pytest.raises(TransientError, match=r"too long .* Set TMPDIR") as caught, private_folder():
        pass
    assert len(str(caught.value)) < 600


def test_a_place_that_cannot_be_written_to_is_passed_over(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_ray, "_places", lambda: [Path("/proc"), Path("/none"), temporary])
    with private_folder() as folder:
        assert folder.parent.parent == temporary
    monkeypatch.setattr(private_ray, "_places", lambda: [Path("/proc"), Path("/none")])
    with (
        pytest.raises(TransientError, match=r"/none: No such file or directory.*Set TMPDIR") as caught,
        private_folder(),
    ):
        pass
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("address", "found"), [(None, None), ("", None), ("local", None), (" 10.0.0.1:6379", "10.0.0.1:6379")]
)
def test_only_a_named_cluster_gets_no_token_of_its_own(
    address: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    private_ray.protect_private_session()
    assert private_ray.cluster_address() == found
    assert ("RAY_AUTH_TOKEN" in os.environ) == (found is None)
