"""Commands and settings that outputs print: they can be pasted, and they are where the message says. Starts no Ray."""

import os
import re
import shlex
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tests.ledger_world import KEY, a_ledger, user_request
from tests.tiny_snapshot import name_a_data_set, name_a_model
from workflows import cli
from workflows.cli.pasting import complete_figures, complete_text
from workflows.deletions.ledger.commands import explain
from workflows.deletions.ledger.job import load_ledger_job
from workflows.ingest.settings import IN_SETTINGS, ColumnNames, IngestConfig, settings_help
from workflows.storage import StorageConfig, open_store
from workflows.storage.commands import doctor_command, result_command
from workflows.storage.local import LocalStore

ROOT = Path(__file__).parents[1]

# --- commands name the job file that was read ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "job", "expected"),
    [
        ("run `tru delete sweep`.", "a.yaml", "run `tru delete sweep --job a.yaml`."),
        ("See `tru versions`.", "my jobs/a.yaml", "See `tru versions --job 'my jobs/a.yaml'`."),
        ("`tru rollback 2`", "$(x).yaml", "`tru rollback 2 --job '$(x).yaml'`"),
        ("Train it with `tru train`, or", "a b.yaml", "Train it with `tru train 'a b.yaml'`, or"),
        ("`tru train` and `tru delete due`", "j.yaml", "`tru train j.yaml` and `tru delete due --job j.yaml`"),
        ("run `tru delete sweep`.", "job.yaml", "run `tru delete sweep`."),
        ("`tru train`", "job.yaml", "`tru train job.yaml`"),
        ("`tru delete due --job b.yaml`", "a.yaml", "`tru delete due --job b.yaml`"),
        ("`tru audit b.yaml`", "a.yaml", "`tru audit b.yaml`"),
        ("`tru doctor /x` or `tru keys new FOLDER`", "a.yaml", "`tru doctor /x` or `tru keys new FOLDER`"),
        ("`tru delete explain 'a`", "a.yaml", "`tru delete explain 'a`"),
        ("the group `tru delete`, and no command at all", "a.yaml", "the group `tru delete`, and no command at all"),
        ("`tru delete sweep`", None, "`tru delete sweep`"),
    ],
)
def test_a_command_in_a_text_names_the_job_file_quoted_for_a_shell(text: str, job: str | None, expected: str) -> None:
    assert complete_text(text, job=job) == expected
    assert complete_figures({"a": [{"b": text}], "n": 1}, job=job) == {"a": [{"b": expected}], "n": 1}


@pytest.mark.parametrize("folder", ["store", "a store", "it's; touch x", "$HOME `id`"])
def test_a_printed_command_means_the_store_whatever_its_name(folder: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / folder)
    assert shlex.split(doctor_command(store)) == ["tru", "doctor", store.url]
    assert shlex.split(result_command(store, "run-1")) == ["tru", "result", "run-1", "--storage", store.url]


def test_a_printed_command_names_endpoint_and_region_of_a_bucket() -> None:
    config = StorageConfig(url="s3://bucket/a b", endpoint_url="http://127.0.0.1:9000", region="eu-west-1")
    words = shlex.split(result_command(open_store(config), "r"))
    arguments = cli._parser().parse_args(words[1:])
    assert (arguments.storage, arguments.endpoint_url, arguments.region) == (
        "s3://bucket/a b",
        "http://127.0.0.1:9000",
        "eu-west-1",
    )
    assert shlex.split(doctor_command(open_store("s3://bucket/x"))) == ["tru", "doctor", "s3://bucket/x"]


# --- explain ------------------------------------------------------------------------------------


@pytest.fixture
def job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TRU_IDENTITY_KEY_FILE", raising=False)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "identity.key").touch(mode=0o600)
    (tmp_path / "keys" / "identity.key").write_text(KEY.secret.hex())
    store = LocalStore(tmp_path / "store")
    name_a_data_set(store, "tiny")
    name_a_model(store, "tiny-model")
    return tmp_path / "other.yaml"


def write_job(path: Path, delete: str = "{}") -> Path:
    folder = path.parent
    path.write_text(
        f"storage: {folder / 'store'}\ndataset: tiny\nmodel: tiny-model\nkeys: {{folder: {folder / 'keys'}}}\n"
        f"delete: {delete}\n"
    )
    return path


def submit(path: Path, *requests: Any) -> None:
    a_ledger(LocalStore(path.parent / "store"), clock=lambda: datetime.now(UTC)).submit(  # type: ignore[arg-type]
        list(requests), source="test"
    )


def received(days_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days_ago)).isoformat(timespec="seconds")


def next_of(path: Path, request_id: str = "r1") -> str:
    return explain(load_ledger_job(path), request_id, with_history=False)["next"]


