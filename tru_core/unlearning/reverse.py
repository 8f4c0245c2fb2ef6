"""The reverse update of TRU's sequence: steps with a target, gated, scaled and masked, with repair in the same step.

What is to be forgotten leaves its mark in two places, and each has its matched loss (:mod:`.matching`):

- in rows of users who stay: their forgotten pairs should rank as held-out pairs of comparable users and items do
  (:mod:`.never_seen`); only users' vectors move by it, items' are held still;
- in the table of items: items that only the forgotten brought together should be as similar as random pairs of the
  same items (:mod:`.residue`).

Both ends count, so both losses draw from either side. A step adds their gradient, after the gate (Eq. 3), the branch
scale (Eq. 4) and the module mask (Eqs. 5-6), to that of the training loss on retained pairs around what is touched.
The sum goes through one Adam: with repair, a scale is then a weight against it, which Adam cannot divide out. Of
tables only touched rows move; Adam's memory is short, because the targets move from step to step.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tru_core.backbones.base import Backbone, complete_gradients, is_local
from tru_core.collective import Collective, all_sum_number
from tru_core.errors import NumericsError
from tru_core.hashing import hash_below, hash_uniform, text_key
from tru_core.interactions import IntArray, Pairs, select, sorted_distinct
from tru_core.sampling import Batch
from tru_core.unlearning.interventions import gate_gradient
from tru_core.unlearning.matching import Values, chance_above, matched_distance
from tru_core.unlearning.never_seen import Judged, NeverSeen, compare_with_never_seen, joined, list_margins
from tru_core.unlearning.problem import Problem
from tru_core.unlearning.refit import endless_batches
from tru_core.unlearning.residue import MAX_PAIRS, Contrast, RowPairs, cosines, make_probe, measure_residue
from tru_core.unlearning.targeting import Targeting, measure_norms, target
from tru_core.unlearning.tru_settings import TRUSettings

RELATIVE_RATE = 0.08
_BETAS = (0.5, 0.9)
_PAIRS_IN_A_STEP = 10_000


@dataclass(frozen=True)
class Reverse:
    """What the steps of one request share.

    Attributes:
        users: int64, positions of users whose rows move: they stay, lost some pairs and keep some.
        never_seen: Their forgotten pairs, and what these are compared with.
        stop: The pairs of items by which the stop rule judges; the steps draw others. None where a backbone has no
            table of items to keep them in, or no item pair is asked about.
        around: Retained pairs of what is touched, for repair.
    """

    users: IntArray
    never_seen: NeverSeen
    stop: Contrast | None
    around: Pairs


@dataclass(frozen=True)
class Statistics:
    """Where a model stands: 0.5 is the level of never seen, above is known, below is pushed too far.

    Attributes:
        forget: Chance that a forgotten pair ranks above a comparable held-out pair.
        residue: AUC of the similarity of items that only the forgotten brought together; 0.5 where none is asked.
        forget_noise, residue_noise: Deviation of each by chance alone, from its number of users or pairs.
    """

    forget: float
    residue: float
    forget_noise: float
    residue_noise: float

    def is_settled(self, tolerance: float) -> bool:
        """Say whether neither tells more than the tolerance, or than chance gives."""
        forget = abs(self.forget - 0.5) <= max(tolerance, self.forget_noise)
        return forget and abs(self.residue - 0.5) <= max(tolerance, self.residue_noise)

    @property
    def score(self) -> float:
        """Minus the larger distance from 0.5: higher is better, 0 is best."""
        return -max(abs(self.forget - 0.5), abs(self.residue - 0.5))


def _seed(settings: TRUSettings, purpose: str, number: int = 0) -> int:
    return int(hash_below(2**31, settings.seed, text_key(purpose), number))


def _draw_pairs(model: Backbone, problem: Problem, *, max_pairs: int, seed: int) -> Contrast | None:
    """Draw pairs of items that only the forgotten brought together; None where there is nothing to unlearn in them.

    A backbone without a table of items has no memory of its own for them. Where items are deleted it is users whom
    only the forgotten connects, and their rows are replaced whole.
    """
    if "item" not in model.anatomy.tables.values():
        return None
    probe = make_probe(problem, seed=seed, max_pairs=max_pairs, held_out=False)
    is_item = probe.side == "item" and len(probe.forgotten.pairs) and len(probe.forgotten.random)
    return probe.forgotten if is_item else None


def _rows_of(contrast: Contrast | None) -> IntArray:
    if contrast is None:
        return np.zeros(0, dtype=np.int64)
    return sorted_distinct(np.concatenate([contrast.pairs.first, contrast.pairs.second]))


def plan_reverse(model: Backbone, problem: Problem, users: IntArray, settings: TRUSettings) -> Reverse:
    """Lay out what the steps work on.

    Args:
        users: int64, ascending positions of this worker's users who stay and lost some pairs.
    """
    collective, retain = problem.graph_without.collective, problem.retain
    users = np.intersect1d(users, retain.users)
    stop = _draw_pairs(model, problem, max_pairs=MAX_PAIRS, seed=_seed(settings, "stop"))
    items = _rows_of(stop)
    own = np.isin(retain.users, users)
    near = np.isin(retain.items, items) & ~own
    # Items of the touched have pairs of everybody: as many of these as of the touched users, or one batch.
    num_own, num_near = (all_sum_number(int(which.sum()), collective) for which in (own, near))
    share = max(num_own, settings.batch_size) / max(num_near, 1.0)
    rows = problem.shard.user_rows[retain.users]
    near &= hash_uniform(settings.seed, text_key("around"), rows, retain.items) < share
    return Reverse(
        users=users,
        never_seen=compare_with_never_seen(problem, users, seed=_seed(settings, "never seen")),
        stop=stop,
        around=select(retain, own | near),
    )


def _similarities(vectors: Tensor, contrast: Contrast, collective: Collective) -> tuple[Values, Values]:
    """This worker's share of the pairs' cosines and of the random pairs', in deviations of the latter."""
    own = slice(collective.rank, None, collective.world_size)

    def some(pairs: RowPairs) -> RowPairs:
        return RowPairs(pairs.first[own], pairs.second[own])

    with torch.no_grad():
        random = cosines(vectors, contrast.random)
        scale = random.std(correction=0).clamp_min(1e-12)
    found = cosines(vectors, some(contrast.pairs)) / scale
    strata, other_strata = (torch.from_numpy(s[own].copy()) for s in (contrast.strata, contrast.random_strata))
    known = random[own] / scale
    return Values(found, strata, torch.ones_like(found)), Values(known, other_strata, torch.ones_like(known))


