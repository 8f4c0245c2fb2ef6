"""SIGINT, SIGTERM and SIGHUP interrupt a command once: all three as a KeyboardInterrupt, so that it clears up."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, MethodType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Within this time a second signal is ignored: it would leave behind what the first one lets the command clear up.
GRACE_SECONDS = 30.0

Handlers = dict[signal.Signals, Callable[[int, FrameType | None], object] | int]


@dataclass
class _Interrupter:
    """Turns the first signal of each ``GRACE_SECONDS`` into a KeyboardInterrupt."""

    last: float = -math.inf

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self.last >= GRACE_SECONDS:
            self.last = time.monotonic()
            raise KeyboardInterrupt

    def retry(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Send the signal again where it came at a moment at which Python, or Ray, can raise nothing."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
            self.last = -math.inf
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            sys.__unraisablehook__(unraisable)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt inside the block at a signal, and ignore further ones for a while.

    A signal that is ignored at the start stays ignored: ``nohup`` means it. After an interrupt all are ignored, since
    the process ends. Only the main thread can listen.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook, interrupter = _handlers(), sys.unraisablehook, _Interrupter()
    for number, old in before.items():
        if number is signal.SIGTERM or old is not signal.SIG_IGN:
            signal.signal(number, interrupter.interrupt)
    sys.unraisablehook = interrupter.retry
    try:
        yield
    finally:
        sys.unraisablehook = hook
        _restore(before if interrupter.last == -math.inf else dict.fromkeys(before, signal.SIG_IGN))


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put signal handlers back that Ray sets inside the block; its way to end at a signal becomes an interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _handlers()
    try:
        yield
    except SystemExit as error:
        _restore(before)
        _interrupt(error)
    finally:
        _restore(before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals inside the block, which clears up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _handlers()
    for number in before:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        _restore(before)


def _interrupt(error: SystemExit) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, MethodType) and isinstance(handler.__self__, _Interrupter):
        handler(signal.SIGTERM, None)  # raises, and takes note that it did
    raise KeyboardInterrupt from error


def _handlers() -> Handlers:
    """The handlers that Python knows. One that another library set in C cannot be put back and is left alone."""
    found = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in found.items() if handler is not None}


def _restore(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
