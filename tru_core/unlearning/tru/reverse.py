"""The reverse update of TRU's sequence: steps with a target, gated, scaled and masked, with repair in the same step.

What is to be forgotten leaves its mark in two places, and each has its matched loss (:mod:`.matching`):

- in rows of users who stay: their forgotten pairs should rank as held-out pairs of comparable users and items do
  (:mod:`.never_seen`); only users' vectors move by it, items' are held still;
- in the table of items, or in the modules that make their vectors: items that only the forgotten brought together
  should be as alike as items that nobody had together (:mod:`.likeness`).

Both ends count, so both losses draw from either side. A step adds their gradient, after the gate (Eq. 3), the branch
scale (Eq. 4) and the module mask (Eqs. 5-6), to that of the training loss on retained pairs around what is touched.
The sum goes through one Adam: with repair, a scale is then a weight against it, which Adam cannot divide out. Of
tables only touched rows move; Adam's memory is short, because the targets move from step to step.
"""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tru_core.backbones.base import Backbone, complete_gradients, is_local
from tru_core.collective import Collective, all_sum_number
from tru_core.hashing import hash_below, hash_uniform, text_key
from tru_core.interactions import IntArray, select, sorted_distinct
from tru_core.measures.residue import MAX_PAIRS, Contrast, pair_source
from tru_core.problem import Problem
from tru_core.sampling import Batch
from tru_core.unlearning.paper.interventions import gate_gradient
from tru_core.unlearning.paper.targeting import Targeting, measure_norms, target
from tru_core.unlearning.refit import endless_batches
from tru_core.unlearning.tru.item_rows import item_tables
from tru_core.unlearning.tru.likeness import (
    HeldOut,
    draw_pairs,
    held_out_likeness,
    likeness,
    never_together,
)
from tru_core.unlearning.tru.matching import Values, matched_distance
from tru_core.unlearning.tru.never_seen import Judged, compare_with_never_seen, list_margins
from tru_core.unlearning.tru.settings import TRUSettings
from tru_core.unlearning.tru.stop_rule import Look, Reverse, Vectors

RELATIVE_RATE = 0.08
SHARED_RATE = 1e-3
_BETAS = (0.5, 0.9)
_PAIRS_IN_A_STEP = 10_000


def _seed(settings: TRUSettings, purpose: str, number: int = 0) -> int:
    return int(hash_below(2**31, settings.seed, text_key(purpose), number))


def _rows_of(contrast: Contrast | None) -> IntArray:
    if contrast is None:
        return np.zeros(0, dtype=np.int64)
    return sorted_distinct(np.concatenate([contrast.pairs.first, contrast.pairs.second]))


def plan_reverse(model: Backbone, problem: Problem, users: IntArray, settings: TRUSettings) -> Reverse:
    """Lay out what the steps work on, before anything of the model is changed.

    Args:
        users: int64, ascending positions of this worker's users who stay and lost some pairs.
    """
    collective, retain = problem.graph_without.collective, problem.retain
    users = np.intersect1d(users, retain.users)
    source, stop, held_out = pair_source(problem), None, None
    if item_tables(model) or shared_rate(model, settings):
        stop, held_out = draw_pairs(source, max_pairs=MAX_PAIRS, seed=_seed(settings, "stop"), held_out=True)
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
        source=source,
        stop=stop,
        held_out=held_out_likeness(model, problem, held_out),
        around=select(retain, own | near),
    )


@dataclass(frozen=True)
class _Task:
    """What one step works on.

    Attributes:
        batch: Retained pairs for repair; None for a step without.
        forgotten: The forgotten pairs of the step's slice of users; None where there is none.
        reference: Margins of the held-out pairs.
        pairs: The step's own pairs of items: with the same ones again and again their likeness alone is unlearned.
            None where there is none.
        held_out: That of :class:`Reverse`.
        rows: Which rows of each table may move, bool [row].
    """

    batch: Batch | None
    forgotten: Judged | None
    reference: Values
    pairs: Contrast | None
    held_out: HeldOut
    rows: Mapping[str, Tensor]


def _make_task(
    model: Backbone,
    problem: Problem,
    reverse: Reverse,
    settings: TRUSettings,
    *,
    batch: Batch | None,
    look: Look,
    work: frozenset[str],
    number: int,
) -> _Task:
    pairs = None
    if reverse.stop is not None and "residue" in work:
        pairs, _ = draw_pairs(reverse.source, max_pairs=_PAIRS_IN_A_STEP, seed=_seed(settings, "step", number))
    rows = {}
    for table, axis in model.anatomy.tables.items():
        may_move = torch.zeros(len(model.get_parameter(table)), dtype=torch.bool)
        if axis == "user":
            may_move[torch.from_numpy(reverse.users)] = True
        elif axis == "item":
            may_move[torch.from_numpy(_rows_of(pairs))] = True
        rows[table] = may_move
    judged = reverse.never_seen
    return _Task(
        batch=batch,
        forgotten=judged.forgotten[number % len(judged.forgotten)]
        if judged.num_forgotten and "forget" in work
        else None,
        reference=look.reference,
        pairs=pairs,
        held_out=reverse.held_out,
        rows=rows,
    )