@dataclass(frozen=True)
class _Task:
    """What one step works on.

    Attributes:
        batch: Retained pairs for repair; None for a step without.
        forgotten: The forgotten pairs of the step's slice of users.
        reference: Margins of the held-out pairs.
        pairs: The step's own pairs of items: with the same ones again and again their likeness alone is unlearned.
        rows: Which rows of each table may move, bool [row].
    """

    batch: Batch | None
    forgotten: Judged
    reference: Values
    pairs: Contrast | None
    rows: Mapping[str, Tensor]


def _make_task(
    model: Backbone,
    problem: Problem,
    reverse: Reverse,
    settings: TRUSettings,
    *,
    batch: Batch | None,
    reference: Values,
    number: int,
) -> _Task:
    pairs = None
    if reverse.stop is not None and settings.residue_weight:
        pairs = _draw_pairs(model, problem, max_pairs=_PAIRS_IN_A_STEP, seed=_seed(settings, "step", number))
    rows = {}
    for table, axis in model.anatomy.tables.items():
        may_move = torch.zeros(len(model.get_parameter(table)), dtype=torch.bool)
        if axis == "user":
            may_move[torch.from_numpy(reverse.users)] = True
        elif axis == "item":
            may_move[torch.from_numpy(_rows_of(pairs))] = True
        rows[table] = may_move
    slices = reverse.never_seen.forgotten
    return _Task(batch=batch, forgotten=slices[number % len(slices)], reference=reference, pairs=pairs, rows=rows)