def test_explain_says_for_how_many_and_until_when_a_request_waits(job_file: Path) -> None:
    submit(job_file, user_request(1, received=received(1)), user_request(2, received=received(5)))
    text = next_of(write_job(job_file))
    assert "It waits until there are 10 due requests (2 now) or until 2" in text
    deadline = explain(load_ledger_job(job_file), "r2", with_history=False)["deadline"]
    until = datetime.fromisoformat(deadline) - timedelta(days=3)
    assert until.isoformat() in text
    assert "10 days ahead" in next_of(write_job(job_file, "{min_requests: 3, deadline_margin_days: 10, grace_days: 1}"))


@pytest.mark.parametrize("delete", ["{min_requests: 2}", "{min_requests: 1}", "{deadline_margin_days: 40}"])
def test_explain_says_that_the_next_run_takes_a_request_where_it_does(delete: str, job_file: Path) -> None:
    submit(job_file, user_request(1, received=received(1)), user_request(2, received=received(5)))
    assert next_of(write_job(job_file, delete)) == "The next `tru delete run` takes it."


def test_explain_prints_commands_that_can_be_pasted(job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_job(job_file)
    submit(job_file, user_request(1, is_verified=False), user_request(2, received=received(2)))
    assert cli.main(["delete", "hold", "r2", "--reason", "x", "--job", str(path)]) == 0
    capsys.readouterr()
    for name, expected in (("r1", "verify-request r1"), ("r2", "release hold-")):
        assert cli.main(["delete", "explain", name, "--job", str(path)]) == 0
        shown = capsys.readouterr().out
        command = re.search(r"`(tru delete [^`]+)`", shown)
        assert command is not None
        assert expected in command[1]
        arguments = cli._parser().parse_args(shlex.split(command[1])[1:])
        assert arguments.job == str(path)


# --- settings of an import ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [IngestConfig, ColumnNames])
def test_the_help_of_an_import_lists_every_setting_with_its_default(kind: type[BaseModel]) -> None:
    indent = "  " if kind is IngestConfig else "    "
    for name, field in kind.model_fields.items():
        assert field.description, name
        line = next(line for line in settings_help().splitlines() if line.startswith(f"{indent}{name}:"))
        if not isinstance(field.default, BaseModel):
            assert line.endswith(f"default {'none' if field.default is None else field.default}")


def test_the_example_of_the_help_is_a_file_of_settings() -> None:
    text = settings_help().partition("example:\n")[2]
    settings = IngestConfig.model_validate(yaml.safe_load(text))
    assert settings.columns.user == "customer"
    assert (settings.split, settings.missing_feature) == ("time", "zero")


def test_no_message_of_an_import_sends_anybody_to_the_job_file() -> None:
    for path in (ROOT / "workflows" / "ingest").glob("*.py"):
        lines = [line for line in path.read_text().splitlines() if "job file" in line and '"""' not in line]
        assert lines == [], path
    assert "--settings" in IN_SETTINGS


def test_import_help_shows_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "import", "--help"])
    assert ended.value.code == 0
    assert settings_help() in capsys.readouterr().out


# --- the scheduled script ends with the run's own exit code --------------------------------------

FAKE_RAY = """#!/bin/bash
echo "$@" >>"$FAKE/calls"
case "$2" in
submit)
    if [ -e "$FAKE/taken" ]; then echo "Job with submission_id $5 already exists"; exit 1; fi
    touch "$FAKE/taken"; [ ! -e "$FAKE/again" ] || mv "$FAKE/again" "$FAKE/status" ;;
delete) rm "$FAKE/taken" ;;
status) cat "$FAKE/status" ;;
esac
"""
FAKE_TRU = """#!/bin/bash
echo "$@" >>"$FAKE/calls"
case "$1" in
delete) cat "$FAKE/id" ;;
result) echo "outcome of $2"; exit "$(cat "$FAKE/code")" ;;
esac
"""
FAILED = "Job 'delete-1' failed\nStatus message: Job entrypoint command failed with exit code {}, last available logs"


