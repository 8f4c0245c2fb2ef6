"""Rows of deleted subjects must be exactly fresh or zero, moments too (Neel et al. 2021; arXiv:2210.08911; A7).

Output deletion is not deletion of the state: an optimizer's moments of a deleted row, or a row that was only hidden,
come back with the next training. This is a rule without noise: a row is a fresh draw of a stated seed, what training
leaves of such a draw where no pair holds it, or zero.
"""

import numpy as np
import torch

from tru_core.audits.base import Attack, AuditCase, Measurement, System
from tru_core.backbones.base import Backbone
from tru_core.interactions import IntArray
from tru_core.unlearning.rows import fresh_seed

NAME = "optimizer_state"
PAPER = "reliability requirement A7; Neel et al., arXiv:2007.02923; Chourasia and Shah, arXiv:2210.08911"


def _subjects(case: AuditCase, model: Backbone, table: str) -> tuple[IntArray, IntArray]:
    """Places in a table of the deleted subjects' rows, and the vocabulary rows that stand there."""
    axis, request = model.anatomy.tables[table], case.problem.request
    if axis == "user":
        return request.users, request.users
    held = model.held_items(table) if axis == "item_block" else np.arange(case.problem.shard.num_items)
    places = np.flatnonzero(np.isin(held, request.items))
    return places, held[places]


def count_kept_rows(system: System, case: AuditCase, model: Backbone, seeds: tuple[int, ...]) -> tuple[int, int]:
    """Count rows of deleted subjects that are neither zero nor a fresh draw, in tables and in moments.

    Args:
        model: Untrained, of the audited backbone: knows what a fresh row is.
        seeds: Any of these may have drawn the fresh rows.
    """
    in_tables = in_moments = 0
    for table, axis in model.anatomy.tables.items():
        places, rows = _subjects(case, model, table)
        index = torch.from_numpy(places)
        if system.parameters is not None and len(rows):
            values = system.parameters[table][index]
            allowed = [torch.zeros_like(values)]
            if axis != "item_block":
                draws = (
                    draw(table, rows, seed=seed) for draw in (model.fresh_rows, model.unseen_rows) for seed in seeds
                )
                allowed += [drawn.to(values.dtype) for drawn in draws]
            is_fresh = torch.stack([(values == fresh).all(dim=1) for fresh in allowed]).any(dim=0)
            in_tables += int((~is_fresh).sum())
        for kind in ("exp_avg", "exp_avg_sq"):
            moments = (system.moments or {}).get(f"{kind}/{table}")
            if moments is not None and len(rows):
                in_moments += int((moments[index] != 0).any(dim=1).sum())
    return in_tables, in_moments


def measure(case: AuditCase) -> list[Measurement]:
    """Count the rows that are still trained. Needs the trainer, a single model and a request of whole subjects."""
    request = case.problem.request
    trainer, candidate = case.trainer, case.candidate
    if trainer is None or candidate.parameters is None or not len(request.users) + len(request.items):
        return []
    model = trainer.new_model(candidate.seed)
    seeds = tuple(
        seed for own in (candidate.seed, trainer.fit.seed, *case.fresh_seeds) for seed in (own, fresh_seed(own))
    )
    in_tables, in_moments = count_kept_rows(candidate, case, model, seeds)
    original = None
    if case.original.parameters is not None:
        original = float(sum(count_kept_rows(case.original, case, model, seeds)))
    num_rows = sum(len(_subjects(case, model, table)[0]) for table in model.anatomy.tables)
    return [
        Measurement(
            attack=NAME,
            paper=PAPER,
            statistic="rows of deleted subjects, in tables and optimizer moments, that are neither fresh nor zero",
            aspect="exact",
            value=float(in_tables + in_moments),
            original=original,
            references=(),
            error=0.0,
            num_cases=num_rows,
            shows_not="It looks at the subjects' own rows alone; what shared tables hold of them it does not see.",
            details={
                "in_tables": in_tables,
                "in_moments": in_moments,
                "moments_kept": "no" if candidate.moments is None else "yes",
            },
        )
    ]


OPTIMIZER_STATE = Attack(NAME, PAPER, measure)
