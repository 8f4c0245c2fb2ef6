"""A limit of time for calls that have none: an answer that comes byte by byte, a name server that says nothing."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result], *, expected: tuple[type[Exception], ...]) -> Result:
    """Do work in a thread and wait for it no longer than so many seconds. Work that takes longer is left alone.

    Args:
        expected: The errors that the work raises on purpose. They come out here.

    Raises:
        TimeoutError: If it took longer. Whether it is or will be done is unknown.
        RuntimeError: If the work ended in another error, whose traceback the thread prints.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except expected as error:
            future.set_exception(error)
        finally:
            if not future.done():
                future.cancel()

    Thread(target=run, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except CancelledError as error:
        raise RuntimeError("a call ended in an error of the program itself; the traceback is above") from error
