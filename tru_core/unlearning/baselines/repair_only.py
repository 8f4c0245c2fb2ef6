"""RepairOnly: as many steps on retained pairs as Algorithm 1 takes, no reverse step. The control for more training.

Our control, not a published method: what of TRU's result comes from training on, on the graph without the deleted
edges. No row is reset, since the control is for the steps alone: a deleted user's row stays trained, except for
what steps on others' pairs do to it. The last epoch counts: nothing is chosen.
"""

from pydantic import PositiveFloat, PositiveInt

from tru_core.backbones.base import Backbone
from tru_core.fit import make_adam, train_batches
from tru_core.problem import Problem
from tru_core.sampling import iterate_batches
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.passes import plan_retain


class RepairOnlySettings(Settings):
    """The repair budget; the defaults are those of Algorithm 1 (TRU as printed), more than TRU's sequence takes.

    Attributes:
        epochs: Passes over the retained pairs.
        repair_batches: Batches of each pass; None is all of them.
        learning_rate: Adam's step size: eta * (1 - alpha) with eta 1e-3 and alpha 0.2.
    """

    epochs: PositiveInt = 3
    repair_batches: PositiveInt | None = None
    learning_rate: PositiveFloat = 8e-4


def forget(original: Backbone, problem: Problem, settings: RepairOnlySettings, tools: Tools) -> Candidate:
    """Train on, on retained pairs and the graph without the deleted edges."""
    optimizer, history = make_adam(original, settings.learning_rate), []
    for epoch in range(settings.epochs):
        plan = plan_retain(problem, tools.fit, epoch=epoch)
        batches = iterate_batches(plan, limit=settings.repair_batches)
        loss, _ = train_batches(original, problem.graph_without, batches, optimizer)
        history.append({"epoch": epoch + 1.0, "loss": loss})
    return candidate_of(original, problem, history)


REPAIR_ONLY = Method(title="RepairOnly", settings_type=RepairOnlySettings, forget=forget)
