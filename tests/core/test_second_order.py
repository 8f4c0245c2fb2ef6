"""Conjugate gradients and the methods that take one second-order step: against answers that are known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.methods import FIT, REGIMES, forgotten, mean_margin, original_of, request_of, tools_of, whole
from tru_core.backbones import Backbone
from tru_core.collective import Collective
from tru_core.errors import NumericsError
from tru_core.fit import parameter_values, set_parameters
from tru_core.graph import Graph
from tru_core.hashing import hash_uniform
from tru_core.interactions import Regime, make_request
from tru_core.problem import Problem
from tru_core.sampling import Batch, iterate_batches
from tru_core.testing.models import ALONE, build_model, problem_of
from tru_core.testing.threads import in_threads
from tru_core.unlearning.baselines.newton import (
    Vector,
    conjugate_gradients,
    hessian_product,
    inner_product,
    newton_step,
    sum_gradient,
)
from tru_core.unlearning.baselines.scale_gun import SCALE_GUN, ScaleGUNSettings
from tru_core.unlearning.baselines.scif import SCIF, SCIFSettings, influence_of_deleted_pairs
from tru_core.unlearning.method import run_method
from tru_core.unlearning.passes import plan_forget, plan_retain

USERS, SHARED = 6, 3


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(2.0 * hash_uniform(seed, *np.indices(shape)) - 1.0)


def known_matrix() -> Tensor:
    """Positive definite, with every row tied to every other."""
    root = uniform(USERS + SHARED, USERS + SHARED)
    return root @ root.T + 0.5 * torch.eye(USERS + SHARED, dtype=torch.float64)


class Quadratic:
    """``x' A x / 2`` over local rows and replicated entries: worker r holds every world_size-th local row."""

    def __init__(self, collective: Collective) -> None:
        self.collective, self.matrix = collective, known_matrix()
        self.own = torch.arange(collective.rank, USERS, collective.world_size)

    def split(self, whole_vector: Tensor) -> Vector:
        return [whole_vector[self.own], whole_vector[USERS:]]

    def join(self, vector: Vector) -> Tensor:
        rows = torch.zeros(USERS + SHARED, dtype=torch.float64)
        rows[self.own] = vector[0]
        rows = self.collective.all_sum(rows)
        rows[USERS:] = vector[1]
        return rows

    def product(self, vector: Vector) -> Vector:
        return self.split(self.matrix @ self.join(vector))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_conjugate_gradients_solve_a_known_system_on_any_number_of_workers(world_size: int) -> None:
    right = uniform(USERS + SHARED, seed=1)
    expected = torch.linalg.solve(known_matrix(), right)

    def body(collective: Collective) -> tuple[Tensor, int, float]:
        system = Quadratic(collective)
        found = conjugate_gradients(
            system.product, system.split(right), [True, False], collective, iterations=30, tolerance=1e-12
        )
        assert found.is_convex
        return system.join(found.value), found.num_iterations, found.residual

    for value, count, residual in in_threads(world_size, body):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
        assert count <= USERS + SHARED + 2
        assert residual <= 1e-12


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_replicated_entry_counts_once_in_an_inner_product(world_size: int) -> None:
    one, other = uniform(USERS + SHARED, seed=1), uniform(USERS + SHARED, seed=2)

    def body(collective: Collective) -> float:
        system = Quadratic(collective)
        return inner_product(system.split(one), system.split(other), [True, False], collective)

    assert in_threads(world_size, body) == pytest.approx([float(one @ other)] * world_size)


def solve_alone(matrix: Tensor, right: Tensor, iterations: int = 30) -> tuple[Tensor, int, bool]:
    found = conjugate_gradients(
        lambda vector: [matrix @ vector[0]], [right], [False], ALONE, iterations=iterations, tolerance=1e-12
    )
    return found.value[0], found.num_iterations, found.is_convex


def test_the_first_iterate_is_the_best_along_the_right_side() -> None:
    matrix, right = known_matrix(), uniform(USERS + SHARED, seed=1)
    value, count, _ = solve_alone(matrix, right, iterations=1)
    torch.testing.assert_close(value, right * (right @ right) / (right @ matrix @ right))
    assert count == 1


