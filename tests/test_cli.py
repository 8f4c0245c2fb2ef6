"""The command line: what it understands, what it prints where, and with which code it ends. Starts no Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tru_core.errors
from tests.tiny_snapshot import name_a_data_set, name_a_model, write_tiny_snapshot
from tru_core.errors import AuditError, DataError, TruError
from workflows import cli, ingest
from workflows.cli import demo
from workflows.experiments.compare import compare
from workflows.experiments.compare.comparison import RunFigures, summarise, to_json
from workflows.ingest.raw_files import UnusedFile
from workflows.running import cluster, private_ray, runs
from workflows.running.outcomes import recorded
from workflows.storage import existing, open_store
from workflows.storage.local import LocalStore

ERRORS = [
    kind
    for kind in vars(tru_core.errors).values()
    if isinstance(kind, type) and issubclass(kind, TruError) and kind is not TruError
]
FIGURES = {"version": 1, "test_recall20": 0.25, "run_id": "train-1"}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cluster is started, and what ``main`` sets for the process is put back."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(cluster, "connected", lambda scaling: nullcontext())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A shell's background process ignores Ctrl-C from its start; these tests mean a foreground one.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def job(tmp_path: Path) -> str:
    """A job file whose storage has the data set and the model that it names."""
    store = LocalStore(tmp_path / "store")
    name_a_data_set(store, "tiny")
    name_a_model(store, "tiny-mgcn")
    path = tmp_path / "job.yaml"
    path.write_text(f"storage: {tmp_path / 'store'}\ndataset: tiny\nmodel: tiny-mgcn\n")
    return str(path)


def train_does(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    """Let ``tru train`` return something, or raise an error."""

    def train(*_: Any) -> Any:
        print("noise of a library")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(runs, "train", train)


def only_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one object on standard output."""
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    found = json.loads(output)
    assert isinstance(found, dict)
    return found


