"""Injection, after Athena (arXiv:2003.04247) and CURE4Rec's backdoor audit (arXiv:2408.14393): plant, delete, ask.

Something is planted in the training data that nobody has there, the model is trained on it, and the planted part is
deleted like any request. What a model still knows of it is counted in hits, against models that never saw it: the
Originals of the real data. The papers plant tens of probes and one target; here every probe has a target of its own,
so that hundreds of them are independent and the exact binomial test has a power that can be stated.

Two plantings, by what is deleted. *Users*: new users, each with pairs of items that nobody else has together; a hit
is the second item among the nearest tenth of the first one's by cosine. The planted users' rows go with them, so this
asks what is shared. *Interactions*: a single interaction of a real user with a random item; a hit is the item in the
user's top-20 list. Planted users have rows behind the vocabulary and no outside id.

Does not show: what single real users left (they are not planted), or anything of items that are deleted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional

from tru_core.audits.base import Measurement, System
from tru_core.audits.binomial import alarm_threshold, chance_of_at_least, rate_interval
from tru_core.collective import Collective, all_sum_number
from tru_core.errors import DataError
from tru_core.forget_sets import hashed_priorities, smallest_bound
from tru_core.hashing import hash_below, hash_keys, text_key
from tru_core.interactions import IntArray, Pairs, Request, Shard, contains, item_degrees, make_pairs, make_request
from tru_core.ranking import top_items
from tru_core.settings import Settings

INJECTION = "injection"
PAPER = "Athena, arXiv:2003.04247; CURE4Rec, arXiv:2408.14393"
LIST_LENGTH = 20
NEAR_SHARE = 0.1
"""Which share of the items is near: on MovieLens (3,595 items) the model before the deletion puts 14 % of the planted
pairs there and none among the nearest 20, models that never saw them 1 to 2 %."""
_DRAWS = 64
_BLOCK = 512


class InjectionSettings(Settings):
    """How much is planted.

    Attributes:
        num_probes: Pairs of items, or interactions. Hundreds: with 300 probes and 1 hit in 100 by chance, a model
            that keeps 1 in 20 is found with a chance of 0.89 at a false alarm of 1 in 1,000.
        users_per_pair: Planted users who have the same pair. Three is little: a real item has more.
        pairs_per_user: Pairs of one planted user: twice as many items, the length of an ordinary history.
        seed: Decides what is planted.
    """

    num_probes: PositiveInt = 300
    users_per_pair: PositiveInt = 3
    pairs_per_user: PositiveInt = 10
    seed: NonNegativeInt = 20_260_405


class PlantingSettings(InjectionSettings):
    """What is planted.

    Attributes:
        regime: ``user`` plants users with pairs of items, ``interaction`` single interactions of real users.
    """

    regime: Literal["user", "interaction"]


@dataclass(frozen=True)
class Planting:
    """Data with something planted in it, as one worker sees it.

    Attributes:
        shard: The worker's users, planted ones behind all others, with what is planted among the training pairs.
        request: What is to be deleted: all that is planted and nothing else.
        first: int64 [probe], the trigger: an item row, or for interactions the position of a user of this worker.
        second: int64 [probe], the target's item row.
    """

    settings: PlantingSettings
    shard: Shard
    request: Request
    first: IntArray
    second: IntArray


def plant(shard: Shard, settings: PlantingSettings, collective: Collective) -> Planting:
    """Plant pairs of items or interactions. What is planted follows from the seed and the data alone.

    Raises:
        DataError: If the data has no room for so many probes.
    """
    if settings.regime == "user":
        return _plant_users(shard, settings, collective)
    return _plant_pairs(shard, settings, collective)


def _joined(pairs: Pairs, users: IntArray, items: IntArray) -> Pairs:
    return make_pairs(np.append(pairs.users, users), np.append(pairs.items, items), num_items=pairs.num_items)


def _known(shard: Shard) -> Pairs:
    """Every pair of this worker, held-out ones too."""
    users = np.concatenate([part.users for part in (shard.train, shard.valid, shard.test)])
    items = np.concatenate([part.items for part in (shard.train, shard.valid, shard.test)])
    return make_pairs(users, items, num_items=shard.num_items)


def _too_many(found: int, settings: InjectionSettings, what: str) -> DataError:
    return DataError(
        f"injection: {settings.num_probes} {what} are to be planted and the data has room for {found}. Nothing was "
        "trained. Lower audit.injection.num_probes."
    )


def _had_together(first: IntArray, second: IntArray, known: Pairs, collective: Collective) -> NDArray[np.bool_]:
    """Say for each pair of items whether any user of any worker has both."""
    order = np.lexsort((known.users, known.items))
    items, users = known.items[order], known.users[order]
    starts, stops = (np.searchsorted(items, first, side=side) for side in ("left", "right"))
    lengths = stops - starts
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    of_user = contains(known, users[np.repeat(starts, lengths) + inside], np.repeat(second, lengths))
    found = np.bincount(np.repeat(np.arange(len(first)), lengths), weights=of_user, minlength=len(first))
    return collective.all_sum(torch.from_numpy(found)).numpy() > 0


def _strange_pairs(shard: Shard, settings: InjectionSettings, collective: Collective) -> tuple[IntArray, IntArray]:
    """Draw disjoint pairs of items with training pairs that nobody has together."""
    pool = np.flatnonzero(item_degrees(shard.train, collective))
    known = _known(shard)
    first, second = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for draw in range(_DRAWS):
        free = pool[~np.isin(pool, np.append(first, second))]
        shuffled = free[np.argsort(hash_keys(settings.seed, text_key("planted-pair"), draw, free), kind="stable")]
        half = len(shuffled) // 2
        one, other = shuffled[:half], shuffled[half : 2 * half]
        strange = ~_had_together(one, other, known, collective)
        first, second = np.append(first, one[strange]), np.append(second, other[strange])
        if len(first) >= settings.num_probes:
            return first[: settings.num_probes], second[: settings.num_probes]
    raise _too_many(len(first), settings, "pairs of items that nobody has together")


def _plant_users(shard: Shard, settings: PlantingSettings, collective: Collective) -> Planting:
    first, second = _strange_pairs(shard, settings, collective)
    users_of_copy = -(-settings.num_probes // settings.pairs_per_user)
    users, items = [], []
    for copy in range(settings.users_per_pair):
        # Other pairs stand beside a pair in each copy, so that nothing but the pair itself is repeated.
        keys = hash_keys(settings.seed, text_key("planted-user"), copy, np.arange(settings.num_probes))
        place = np.argsort(np.argsort(keys, kind="stable"), kind="stable")
        user = copy * users_of_copy + place // settings.pairs_per_user
        users += [user, user]
        items += [first, second]
    planted = np.arange(settings.users_per_pair * users_of_copy)
    own = planted[planted % collective.world_size == collective.rank]
    position = np.full(len(planted), -1)
    position[own] = len(shard.user_rows) + np.arange(len(own))
    user, item = np.concatenate(users), np.concatenate(items)
    mine = position[user] >= 0
    larger = replace(
        shard,
        user_rows=np.append(shard.user_rows, shard.num_users + own),
        num_users=shard.num_users + len(planted),
        train=_joined(shard.train, position[user[mine]], item[mine]),
    )
    request = make_request(users=shard.num_users + planted)
    return Planting(settings, larger, request, first, second)


def _plant_pairs(shard: Shard, settings: PlantingSettings, collective: Collective) -> Planting:
    pool = np.flatnonzero(item_degrees(shard.train, collective))
    known = _known(shard)
    active = np.unique(shard.train.users)
    full = np.bincount(known.users, minlength=len(shard.user_rows))[active] >= len(pool) // 2
    candidates = active[~full]
    total = int(all_sum_number(len(candidates), collective))
    if total < settings.num_probes:
        raise _too_many(total, settings, "interactions of users who have less than half of the items")
    priorities = hashed_priorities(settings.seed, "planted-interaction", shard.user_rows[candidates])
    users = candidates[priorities <= smallest_bound(priorities, settings.num_probes, collective)]
    rows = shard.user_rows[users]
    targets, is_open = np.zeros(len(users), dtype=np.int64), np.ones(len(users), dtype=bool)
    for draw in range(_DRAWS):
        drawn = pool[hash_below(len(pool), settings.seed, text_key("planted-target"), rows, draw)]
        targets = np.where(is_open, drawn, targets)
        is_open &= contains(known, users, targets)
        if not is_open.any():
            break
    users, targets, rows = users[~is_open], targets[~is_open], rows[~is_open]
    larger = replace(shard, train=_joined(shard.train, users, targets))
    return Planting(settings, larger, make_request(pair_users=rows, pair_items=targets), users, targets)


def count_hits(
    planting: Planting, users: Float[Tensor, "user dim"], items: Float[Tensor, "item dim"], *, masked: Pairs
) -> NDArray[np.bool_]:
    """Say for each probe of this worker whether output vectors give the target.

    Args:
        users, items: Of a model of the planted data or of the real data; planted users' own rows are not looked at.
        masked: The real training pairs, which are never recommended.
    """
    if planting.settings.regime == "user":
        return _neighbour_hits(items, planting.first, planting.second)
    asked = np.unique(planting.first)
    listed = top_items(users, items, asked, masked, k=LIST_LENGTH)
    return (listed[np.searchsorted(asked, planting.first)] == planting.second[:, None]).any(axis=1)


def _neighbour_hits(items: Float[Tensor, "item dim"], first: IntArray, second: IntArray) -> NDArray[np.bool_]:
    """Whether the second item is among the nearest of the first: a share of ``NEAR_SHARE``, itself aside."""
    unit = functional.normalize(items.detach(), dim=1)
    num_near = max(1, round(NEAR_SHARE * (len(items) - 1)))
    hits = []
    for start in range(0, len(first), _BLOCK):
        rows = torch.from_numpy(first[start : start + _BLOCK])
        others = torch.from_numpy(second[start : start + _BLOCK])
        near = unit[rows] @ unit.T
        own = near.gather(1, others[:, None])
        near.scatter_(1, rows[:, None], -torch.inf)
        hits.append(((near > own).sum(dim=1) < num_near).numpy())
    return np.concatenate(hits)


@dataclass(frozen=True)
class InjectionTest:
    """Athena's test of one model: are there more hits than a model that never saw the planted part gives?

    Attributes:
        low, high: The exact 95 % interval of the hit rate.
        never_seen_rate: The greatest rate among the models that never saw it: the hypothesis that is tested.
        threshold: Hits from which the test gives alarm.
        chance: Of at least so many hits, had the model never seen it.
        power: Chance of an alarm for a model that keeps as much as the one before the deletion.
    """

    num_probes: int
    hits: int
    low: float
    high: float
    never_seen_rate: float
    threshold: int
    chance: float
    power: float

    @property
    def rate(self) -> float:
        return self.hits / self.num_probes

    @property
    def gives_alarm(self) -> bool:
        return self.hits >= self.threshold


def hit_test(
    hits: int, num_probes: int, *, original_hits: int, never_seen_hits: list[int], false_alarm: float = 1e-3
) -> InjectionTest:
    """Test a count of hits against models that never saw the planted part.

    Args:
        original_hits: Of the model before the deletion: what the power is stated for.
        never_seen_hits: Of each model that never saw it.
        false_alarm: Chance of an alarm for a model with the greatest rate of those.

    Raises:
        DataError: If there is no model that never saw it.
    """
    if not never_seen_hits:
        raise DataError("injection needs at least one model that never saw what was planted; found none")
    # Half a hit more, so that no hit at all in some hundred probes does not become "impossible".
    rate = min(1.0, (max(never_seen_hits) + 0.5) / num_probes)
    threshold = alarm_threshold(num_probes, rate, false_alarm=false_alarm)
    low, high = rate_interval(hits, num_probes)
    return InjectionTest(
        num_probes=num_probes,
        hits=hits,
        low=low,
        high=high,
        never_seen_rate=max(never_seen_hits) / num_probes,
        threshold=threshold,
        chance=chance_of_at_least(hits, num_probes, rate),
        power=chance_of_at_least(threshold, num_probes, original_hits / num_probes),
    )


def injection_measurement(
    planting: Planting,
    *,
    original: System,
    candidate: System,
    never_seen: Sequence[System],
    masked: Pairs,
    optimised: bool = False,
) -> list[Measurement]:
    """Count the hits of every system and test the candidate's.

    Args:
        original: Trained on the planted data: the positive control.
        candidate: What the method made of it.
        never_seen: Models of the real data with other seeds: the negative control and the reference.
        masked: The real training pairs.

    Raises:
        DataError: If there is no model that never saw what was planted.
    """
    num_probes = len(planting.first)

    def hits_of(system: System) -> int:
        hits = count_hits(planting, system.users, system.items, masked=masked)
        if system.hidden is not None and planting.settings.regime == "interaction":
            hits &= ~contains(system.hidden, planting.first, planting.second)
        return int(hits.sum())

    found, before, others = hits_of(candidate), hits_of(original), [hits_of(system) for system in never_seen]
    test = hit_test(found, num_probes, original_hits=before, never_seen_hits=others)
    rates = tuple(hits / num_probes for hits in others)
    middle = sum(rates) / len(rates)
    is_users = planting.settings.regime == "user"
    what = "planted pairs among the nearest tenth of items" if is_users else "planted items in their users' top 20"
    return [
        Measurement(
            attack=INJECTION,
            paper=PAPER,
            statistic=f"share of {what}, in [0, 1]",
            aspect="shared" if is_users else "subject",
            value=test.rate,
            original=before / num_probes,
            references=rates,
            error=math.sqrt(max(test.rate * (1.0 - test.rate), 1.0 / num_probes) / num_probes),
            num_cases=num_probes,
            shows_not="What real people left: they are not planted, and the method was run on planted data.",
            never_seen=middle,
            never_seen_error=math.sqrt(max(middle * (1.0 - middle), 1.0 / num_probes) / num_probes),
            is_optimised=optimised,
            details={
                "hits": found,
                "original_hits": before,
                "most_never_seen_hits": max(others),
                "exact_low": test.low,
                "exact_high": test.high,
                "alarm_threshold": test.threshold,
                "chance_if_never_seen": test.chance,
                "power": test.power,
                "gives_alarm": "yes" if test.gives_alarm else "no",
            },
        )
    ]
