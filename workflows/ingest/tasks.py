"""Run a function over numbered pieces of work with Ray Data, and hand its errors to the caller as they were raised."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from ray.data.dataset import MaterializedDataset

from tru_core.errors import TruError
from workflows.failures import own_error

BlockFunction = Callable[..., Iterator[pa.Table]]


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Show no progress bars unless a person looks on, and no log lines about errors that are raised anyway."""
    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = sys.stderr.isatty()
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])


def map_pieces(num_pieces: int, function: BlockFunction, **arguments: Any) -> ray.data.Dataset:
    """Call ``function(piece, **arguments)`` once for each piece 0..num_pieces-1. Lazy.

    Arguments that are object references are fetched in the task, so that large ones are sent once to each node.
    """
    numbers = ray.data.from_items([{"piece": piece} for piece in range(num_pieces)], override_num_blocks=num_pieces)
    call = partial(_call_for_pieces, function=function, arguments=arguments)
    return numbers.map_batches(call, batch_size=None, batch_format="pyarrow")


def _call_for_pieces(batch: pa.Table, *, function: BlockFunction, arguments: dict[str, Any]) -> Iterator[pa.Table]:
    with _message_noted():
        fetched = _fetch(arguments)
        for piece in batch.column("piece").to_pylist():
            yield from function(piece, **fetched)


def map_blocks(blocks: ray.data.Dataset, function: BlockFunction, **arguments: Any) -> ray.data.Dataset:
    """Call ``function(block, **arguments)`` once for each whole block of a data set. Lazy."""
    call = partial(_call_for_block, function=function, arguments=arguments)
    return blocks.map_batches(call, batch_size=None, batch_format="pyarrow")


def _call_for_block(batch: pa.Table, *, function: BlockFunction, arguments: dict[str, Any]) -> Iterator[pa.Table]:
    with _message_noted():
        if batch.num_rows:
            yield from function(batch, **_fetch(arguments))


@contextmanager
def _message_noted() -> Iterator[None]:
    """In a task: keep an error's message as a note too, because Ray adds lines of its own to the message."""
    try:
        yield
    except TruError as error:
        error.add_note(str(error))
        raise


def _fetch(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: ray.get(value) if isinstance(value, ray.ObjectRef) else value for name, value in arguments.items()}


def collect(blocks: ray.data.Dataset) -> list[pa.Table]:
    """Run a data set and bring its blocks here, in no certain order: for counts, digests and vocabularies only.

    Raises:
        TruError: As a task raised it.
        TransientError: Ray gave up for another reason.
    """
    with _own_errors():
        batches = blocks.iter_batches(batch_size=None, batch_format="pyarrow")
        return [table for batch in batches if (table := pa.table(batch)).num_rows]


def materialize(blocks: ray.data.Dataset) -> MaterializedDataset:
    """Run a data set and keep its blocks in the object store. Raises as ``collect``."""
    with _own_errors():
        return blocks.materialize()


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        own = own_error(error)
        if own is None or own is error:
            raise
        raise own from error