def test_nothing_asked_is_nothing_done() -> None:
    value, count, is_convex = solve_alone(known_matrix(), torch.zeros(USERS + SHARED, dtype=torch.float64))
    assert not value.any()
    assert (count, is_convex) == (0, True)


def test_a_direction_that_curves_down_ends_the_search_at_its_best_and_is_told() -> None:
    """Between a curvature of 2 and one of -1.99 the first step is 200 times too long: nothing is better."""
    matrix = torch.diag(torch.tensor([2.0, -1.99], dtype=torch.float64))
    for right, is_moved in (([1.0, 0.1], True), ([1.0, 1.0], False)):
        asked = torch.tensor(right, dtype=torch.float64)
        value, _, is_convex = solve_alone(matrix, asked)
        assert not is_convex
        assert bool(value.any()) == is_moved
        assert float((asked - matrix @ value).norm()) <= float(asked.norm())


def test_a_product_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(NumericsError, match="Raise damping"):
        solve_alone(torch.full((2, 2), torch.nan, dtype=torch.float64), torch.ones(2, dtype=torch.float64))


def test_a_central_difference_is_the_hessian_and_leaves_the_parameters_to_the_bit() -> None:
    parameter, direction = uniform(5).requires_grad_(), uniform(5, seed=3)

    def loss(values: Tensor) -> Tensor:
        return (values**4).sum() / 4 + values.prod()

    hessian = torch.autograd.functional.hessian(loss, parameter.detach())
    before = parameter.detach().clone()
    found = hessian_product(
        lambda: list(torch.autograd.grad(loss(parameter), [parameter])), [parameter], [direction], scale=1e-5
    )
    assert isinstance(hessian, Tensor)
    torch.testing.assert_close(found[0], hessian @ direction, rtol=1e-7, atol=1e-9)
    assert torch.equal(parameter.detach(), before)


# ---- The methods


def by_differences(model: Backbone, name: str, places: list[tuple[int, int]], gradient: Callable[[], Vector]) -> Tensor:
    """A block of the Hessian, column by column."""
    table, columns = model.get_parameter(name), []
    for place in places:
        found = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                table[place] += sign * 1e-5
            (part,) = gradient()
            found.append(torch.stack([part[one] for one in places]))
            with torch.no_grad():
                table[place] -= sign * 1e-5
        columns.append((found[0] - found[1]) / 2e-5)
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("collaborative", [True, False])
def test_scif_moves_the_touched_rows_by_the_solution_of_its_equation(collaborative: bool) -> None:
    """One user, one lost pair: the block of six numbers is small enough to write down."""
    part, user = whole(), 5
    lost = part.shard.train.items[part.shard.train.users == user][:1]
    problem = problem_of(part, make_request(pair_users=np.array([user]), pair_items=lost))
    model = original_of(part, "lightgcn")
    before, width = parameter_values(model), model.get_parameter("user_table").shape[1]
    only_theirs = replace(problem, forget=part_of(problem, user), num_forget=0)
    theirs = list(iterate_batches(plan_forget(only_theirs, FIT, epoch=0)))

    def gradient() -> Vector:
        return sum_gradient(model, ["user_table"], problem.graph_with, theirs, objective=lambda terms: terms.total())

    places = [(user, column) for column in range(width)]
    hessian = by_differences(model, "user_table", places, gradient)
    forget = list(iterate_batches(plan_forget(problem, FIT, epoch=0)))
    (influence,) = influence_of_deleted_pairs(model, ["user_table"], problem, forget, collaborative=collaborative)
    damped = hessian + 0.3 * torch.eye(width, dtype=torch.float64)
    expected = torch.linalg.solve(damped, influence[user])
    settings = SCIFSettings(collaborative=collaborative, damping=0.3, iterations=40, tolerance=1e-10)
    candidate = run_method(SCIF, model, problem, settings, tools_of(part, "lightgcn"))
    after = parameter_values(model)
    moved = after["user_table"] - before["user_table"]
    torch.testing.assert_close(moved[user], expected, rtol=1e-5, atol=1e-8)
    assert moved.any(dim=1).nonzero().flatten().tolist() == [user]
    assert torch.equal(after["item_table"], before["item_table"])
    assert candidate.history[0]["is_convex"] == 1


def part_of(problem: Problem, user: int):
    """All training pairs of one user."""
    train = problem.shard.train
    own = train.users == user
    return replace(train, users=train.users[own], items=train.items[own])