def without_places(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures without what every command adds: where it wrote."""
    places = ("storage", "is_new_storage", "new_model", "files_written")
    return {name: value for name, value in figures.items() if name not in places}


# --- what is printed where ----------------------------------------------------------------------


def test_json_prints_one_object_and_nothing_else(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_does(monkeypatch, FIGURES)
    assert cli.main(["train", job, "--json"]) == 0
    assert without_places(only_json(capsys)) == FIGURES


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_ends_with_its_own_code_and_says_it_in_json(
    kind: type[TruError], job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_does(monkeypatch, kind("file x, row 3: expected this, found that"))
    expected = {"error": kind.__name__, "message": "file x, row 3: expected this, found that"}
    assert cli.main(["train", job, "--json"]) == kind.exit_code
    assert only_json(capsys) == expected | {"exit_code": kind.exit_code}
    assert cli.main(["train", job]) == kind.exit_code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("tru: file x, row 3: expected this, found that\n")


def test_the_exit_codes_are_those_of_the_requirements() -> None:
    codes = {kind.__name__: kind.exit_code for kind in ERRORS}
    assert codes == {
        "ConfigError": 2,
        "DataError": 3,
        "AccessError": 4,
        "MissingObjectError": 4,
        "ConflictError": 5,
        "AuditError": 6,
        "NumericsError": 6,
        "TransientError": 7,
        "IntegrityError": 8,
        "EditedReceiptError": 8,
        "UnknownKeyError": 8,
        "ExpiredKeyError": 8,
        "PredicateTypeError": 8,
        "ChainGapError": 8,
        "ChainOrderError": 8,
        "PolicyError": 9,
    }


def test_notes_of_an_error_are_printed_too(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = DataError("bad row")
    error.add_note("The outcome is recorded.")
    train_does(monkeypatch, error)
    assert cli.main(["train", job]) == 3
    assert capsys.readouterr().err.endswith("tru: bad row\nThe outcome is recorded.\n")


def test_an_error_of_the_program_ends_with_its_traceback_and_in_json_without_its_text(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_does(monkeypatch, RuntimeError("may hold anything"))
    with pytest.raises(RuntimeError):
        cli.main(["train", job, "--json"])
    found = only_json(capsys)
    assert (found["error"], found["exit_code"]) == ("RuntimeError", 1)
    assert "may hold anything" not in found["message"]


def test_a_number_that_json_cannot_hold_is_never_printed(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_does(monkeypatch, {"test_recall20": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        cli.main(["train", job, "--json"])
    assert only_json(capsys)["exit_code"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_interrupts_with_code_130(
    number: signal.Signals, job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(30)

    monkeypatch.setattr(runs, "train", train)
    assert cli.main(["train", job, "--json"]) == 130
    assert only_json(capsys)["exit_code"] == 130
    signal.signal(number, signal.default_int_handler)  # a command that was interrupted ignores what comes after
    assert cli.main(["train", job]) == 130
    printed = capsys.readouterr()
    assert (printed.out, "the same command resumes" in printed.err) == ("", True)


def test_figures_are_printed_for_people(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_does(monkeypatch, FIGURES | {"modalities": {"text": 6, "visual": 8}, "report": {}})
    assert cli.main(["train", job]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["test", "recall20", "0.2500"] in lines
    assert ["modalities", "text", "6, visual 8"] in lines
    assert ["report", "-"] in lines


def comparison(failed: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``compare`` gives for three systems of one seed, and two Retrains."""
    seconds = {"Original": 90.0, "TRU": 2.0, "Retrain": 100.0}
    figures = {"test_recall20": 0.25, "forget_recall20": 0.0625}
    runs = [RunFigures("mgcn", "user 5 %", name, 0, figures | {"seconds": value}) for name, value in seconds.items()]
    runs.append(RunFigures("mgcn", "user 5 %", "Retrain", 1, {"test_recall20": 0.125, "seconds": 90.0}))
    return {"rows": to_json(summarise(runs)), "runs": [], "failed": failed}


def test_a_comparison_is_a_table(job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compare, "compare", lambda job, *, outputs: comparison([]))
    assert cli.main(["compare", job]) == 0
    output = capsys.readouterr().out
    for text in ("mgcn · user 5 %", "Original", "TRU", "Retrain", "0.2500 =", "0.0625", "0.1250–0.2500", "50.0x"):
        assert text in output
    assert max(len(line) for line in output.splitlines()) <= 120


def test_a_comparison_with_a_failed_run_says_so_and_ends_with_its_code(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {"backbone": "mgcn", "forget": "user 5 %", "method": "SCIF", "seed": 0}
    failed = [where | {"error_kind": "NumericsError", "error": "the step is nan", "exit_code": 6}]
    monkeypatch.setattr(compare, "compare", lambda job, *, outputs: comparison(failed))
    assert cli.main(["compare", job]) == 6
    output = capsys.readouterr().out
    assert "50.0x" in output
    assert "failed: mgcn, user 5 %, seed 0: SCIF: NumericsError: the step is nan" in output
    assert cli.main(["compare", job, "--json"]) == 6
    assert without_places(only_json(capsys)) == comparison(failed)


@pytest.mark.parametrize(
    ("path", "message"),
    [("table.xlsx", "ends with .json, .parquet, .csv"), ("table", "ends with"), ("none/table.csv", "Make its folder")],
)
def test_a_table_that_cannot_be_written_ends_with_code_2_before_anything_starts(
    path: str,
    message: str,
    job: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "connected", lambda scaling: pytest.fail("a cluster was started"))
    assert cli.main(["compare", job, "--out", str(tmp_path / path), "--json"]) == 2
    assert message in only_json(capsys)["message"]


# --- what is understood -------------------------------------------------------------------------


def commands_in(text: str) -> set[str]:
    return {line.split()[0] for line in text.splitlines() if line.startswith("    ") and line[4] not in " -"}


def test_help_names_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert commands_in(text) == {
        "audit",
        "compare",
        "data",
        "delete",
        "demo",
        "doctor",
        "keys",
        "result",
        "rollback",
        "sweep",
        "train",
        "unlearn",
        "verify",
        "versions",
    }
    listed = text[text.index("exit codes:") :]
    for code in {kind.exit_code for kind in ERRORS} | {0, 130}:
        assert f" {code} " in listed.replace("\n", " "), code


@pytest.mark.parametrize("group", ["data", "delete", "keys"])
def test_help_of_a_group_names_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([group, "--help"])
    assert caught.value.code == 0
    named = commands_in(capsys.readouterr().out)
    assert {"data": {"import"}, "delete": {"run", "due", "submit"}, "keys": {"new"}}[group] <= named
    for name in named:
        with pytest.raises(SystemExit) as caught:
            cli.main([group, name, "--help"])
        assert caught.value.code == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["data", "import"],
        ["train"],
        ["unlearn"],
        ["compare"],
        ["audit"],
        ["sweep"],
        ["delete", "run"],
        ["delete", "purge"],
        ["delete", "submission-id"],
        ["versions"],
        ["rollback"],
        ["result"],
        ["keys", "new"],
        ["verify"],
        ["doctor"],
        ["demo"],
    ],
)
def test_every_command_explains_itself_and_takes_json(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*argv, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert f"usage: tru {' '.join(argv)}" in text


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["forget"],
        ["data"],
        ["data", "import"],
        ["data", "import", "raw"],
        ["data", "import", "raw", "--to", "s/datasets/d", "--layout", "csv"],
        ["data", "import", "raw", "--to", "s/datasets/d", "--split", "leave-one-out"],
        ["data", "import", "raw", "--to", "s/datasets/d", "--split-seed", "one"],
        ["data", "import", "raw", "--to", "s/datasets/d", "--missing-feature", "drop"],
        ["train"],
        ["train", "a.yaml", "b.yaml"],
        ["train", "a.yaml", "--epochs", "3"],
        ["compare", "job.yaml", "--out"],
        ["sweep"],
        ["delete"],
        ["rollback"],
        ["rollback", "one"],
        ["keys"],
        ["keys", "new"],
        ["keys", "new", "folder", "--days", "0"],
        ["verify", "receipt.json"],
        ["verify", "receipt.json", "--public-key", "a.pub", "--files", "a", "--storage", "b"],
        ["doctor"],
        ["doctor", "store", "--rounds", "none"],
        ["result", "run-1"],
        ["result", "run-1", "--storage", "store", "--wait", "long"],
    ],
)
def test_a_command_that_is_not_understood_ends_with_code_2_and_says_how_to_write_it(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: tru")


@pytest.mark.parametrize("name", ["train", "unlearn"])
def test_a_workflow_gets_the_checked_job(
    name: str, job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[Any] = []
    monkeypatch.setattr(runs, name, lambda job: jobs.append(job) or FIGURES)
    assert cli.main([name, job, "--json"]) == 0
    assert (jobs[0].dataset, jobs[0].model) == ("tiny", "tiny-mgcn")
    assert without_places(only_json(capsys)) == FIGURES


@pytest.mark.parametrize("argv", [["train"], ["unlearn"], ["compare"], ["sweep"], ["delete", "run", "--requests", "x"]])
def test_a_wrong_job_file_ends_with_code_2_before_anything_starts(
    argv: list[str], job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "connected", lambda scaling: pytest.fail("a cluster was started"))
    Path(job).write_text(Path(job).read_text() + "fit: {max_epoch: 3}\n")
    assert cli.main([*argv, job, "--json"]) == 2
    found = only_json(capsys)
    assert (found["error"], found["exit_code"]) == ("ConfigError", 2)
    assert "did you mean 'max_epochs'?" in found["message"]


def test_compare_sweep_delete_and_demo_get_what_they_were_told(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, ...]] = []
    sweep = SimpleNamespace(sweep=lambda job, *, best_job_path: calls.append((job.model, best_job_path)) or FIGURES)
    deletions = SimpleNamespace(
        run_deletions=lambda job, path, *, is_asked, connect, run_id: (
            calls.append((job.model, path, is_asked)) or FIGURES
        )
    )
    monkeypatch.setitem(sys.modules, "workflows.experiments.sweep.sweep", sweep)
    monkeypatch.setitem(sys.modules, "workflows.deletions.runner", deletions)
    monkeypatch.setattr(compare, "compare", lambda job, *, outputs: calls.append((job.model, *outputs)) or FIGURES)
    monkeypatch.setattr(demo, "run_demo", lambda folder: calls.append((folder,)) or FIGURES)
    tables = [str(tmp_path / "a.csv"), str(tmp_path / "a.parquet")]
    for argv in (
        ["compare", job],
        ["compare", job, "--out", tables[0], "--out", tables[1]],
        ["sweep", job],
        ["sweep", job, "--out", "b.yaml"],
        ["delete", "run", job, "--requests", "requests.csv"],
        ["delete", "run", "--job", job, "--now"],
        ["demo"],
        ["demo", "--folder", str(tmp_path)],
    ):
        assert cli.main([*argv, "--json"]) == 0
        assert without_places(only_json(capsys)) == FIGURES
    assert calls == [
        ("tiny-mgcn",),
        ("tiny-mgcn", Path(tables[0]), Path(tables[1])),
        ("tiny-mgcn", Path("best-job.yaml")),
        ("tiny-mgcn", Path("b.yaml")),
        ("tiny-mgcn", Path("requests.csv"), False),
        ("tiny-mgcn", None, True),
        (Path("store/demo"),),
        (tmp_path,),
    ]


# --- data import --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("store/datasets/tiktok", ("store", "tiktok")),
        ("store/datasets/tiktok/", ("store", "tiktok")),
        ("/abs/store/datasets/a.b-1", ("/abs/store", "a.b-1")),
        ("s3://bucket/prefix/datasets/tiktok", ("s3://bucket/prefix", "tiktok")),
        ("s3://bucket/datasets/tiktok", ("s3://bucket", "tiktok")),
        ("s/datasets/old/datasets/new", ("s/datasets/old", "new")),
    ],
)
def test_where_a_data_set_goes_is_parted_into_storage_and_name(url: str, parts: tuple[str, str]) -> None:
    assert cli.split_dataset_url(url) == parts


