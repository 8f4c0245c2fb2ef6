"""No text of a file, a name or a setting steers the terminal on which a command prints, nor a reader of its log."""

import json
import logging
import pickle  # noqa: TID251, as workers' errors travel
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from tru_core.errors import DataError, TruError
from tru_core.quoting import MAX_MESSAGE, MAX_QUOTED, may_be_secret, printable, quoted, shortened
from workflows.cli import main
from workflows.cli.deletion_tables import print_versions
from workflows.cli.ledger_tables import print_requests
from workflows.cli.tables import print_figures
from workflows.cli.terminal import make_output_harmless, print_json, printable_figures

HOSTILE = "a\x1b[31mb\x9b2Jc\x07d\x7fe\u202ef\u2066g\u200bh\ufeffi\U000e0041j\u3164k\rl\u2028m"
FORBIDDEN = sorted({letter for letter in HOSTILE if not letter.isascii() or not letter.isprintable()})


def assert_harmless(text: str) -> None:
    for line in text.split("\n"):
        for letter in line:
            assert letter not in FORBIDDEN, repr(text)
            assert letter.isprintable(), repr(text)


def test_every_control_character_is_written_out() -> None:
    written = printable(HOSTILE)
    assert_harmless(written)
    for form in (
        r"\x1b[31m",
        r"\x9b2J",
        r"\x07",
        r"\x7f",
        r"\u202e",
        r"\u2066",
        r"\u200b",
        r"\ufeff",
        r"\U000e0041",
        r"\r",
    ):
        assert form in written
    controls = [chr(code) for code in (*range(32), *range(127, 160))]
    assert all(printable(letter).startswith("\\") for letter in controls)
    assert printable("é 漢字 ± … 😀 'x'") == "é 漢字 ± … 😀 'x'"
    assert printable("\udc1b") == r"\udc1b"


@pytest.mark.parametrize("length", [0, MAX_QUOTED, MAX_QUOTED + 1, 10**6])
def test_what_is_quoted_is_short(length: int) -> None:
    assert len(quoted("x" * length)) <= MAX_QUOTED + 2
    assert len(shortened("x" * length, 100)) <= 100
    assert len(quoted(10 ** min(length, 9000))) < 10 * MAX_QUOTED
    assert quoted("x" * MAX_QUOTED) == f"'{'x' * MAX_QUOTED}'"


@pytest.mark.parametrize(
    "text", ["users", "Movielens-20M-2026-v1", "s3://bucket/prefix", "/data/store/v1", "128", "fp16"]
)
def test_plain_words_are_no_secrets(text: str) -> None:
    assert not may_be_secret(text)


def test_an_errors_text_is_harmless_wherever_it_is_shown() -> None:
    error = DataError(f"{HOSTILE}\nfound")
    assert isinstance(error, TruError)
    again = pickle.loads(pickle.dumps(error))
    for text in (str(error), f"{error}", str(again), "".join(traceback.format_exception_only(error))):
        assert_harmless(text)
        assert r"\x1b[31m" in text


# --- commands -----------------------------------------------------------------------------------


@pytest.fixture
def hostile_header(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "interactions.csv").write_text("user_id,\x1b]0;owned\x07item\u202e_id\n1,2\n3,4\n")
    return tmp_path / "raw"


def commands(folder: Path, raw: Path) -> list[list[str]]:
    job = folder / "jo\x1b[2Jb.yaml"
    job.write_text('storage: store\ndataset: tiny\nmodel: "m\\x1b[31m\\u202e"\n')
    hostile = str(folder / HOSTILE.replace("\r", "")[:20])
    return [
        ["versions", "--job", str(job)],
        ["train", hostile],
        ["compare", str(job), "--out", f"{hostile}.txt"],
        ["data", "import", str(raw), "--to", f"{folder}/{HOSTILE}"],
        ["data", "import", hostile, "--to", f"{folder}/store/datasets/{HOSTILE}"],
        ["verify", hostile, "--public-key", hostile],
        ["keys", "new", f"{job}/{HOSTILE}"],
        ["result", HOSTILE, "--storage", f"s3:///{HOSTILE}"],
        ["doctor", f"gs\x1b[1m://{HOSTILE}"],
    ]


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_error_prints_no_control_character(
    number: int, options: list[str], tmp_path: Path, hostile_header: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*commands(tmp_path, hostile_header)[number], *options]) not in (0, 1)
    shown = capsys.readouterr()
    assert_harmless(shown.err)
    assert_harmless(shown.out)
    assert len(shown.err) < 2 * MAX_MESSAGE
    if options:
        assert json.loads(shown.out)["exit_code"] > 1


@pytest.mark.parametrize(
    "arguments", [[HOSTILE], ["train", "a", HOSTILE], ["train", f"--{HOSTILE}"], ["train", "a", "x" * 99_999]]
)
def test_a_complaint_about_arguments_is_harmless_and_short(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert_harmless(shown)
    assert len(shown) < 2 * MAX_MESSAGE


def test_json_on_standard_output_is_ascii_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": HOSTILE})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert_harmless(shown)
    assert json.loads(shown) == {"name": HOSTILE}


# --- tables -------------------------------------------------------------------------------------

MARKUP = "[red]x[/] [/nothing] :bomb: [link=https://example.org]y"


def version(**changes: Any) -> dict[str, Any]:
    base = {"version": 1, "status": "serving", "files": "kept", "method": "fit", "parent_version": None}
    return base | {"snapshot_id": "s", "created_at": "2026-11-26T01:00", "rollback_of": None, "override": ""} | changes


def request(name: str) -> dict[str, Any]:
    base = {"kind": "user", "state": "received", "deadline": "2026-12-26T01:00", "alert": "", "regulation": "gdpr"}
    return base | {"request_id": name, "batch_id": None, "outcome": None}


@pytest.mark.parametrize("text", [HOSTILE, MARKUP, "[/]", "\x1b[31m:smile:[bold]"])
def test_a_table_shows_texts_as_they_are_and_harmless(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printable_figures({"model": text, "versions": [version(override=text)], text: [text, (text,)]})
    print_versions(shown)
    print_figures(shown)
    print_requests({"requests": [request(printable(text))], "by_state": {printable(text): 1}, "total": 1})
    printed = capsys.readouterr().out
    assert_harmless(printed)
    joined = "".join(printed.split())
    assert joined.count("".join(printable(text).split())) >= 3


def test_figures_of_a_command_are_made_harmless_before_they_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ke\x1b[31mys\u202e[red]:bomb:"
    assert main(["keys", "new", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert_harmless(shown)
    assert r"ke\x1b[31mys\u202e[red]:bomb:" in shown


# --- logs and tracebacks ------------------------------------------------------------------------


def test_log_lines_are_harmless() -> None:
    make_output_harmless()
    handler = logging.lastResort
    assert handler is not None
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.getLogger("tru").makeRecord(
            "tru", logging.WARNING, __file__, 1, "file %s", (HOSTILE,), sys.exc_info()
        )
    line = handler.format(record)
    assert_harmless(line)
    assert r"file a\x1b[31mb" in line
    assert "\nValueError: a" in line


def test_a_traceback_is_harmless() -> None:
    code = (
        "from workflows.cli.terminal import make_output_harmless\n"
        "make_output_harmless()\n"
        r"raise RuntimeError('a\x1b[31m\u202e\x9b')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert_harmless(done.stderr)
