"""What every unlearning method must keep, whatever its formula, as tests that an author inherits.

    from tru_core.testing import MethodContract

    class TestMine(MethodContract):
        methods = {"mine": MINE}

The Original is a tiny model, trained once a session. Requests name a fifth of its users, items or pairs.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from tru_core.backbones import BACKBONES
from tru_core.collective import Collective
from tru_core.interactions import Regime, make_request
from tru_core.problem import Problem
from tru_core.settings import Settings
from tru_core.testing.models import problem_of
from tru_core.testing.originals import REGIMES, original_of, request_of, tools_of, whole
from tru_core.testing.threads import Differentiable, in_threads
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.method import Candidate, Method, run_method


def _arrays_of(problem: Problem) -> list[bytes]:
    """Every number of a problem."""
    pairs = [problem.forget, problem.retain, problem.valid, problem.test, problem.shard.train]
    arrays = [array for part in pairs for array in (part.users, part.items)]
    arrays += [problem.request.users, problem.request.items, problem.request.pair_users, problem.request.pair_items]
    for graph in (problem.graph_with, problem.graph_without):
        for matrix in (graph.user_item, *graph.item_item.values()):
            arrays += [matrix.forward.values().numpy(), matrix.transposed.values().numpy()]
    return [array.tobytes() for array in arrays]


class MethodContract:
    """Subclass it as ``Test...`` and name the methods.

    Attributes:
        methods: Those to be tested, by any name.
        settings: Settings where the defaults do not fit a world of 24 users; else a method's defaults.
    """

    methods: ClassVar[Mapping[str, Method]] = {}
    settings: ClassVar[Mapping[str, Settings]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each claim for each method."""
        if not self.methods:
            raise pytest.UsageError(f"{type(self).__name__}: `methods` is empty, so nothing would be tested.")
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", list(self.methods))
        if "single" in metafunc.fixturenames:
            metafunc.parametrize("single", [name for name, method in self.methods.items() if method.has_one_model])

    def forgotten(self, name: str, problem: Problem, part: Part, backbone: str = "mgcn") -> Candidate:
        """Run a method on the Original as it stands in a part of the world."""
        method = self.methods[name]
        given = self.settings[name] if name in self.settings else method.settings_type()
        return run_method(method, original_of(part, backbone), problem, given, tools_of(part, backbone))

    @pytest.mark.parametrize("regime", REGIMES)
    def test_it_gives_finite_vectors_twice_the_same_and_leaves_the_problem_alone(
        self, name: str, regime: Regime
    ) -> None:
        part = whole()
        problem = problem_of(part, request_of(part, regime))
        before = _arrays_of(problem)
        one, two = (self.forgotten(name, problem, part) for _ in range(2))
        assert _arrays_of(problem) == before
        assert len(one.users) == 24
        assert len(one.items) == 30
        assert one.users.shape[1] == one.items.shape[1]
        assert not one.users.requires_grad
        assert not one.items.requires_grad
        assert torch.isfinite(one.users).all()
        assert torch.isfinite(one.items).all()
        assert torch.equal(one.users, two.users)
        assert torch.equal(one.items, two.items)
        assert one.seconds > 0
        assert (one.model is not None) == self.methods[name].has_one_model
        if one.model is not None:
            with torch.no_grad():
                users, items = one.model.embeddings(problem.graph_without)
            assert torch.equal(users, one.users)
            assert torch.equal(items, one.items)

    @pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "mgcn"])
    def test_it_works_on_every_backbone(self, name: str, backbone: str) -> None:
        part = whole()
        candidate = self.forgotten(name, problem_of(part, request_of(part, "item")), part, backbone)
        assert torch.isfinite(candidate.users).all()
        assert torch.isfinite(candidate.items).all()

    @pytest.mark.parametrize("regime", ["user", "interaction"])
    def test_two_workers_give_the_candidate_of_one(self, single: str, regime: Regime) -> None:
        request, parts = request_of(whole(), regime), shards_of(tiny_world(), 2)
        expected = self.forgotten(single, problem_of(whole(), request), whole())

        def body(inner: Collective) -> Candidate:
            part = parts[inner.rank]
            return self.forgotten(single, problem_of(part, request, Differentiable(inner)), part)

        for part, found in zip(parts, in_threads(2, body), strict=True):
            rows = torch.from_numpy(part.shard.user_rows)
            torch.testing.assert_close(found.users, expected.users[rows], rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(found.items, expected.items, rtol=1e-6, atol=1e-8)
            for row, wanted in zip(found.history, expected.history, strict=True):
                assert row == pytest.approx(wanted, rel=1e-6)

    def test_an_item_whose_pairs_left_earlier_can_still_be_asked_for(self, single: str) -> None:
        """A request that names no training pair: nothing to reverse, and nothing to stumble over."""
        part, gone = whole(), 4
        train = part.shard.train
        kept = replace(train, users=train.users[train.items != gone], items=train.items[train.items != gone])
        part = replace(part, shard=replace(part.shard, train=kept))
        problem = problem_of(part, make_request(items=np.array([gone])))
        assert not problem.num_forget
        candidate = self.forgotten(single, problem, part)
        assert torch.isfinite(candidate.items).all()
