"""Relearning: what only seems forgotten is learned again faster ("Unlearning Isn't Deletion", arXiv:2505.16831).

From each system's parameters training goes on with the forgotten pairs alone, on the retained graph. Rows of whole
deleted subjects start from the same fresh draw in every system, the Original too: what then makes one faster stands in
what is shared. The statistic is the number of steps, as log2, until the forgotten pairs' mean rank has made 90 % of
the way from a Retrain's level to the Original's. Fewer than a Retrain needs: something was still there. More: it was
pushed down, which also tells.
"""

import math

import numpy as np
import torch

from tru_core.audits.base import Attack, AuditCase, Measurement, System, Trainer
from tru_core.audits.pair_ranks import Ranked, pair_ranks, rank_among
from tru_core.fit import make_adam, pool_for, set_parameters, train_step
from tru_core.hashing import hash_below, text_key
from tru_core.sampling import iterate_batches, plan_epoch
from tru_core.unlearning.rows import reset_subject_rows

NAME = "relearning"
PAPER = "arXiv:2505.16831 (Unlearning Isn't Deletion)"
MAX_STEPS = 200
_SHARE = 0.9
_TOLERANCE = -math.log2(0.9)
"""A ratio of steps of 0.9 is equal (reliability requirement A6)."""


def steps_to_relearn(system: System, case: AuditCase, trainer: Trainer, ranked: Ranked, *, level: float) -> float:
    """Count steps until the forgotten pairs' mean rank reaches a level, with the part of the last step it took.

    Returns:
        At least 0; ``MAX_STEPS`` where it is not reached.
    """
    problem = case.problem
    model = trainer.new_model(trainer.fit.seed)
    set_parameters(model, dict(system.parameters or {}))
    seed = int(hash_below(2**31, case.seed, text_key("relearning")))
    reset_subject_rows(model, problem.shard, problem.request, seed=seed)
    optimizer = make_adam(model, trainer.fit.learning_rate)
    pool = pool_for(problem.forget, problem.graph_without.collective)
    before, step, epoch = math.nan, 0, 0
    while step < MAX_STEPS:
        plan = plan_epoch(
            problem.forget,
            problem.shard,
            pool,
            problem.graph_without.collective,
            batch_size=trainer.fit.batch_size,
            seed=seed,
            epoch=epoch,
        )
        for batch in iterate_batches(plan):
            with torch.no_grad():
                users, items = model.embeddings(problem.graph_without)
            now = float(pair_ranks(System(system.name, system.seed, users, items), ranked).mean())
            if now >= level:
                return float(step) if math.isnan(before) else step - (now - level) / max(now - before, 1e-12)
            if step == MAX_STEPS:
                break
            train_step(model, problem.graph_without, batch, optimizer)
            before, step = now, step + 1
        epoch += 1
    return float(MAX_STEPS)


def measure(case: AuditCase) -> list[Measurement]:
    """Relearn from every system. Needs the trainer, single models and Retrains, whose level starts the way."""
    trainer, problem = case.trainer, case.problem
    systems = (case.original, case.candidate, *case.retrains)
    if trainer is None or not case.retrains or not len(problem.forget):
        return []
    if any(system.parameters is None for system in systems):
        return []
    ranked = rank_among(problem.forget, case)
    start = float(np.mean([pair_ranks(system, ranked).mean() for system in case.retrains]))
    end = float(pair_ranks(case.original, ranked).mean())
    if end <= start:
        return []
    level = start + _SHARE * (end - start)
    found = [steps_to_relearn(system, case, trainer, ranked, level=level) for system in systems]
    original, candidate, *references = (math.log2(1.0 + steps) for steps in found)
    return [
        Measurement(
            attack=NAME,
            paper=PAPER,
            statistic="log2(1 + steps) until the forgotten pairs rank 90 % of the way back to the Original",
            aspect="shared" if len(problem.request.users) + len(problem.request.items) else "subject",
            value=candidate,
            original=original,
            references=tuple(references),
            error=0.0,
            floor=_TOLERANCE,
            num_cases=len(problem.forget),
            shows_not="It depends on the training that relearns; an attacker with other data may be faster.",
            details={
                "steps": found[1],
                "steps_of_original": found[0],
                "mean_steps_of_retrains": float(np.mean(found[2:])),
                "max_steps": MAX_STEPS,
            },
        )
    ]


RELEARNING = Attack(NAME, PAPER, measure)