@pytest.mark.parametrize(
    "url",
    ["", "store", "tiktok", "store/tiktok", "datasets/tiktok", "/datasets/tiktok", "store/datasets", "store/datasets/",
     "store/datasets/a/b", "store/datasets/Big", "store/datasets/..", "store/datasets/a b"],
)  # fmt: skip
def test_where_no_data_set_can_go_ends_with_code_2_before_anything_starts(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "connected", lambda scaling: pytest.fail("a cluster was started"))
    assert cli.main(["data", "import", "raw", "--to", url, "--json"]) == 2
    found = only_json(capsys)
    assert found["error"] == "ConfigError"
    assert "expected <storage>/datasets/<name>" in found["message"] or "is not allowed" in found["message"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("splitt: random\n", "splitt: there is no such setting; did you mean 'split'?"),
        ("columns: {users: u}\n", "did you mean 'user'?"),
        ("split: leave-one-out\n", "split: Input should be 'auto', 'given', 'random' or 'time'"),
        ("- split\n", "expected settings by name, found a list"),
        ("split: time\nsplit: random\n", "line 2: the key 'split' stands twice"),
        (None, "cannot be read as text"),
    ],
)
def test_wrong_import_settings_end_with_code_2_and_name_the_file(
    settings: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "connected", lambda scaling: pytest.fail("a cluster was started"))
    path = tmp_path / "import.yaml"
    if settings is not None:
        path.write_text(settings)
    assert cli.main(["data", "import", "raw", "--to", "s/datasets/d", "--settings", str(path), "--json"]) == 2
    found = only_json(capsys)["message"]
    assert found.startswith(f"{path}: ")
    assert message in found


