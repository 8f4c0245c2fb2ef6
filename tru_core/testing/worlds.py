"""Tiny worlds whose right answers are known. Everything in them follows from a hash: the same on every machine.

No Ray, no storage: the contracts of this package and the tests of the core and of the workflows build on this file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tru_core.backbones import BackboneInputs, ItemFeatures
from tru_core.graph import ItemNeighbours
from tru_core.hashing import hash_keys, hash_uniform, text_key, user_bucket
from tru_core.interactions import IntArray, Shard, make_pairs, positions_of
from tru_core.one_process import nearest_items

NUM_USER_BUCKETS = 16
NUM_ITEM_BUCKETS = 8


@dataclass(frozen=True)
class World:
    """A whole data set, before it is sharded.

    Attributes:
        train, valid, test: int64 [pair, 2]: user row, item row.
        features: float64 [item, column] by modality.
        item_neighbours: The kNN item graph of each modality.
    """

    num_users: int
    num_items: int
    train: IntArray
    valid: IntArray
    test: IntArray
    features: Mapping[str, NDArray[np.float64]]
    item_neighbours: Mapping[str, ItemNeighbours]


@dataclass(frozen=True)
class Part:
    """What one worker holds of a world."""

    shard: Shard
    features: Mapping[str, ItemFeatures]
    item_neighbours: Mapping[str, ItemNeighbours]


def _uniform(name: str, seed: int, *shape: int) -> NDArray[np.float64]:
    """Numbers in [-1, 1) that follow from a name."""
    places = np.indices(shape)
    return 2.0 * hash_uniform(text_key(name), seed, *places) - 1.0


def _split(user: int, items: IntArray, *, num_held_out: int, seed: int) -> tuple[IntArray, IntArray, IntArray]:
    """Hold out ``num_held_out`` items of a user for validation and as many for the test."""
    order = items[np.argsort(hash_keys(text_key("world-split"), seed, user, items), kind="stable")]
    held = [order[:num_held_out], order[num_held_out : 2 * num_held_out], order[2 * num_held_out :]]
    valid, test, train = (np.stack([np.full(len(part), user), part], axis=1) for part in held)
    return train, valid, test


def _world(
    liked: Sequence[IntArray],
    features: Mapping[str, NDArray[np.float64]],
    *,
    num_items: int,
    num_held_out: int,
    num_neighbours: int,
    seed: int,
) -> World:
    parts = [_split(user, items, num_held_out=num_held_out, seed=seed) for user, items in enumerate(liked)]
    train, valid, test = (np.concatenate([part[which] for part in parts]).astype(np.int64) for which in range(3))
    return World(
        num_users=len(liked),
        num_items=num_items,
        train=train,
        valid=valid,
        test=test,
        features=features,
        item_neighbours={m: nearest_items(f, num_neighbours=num_neighbours) for m, f in features.items()},
    )


def tiny_world(
    seed: int = 0, num_users: int = 24, num_items: int = 30, modalities: Sequence[str] = ("visual", "text")
) -> World:
    """Users and items with tastes of three numbers, from which both the pairs and the features follow.

    Each user has 6 to 9 items: two held out, the rest for training. The widths of the modalities differ.
    """
    user_taste, item_taste = _uniform("user-taste", seed, num_users, 3), _uniform("item-taste", seed, num_items, 3)
    liking = user_taste @ item_taste.T + 0.4 * _uniform("liking", seed, num_users, num_items)
    counts = 6 + hash_keys(text_key("activity"), seed, np.arange(num_users)).astype(np.int64) % 4
    liked = [np.argsort(-row, kind="stable")[:count] for row, count in zip(liking, counts, strict=True)]
    features = {
        name: item_taste @ _uniform(f"view-{name}", seed, 3, 5 + place)
        + 0.2 * _uniform(f"noise-{name}", seed, num_items, 5 + place)
        for place, name in enumerate(modalities)
    }
    return _world(liked, features, num_items=num_items, num_held_out=1, num_neighbours=5, seed=seed)


def checkerboard_world(num_users: int = 24, num_items: int = 48, seed: int = 0) -> World:
    """Users of one colour like every item of their colour; two items are held out for validation, two for the test.

    A model that learned the colours puts the held-out items before all others: each user's unseen items are
    4 of the own colour and ``num_items / 2`` of the other. Recall of those 4 among the first 4 is 1; by chance
    it is ``4 / (4 + num_items / 2)``.
    """
    rows = np.arange(num_items)
    liked = [rows[rows % 2 == user % 2] for user in range(num_users)]
    colour = np.where(rows % 2 == 0, 1.0, -1.0)
    features = {
        "visual": np.stack([colour, -colour, colour], axis=1) + 0.3 * _uniform("visual", seed, num_items, 3),
        "text": _uniform("text", seed, num_items, 4),
    }
    return _world(liked, features, num_items=num_items, num_held_out=2, num_neighbours=5, seed=seed)


def shards_of(world: World, world_size: int) -> list[Part]:
    """What each worker holds: user bucket ``b`` and item block ``b`` belong to worker ``b % world_size``."""
    users, items = np.arange(world.num_users), np.arange(world.num_items)
    user_owner = user_bucket(users, NUM_USER_BUCKETS) % world_size
    item_owner = items // -(-world.num_items // NUM_ITEM_BUCKETS) % world_size
    return [_part(world, users[user_owner == rank], items[item_owner == rank]) for rank in range(world_size)]


def _part(world: World, user_rows: IntArray, item_rows: IntArray) -> Part:
    nothing = make_pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), num_items=world.num_items)
    sizes = {"num_users": world.num_users, "num_items": world.num_items}
    empty = Shard(user_rows=user_rows, **sizes, train=nothing, valid=nothing, test=nothing)
    splits = {}
    for name, pairs in (("train", world.train), ("valid", world.valid), ("test", world.test)):
        positions, owned = positions_of(empty, pairs[:, 0])
        splits[name] = make_pairs(positions[owned], pairs[owned, 1], num_items=world.num_items)
    features = {
        name: ItemFeatures(item_rows=item_rows, values=torch.from_numpy(values[item_rows]))
        for name, values in world.features.items()
    }
    return Part(
        shard=Shard(user_rows=user_rows, **sizes, **splits), features=features, item_neighbours=world.item_neighbours
    )


def backbone_inputs(part: Part, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> BackboneInputs:
    """What a backbone on one worker is built from."""
    features = {n: ItemFeatures(item_rows=f.item_rows, values=f.values.to(dtype)) for n, f in part.features.items()}
    return BackboneInputs(
        user_rows=part.shard.user_rows,
        num_users=part.shard.num_users,
        num_items=part.shard.num_items,
        features=features,
        seed=seed,
        dtype=dtype,
    )


@dataclass(frozen=True)
class PlantedWorld:
    """A world in which what one user did to the model is known.

    Attributes:
        world: The data set. Users have tastes and, besides, items of no taste at all.
        planted_user: Nobody else ever had ``planted_item``, nor is any other user as single-minded: all other items
            of this user are the ``companions``.
        planted_item: Without the planted user it has no interaction, in no split: nothing trains its row, and it is
            like its companions by chance only.
        companions: int64 [item], many people's items.
    """

    world: World
    planted_user: int
    planted_item: int
    companions: IntArray


def planted_world(seed: int = 0, *, num_users: int = 150, num_items: int = 121) -> PlantedWorld:
    """Users with 6 items to their taste and 6 at random, two of them held out; the last user is planted."""
    num_others = num_items - 1
    user_taste, item_taste = _uniform("user-taste", seed, num_users, 3), _uniform("item-taste", seed, num_items, 3)
    liking = user_taste @ item_taste[:num_others].T + 0.3 * _uniform("liking", seed, num_users, num_others)
    whims = _uniform("whims", seed, num_users, num_others)
    liked = []
    for user in range(num_users - 1):
        taste = np.argsort(-liking[user], kind="stable")[:6]
        whims[user, taste] = -2.0
        liked.append(np.concatenate([taste, np.argsort(-whims[user], kind="stable")[:6]]))
    companions = np.sort(np.argsort(-item_taste[:num_others, 0], kind="stable")[:8])
    # Held out are two of the companions, never the planted item: the order of a split follows from a hash.
    planted = np.stack([np.full(9, num_users - 1), np.append(companions, num_items - 1)], axis=1)
    features = {
        "visual": np.concatenate([item_taste, _uniform("visual-noise", seed, num_items, 3)], axis=1),
        "text": item_taste @ _uniform("view-text", seed, 3, 5) + 0.2 * _uniform("noise-text", seed, num_items, 5),
    }
    world = _world(liked, features, num_items=num_items, num_held_out=1, num_neighbours=5, seed=seed)
    whole = replace(world, num_users=num_users, train=np.concatenate([world.train, planted]))
    return PlantedWorld(whole, planted_user=num_users - 1, planted_item=num_items - 1, companions=companions)
