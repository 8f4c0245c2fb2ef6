"""When TRU's steps end: two statistics, and the look at a model that they come from.

Forgotten pairs of users who stay should rank as held-out pairs of comparable users and items do (:mod:`.never_seen`),
and items that only the forgotten brought together should be as alike as items that nobody had together
(:mod:`.likeness`). Both are chances, 0.5 at the level of never seen; above it and below it tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.collective import Collective, all_sum_number
from tru_core.errors import NumericsError
from tru_core.interactions import IntArray, Pairs
from tru_core.measures.residue import Contrast, PairSource
from tru_core.problem import Problem
from tru_core.unlearning.tru.likeness import HeldOut, likeness, never_together
from tru_core.unlearning.tru.matching import Values, chance_above, chance_noise
from tru_core.unlearning.tru.never_seen import NeverSeen, joined, list_margins
from tru_core.unlearning.tru.settings import TRUSettings

Vectors = tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]

FORGET_SLACK = 1.5
"""How many tolerances forgotten pairs may be from held-out ones: those of three Retrains rank above them with a chance
of 0.54 to 0.56 (TikTok, 5 % of the interactions, MGCN and MIG-GT), since no split holds out quite a random draw."""


@dataclass(frozen=True)
class Reverse:
    """What the steps of one request share.

    Attributes:
        users: int64, positions of users whose rows move: they stay, lost some pairs and keep some.
        never_seen: Their forgotten pairs, and what these are compared with.
        source: Where each step draws its pairs of items.
        stop: The pairs of items by which the stop rule judges; the steps draw others. None where nothing that could
            remember them moves, or no item pair is asked about.
        held_out: Likeness of items that somebody had together in held-out data alone, in the model as it came.
        around: Retained pairs of what is touched, for repair.
    """

    users: IntArray
    never_seen: NeverSeen
    source: PairSource
    stop: Contrast | None
    held_out: HeldOut
    around: Pairs


@dataclass(frozen=True)
class Statistics:
    """Where a model stands: 0.5 is the level of never seen, above is known, below is pushed too far.

    Attributes:
        forget: Chance that a forgotten pair ranks above a comparable held-out pair.
        residue: Chance that items which only the forgotten brought together are more alike than such as it did not;
            0.5 where none is asked.
        forget_noise, residue_noise: Deviation of each by chance alone, from its number of users or pairs.
    """

    forget: float
    residue: float
    forget_noise: float
    residue_noise: float

    def row(self) -> dict[str, float]:
        """Both for a row of history."""
        return {"forget_auc": self.forget, "residue_auc": self.residue}

    def unsettled(self, tolerance: float, *, start: Mapping[str, float]) -> frozenset[str]:
        """Name those, ``forget`` or ``residue``, that tell more than the tolerance, and more than chance gives.

        Args:
            start: The row of history before the first step. What the removal of rows left below 0.5 is the level of
                these very pairs: none of it is lifted.
        """
        values = {
            "forget": (self.forget, start["forget_auc"], max(FORGET_SLACK * tolerance, self.forget_noise)),
            "residue": (self.residue, start["residue_auc"], max(tolerance, self.residue_noise)),
        }
        return frozenset(
            name for name, (value, first, far) in values.items() if not min(0.5, first) - far <= value <= 0.5 + far
        )

    @property
    def score(self) -> float:
        """Minus the larger distance from 0.5: higher is better, 0 is best."""
        return -max(abs(self.forget - 0.5), abs(self.residue - 0.5))


@dataclass(frozen=True)
class Look:
    """A look at a model.

    Attributes:
        vectors: Output vectors of the users that are judged and of all items, with what it takes to go back from them,
            once: the first step after the look need not compute them again.
        statistics: Those of the stop rule.
        reference: Margins of the held-out pairs, which the next steps compare with.
        valid_hits, forget_hits: Share of the held-out pairs, and of the forgotten ones that are compared with them,
            among their user's first 20, a mean over users. 0 where there are none.
    """

    vectors: Vectors
    statistics: Statistics
    reference: Values
    valid_hits: float
    forget_hits: float


def work_left(statistics: Statistics, start: Mapping[str, float], settings: TRUSettings) -> frozenset[str]:
    """Name the losses that the next round works on, ``forget`` or ``residue``; none once all with a weight are settled.

    One whose statistic is settled goes on beside the other, which would move it again: items that part change ranks
    too. Left out then is what the removal of rows left low, since none of it is lifted.

    Args:
        start: The row of history before the first step.
    """
    weights = {"forget": settings.forget_weight, "residue": settings.residue_weight}
    asked = frozenset(name for name, weight in weights.items() if weight)
    unsettled = asked & statistics.unsettled(settings.tolerance, start=start)
    return unsettled | frozenset(name for name in asked if unsettled and start[f"{name}_auc"] >= 0.5)


def _hits(margins: Values, collective: Collective) -> float:
    hits, total = (
        all_sum_number(float(part.sum()), collective)
        for part in (margins.weights * (margins.values >= 0), margins.weights)
    )
    return hits / total if total else 0.0


def look_at(model: Backbone, problem: Problem, reverse: Reverse) -> Look:
    """Ask both statistics of the stop rule; 0.5 where there is nothing to ask.

    Raises:
        NumericsError: If a vector of an item or of a user that is judged is not finite.
    """
    collective, never_seen = problem.graph_without.collective, reverse.never_seen
    vectors = model.some_embeddings(problem.graph_without, never_seen.users)
    users, items = (of_side.detach() for of_side in vectors)
    if all_sum_number(int(not (torch.isfinite(users).all() and torch.isfinite(items).all())), collective):
        raise NumericsError(
            "the model's vectors are not finite. The last checkpoint is kept and nothing was published. Lower "
            "reverse_learning_rate; if it was so before the first step, train the model again."
        )
    margins = joined(tuple(list_margins(users, items, part, problem.retain) for part in never_seen.forgotten))
    reference = list_margins(users, items, never_seen.reference, problem.retain)
    num_pairs, residue = 0, 0.5
    if reverse.stop is not None:
        num_pairs = len(reverse.stop.pairs)
        found, random = likeness(items, reverse.stop, collective)
        residue = chance_above(found, never_together(random, reverse.held_out), collective)
    num_users = all_sum_number(float(margins.weights.sum()), collective)
    statistics = Statistics(
        forget=chance_above(margins, reference, collective),
        residue=residue,
        forget_noise=chance_noise(num_users),
        residue_noise=chance_noise(num_pairs),
    )
    return Look(
        vectors=vectors,
        statistics=statistics,
        reference=reference,
        valid_hits=_hits(reference, collective),
        forget_hits=_hits(margins, collective),
    )