def test_an_option_beats_the_settings_file_and_the_figures_say_what_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    def import_dataset(source: Any, store: LocalStore, name: str, settings: Any, *, keys: Any, on_unused: Any) -> Any:
        assert keys.folder == "keys"
        on_unused([UnusedFile("README.md", "for people"), UnusedFile("pics/*.jpg", "pictures", 30)])
        calls.append((source.url, store.url, name, settings))
        return write_tiny_snapshot(store, dataset=name)

    monkeypatch.setattr(ingest, "import_dataset", import_dataset)
    path = tmp_path / "import.yaml"
    path.write_text("split: time\nnum_neighbours: 5\n")
    argv = ["data", "import", "raw", "--to", f"{tmp_path}/store/datasets/tiny", "--settings", str(path), "--json"]
    assert cli.main([*argv, "--split", "random", "--split-seed", "7"]) == 0
    [(source, store, name, settings)] = calls
    assert (source, store, name) == ("raw", str(tmp_path / "store"), "tiny")
    assert (settings.split, settings.split_seed, settings.num_neighbours) == ("random", 7, 5)
    found = only_json(capsys)
    assert found.items() >= {"dataset": "tiny", "num_users": 60, "num_items": 40, "snapshot_id": "tiny-0"}.items()
    assert found["modalities"] == {"text": 6, "visual": 8}
    assert found["train"] + found["valid"] + found["test"] == 60 * 12
    assert found["files_unused"] == [
        {"file": "README.md", "reason": "for people"},
        {"file": "pics/*.jpg", "reason": "pictures", "num_files": 30},
    ]
    assert cli.main(["data", "import", "raw", "--to", f"{tmp_path}/other/datasets/tiny"]) == 0
    printed = capsys.readouterr().out
    assert "not used               README.md: for people\n" in printed
    assert "not used               pics/*.jpg (30 files): pictures\n" in printed


