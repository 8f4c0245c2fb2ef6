"""Structural removal: a deleted user's or item's own rows are made fresh, never left trained.

This is what forgets most, and at once (a deleted user's row *is* the memory of that user), before
any gradient step. The fresh values follow from (seed, table, row) and tell nothing of what was learned: they are what
training leaves to a row without any pair. A deleted item's raw feature rows become zero: they are the item itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import IntArray, Request, Shard, positions_of


def fresh_seed(seed: int) -> int:
    """The seed of untrained rows: not the Original's, or a reset row would be where its training started."""
    return int(hash_below(2**31, seed, text_key("fresh-rows")))


def copy_rows(model: Backbone, tables: Iterable[str], places: IntArray) -> dict[str, Tensor]:
    """The values of some rows of each of these tables, by table: [place, column]."""
    index = torch.from_numpy(places)
    return {name: model.get_parameter(name).detach()[index] for name in tables}


def put_rows(model: Backbone, places: IntArray, rows: Mapping[str, Tensor]) -> None:
    """Write rows into each table, in place: what :func:`copy_rows` gives."""
    index = torch.from_numpy(places)
    with torch.no_grad():
        for name, values in rows.items():
            model.get_parameter(name)[index] = values.to(model.get_parameter(name).dtype)


def _subject_rows(model: Backbone, table: str, shard: Shard, request: Request) -> tuple[NDArray[np.int64], IntArray]:
    """Places inside this worker's part of a table, and the vocabulary rows that stand there."""
    axis = model.anatomy.tables[table]
    if axis == "user":
        places, owned = positions_of(shard, request.users)
        return places[owned], request.users[owned]
    if axis == "item":
        return request.items, request.items
    held = model.held_items(table)
    places = np.flatnonzero(np.isin(held, request.items))
    return places, held[places]


def reset_subject_rows(model: Backbone, shard: Shard, request: Request, *, seed: int) -> int:
    """Give the rows of deleted users and items the values of rows that were never seen, in place.

    Users of single deleted interactions keep their rows: they stay customers.

    Returns:
        Rows reset on this worker, over all tables.
    """
    num_rows = 0
    with torch.no_grad():
        for table in model.anatomy.tables:
            places, rows = _subject_rows(model, table, shard, request)
            if len(places):
                parameter = model.get_parameter(table)
                index = torch.from_numpy(places)
                if model.anatomy.tables[table] == "item_block":
                    parameter[index] = 0.0
                else:
                    parameter[index] = model.unseen_rows(table, rows, seed=seed)
                num_rows += len(places)
    return num_rows


@contextmanager
def subjects_removed(model: Backbone, shard: Shard, request: Request, *, seed: int) -> Iterator[None]:
    """Look at the model as it would be published: subject rows fresh inside, trained again after.

    The reverse step needs the trained rows, because its gradient passes through them; what is
    measured between its steps must not.
    """
    kept = {}
    for table in model.anatomy.tables:
        places, _ = _subject_rows(model, table, shard, request)
        index = torch.from_numpy(places)
        kept[table] = (index, model.get_parameter(table).detach()[index].clone())
    reset_subject_rows(model, shard, request, seed=seed)
    try:
        yield
    finally:
        with torch.no_grad():
            for table, (index, values) in kept.items():
                model.get_parameter(table)[index] = values
