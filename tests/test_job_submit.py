"""``ray job submit`` to a head that ``cluster/head.sh`` started: it runs the submitted code, its exit code is kept."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import free_ports
from tests.tiny_model import make_job, publish_original
from workflows.cli import main
from workflows.config.job import JobConfig
from workflows.data.request_tables import parse_requests
from workflows.deletions.ledger import open_ledger
from workflows.key_files import load_identity_key, make_keys
from workflows.models.publish import read_versions
from workflows.running.outcomes import newest_outcome
from workflows.storage import ObjectStore

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    """A running head: the address of its job API, and what a client's environment needs."""

    address: str
    environment: dict[str, str]
    temp: Path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head with a token of its own on free ports of this machine. It is ended by its own process id."""
    folder = tmp_path_factory.mktemp("head")
    temp = Path(tempfile.mkdtemp(prefix="tru-", dir="/tmp"))  # short: the paths of its sockets have a limit
    gcs, dashboard, agent, client = free_ports(4)
    first_worker = random.randrange(24_000, 29_000)
    own = {
        "TRU_HEAD_FOLDER": str(folder),
        "TRU_TEMP": str(temp),
        "TRU_CPUS": "2",
        "TRU_STORE_BYTES": "100000000",
        "TRU_PORT_GCS": str(gcs),
        "TRU_PORT_DASHBOARD": str(dashboard),
        "TRU_PORT_AGENT": str(agent),
        "TRU_PORT_CLIENT": str(client),
        "TRU_PORT_WORKERS_FROM": str(first_worker),
        "TRU_PORT_WORKERS_TO": str(first_worker + 499),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [ROOT / "cluster" / "head.sh"], env=inherited | own, stdout=output, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{dashboard}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    try:
        wait_for_answer(address, process, folder / "output.txt")
        yield Head(address, inherited | token, temp)
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(temp, ignore_errors=True)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", dashboard), timeout=5).close()


def status_without_token(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def wait_for_answer(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the dashboard answers anything, for at most 120 seconds."""
    deadline = time.monotonic() + 120
    while True:
        try:
            status_without_token(f"{address}/api/version")
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no head ({process.poll()=}):\n{log.read_text()[-3000:]}") from None
            time.sleep(0.2)
        else:
            return