@pytest.mark.parametrize(
    ("source", "to", "options", "expected"),
    [
        ("raw", "s3://bucket/x", {"-": "http://127.0.0.1:9"}, (None, "http://127.0.0.1:9")),
        ("s3://bucket/x", "store", {"-": "http://127.0.0.1:9"}, ("http://127.0.0.1:9", None)),
        ("s3://a-1/x", "s3://b-2/x", {"-": "http://localhost:1"}, ("http://localhost:1", "http://localhost:1")),
        ("s3://a-1/x", "s3://b-2/x", {"--source": "http://127.0.0.1:1"}, ("http://127.0.0.1:1", None)),
        (
            "s3://a-1/x",
            "s3://b-2/x",
            {"-": "http://127.0.0.1:9", "--to": "https://s3.example.org"},
            ("http://127.0.0.1:9", "https://s3.example.org"),
        ),
        ("raw", "store", {}, (None, None)),
    ],
)
def test_an_endpoint_goes_to_the_side_that_is_s3_and_each_side_can_have_its_own(
    source: str,
    to: str,
    options: dict[str, str],
    expected: tuple[str | None, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def import_dataset(source: Any, store: Any, *others: Any, **settings: Any) -> Any:
        seen.append((source.endpoint_url, getattr(getattr(store, "_config", None), "endpoint_url", None)))
        raise DataError("far enough")

    monkeypatch.setattr(ingest, "import_dataset", import_dataset)
    monkeypatch.setattr(existing, "open_new", lambda config, *, where: (open_store(config), False))  # asks no endpoint
    argv = ["data", "import", source, "--to", f"{to}/datasets/d"]
    for side, url in options.items():
        argv += [f"{side}-endpoint-url", url]
    assert cli.main(argv) == 3
    assert seen == [expected]


@pytest.mark.parametrize(
    "argv", [["--endpoint-url", "http://127.0.0.1:9"], ["--source-endpoint-url", "http://127.0.0.1:9"]]
)
def test_an_endpoint_for_a_folder_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "import", "raw", "--to", "store/datasets/d", *argv, "--json"]) == 2
    assert "folder" in only_json(capsys)["message"]


def test_an_endpoint_against_the_policy_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["data", "import", "s3://raw/x", "--to", "s3://bucket/datasets/d", "--endpoint-url", "http://10.0.0.1"]
    assert cli.main([*argv, "--json"]) == 2
    assert "is not encrypted" in only_json(capsys)["message"]


# --- results ------------------------------------------------------------------------------------


def test_result_ends_with_the_code_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(tmp_path / "store")

    def fail() -> dict[str, Any]:
        raise AuditError("visited 3 of 4 rows")

    with pytest.raises(AuditError):
        recorded(store, "run-1", "unlearn", fail)
    argv = ["result", "run-1", "--storage", store.url]
    assert cli.main([*argv, "--json"]) == 6
    assert only_json(capsys)["message"] == "visited 3 of 4 rows"
    recorded(store, "run-1", "unlearn", lambda: {"version": 2})
    assert cli.main(argv) == 0
    assert "succeeded" in capsys.readouterr().out


def test_the_result_of_a_run_that_never_ended_is_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["result", "run-1", "--storage", str(tmp_path), "--wait", "0.2", "--json"]) == 4
    found = only_json(capsys)
    assert found["error"] == "MissingObjectError"
    assert "run run-1 has no outcome in" in found["message"]


# --- the process --------------------------------------------------------------------------------


def test_a_private_cluster_gets_a_token_of_its_own_and_a_named_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name)
    private_ray.protect_private_session()
    first = os.environ.pop("RAY_AUTH_TOKEN")
    assert (os.environ.pop("RAY_AUTH_MODE"), len(first)) == ("token", 64)
    private_ray.protect_private_session()
    assert os.environ.pop("RAY_AUTH_TOKEN") != first
    del os.environ["RAY_AUTH_MODE"]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    private_ray.protect_private_session()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_the_module_is_the_command(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "workflows", "train", str(tmp_path / "none.yaml"), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "ConfigError"
    assert done.stderr.startswith("tru: ")


def test_a_submitted_job_refuses_storage_that_would_vanish_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("storage: store\ndataset: tiny\nmodel: tiny-mgcn\n")
    monkeypatch.chdir(tmp_path)
    name_a_data_set(LocalStore("store"), "tiny")
    train_does(monkeypatch, FIGURES)
    assert cli.main(["train", str(path)]) == 0
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert cli.main(["train", str(path)]) == 2
    assert "'store' is relative to the working folder" in capsys.readouterr().err
    path.write_text(f"storage: {tmp_path / 'store'}\ndataset: tiny\nmodel: tiny-mgcn\n")
    assert cli.main(["train", str(path)]) == 0


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
def test_a_wait_without_end_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["result", "train-1", "--storage", "store", "--wait", seconds])
    assert ended.value.code == 2
    assert "--wait" in capsys.readouterr().err
