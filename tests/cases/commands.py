"""Type a command as a user does, and keep what was said: exit code, both outputs, processor time."""

import contextlib
import io
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Said:
    """How a command ended. ``peak_bytes`` is 0 for a command that ran in this process."""

    command: str
    exit: int
    out: str = ""
    err: str = ""
    cpu_seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def words(self) -> str:
        """The words of the command itself, without files and options, such as ``tru delete submit``."""
        found = []
        for word in [word for word in self.command.split() if not _ASSIGNMENT.fullmatch(word)]:
            if not word.replace("-", "").isalpha() or word.startswith("-"):
                break
            found.append(word)
        return " ".join(found)

    @property
    def text(self) -> str:
        """Everything that was said."""
        return self.out + self.err

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON object on standard output, or nothing where there is none."""
        try:
            found = json.loads(self.out)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def run_line(line: str, folder: Path, *, as_process: bool = False) -> Said:
    """Run a command line in a folder. ``NAME=value`` ahead of it counts; what is not ``tru`` goes to the shell.

    Args:
        as_process: Run ``tru`` in a process of its own, so that its memory can be measured.
    """
    words = shlex.split(line)
    environment = dict(word.split("=", 1) for word in words if _ASSIGNMENT.fullmatch(word))
    words = words[len(environment) :]
    if words[0] != "tru":
        done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
        return Said(line, done.returncode, done.stdout, done.stderr)
    if as_process:
        return _in_a_process(line, words[1:], folder, environment)
    return _in_this_process(line, words[1:], folder, environment)


def _in_this_process(line: str, words: list[str], folder: Path, environment: dict[str, str]) -> Said:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    logs = logging.StreamHandler(err)
    logs.setLevel(logging.WARNING)  # as Python shows them where nobody asked for more
    begun = time.process_time()
    with (
        _put_back(environment),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        logging.getLogger().addHandler(logs)
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except Exception:
            err.write(traceback.format_exc())
            code = 1
        finally:
            logging.getLogger().removeHandler(logs)
    seconds = time.process_time() - begun
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Said(line, code, *texts, cpu_seconds=seconds)


@contextlib.contextmanager
def _put_back(environment: dict[str, str]) -> Iterator[None]:
    """Add to the environment; afterwards it and the handlers of signals are as before."""
    before, handlers = dict(os.environ), {number: signal.getsignal(number) for number in _SIGNALS}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


_MEASURED = """
import pathlib, re, sys
from workflows.cli import main
try:
    code = main(sys.argv[2:])
finally:
    peak = re.search(r"VmHWM:\\s+([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1]
    pathlib.Path(sys.argv[1]).write_text(peak)
sys.exit(code)
"""


def _in_a_process(line: str, words: list[str], folder: Path, environment: dict[str, str]) -> Said:
    environment = os.environ | environment | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", _MEASURED, str(folder / "peak.txt"), *words]
    with (folder / "out.txt").open("w+b") as out, (folder / "err.txt").open("w+b") as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)  # its ru_maxrss counts this process too, of which it was a copy
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    seconds = usage.ru_utime + usage.ru_stime
    peak_bytes = int((folder / "peak.txt").read_text()) * 1024
    return Said(line, process.returncode, *texts, cpu_seconds=seconds, peak_bytes=peak_bytes)