def test_a_pair_set_to_the_average_leaves_half_of_what_exchanging_it_would() -> None:
    """``l(x) - (l(x) + l(-x)) / 2 = -x / 2`` for BPR: the influence is that of the margin, whatever it is."""
    part = whole()
    problem, model = problem_of(part, request_of(part, "interaction")), original_of(part)
    batches = list(iterate_batches(plan_forget(problem, FIT, epoch=0)))
    (found,) = influence_of_deleted_pairs(model, ["user_table"], problem, batches, collaborative=True)
    users, items = model.embeddings(problem.graph_with)
    margins = [(users[b.users] * (items[b.positives] - items[b.negatives])).sum() for b in batches]
    (expected,) = torch.autograd.grad(-0.5 * torch.stack(margins).sum(), [model.get_parameter("user_table")])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("regime", REGIMES)
def test_scif_lowers_what_is_to_be_forgotten(regime: Regime) -> None:
    part = whole()
    problem = problem_of(part, request_of(part, regime))
    before = mean_margin(forgotten("edge_deletion", problem, part), problem)
    candidate = forgotten("scif", problem, part, settings=SCIFSettings(damping=1.0))
    assert candidate.history[0]["is_convex"] == 1
    assert mean_margin(candidate, problem) < before


@pytest.mark.parametrize("hessian_batches", [1, 100])
def test_scale_gun_moves_the_tables_by_the_solution_of_its_equation(hessian_batches: int) -> None:
    """One batch stands for all of them, by its share of the rows."""
    part = whole()
    problem, model = problem_of(part, request_of(part, "user")), original_of(part)
    before = parameter_values(model)
    settings = ScaleGUNSettings(damping=5.0, iterations=60, tolerance=1e-9, hessian_batches=hessian_batches)
    candidate = run_method(SCALE_GUN, model, problem, settings, tools_of(part))
    after, names = parameter_values(model), ["user_table", "item_table"]
    assert [name for name in before if not torch.equal(before[name], after[name])] == names
    assert candidate.history[0]["is_convex"] == 1
    batches = list(iterate_batches(plan_retain(problem, FIT, epoch=0)))
    set_parameters(model, before)

    some = batches[:hessian_batches]
    share = sum(batch.num_rows for batch in some) / sum(batch.num_rows for batch in batches)

    def gradient(graph: Graph, of: list[Batch]) -> Vector:
        return sum_gradient(model, names, graph, of, objective=lambda terms: terms.total())

    moved = [after[name] - before[name] for name in names]
    tables: Vector = [model.get_parameter(name) for name in names]
    turned = hessian_product(lambda: gradient(problem.graph_without, some), tables, moved, scale=1e-5)
    both = [gradient(graph, batches) for graph in (problem.graph_with, problem.graph_without)]
    for old, new, bent, change in zip(*both, turned, moved, strict=True):
        torch.testing.assert_close(bent / share + 5.0 * change, old - new, rtol=1e-4, atol=1e-6)


def test_scale_gun_changes_nothing_where_no_edge_left() -> None:
    part = whole()
    problem, model = problem_of(part, make_request()), original_of(part)
    before = parameter_values(model)
    run_method(SCALE_GUN, model, problem, ScaleGUNSettings(), tools_of(part))
    assert all(torch.equal(before[name], value) for name, value in parameter_values(model).items())


def test_a_newton_step_all_but_ends_the_gradient_of_a_convex_loss() -> None:
    """Without a layer, and with items fixed, BPR with its L2 term is convex in the users' rows."""
    part = whole()
    problem = problem_of(part, make_request(users=np.array([3])))
    model = build_model(part, "lightgcn", layers=0, regulariser_weight=0.1)
    batches = list(iterate_batches(plan_retain(problem, FIT, epoch=0)))

    def gradient() -> Vector:
        graph = problem.graph_without
        return sum_gradient(model, ["user_table"], graph, batches, objective=lambda terms: terms.total())

    start = gradient()
    solution = newton_step(
        model, ["user_table"], [-start[0]], gradient, ALONE, damping=1e-9, iterations=200, tolerance=1e-9
    )
    assert solution.is_convex
    assert solution.residual <= 1e-9
    assert gradient()[0].norm() < 0.1 * start[0].norm()