def _reverse_loss(model: Backbone, problem: Problem, task: _Task, settings: TRUSettings) -> Tensor:
    """This worker's share of both matched losses."""
    graph = problem.graph_without
    users, items = model.embeddings(graph)
    margins = list_margins(users, items.detach(), task.forgotten, problem.retain)
    loss = settings.forget_weight * matched_distance(margins, task.reference, graph.collective)
    if task.pairs is None:
        return loss
    found, known = _similarities(items, task.pairs, graph.collective)
    return loss + settings.residue_weight * matched_distance(found, known, graph.collective)


def _gradients(model: Backbone, loss: Tensor, task: _Task, collective: Collective) -> dict[str, Tensor]:
    """The job's gradient of a loss of which this is a share, zero in rows that may not move; left in ``.grad`` too."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    complete_gradients(model, collective)
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            if name in task.rows:
                parameter.grad[~task.rows[name]] = 0.0
            found[name] = parameter.grad.clone()
    return found


def _retained_loss(model: Backbone, problem: Problem, batch: Batch) -> Tensor:
    total = model.loss(problem.graph_without, batch).total()
    return total / batch.num_rows if model.sums_over_batch else total


def _step(
    model: Backbone, problem: Problem, task: _Task, optimizer: torch.optim.Adam, settings: TRUSettings
) -> Targeting:
    """Take one step: repair on a retained batch, reverse against it."""
    collective = problem.graph_without.collective
    kept, energies = {}, None
    if task.batch is not None:
        kept = _gradients(model, _retained_loss(model, problem, task.batch), task, collective)
        energies, _ = measure_norms(model, collective)
    reversed_ = _gradients(model, _reverse_loss(model, problem, task, settings), task, collective)
    forget_energies, sensitivity = measure_norms(model, collective)
    targeting = target(model, energies or forget_energies, forget_energies, sensitivity, settings, collective)
    module_of = {parameter: name for name, group in model.anatomy.modules.items() for parameter in group}
    # Tables are confined to touched rows already; of two modules the mask would hold one table still altogether.
    tables = {module_of[table] for table in model.anatomy.tables if table in module_of}
    targeting = replace(targeting, chosen=targeting.chosen | (tables - set(settings.excluded_modules)))
    for name, parameter in model.named_parameters():
        parts = [kept[name]] if name in kept else []
        if name in reversed_ and module_of[name] in targeting.chosen:
            ascent = -targeting.scales[model.anatomy.branch[name]] * reversed_[name]
            if settings.gate and name in model.anatomy.fusion:
                ascent = gate_gradient(
                    ascent, parameter.detach(), gate_weight=settings.gate_weight, sign=settings.gate_sign
                )
            parts.append(-ascent)
        parameter.grad = torch.stack(parts).sum(dim=0) if parts else None
    optimizer.step()
    return targeting


def moving_parameters(model: Backbone, settings: TRUSettings) -> list[str]:
    """Name what may move: tables of users and items, and where they have a step size, all other trained modules."""
    names = []
    for name, parameter in model.named_parameters():
        axis = model.anatomy.tables.get(name)
        if parameter.requires_grad and axis != "item_block" and (axis is not None or settings.shared_learning_rate > 0):
            names.append(name)
    return names


def make_reverse_optimizer(model: Backbone, problem: Problem, settings: TRUSettings) -> torch.optim.Adam:
    """An Adam for what may move, a group for each parameter by name; tables step in units of their own values."""
    collective = problem.graph_without.collective
    relative = RELATIVE_RATE if settings.reverse_learning_rate is None else settings.reverse_learning_rate
    groups = []
    for name in moving_parameters(model, settings):
        parameter, rate = model.get_parameter(name), settings.shared_learning_rate
        if name in model.anatomy.tables:
            sums = torch.stack([parameter.detach().double().square().sum(), torch.tensor(float(parameter.numel()))])
            squares, count = (collective.all_sum(sums) if is_local(model, name) else sums).tolist()
            rate = relative * (squares / max(count, 1.0)) ** 0.5
        groups.append({"params": [parameter], "name": name, "lr": rate})
    return torch.optim.Adam(groups, betas=_BETAS, fused=True)


@dataclass(frozen=True)
class Look:
    """A look at a model.

    Attributes:
        statistics: Those of the stop rule.
        reference: Margins of the held-out pairs, which the next steps compare with.
        valid_hits, forget_hits: Share of the held-out pairs, and of the forgotten ones that are compared with them,
            among their user's first 20, a mean over users. 0 where there are none.
    """

    statistics: Statistics
    reference: Values
    valid_hits: float
    forget_hits: float


def _hits(margins: Values, collective: Collective) -> float:
    hits, total = (
        all_sum_number(float(part.sum()), collective)
        for part in (margins.weights * (margins.values >= 0), margins.weights)
    )
    return hits / total if total else 0.0


def look_at(model: Backbone, problem: Problem, reverse: Reverse) -> Look:
    """Ask both statistics of the stop rule; 0.5 where there is nothing to ask.

    Raises:
        NumericsError: If a vector is not finite.
    """
    collective, never_seen = problem.graph_without.collective, reverse.never_seen
    with torch.no_grad():
        users, items = model.embeddings(problem.graph_without)
    if all_sum_number(int(not (torch.isfinite(users).all() and torch.isfinite(items).all())), collective):
        raise NumericsError(
            "the model's vectors are not finite. The last checkpoint is kept and nothing was published. Lower "
            "reverse_learning_rate; if it was so before the first step, train the model again."
        )
    with torch.no_grad():
        margins = joined(tuple(list_margins(users, items, part, problem.retain) for part in never_seen.forgotten))
        reference = list_margins(users, items, never_seen.reference, problem.retain)
    num_pairs, residue = 0, 0.5
    if reverse.stop is not None:
        num_pairs, residue = len(reverse.stop.pairs), measure_residue(items, reverse.stop).overall
    num_users = all_sum_number(float(margins.weights.sum()), collective)
    statistics = Statistics(
        forget=chance_above(margins, reference, collective),
        residue=residue,
        forget_noise=(12.0 * max(num_users, 1.0)) ** -0.5,
        residue_noise=(12.0 * max(num_pairs, 1)) ** -0.5,
    )
    return Look(
        statistics=statistics,
        reference=reference,
        valid_hits=_hits(reference, collective),
        forget_hits=_hits(margins, collective),
    )


def run_round(
    model: Backbone,
    problem: Problem,
    reverse: Reverse,
    look: Look,
    optimizer: torch.optim.Adam,
    settings: TRUSettings,
    *,
    first: int,
    num_steps: int,
) -> Targeting:
    """Take some steps.

    Args:
        look: At the model as it is.
        first: Number of the first step, from 0.

    Returns:
        The targeting of the last step.
    """
    batches: Iterator[Batch] = iter(())
    if settings.repair:
        every = endless_batches(reverse.around, problem, batch_size=settings.batch_size, seed=settings.seed)
        batches = itertools.islice(every, first, None)
    moving = {group["name"] for group in optimizer.param_groups}
    still = [p for name, p in model.named_parameters() if name not in moving and p.requires_grad]
    targeting = Targeting(scales={}, sensitivity={}, chosen=frozenset())
    try:
        for parameter in still:
            parameter.requires_grad_(False)
        for number in range(first, first + num_steps):
            batch = next(batches, None)
            task = _make_task(model, problem, reverse, settings, batch=batch, reference=look.reference, number=number)
            targeting = _step(model, problem, task, optimizer, settings)
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
        model.zero_grad(set_to_none=True)
    return targeting