class Schedule:
    """The script with a ray and a tru that say what a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "jobs").mkdir()
        (folder / "jobs" / "delete.yaml").write_text("{}")
        for name, text in (("ray", FAKE_RAY), ("tru", FAKE_TRU)):
            self.program(name, text)
        self.say(id="delete-1\n", code="0", status="Job 'delete-1' succeeded", calls="")

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(stat.S_IRWXU)

    def say(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def environment(self, **more: str) -> dict[str, str]:
        own = {"FAKE": str(self.folder), "TRU": str(self.folder / "tru"), "RAY": str(self.folder / "ray")}
        own |= {"TRU_POLL_SECONDS": "0.05", "TRU_WAIT_SECONDS": "1", "PATH": f"{self.folder}:{os.environ['PATH']}"}
        return os.environ | own | {"HOME": str(self.folder)} | more

    def tick(self, **more: str) -> subprocess.CompletedProcess[str]:
        script = ROOT / "cluster" / "submit-deletions.sh"
        return subprocess.run(
            [script, self.folder / "jobs" / "delete.yaml"],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def schedule(tmp_path: Path) -> Schedule:
    return Schedule(tmp_path)


def test_a_timer_with_nothing_due_submits_nothing(schedule: Schedule) -> None:
    schedule.say(id="\n")
    done = schedule.tick()
    assert (done.returncode, done.stdout) == (0, "nothing is due\n")
    assert len(schedule.calls()) == 1


@pytest.mark.parametrize(
    ("status", "stored", "expected"),
    [
        ("Job 'delete-1' succeeded", 0, 0),
        (FAILED.format(3), 3, 3),
        (FAILED.format(6), 6, 6),
        (FAILED.format(2), 4, 2),  # it failed before it could write an outcome
        (FAILED.format(9), 0, 9),  # the outcome that is there is of an earlier try
        ("Job 'delete-1' failed\nStatus message: the node was lost", 0, 7),
        ("Job 'delete-1' failed\nStatus message: the node was lost", 5, 5),
        (FAILED.format(-9), 0, 7),
        ("Job 'delete-1' was stopped", 130, 7),
    ],
)
def test_a_timer_ends_with_the_exit_code_of_the_deletions(
    status: str, stored: int, expected: int, schedule: Schedule
) -> None:
    schedule.say(status=status, code=str(stored))
    done = schedule.tick()
    assert done.returncode == expected, done.stderr
    assert "outcome of delete-1" in done.stdout
    assert any("delete run delete.yaml --run-id delete-1" in call for call in schedule.calls())


def test_a_run_that_does_not_end_is_left_alone_and_is_no_success(schedule: Schedule) -> None:
    schedule.say(status="Status for job 'delete-1': RUNNING")
    done = schedule.tick()
    assert done.returncode == 7
    assert "has not ended after 1 s" in done.stderr
    assert not any(call.startswith(("job stop", "job delete")) for call in schedule.calls())


def test_a_second_tick_waits_for_the_run_that_is_there(schedule: Schedule) -> None:
    schedule.say(taken="")
    done = schedule.tick()
    assert done.returncode == 0
    assert done.stdout.startswith("already submitted: delete-1\n")


def test_an_id_that_a_failed_run_left_taken_is_freed_and_submitted_again(schedule: Schedule) -> None:
    schedule.say(taken="", status=FAILED.format(2), again="Job 'delete-1' succeeded")
    done = schedule.tick()
    assert done.returncode == 0, done.stderr
    assert "submitted delete-1 again" in done.stdout
    assert [call.split()[1] for call in schedule.calls() if call.startswith("job ")] == [
        "submit",
        "status",
        "delete",
        "submit",
        "status",
    ]


def test_a_submission_that_ray_refuses_ends_with_its_code(schedule: Schedule) -> None:
    schedule.program("ray", "#!/bin/bash\necho no such head\nexit 5\n")
    done = schedule.tick()
    assert (done.returncode, done.stderr) == (5, "no such head\n")


@pytest.mark.parametrize("code", [0, 3, 9])
def test_the_line_of_cron_ends_with_the_exit_code_and_says_so(code: int, schedule: Schedule) -> None:
    lines = (ROOT / "cluster" / "schedule" / "crontab").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    assert settings.keys() >= {"SHELL", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
    [line] = [line for line in lines if line.startswith("30 ")]
    assert "%" not in line  # cron reads it as the end of a line
    schedule.program("script", f"#!/bin/bash\necho working\nexit {code}\n")
    schedule.program("logger", '#!/bin/bash\ncat >>"$FAKE/log"\n')
    schedule.program("flock", '#!/bin/bash\nshift 4\nexec "$@"\n')
    command = line.split(maxsplit=5)[5].replace("/opt/tru/cluster/submit-deletions.sh", str(schedule.folder / "script"))
    done = subprocess.run(
        [settings["SHELL"], "-c", command], env=schedule.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code
    assert (f"exit code {code}" in done.stdout) == (code != 0)
    assert (schedule.folder / "log").read_text() == "working\n"


def test_every_page_names_the_port_and_the_token_of_the_head() -> None:
    head = (ROOT / "cluster" / "head.sh").read_text()
    found = re.search(r"TRU_PORT_DASHBOARD:-(\d+)", head)
    assert found is not None
    for name in ("README.md", "cluster/schedule/crontab", "cluster/schedule/tru-deletions.service"):
        text = (ROOT / name).read_text()
        assert set(re.findall(r"http://127\.0\.0\.1:(\d+)", text)) == {found[1]}, name
        assert "RAY_AUTH_TOKEN_PATH=" in text
        assert ".tru/head/token" in text
