"""SIGINT, SIGTERM and SIGHUP interrupt a command once: all three as a KeyboardInterrupt, so that it clears up."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Within this time a second signal is ignored: it would leave behind what the first one lets the command clear up.
GRACE_SECONDS = 30.0

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt inside the block at a signal, and ignore further ones for a while.

    A signal that is ignored at the start stays ignored: ``nohup`` means it. Only the main thread can listen.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _handlers()
    handler = _make_handler()
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


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
    if callable(handler):
        handler(signal.SIGTERM, None)  # ours raises, and takes note that it did
    raise KeyboardInterrupt from error


def _make_handler() -> Handler:
    last = -math.inf

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last >= GRACE_SECONDS:
            last = time.monotonic()
            raise KeyboardInterrupt

    return interrupt


def _handlers() -> dict[signal.Signals, Callable[[int, FrameType | None], object] | int]:
    """The handlers that Python knows. One that another library set in C cannot be put back and is left alone."""
    found = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in found.items() if handler is not None}


def _restore(handlers: dict[signal.Signals, Callable[[int, FrameType | None], object] | int]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