def _users_of(judged: Judged | None) -> IntArray:
    return np.zeros(0, dtype=np.int64) if judged is None else judged.users


def _reverse_loss(vectors: Vectors, problem: Problem, task: _Task, settings: TRUSettings) -> Tensor:
    """This worker's share of the matched losses."""
    collective, (users, items) = problem.graph_without.collective, vectors
    loss = 0.0 * items.sum()  # a tensor with a gradient on every worker, whatever is left to do
    if task.forgotten is not None:
        margins = list_margins(users, items.detach(), task.forgotten, problem.retain)
        loss = loss + settings.forget_weight * matched_distance(margins, task.reference, collective)
    if task.pairs is not None:
        found, random = likeness(items, task.pairs, collective)
        level = never_together(random, task.held_out)
        loss = loss + settings.residue_weight * matched_distance(found, level, collective)
    return loss


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
    model: Backbone,
    problem: Problem,
    task: _Task,
    optimizer: torch.optim.Adam,
    settings: TRUSettings,
    *,
    vectors: Vectors | None,
) -> Targeting:
    """Take one step: repair on a retained batch, reverse against it.

    Args:
        vectors: The model's output vectors, at least of the users of the step, to go back from; None: it computes them.
    """
    collective = problem.graph_without.collective
    kept, energies = {}, None
    if task.batch is not None:
        kept = _gradients(model, _retained_loss(model, problem, task.batch), task, collective)
        energies, _ = measure_norms(model, collective)
    if vectors is None:
        vectors = model.some_embeddings(problem.graph_without, _users_of(task.forgotten))
    reversed_ = _gradients(model, _reverse_loss(vectors, problem, task, settings), task, collective)
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


def shared_rate(model: Backbone, settings: TRUSettings) -> float:
    """Adam's step size of shared modules: the setting's, or where it has none what the backbone needs."""
    if settings.shared_learning_rate is not None:
        return settings.shared_learning_rate
    return 0.0 if item_tables(model) else SHARED_RATE


def moving_parameters(model: Backbone, settings: TRUSettings) -> list[str]:
    """Name what may move: tables of users and items, and where they have a step size, all other trained modules."""
    names = []
    for name, parameter in model.named_parameters():
        axis = model.anatomy.tables.get(name)
        if parameter.requires_grad and axis != "item_block" and (axis is not None or shared_rate(model, settings) > 0):
            names.append(name)
    return names


def make_reverse_optimizer(model: Backbone, problem: Problem, settings: TRUSettings) -> torch.optim.Adam:
    """An Adam for what may move, a group for each parameter by name; tables step in units of their own values."""
    collective = problem.graph_without.collective
    relative = RELATIVE_RATE if settings.reverse_learning_rate is None else settings.reverse_learning_rate
    groups = []
    for name in moving_parameters(model, settings):
        parameter, rate = model.get_parameter(name), shared_rate(model, settings)
        if name in model.anatomy.tables:
            sums = torch.stack([parameter.detach().double().square().sum(), torch.tensor(float(parameter.numel()))])
            squares, count = (collective.all_sum(sums) if is_local(model, name) else sums).tolist()
            rate = relative * (squares / max(count, 1.0)) ** 0.5
        groups.append({"params": [parameter], "name": name, "lr": rate})
    return torch.optim.Adam(groups, betas=_BETAS, fused=True)


@contextmanager
def only_moving(model: Backbone, optimizer: torch.optim.Adam) -> Iterator[None]:
    """Let autograd follow what the optimizer moves alone; leave no gradients behind."""
    moving = {group["name"] for group in optimizer.param_groups}
    still = [p for name, p in model.named_parameters() if name not in moving and p.requires_grad]
    try:
        for parameter in still:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
        model.zero_grad(set_to_none=True)


def run_round(
    model: Backbone,
    problem: Problem,
    reverse: Reverse,
    look: Look,
    optimizer: torch.optim.Adam,
    settings: TRUSettings,
    *,
    work: frozenset[str],
    first: int,
    num_steps: int,
) -> Targeting:
    """Take some steps, inside :func:`only_moving`.

    Args:
        look: At the model as it is. Its vectors are gone back from.
        work: :func:`work_left`; a loss that it does not name is left out.
        first: Number of the first step, from 0.

    Returns:
        The targeting of the last step.
    """
    batches: Iterator[Batch] = iter(())
    if settings.repairs(moves_shared=shared_rate(model, settings) > 0):
        every = endless_batches(reverse.around, problem, batch_size=settings.batch_size, seed=settings.seed)
        batches = itertools.islice(every, first, None)
    targeting = Targeting(scales={}, sensitivity={}, chosen=frozenset())
    for number in range(first, first + num_steps):
        batch = next(batches, None)
        task = _make_task(model, problem, reverse, settings, batch=batch, look=look, work=work, number=number)
        vectors = look.vectors if number == first else None
        targeting = _step(model, problem, task, optimizer, settings, vectors=vectors)
    return targeting
