"""For researchers: an unlearning method of your own in one file, beside TRU and a full retraining.

The method here pulls the rows of users that lost pairs towards the mean of all rows, once. To have it in every command
(`tru compare`, audits), put the file into `tru_core/unlearning/` and a line into `METHODS`.

    python examples/own_method.py
"""

import numpy as np
import torch
from pydantic import Field
from train_and_unlearn import NUM_USERS, make_world

from tru_core import FitSettings, Method, evaluate, forget, make_request, train
from tru_core.backbones import Backbone
from tru_core.problem import Problem
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Tools, candidate_of


class ShrinkSettings(Settings):
    """How far a row is pulled: 0 leaves it where it is, 1 makes it the mean row."""

    strength: float = Field(default=0.9, ge=0, le=1)


def shrink(original: Backbone, problem: Problem, settings: ShrinkSettings, tools: Tools) -> Candidate:
    """Pull the rows of users that lost pairs towards the mean row; everything else stays."""
    touched = torch.from_numpy(np.unique(problem.forget.users))
    with torch.no_grad():
        for name, axis in original.anatomy.tables.items():
            if axis == "user":
                table = original.get_parameter(name)
                table[touched] += settings.strength * (table.mean(dim=0) - table[touched])
    return candidate_of(original, problem)


SHRINK = Method(title="Shrink", settings_type=ShrinkSettings, forget=shrink)


def main() -> None:
    """Run the method beside TRU on the same Original and the same request."""
    original = train(make_world(), "lightgcn", schedule=FitSettings(max_epochs=15, batch_size=256, learning_rate=1e-2))
    request = make_request(users=np.arange(0, NUM_USERS, 20))
    methods = {"shrink": SHRINK, "tru": "tru", "retrain": "retrain"}
    found = {name: forget(original, request, method=method) for name, method in methods.items()}
    before = evaluate(original.model, found["tru"].problem, edges_in=True)
    print(f"original: test recall@20 {before.test.recall:.3f}, forgotten pairs {before.forget.recall:.3f}")
    for name, one in found.items():
        print(f"{name}: test recall@20 {one.outcome.test.recall:.3f}, forgotten pairs {one.outcome.forget.recall:.3f}")


if __name__ == "__main__":
    main()
