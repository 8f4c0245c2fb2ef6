"""What a model did to get where it is: how far each layer moved, how alike its branches are, whose lists changed.

None of these says that something was forgotten; they say how, and how far from Retrain.
"""

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tru_core.backbones.base import Backbone, is_local
from tru_core.collective import Collective, all_sum_number
from tru_core.errors import DataError, NumericsError
from tru_core.forget_sets import hashed_priorities, smallest_bound
from tru_core.graph import Graph
from tru_core.interactions import IntArray, Pairs, Shard
from tru_core.ranking import BLOCK_USERS, top_items

TopLists = tuple[IntArray, NDArray[np.int32]]


def layer_shift(before: Mapping[str, Tensor], model: Backbone, collective: Collective) -> dict[str, float]:
    """Measure how far each maskable module moved: ``||after - before||_2 / ||before||_2``, over all workers' rows.

    The paper's Fig. 5 shows a normalised parameter shift and does not define it; this is our reading. Rows of
    deleted subjects that were made fresh count as moved.

    Args:
        before: The values to compare with by parameter name, as :func:`tru_core.fit.parameter_values` gives them.

    Returns:
        The shift of each module of ``model.anatomy.modules``, at least 0, without unit.

    Raises:
        DataError: If a parameter is missing in ``before`` or has another shape.
        NumericsError: If a module was all zeros before, or its shift is not finite.
    """
    modules = list(model.anatomy.modules)
    # Columns: squared distance and squared norm before.
    local, shared = (
        torch.zeros((len(modules), 2), dtype=torch.float64),
        torch.zeros((len(modules), 2), dtype=torch.float64),
    )
    for place, module in enumerate(modules):
        for name in model.anatomy.modules[module]:
            after = model.get_parameter(name).detach()
            if name not in before or before[name].shape != after.shape:
                raise DataError(
                    f"parameter {name} is missing in the values to compare with or has another shape there: they are "
                    "another model's. Nothing was changed. Compare with the model that unlearning started from."
                )
            old = before[name].detach().double()
            squares = torch.stack([(after.double() - old).square().sum(), old.square().sum()])
            (local if is_local(model, name) else shared)[place] += squares
    shifts = {}
    for module, (moved, norm) in zip(modules, (shared + collective.all_sum(local)).tolist(), strict=True):
        shifts[module] = math.sqrt(moved / norm) if norm else math.nan
        if not math.isfinite(shifts[module]):
            raise NumericsError(
                f"module {module} has no finite shift: squared distance {moved}, squared norm before {norm}. "
                "The model was not changed by this."
            )
    return shifts


def linear_cka(first: Float[Tensor, "row dim"], second: Float[Tensor, "row other"], collective: Collective) -> float:
    """Compare two sets of vectors of the same rows up to rotation and scale: linear centred kernel alignment.

    ``||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F)`` with centred columns (Kornblith et al., ICML 2019).

    Args:
        first, second: The same on every worker; each worker multiplies a part of the rows.

    Returns:
        A number in [0, 1]: 1 for a rotated and scaled copy, near 0 for independent vectors of many rows.

    Raises:
        NumericsError: If all vectors of a set are the same, or one is not finite.
    """
    centred = [vectors.detach().double() - vectors.detach().double().mean(dim=0) for vectors in (first, second)]
    x, y = (vectors[collective.rank :: collective.world_size] for vectors in centred)
    cross, own_x, own_y = (collective.all_sum(left.T @ right).norm().item() for left, right in ((y, x), (x, x), (y, y)))
    found = cross**2 / (own_x * own_y) if own_x and own_y else math.nan
    if not math.isfinite(found):
        raise NumericsError(
            f"vectors cannot be compared: the norms of their covariances are {own_x} and {own_y}. A branch that gives "
            "every item the same vector tells nothing; look at its features."
        )
    return found


def branch_cka(model: Backbone, graph: Graph, collective: Collective) -> dict[str, float]:
    """Compare the item vectors of each two branches before fusion, by :func:`linear_cka` over all items.

    The paper's Fig. 4 finds values mostly below 0.1 and does not state the kernel; linear is our choice.

    Returns:
        One number for each two branches, by ``first-second`` with names in alphabetical order; nothing where the
        backbone has one branch alone.

    Raises:
        NumericsError: If a branch gives every item the same vector.
    """
    with torch.no_grad():
        branches = model.branch_embeddings(graph)
    return {
        f"{first}-{second}": linear_cka(branches[first][1], branches[second][1], collective)
        for first, second in combinations(sorted(branches), 2)
    }


def top_lists(
    users: Float[Tensor, "user dim"],
    items: Float[Tensor, "item dim"],
    masked: Pairs,
    shard: Shard,
    collective: Collective,
    *,
    num_users: int = 2000,
    k: int = 20,
    seed: int,
    excluded_users: IntArray | None = None,
) -> TopLists:
    """Rank all items for a sample of retained users and give every worker all the lists.

    Which users are drawn follows from (seed, row), ``masked`` and ``excluded_users`` alone: two models of one
    problem are asked about the same people.

    Args:
        users, items: Output vectors of this worker's users and of all items.
        masked: The retained training pairs: never listed. Users without one are not drawn.
        num_users: Users to draw; all where there are fewer.
        k: Length of a list, ranked as :func:`tru_core.ranking.top_items` does.
        excluded_users: int64 [user], rows that are not drawn: deleted users. Those of other workers do no harm.

    Returns:
        int64 [n], user rows, ascending, and int32 [n, k], item rows, best first, -1 where none is left.
    """
    positions = np.unique(masked.users)
    if excluded_users is not None:
        positions = positions[~np.isin(shard.user_rows[positions], excluded_users)]
    priorities = hashed_priorities(seed, "top-lists", shard.user_rows[positions])
    total = int(all_sum_number(len(positions), collective))
    if total > num_users:
        positions = positions[priorities <= smallest_bound(priorities, num_users, collective)]
    table = np.full((len(positions), 1 + k), -1, dtype=np.int64)
    table[:, 0] = shard.user_rows[positions]
    with torch.no_grad():
        for start in range(0, len(positions), BLOCK_USERS):
            listed = top_items(users, items, positions[start : start + BLOCK_USERS], masked, k=k)
            table[start : start + BLOCK_USERS, 1 : 1 + listed.shape[1]] = listed
    whole = torch.cat(collective.all_gather(torch.from_numpy(table))).numpy()
    whole = whole[np.argsort(whole[:, 0], kind="stable")]
    return whole[:, 0].copy(), whole[:, 1:].astype(np.int32)


def list_distance(first: TopLists, second: TopLists) -> float:
    """Measure how different two models' lists are: 1 - mean Jaccard similarity, over the users that are in both.

    Returns:
        0 where every list holds the same items in any order, 1 where no two lists share one. Two empty lists are
        the same.

    Raises:
        DataError: If no user is in both.
    """
    _, own, other = np.intersect1d(first[0], second[0], assume_unique=True, return_indices=True)
    if not len(own):
        raise DataError("two sets of lists have no user in common: they were drawn with other seeds or of other data")
    left, right = first[1][own], second[1][other]
    common = ((left[:, :, None] == right[:, None, :]) & (left >= 0)[:, :, None]).sum(axis=(1, 2))
    union = (left >= 0).sum(axis=1) + (right >= 0).sum(axis=1) - common
    return float(1.0 - np.where(union > 0, common / np.maximum(union, 1), 1.0).mean())
