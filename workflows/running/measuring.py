"""What a comparison asks of every system alike: recall, residue, layers, branches, and whose lists changed.

The judge has a seed of its own. A method that looks at the residue draws its pairs with another, so that no method
can learn the very pairs on which it is judged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tru_core.artifact import pack_tensors, unpack_tensors
from tru_core.backbones import Backbone
from tru_core.collective import Collective
from tru_core.graph import Graph, ItemNeighbours
from tru_core.interactions import Request
from tru_core.measures.diagnostics import TopLists, branch_cka, layer_shift, top_lists
from tru_core.measures.residue import Residue, ResidueProbe, measure_residue, row_vectors
from tru_core.problem import Outcome, Problem, measure
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, run_method
from tru_core.unlearning.sequence import forget_in_sequence
from workflows.storage import FileEntry, ObjectStore, read_verified

JUDGE_SEED = 20_260_402
MEASURES_VERSION = 1
"""Part of a run's name: raise it when results hold other figures, so that old ones are measured again."""


def outcome_figures(outcome: Outcome) -> dict[str, float]:
    """Flatten an outcome to the names that tables and benchmarks use."""
    return {
        "test_recall20": outcome.test.recall,
        "test_ndcg20": outcome.test.ndcg,
        "valid_recall20": outcome.valid.recall,
        "forget_recall20": outcome.forget.recall,
        "forget_ndcg20": outcome.forget.ndcg,
    }


def _residue_figures(residue: Residue) -> dict[str, Any]:
    return {"overall": residue.overall, "by_stratum": list(residue.by_stratum), "counts": list(residue.counts)}


def residue_figures(users: Tensor, items: Tensor, problem: Problem, probe: ResidueProbe) -> dict[str, Any]:
    """Measure the residue on output vectors: of the forgotten pairs and, as the fair level, of held-out ones."""
    collective = problem.graph_without.collective
    vectors = row_vectors(probe, users, items, problem.shard, collective)
    found = _residue_figures(measure_residue(vectors, probe.forgotten))
    level = None if probe.held_out is None else _residue_figures(measure_residue(vectors, probe.held_out))
    return {"side": probe.side} | found | {"held_out": level}


def judge(users: Tensor, items: Tensor, problem: Problem, probe: ResidueProbe) -> dict[str, Any]:
    """Measure output vectors as every system is measured.

    Args:
        users, items: Output vectors of this worker's users and of all items.
        probe: Made with :data:`JUDGE_SEED`.
    """
    outcome = measure(users, items, problem, problem.graph_without.collective)
    residue = residue_figures(users, items, problem, probe)
    return outcome_figures(outcome) | {"num_forget": problem.num_forget, "residue": residue}


def sampled_lists(users: Tensor, items: Tensor, problem: Problem) -> TopLists:
    """The top-20 lists of retained users, of the same users for every system."""
    return top_lists(
        users,
        items,
        problem.retain,
        problem.shard,
        problem.graph_without.collective,
        seed=JUDGE_SEED,
        excluded_users=problem.request.users,
    )


def pack_lists(lists: TopLists) -> bytes:
    """Write lists as safetensors bytes."""
    return pack_tensors({"users": torch.from_numpy(lists[0]), "items": torch.from_numpy(lists[1])})


def read_lists(store: ObjectStore, entry: FileEntry) -> TopLists:
    """Read what :func:`pack_lists` wrote. IntegrityError if the file differs from its digest."""
    tensors = unpack_tensors(read_verified(store, entry), key=entry.key)
    return tensors["users"].numpy(), tensors["items"].numpy()


def inside_figures(
    model: Backbone | None, before: Mapping[str, Tensor] | None, graph: Graph, collective: Collective
) -> dict[str, Any]:
    """How far each layer moved, and how alike the branches are.

    Args:
        model: The single model of a candidate; None where several models' scores are added: nothing to look at.
        before: The Original's values; None where there is no Original.
    """
    shifts = None if model is None or before is None else layer_shift(before, model, collective)
    return {"shifts": shifts, "cka": None if model is None else branch_cka(model, graph, collective)}


def warm_up() -> None:
    """Let PyTorch load what it loads at a process's first optimizer: seconds, and no method's own."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.sum().backward()
    optimizer.step()


def forget_batches(
    method: Method,
    original: Backbone,
    batches: Sequence[Request],
    problem: Problem,
    settings: Settings,
    tools: Tools,
    *,
    neighbours: Mapping[str, ItemNeighbours],
) -> Candidate:
    """Run a method on a request at once or, where it comes in several batches, on one after the other."""
    if len(batches) == 1:
        return run_method(method, original, problem, settings, tools)
    return forget_in_sequence(method, original, batches, problem, settings, tools, item_neighbours=neighbours)


def cost_figures(candidate: Candidate, *, seconds_aside: float) -> dict[str, Any]:
    """What a method took.

    Args:
        seconds_aside: Time of checkpoints and progress in between, which is no part of the method.
    """
    return {
        "seconds": max(0.0, candidate.seconds - seconds_aside),
        "seconds_before": candidate.seconds_before,
        "epochs": len(candidate.history),
        "history": candidate.history,
    }