def make_project(folder: Path, job: dict[str, Any], *, tracks: Path) -> None:
    """A folder to submit: the job file and the packages, whose worker module leaves its own path in ``tracks``."""
    for package in ("tru_core", "workflows"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    tracks.mkdir(exist_ok=True)
    with (folder / "workflows" / "running" / "worker.py").open("a") as file:
        file.write(f"\nimport os, pathlib\npathlib.Path({str(tracks)!r}, str(os.getpid())).write_text(__file__)\n")


def submit(head: Head, project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", "--address", head.address, "--working-dir", project, "--", *command],
        env=head.environment,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
    )


def runs_of(store: ObjectStore, command: str) -> set[str]:
    return {info.key.split("/")[1] for info in store.list("runs") if info.key.startswith(f"runs/{command}-")}


@pytest.mark.ray
def test_a_submitted_job_runs_the_submitted_code_and_its_true_exit_code_is_in_storage(
    head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_without_token(f"{head.address}/api/jobs/") == 401

    job = make_job(tmp_path / "store")
    store = publish_original(job)
    project, tracks = tmp_path / "project", tmp_path / "tracks"
    make_project(project, job.model_dump(mode="json"), tracks=tracks)
    ended = submit(head, project, "python", "-m", "workflows", "unlearn", "job.yaml", "--json")
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-5000:]

    # The driver and the worker of Ray Train both ran the copy that was submitted.
    found = [Path(path.read_text()) for path in tracks.iterdir()]
    assert len(found) >= 2
    assert all(path.is_relative_to(head.temp) for path in found), found

    (run_id,) = runs_of(store, "unlearn")
    outcome = newest_outcome(store, run_id)
    assert (outcome["outcome"], outcome["exit_code"]) == ("succeeded", 0)
    versions = read_versions(store, job.model)
    assert [(version.method, version.parent_version) for version in versions] == [("fit", None), ("tru", 1)]
    assert versions[1].run_id == run_id
    assert outcome["figures"]["version"] == 2

    # A failure: Ray knows only 1, the outcome in storage says 2.
    bad = job.model_dump(mode="json")
    bad["unlearn"]["excluded_modules"] = ["no_such_module"]
    (project / "job.yaml").write_text(yaml.safe_dump(bad))
    ended = submit(head, project, "python", "-m", "workflows", "unlearn", "job.yaml")
    assert ended.returncode == 1, ended.stdout[-5000:] + ended.stderr[-5000:]
    (failed_id,) = runs_of(store, "unlearn") - {run_id}
    assert failed_id in ended.stdout + ended.stderr
    outcome = newest_outcome(store, failed_id)
    assert (outcome["outcome"], outcome["exit_code"], outcome["error"]) == ("failed", 2, "ConfigError")
    assert "no_such_module" in outcome["message"]
    assert len(read_versions(store, job.model)) == 2

    assert main(["result", failed_id, "--storage", str(tmp_path / "store"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2
    assert main(["result", run_id, "--storage", str(tmp_path / "store")]) == 0


@dataclass(frozen=True)
class Timer:
    """A project that a timer submits again and again, its store, and the head that it is submitted to."""

    head: Head
    folder: Path
    job: JobConfig
    store: ObjectStore

    def tick(self, **changes: str) -> subprocess.CompletedProcess[str]:
        tru, ray = RAY.with_name("tru"), str(RAY)
        environment = self.head.environment | {"RAY_ADDRESS": self.head.address, "TRU": str(tru), "RAY": ray} | changes
        script = ROOT / "cluster" / "submit-deletions.sh"
        command = [script, self.folder / "project" / "job.yaml"]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)

    def ask(self, request_id: str, *, name: str) -> None:
        """Submit a request for a user whom nobody knows."""
        requests = parse_requests(f"request_id,kind,user_id,item_id\n{request_id},user,nobody,\n".encode(), name=name)
        open_ledger(self.store, self.job.model, load_identity_key(self.job.keys)).submit(requests, source=name)


@pytest.fixture
def timer(head: Head, tmp_path: Path) -> Timer:
    job = make_job(tmp_path / "store", keys={"folder": str(tmp_path / "keys")}, delete={"min_requests": 1})
    store = publish_original(job)
    make_keys(tmp_path / "keys")
    make_project(tmp_path / "project", job.model_dump(mode="json"), tracks=tmp_path / "tracks")
    return Timer(head, tmp_path, job, store)


@pytest.mark.ray
def test_a_timer_that_ticks_twice_submits_what_is_due_once(timer: Timer, tmp_path: Path) -> None:
    nothing = timer.tick()
    assert (nothing.returncode, nothing.stdout.strip()) == (0, "nothing is due")
    timer.ask("r1", name="requests.csv")
    first = timer.tick(TRU_POLL_SECONDS="1")
    assert first.returncode == 0, first.stderr
    submission = first.stdout.split()[1]
    same = tmp_path / "tru"
    same.write_text(f"#!/bin/sh\necho {submission}\n")
    same.chmod(0o700)
    second = timer.tick(TRU=str(same))
    assert (second.returncode, second.stdout.splitlines()[0]) == (0, f"already submitted: {submission}")

    outcome = newest_outcome(timer.store, submission)
    assert (outcome["exit_code"], outcome["figures"]["num_requests"]) == (0, {"not_found": 1})
    assert timer.tick().stdout.strip() == "nothing is due"
    assert len(timer.store.list(f"runs/{submission}/attempts")) == 1


@pytest.mark.ray
@pytest.mark.long
def test_a_run_that_fails_ends_the_timer_with_its_own_code_and_can_be_submitted_again(
    timer: Timer, tmp_path: Path
) -> None:
    """Ray reports every failure as 1."""
    timer.ask("r2", name="more.csv")
    (tmp_path / "keys" / "signing.key").chmod(0o644)
    for _ in range(2):
        failed = timer.tick(TRU_POLL_SECONDS="1")
        assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "others could read or run it" in failed.stderr
    (tmp_path / "keys" / "signing.key").chmod(0o600)
    assert timer.tick(TRU_POLL_SECONDS="1").returncode == 0
