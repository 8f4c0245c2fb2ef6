"""TRU: targeted reverse update, as a sequence whose parts are switches.

1. Structural removal: the deleted edges leave the graph; rows of deleted users and items start afresh.
2. Rows of users who lost some pairs and stay are replaced by rows that never saw these (``replace_rows``), and so are
   rows of items, as far as these lost their users (``replace_items``).
3. Steps of reverse (:mod:`.reverse`), in rounds, until the stop rule: forgotten pairs rank as never-seen pairs do, and
   items that only the forgotten brought together are as alike as items that nobody had together. Neither above nor
   below: both tell. A round that costs held-out recall more than ``max_quality_loss`` is taken back and is the last.

The cost follows the request: only touched rows move, and where the first two parts are enough no step is taken. Where a
backbone has no table of items (MIG-GT), shared modules hold what was together, and they move. The paper
(arXiv:2604.02183v1) ascends the training loss under a gate, a scale and a mask (Eqs. 3-6); what was measured here made
the sequence and the matched losses. Algorithm 1 as printed is a method of its own (:mod:`.algorithm_one`).
"""

import math
import time

import numpy as np
import torch

from tru_core.backbones.base import Backbone
from tru_core.fit import OnEpoch, TrainingState, adam_moments, parameter_values, restore_adam, set_parameters
from tru_core.interactions import IntArray, positions_of
from tru_core.problem import Problem
from tru_core.sampling import check_all_visited
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.paper.targeting import Targeting, check_settings
from tru_core.unlearning.rows import fresh_seed, reset_subject_rows
from tru_core.unlearning.tru.item_rows import replace_item_rows
from tru_core.unlearning.tru.reverse import make_reverse_optimizer, only_moving, plan_reverse, run_round
from tru_core.unlearning.tru.settings import TRUSettings
from tru_core.unlearning.tru.stop_rule import Look, look_at, work_left
from tru_core.unlearning.user_rows import replace_rows, touched_users


def _remove(model: Backbone, problem: Problem, users: IntArray, settings: TRUSettings) -> int:
    """Make rows fresh as the settings say; count this worker's forget pairs that this, or the reverse, takes on."""
    shard, request, forget = problem.shard, problem.request, problem.forget
    seed = fresh_seed(settings.seed)
    positions, owned = positions_of(shard, request.users)
    of_subjects = np.isin(forget.users, positions[owned]) | np.isin(forget.items, request.items)
    if settings.reset_subjects:
        reset_subject_rows(model, shard, request, seed=seed)
    recall = replace_rows(model, problem, users, how=settings.replace_rows, seed=seed)
    if settings.replace_items == "predicted":
        replace_item_rows(model, problem, seed=seed, max_quality_loss=settings.max_quality_loss, recall=recall)
    return int((of_subjects | np.isin(forget.users, users)).sum())


def unlearn(
    model: Backbone,
    problem: Problem,
    settings: TRUSettings,
    *,
    state: TrainingState | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingState:
    """Make a trained model forget a request; leave the model at its last harmless round, subjects removed.

    Args:
        model: The Original, trained on ``forget`` and ``retain`` together. Changed in place.
        state: Where an interrupted run stood; None starts afresh.
        on_epoch: Called on every worker after each round.

    Returns:
        The final state; ``history`` holds the statistics before the first step and after each round, and the
        scales, sensitivities and chosen modules of the round's last step.

    Raises:
        AuditError: If not every forget row was taken on.
        ConfigError: If a setting does not fit the backbone.
        NumericsError: If a gradient is not finite.
    """
    check_settings(model, settings)
    started = time.perf_counter()
    state = TrainingState(best_score=-math.inf) if state is None else state
    collective, users = problem.graph_without.collective, touched_users(problem)
    reverse = plan_reverse(model, problem, users, settings)
    num_visited = check_all_visited(_remove(model, problem, users, settings), problem.num_forget, collective)
    if not problem.num_forget:
        # Subjects whose interactions left earlier: nothing to reverse, but their rows must not stay trained.
        return state
    optimizer = make_reverse_optimizer(model, problem, settings)
    if state.parameters:
        set_parameters(model, state.parameters)
        restore_adam(optimizer, state.moments)
    with only_moving(model, optimizer):
        look, targeting = look_at(model, problem, reverse), None
        while True:
            if len(state.history) == state.epoch:
                _close_round(state, model, optimizer, look, targeting, num_visited=num_visited)
                is_harmful = look.valid_hits < (1.0 - settings.max_quality_loss) * state.history[0]["valid_hits20"]
                if not is_harmful:
                    state.best, state.best_epoch = state.parameters, state.epoch
                    state.best_score = look.statistics.score
                state.seconds += time.perf_counter() - started
                started = time.perf_counter()
                if on_epoch is not None and state.epoch:
                    on_epoch(state)
            first = state.epoch * settings.round_steps
            num_steps = min(settings.round_steps, settings.reverse_steps - first)
            work = work_left(look.statistics, state.history[0], settings)
            if num_steps <= 0 or not work or state.best_epoch < state.epoch:
                set_parameters(model, state.best)
                return state
            targeting = run_round(
                model, problem, reverse, look, optimizer, settings, work=work, first=first, num_steps=num_steps
            )
            look = look_at(model, problem, reverse)
            state.epoch += 1


def _close_round(
    state: TrainingState,
    model: Backbone,
    optimizer: torch.optim.Adam,
    look: Look,
    targeting: Targeting | None,
    *,
    num_visited: int,
) -> None:
    """Take the round into the state: parameters, moments and a row of history."""
    state.parameters, state.moments = parameter_values(model), adam_moments(optimizer)
    row: dict[str, float] = {"epoch": state.epoch, "num_rows_visited": num_visited}
    row |= look.statistics.row() | {"valid_hits20": look.valid_hits, "forget_hits20": look.forget_hits}
    state.history.append(row if targeting is None else row | targeting.row())


def forget(original: Backbone, problem: Problem, settings: TRUSettings, tools: Tools) -> Candidate:
    """Unlearn by TRU; an interrupted run resumes."""
    state = unlearn(original, problem, settings, state=tools.state, on_epoch=tools.on_epoch)
    return candidate_of(original, problem, state.history, best_epoch=state.best_epoch)


TRU = Method(title="TRU", settings_type=TRUSettings, forget=forget)
