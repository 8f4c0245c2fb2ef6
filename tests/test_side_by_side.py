"""The lanes of ``make test``: all run, a failure of any is seen, the last lines are pytest's, Ctrl-C ends them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.side_by_side import CLOSING

SCRIPT = Path(__file__).with_name("side_by_side.py")
UNTIL_A_SIGNAL = """import pathlib, time
pathlib.Path('{0}').touch()
try: time.sleep(60)
finally: pathlib.Path('{0}').unlink()
"""
PASSED, FAILED = "3 passed, 1 deselected in 0.50s", "= 1 failed, 2 passed in 61.00s (0:01:01) ="


def beside(*lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *lines], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("codes", "expected"), [((0, 0, 0), 0), ((0, 0, 3), 3), ((5, 0, 0), 5), ((0, 1, 0), 1), ((0, 127, 0), 127)]
)
def test_all_end_with_0_only_where_each_does(codes: tuple[int, ...], expected: int) -> None:
    ended = beside(*(f"echo lane {number}; exit {code}" for number, code in enumerate(codes)))
    assert ended.returncode == expected
    assert [f"lane {number}\n" in ended.stdout for number in range(3)] == [True] * 3


def test_a_lane_that_is_killed_or_fails_in_a_pipe_is_a_failure() -> None:
    assert beside("kill -KILL $$", "true").returncode == 9
    assert beside("false | cat", "true").returncode == 1


def test_the_last_lines_are_those_of_pytest_a_failed_one_last() -> None:
    ended = beside(f"echo '{FAILED}'; exit 1", f"echo '{PASSED}'; echo more", "echo no tests here")
    closing = [line for line in ended.stdout.splitlines()[-4:] if not line.startswith("== ")]
    assert closing == [PASSED, FAILED]


@pytest.mark.parametrize("line", [PASSED, FAILED, "== 1 error in 2.1s ==", "=== no tests ran in 0.01s ==="])
def test_a_closing_line_is_known(line: str) -> None:
    assert CLOSING.fullmatch(line.encode())


@pytest.mark.parametrize("line", ["FAILED tests/a.py", "3 passed", "== 4 s", "5 blocks of README.md ran in 3 s"])
def test_another_line_is_not_taken_for_one(line: str) -> None:
    assert not CLOSING.fullmatch(line.encode())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_lane_as_ctrl_c_does(number: signal.Signals, tmp_path: Path) -> None:
    marks = [tmp_path / name for name in ("one", "two")]
    lines = [f'exec {sys.executable} -c "{UNTIL_A_SIGNAL.format(mark)}"' for mark in marks]
    process = subprocess.Popen([sys.executable, SCRIPT, *lines], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not all(mark.exists() for mark in marks):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == 130
    assert not [mark for mark in marks if mark.exists()]
