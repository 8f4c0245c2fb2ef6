"""Run command lines side by side, each in a session of its own, and repeat at the end how pytest closed in each.

A session of its own: Linux shares the processor by session, and starves the workers that Ray opens beside a busy
session. The output of the last command line is shown while it runs, that of the others once all have ended.

Usage: python tests/side_by_side.py 'make test-core' 'make test-ray' ...
The exit code is 0 where all succeeded, else that of the first that failed; 130 after Ctrl-C.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO, NoReturn

CLOSING = re.compile(rb"(?:=+ )?(?:\d+ \w+(?:, )?)+ in \d+\.\d+s.*|=+ no tests ran.*")
POLL_SECONDS = 0.2
STOP_SECONDS = 20.0


@dataclass
class Lane:
    """A command line that was started, and the file that takes its output."""

    line: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    shown_bytes: int = 0

    def show(self) -> None:
        """Print what was written since the last time."""
        text = os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size - self.shown_bytes, self.shown_bytes)
        self.shown_bytes += len(text)
        sys.stdout.buffer.write(text)
        sys.stdout.flush()

    def closing_line(self) -> bytes | None:
        """The last line with which pytest closed, None where none did."""
        self.log.seek(0)
        return next((line for line in reversed(self.log.read().splitlines()) if CLOSING.fullmatch(line)), None)


def run(lines: list[str]) -> int:
    """Run the command lines until all have ended, show their outputs, then pytest's closing lines."""
    with ExitStack() as stack:
        lanes: list[Lane] = []
        stack.callback(stop_all, lanes)
        for line in lines:
            log = stack.enter_context(tempfile.TemporaryFile())
            command = ["bash", "-euo", "pipefail", "-c", line]
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            lanes.append(Lane(line, process, log))
        notes, failed = wait_for_all(lanes)
        for lane in lanes:
            lane.show()
        print("\n".join(["", *notes]))
        for lane in sorted(lanes, key=lambda lane: bool(lane.process.returncode)):  # what failed stands last
            closing = lane.closing_line()
            if closing is not None:
                print(f"== {lane.line}", closing.decode(errors="replace"), sep="\n")
    return failed


def wait_for_all(lanes: list[Lane]) -> tuple[list[str], int]:
    """Wait for every command line; what each took, and the first exit code that is not 0."""
    begun, notes, failed = time.monotonic(), list[str](), 0
    while any(lane.process.returncode is None for lane in lanes):
        lanes[-1].show()
        time.sleep(POLL_SECONDS)
        for lane in [lane for lane in lanes if lane.process.returncode is None]:
            pid, status, used = os.wait4(lane.process.pid, os.WNOHANG)
            if not pid:
                continue
            code = lane.process.returncode = os.waitstatus_to_exitcode(status)
            failed = failed or abs(code)
            seconds, cpu_seconds = time.monotonic() - begun, used.ru_utime + used.ru_stime
            notes.append(f"== {lane.line}: exit {code} after {seconds:.0f} s, {cpu_seconds:.0f} s of processor time")
    return notes, failed


def stop_all(lanes: list[Lane]) -> None:
    """End what still runs as Ctrl-C in a terminal does, so that servers are taken down; by force what goes on."""
    running = [lane.process for lane in lanes if lane.process.returncode is None]
    until = time.monotonic() + STOP_SECONDS
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, until - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Run what the command line says."""
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)  # a shell's background process would ignore it
    try:
        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
