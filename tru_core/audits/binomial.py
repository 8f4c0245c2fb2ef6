"""Exact binomial tails, intervals and power: what a count of hits among independent probes can say.

No normal approximation: hit rates near 0 and a few hundred probes are exactly where that is wrong.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tru_core.errors import ConfigError

_STEPS = 60  # halvings of [0, 1]: far below what a float64 tail can tell


def _chances(num_probes: int, rate: float) -> NDArray[np.float64]:
    """The chance of each count of hits, float64 [num_probes + 1]."""
    counts = np.arange(num_probes + 1)
    if rate <= 0.0 or rate >= 1.0:
        return (counts == (0 if rate <= 0.0 else num_probes)).astype(np.float64)
    factorials = np.array([math.lgamma(count + 1.0) for count in range(num_probes + 1)])
    ways = factorials[-1] - factorials - factorials[::-1]
    return np.exp(ways + counts * math.log(rate) + counts[::-1] * math.log1p(-rate))


def chance_of_at_least(hits: int, num_probes: int, rate: float) -> float:
    """P(X >= hits) of X ~ Binomial(num_probes, rate)."""
    return min(1.0, float(_chances(num_probes, rate)[max(hits, 0) :].sum()))


def chance_of_at_most(hits: int, num_probes: int, rate: float) -> float:
    """P(X <= hits) of X ~ Binomial(num_probes, rate)."""
    return min(1.0, float(_chances(num_probes, rate)[: hits + 1].sum()))


def _root(is_below: Callable[[float], bool]) -> float:
    """The rate at which a monotone statement stops to hold, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2


def rate_interval(hits: int, num_probes: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact (Clopper-Pearson) interval of a rate: it covers the true one with a chance of at least ``level``.

    Raises:
        ConfigError: If there is no probe, or there are more hits than probes.
    """
    if num_probes < 1 or not 0 <= hits <= num_probes:
        raise ConfigError(f"a rate needs probes and no more hits than probes; found {hits} hits of {num_probes} probes")
    tail = (1.0 - level) / 2
    low = 0.0 if hits == 0 else _root(lambda rate: chance_of_at_least(hits, num_probes, rate) < tail)
    high = 1.0 if hits == num_probes else _root(lambda rate: chance_of_at_most(hits, num_probes, rate) > tail)
    return low, high


def alarm_threshold(num_probes: int, rate: float, *, false_alarm: float) -> int:
    """The least count of hits that a model with this rate reaches with a chance of at most ``false_alarm``.

    ``num_probes + 1`` where no count is that unlikely: the test can never give alarm.
    """
    tails = np.cumsum(_chances(num_probes, rate)[::-1])[::-1]
    unlikely = np.flatnonzero(tails <= false_alarm)
    return int(unlikely[0]) if len(unlikely) else num_probes + 1
