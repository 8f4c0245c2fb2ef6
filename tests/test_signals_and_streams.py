"""Signals and standard streams: a signal lets a command clear up once, a stream that is closed or narrow fails none."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workflows.running import interrupts
from workflows.running.interrupts import handlers_kept, interruptible, undisturbed
from workflows.storage.local import LocalStore
from workflows.storage.run_lock import hold_lease

ROOT = Path(__file__).parents[1]


# --- signals ------------------------------------------------------------------------------------


@pytest.fixture
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
@pytest.mark.usefixtures("_handlers")
def test_a_lease_is_released_at_a_signal_though_another_comes_meanwhile(
    number: signal.Signals, local_store: LocalStore
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def run() -> None:
        with interruptible(), hold_lease(local_store, "tiny", lease_seconds=60):
            try:
                os.kill(os.getpid(), number)
                time.sleep(10)
            finally:
                for other in interrupts.SIGNALS:
                    os.kill(os.getpid(), other)

    with pytest.raises(KeyboardInterrupt):
        run()
    started = time.monotonic()
    with hold_lease(local_store, "tiny", lease_seconds=60):
        assert time.monotonic() - started < 5


@pytest.mark.usefixtures("_handlers")
def test_a_signal_at_a_moment_at_which_python_can_raise_nothing_is_not_lost() -> None:
    class Closing:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # the exception that is raised here is ignored

    def run() -> None:
        with interruptible():
            Closing()
            time.sleep(10)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run()
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("_handlers")
def test_a_hangup_that_is_ignored_at_the_start_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("_handlers")
def test_what_ray_does_to_handlers_is_undone_and_its_exit_is_an_interrupt() -> None:
    def as_ray_does() -> None:
        with handlers_kept():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with interruptible():
        own = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            as_ray_does()
        assert signal.getsignal(signal.SIGTERM) == own
        os.kill(os.getpid(), signal.SIGTERM)  # the second one: ignored


@pytest.mark.usefixtures("_handlers")
def test_an_exit_of_ray_train_is_an_interrupt_where_ray_holds_the_handlers_too() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    with pytest.raises(KeyboardInterrupt), handlers_kept():
        sys.exit(0)


def test_clearing_up_is_not_disturbed_and_other_threads_do_not_listen() -> None:
    with undisturbed():
        for number in interrupts.SIGNALS:
            os.kill(os.getpid(), number)
    seen = []

    def work() -> None:
        with interruptible(), handlers_kept(), undisturbed():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


# --- standard streams ---------------------------------------------------------------------------

SHOWS = """
import sys
from workflows.cli.streams import steady_streams
from workflows.cli.tables import print_figures
with steady_streams():
    print_figures({"place": "st\\u00f6re \\u2192 \\udcff", "recall": 0.5})
    sys.stdout.flush()
    print("progress \\u00b1", file=sys.stderr)
print("done", file=open(sys.argv[1], "w"))
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def run(script: str, *argv: str, shell: str = 'exec "$@"', **own: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a script or, with ``-m``, the command, behind a shell's redirections."""
    return subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, *([script] if script == "-m" else ["-c", script]), *argv],
        cwd=ROOT,
        env=dict(os.environ) | own,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "shell",
    [
        '"$@" | true; exit ${PIPESTATUS[0]}',
        '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}',
        'exec "$@" >&-',
        'exec "$@" 2>&-',
        'exec "$@" <&- >&- 2>&-',
    ],
)
def test_streams_that_are_closed_end_nothing_and_say_nothing(shell: str, tmp_path: Path) -> None:
    slow = "import time; time.sleep(0.3)\n"  # the reader has gone by then
    ended = run(slow + SHOWS, str(tmp_path / "done"), shell=shell)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.decode() in ("", "progress \u00b1\n")
    assert (tmp_path / "done").read_text() == "done\n"


def test_a_full_disk_behind_standard_output_is_code_7(tmp_path: Path) -> None:
    script = (
        "import sys; from workflows.cli import main; from workflows.running.outcomes import recorded\n"
        "from workflows.storage.local import LocalStore\n"
        "recorded(LocalStore(sys.argv[1]), 'run-1', 'train', lambda: {'version': 1})\n"
        "sys.exit(main(['result', 'run-1', '--storage', sys.argv[1]]))\n"
    )
    ended = run(script, str(tmp_path), shell='exec "$@" >/dev/full')
    assert ended.returncode == 7
    assert ended.stderr.startswith(b"tru: standard output: No space left on device. Free space there")
    assert b"Traceback" not in ended.stderr
    assert b"ignored" not in ended.stderr


def test_an_ascii_terminal_shows_escapes(tmp_path: Path) -> None:
    ended = run(SHOWS, str(tmp_path / "done"), **ASCII)
    assert ended.returncode == 0, ended.stderr
    assert b"st\\xf6re \\u2192 \\udcff" in ended.stdout
    assert ended.stderr == b"progress \\xb1\n"


def test_a_name_that_the_locale_cannot_express_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("storage: /tmp/st\u00f6re\ndataset: d\nmodel: m\n", encoding="utf-8")
    ended = run("-m", "workflows", "versions", "--job", str(tmp_path / "job.yaml"), **ASCII)
    assert b"Traceback" not in ended.stderr
    assert b"error of the program" not in ended.stderr
    assert ended.returncode in (2, 4)
