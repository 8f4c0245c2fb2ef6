"""What every backbone must keep, as tests that an author inherits.

    from tru_core.testing import BackboneContract

    class TestMine(BackboneContract):
        backbones = (Mine,)

Each claim is tried on worlds of a few dozen users and items, in float64 where numbers are compared. A backbone whose
settings have ``trainable_features`` is tried with that option both ways.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tru_core.backbones import BACKBONES, Backbone
from tru_core.backbones.base import num_parameters
from tru_core.collective import Collective
from tru_core.errors import ConfigError
from tru_core.fit import FitSettings, make_adam, pool_for, set_parameters, train_batches
from tru_core.graph import build_graph
from tru_core.interactions import make_pairs, select
from tru_core.ranking import rank_metrics
from tru_core.sampling import Batch, iterate_batches, plan_epoch
from tru_core.settings import Settings
from tru_core.testing.models import ALONE, batches_of, build_model, fitted, small_settings, train_graph
from tru_core.testing.threads import Differentiable, OneOfTwo, in_threads
from tru_core.testing.worlds import Part, backbone_inputs, checkerboard_world, shards_of, tiny_world
from tru_core.unlearning.user_rows import user_tables

Kind = type[Backbone]
Changes = dict[str, Any]  # of the settings, by name


def _modalities_of(model: Backbone) -> set[str]:
    return set(model.anatomy.branch.values()) - {"id", "shared"}


def total_loss(model: Backbone, part: Part, batch: Batch) -> torch.Tensor:
    """This worker's share of a batch's loss, alone."""
    return model.loss(train_graph(part, dtype=next(model.parameters()).dtype), batch).total()


def _name_of(backbone: Kind) -> str:
    return next((name for name, known in BACKBONES.items() if known is backbone), backbone.__name__)


def _variants(backbones: Sequence[Kind]) -> Iterator[tuple[Kind, Changes]]:
    """Each backbone as it is, and with its option of trainable features the other way."""
    for backbone in backbones:
        yield backbone, {}
        option = backbone.settings_type.model_fields.get("trainable_features")
        if option is not None:
            yield backbone, {"trainable_features": not option.default}


class BackboneContract:
    """Subclass it as ``Test...`` and name the backbones."""

    backbones: ClassVar[Sequence[Kind]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a claim for each backbone, and where settings matter to it for each variant."""
        if not self.backbones:
            raise pytest.UsageError(f"{type(self).__name__}: `backbones` is empty, so nothing would be tested.")
        if "changes" in metafunc.fixturenames:
            variants = list(_variants(self.backbones))
            ids = ["-".join([_name_of(backbone), *changes]) for backbone, changes in variants]
            metafunc.parametrize(("backbone", "changes"), variants, ids=ids)
        elif "backbone" in metafunc.fixturenames:
            metafunc.parametrize("backbone", self.backbones, ids=map(_name_of, self.backbones))

    @pytest.fixture(scope="class")
    @classmethod
    def part(cls) -> Part:
        """A tiny world as one worker has it."""
        return shards_of(tiny_world(), 1)[0]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_vectors_and_losses_have_the_asked_dtype(
        self, backbone: Kind, changes: Changes, dtype: torch.dtype, part: Part
    ) -> None:
        model = build_model(part, backbone, dtype=dtype, **changes)
        users, items = model.embeddings(train_graph(part, dtype=dtype))
        terms = model.loss(train_graph(part, dtype=dtype), batches_of(part)[0])
        assert (len(users), len(items), users.shape[1]) == (24, 30, items.shape[1])
        for tensor in (users, items, terms.ranking, terms.regulariser, terms.auxiliary, *model.parameters()):
            assert tensor.dtype == dtype
            assert torch.isfinite(tensor).all()
        assert terms.ranking > 0
        assert terms.total().item() == pytest.approx((terms.ranking + terms.regulariser + terms.auxiliary).item())

    def test_vectors_of_some_users_are_those_of_all_and_so_are_their_gradients(
        self, backbone: Kind, changes: Changes, part: Part
    ) -> None:
        model, graph = (
            build_model(part, backbone, dtype=torch.float64, **changes),
            train_graph(part, dtype=torch.float64),
        )
        for asked in (np.array([2, 3, 17]), np.zeros(0, dtype=np.int64)):
            found = []
            for vectors in (model.embeddings(graph), model.some_embeddings(graph, asked)):
                users, items = vectors[0][torch.from_numpy(asked)], vectors[1]
                model.zero_grad(set_to_none=True)
                (users.square().sum() + items.square().sum()).backward()
                found.append([users, items, *(p.grad for p in model.parameters() if p.grad is not None)])
                assert torch.isfinite(vectors[0]).all()
                assert len(vectors[0]) == 24
            for one, other in zip(*found, strict=True):
                torch.testing.assert_close(one, other)

    def test_each_branch_gives_vectors_of_all_users_and_items(self, backbone: Kind, part: Part) -> None:
        model = build_model(part, backbone)
        found = model.branch_embeddings(train_graph(part))
        assert set(found) == set(model.anatomy.branch.values()) - {"shared"}
        for users, items in found.values():
            assert (len(users), len(items)) == (24, 30)
            assert torch.isfinite(users).all()
            assert items.std() > 0

    def test_every_parameter_stands_in_one_module_and_one_branch(
        self, backbone: Kind, changes: Changes, part: Part
    ) -> None:
        model = build_model(part, backbone, **changes)
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        placed = [name for group in model.anatomy.modules.values() for name in group]
        assert sorted(placed) == sorted(names)
        assert set(model.anatomy.branch) == names
        assert set(model.anatomy.branch.values()) <= {"id", "shared", "visual", "text"}
        assert _modalities_of(model) in ({"visual", "text"}, set()), "all modalities of the data, or ids alone"
        assert not any("/" in name for name in names)

    def test_fusion_holds_weights_of_modules_and_neither_biases_nor_tables(
        self, backbone: Kind, changes: Changes, part: Part
    ) -> None:
        model = build_model(part, backbone, **changes)
        fusion = model.anatomy.fusion
        assert bool(fusion) == bool(_modalities_of(model)), (
            "what has modalities mixes them; what has none, mixes nothing"
        )
        assert len(set(fusion)) == len(fusion)
        assert not set(fusion) & set(model.anatomy.tables)
        assert all(model.get_parameter(name).dim() == 2 for name in fusion)

    @pytest.mark.parametrize("world_size", [1, 2, 4])
    def test_tables_have_a_row_for_each_user_or_item_held(
        self, backbone: Kind, changes: Changes, world_size: int
    ) -> None:
        held: dict[str, list[int]] = {}
        for part in shards_of(tiny_world(), world_size):
            model = build_model(part, backbone, **changes)
            assert "user" in model.anatomy.tables.values()
            for table, axis in model.anatomy.tables.items():
                rows = {"user": part.shard.user_rows, "item": np.arange(30)}.get(axis)
                rows = model.held_items(table) if rows is None else rows
                assert len(model.get_parameter(table)) == len(rows)
                if axis == "item_block":
                    held.setdefault(table, []).extend(rows.tolist())
        assert all(sorted(rows) == list(range(30)) for rows in held.values())

    def test_counting_parameters_counts_rows(self, backbone: Kind, changes: Changes, part: Part) -> None:
        model = build_model(part, backbone, **changes)
        names = [name for name, _ in model.named_parameters()]
        assert num_parameters(model, names, ALONE) == sum(p.numel() for p in model.parameters())

    def test_initial_values_do_not_depend_on_the_sharding(self, backbone: Kind, changes: Changes, part: Part) -> None:
        whole = build_model(part, backbone, **changes)
        for worker in shards_of(tiny_world(), 4):
            model = build_model(worker, backbone, **changes)
            for name, parameter in model.named_parameters():
                axis, expected = model.anatomy.tables.get(name), whole.get_parameter(name)
                if axis == "user":
                    expected = expected[torch.from_numpy(worker.shard.user_rows)]
                elif axis == "item_block":
                    expected = expected[torch.from_numpy(model.held_items(name))]
                assert torch.equal(parameter, expected)

    def test_fresh_rows_follow_from_seed_table_and_row(self, backbone: Kind, part: Part) -> None:
        model = build_model(part, backbone, seed=5)
        seen = []
        for table, axis in model.anatomy.tables.items():
            if axis == "item_block":
                continue
            size = len(model.get_parameter(table))
            whole = model.fresh_rows(table, np.arange(size), seed=5)
            assert torch.equal(whole, model.get_parameter(table).detach())
            some = np.array([7, 3, 3])
            assert torch.equal(model.fresh_rows(table, some, seed=5), whole[torch.from_numpy(some)])
            other = model.fresh_rows(table, np.arange(size), seed=6)
            assert not (other == whole).any()
            # as at initialisation: the same spread, around zero
            assert other.std().item() == pytest.approx(whole.std().item(), rel=0.2)
            assert abs(other.mean().item()) < 0.2 * other.std().item()
            seen.append(whole[:20])
        assert not any(torch.equal(a, b) for place, a in enumerate(seen) for b in seen[:place])

    def test_training_leaves_users_without_a_pair_where_unseen_rows_are(self, backbone: Kind, part: Part) -> None:
        """A deleted user's row becomes one of these; rows of another length would tell who was deleted."""
        model, train = build_model(part, backbone, seed=5), part.shard.train
        kept = select(train, train.users != 3)
        graph = build_graph(kept, part.shard, part.item_neighbours, ALONE, dtype=torch.float64)
        optimizer = make_adam(model, 0.01)
        for epoch in range(50):
            plan = plan_epoch(kept, part.shard, pool_for(kept, ALONE), ALONE, batch_size=32, seed=0, epoch=epoch)
            train_batches(model, graph, iterate_batches(plan), optimizer)
        for table in user_tables(model):
            fresh, unseen = (draw(table, np.array([3]), seed=5) for draw in (model.fresh_rows, model.unseen_rows))
            found = model.get_parameter(table).detach()[[3]]
            assert (found - unseen).norm() < 0.25 * fresh.norm()
            assert torch.equal(unseen[0], model.unseen_rows(table, np.array([1, 3]), seed=5)[1])

    def test_other_seeds_give_other_weights(self, backbone: Kind, part: Part) -> None:
        first, second = (dict(build_model(part, backbone, seed=seed).named_parameters()) for seed in (0, 1))
        drawn = [name for name, values in first.items() if len(values.unique()) > 1]  # a norm starts as one constant
        assert "user_table" in drawn
        assert not any(torch.equal(first[name], second[name]) for name in drawn)

    def test_no_random_state_takes_part(self, backbone: Kind, changes: Changes, part: Part) -> None:
        losses = []
        for state in (1, 2):
            torch.manual_seed(state)
            losses.append(total_loss(build_model(part, backbone, **changes), part, batches_of(part)[0]).item())
            assert torch.initial_seed() == state
        assert losses[0] == losses[1]

    def test_a_loss_changes_nothing_and_repeats_to_the_bit(self, backbone: Kind, changes: Changes, part: Part) -> None:
        model, batch = build_model(part, backbone, **changes), batches_of(part)[0]
        kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        first = total_loss(model, part, batch)
        first.backward()
        assert total_loss(model, part, batch).item() == first.item()
        assert all(torch.equal(parameter, kept[name]) for name, parameter in model.named_parameters())

    def test_the_order_of_a_batch_does_not_matter(self, backbone: Kind, changes: Changes, part: Part) -> None:
        model, batch = build_model(part, backbone, **changes), batches_of(part)[0]
        order = torch.randperm(len(batch.users), generator=torch.Generator().manual_seed(0))
        shuffled = replace(
            batch, users=batch.users[order], positives=batch.positives[order], negatives=batch.negatives[order]
        )
        assert total_loss(model, part, shuffled).item() == pytest.approx(
            total_loss(model, part, batch).item(), rel=1e-12
        )

    def test_the_gradient_is_the_slope_of_the_loss(self, backbone: Kind, changes: Changes, part: Part) -> None:
        model, batch = build_model(part, backbone, **changes), batches_of(part)[0]
        total_loss(model, part, batch).backward()
        for seed, (name, parameter) in enumerate(model.named_parameters()):
            direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.add_(direction, alpha=sign * 1e-5)
                values.append(total_loss(model, part, batch).item())
                with torch.no_grad():
                    parameter.sub_(direction, alpha=sign * 1e-5)
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            slope = (values[0] - values[1]) / 2e-5
            assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=1e-8), name

    def test_users_without_edges_and_cut_out_items_have_finite_vectors_and_gradients(
        self, backbone: Kind, changes: Changes, part: Part
    ) -> None:
        model, train = build_model(part, backbone, **changes), part.shard.train
        keep = (train.users != 2) & (train.items != 5)
        graph = build_graph(
            select(train, keep),
            part.shard,
            part.item_neighbours,
            ALONE,
            deleted_items=np.array([5]),
            dtype=torch.float64,
        )
        batch = batches_of(part, batch_size=1000)[0]  # holds that user and that item all the same
        for vectors in model.embeddings(graph):
            assert torch.isfinite(vectors).all()
        model.loss(graph, batch).total().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                assert parameter.grad.abs().max() < 1e3, name

    def test_a_worker_without_users_has_a_share_of_nothing(self, backbone: Kind, changes: Changes, part: Part) -> None:
        nothing = make_pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), num_items=30)
        rows = np.zeros(0, dtype=np.int64)
        empty = replace(part, shard=replace(part.shard, user_rows=rows, train=nothing, valid=nothing, test=nothing))
        model = build_model(empty, backbone, **changes)
        graph = train_graph(empty, OneOfTwo())
        users, items = model.embeddings(graph)
        assert (len(users), len(items)) == (0, 30)
        none = torch.zeros(0, dtype=torch.int64)
        terms = model.loss(
            graph, Batch(users=none, positives=none, negatives=none, offset=0, num_rows=3, key=(0, 0, 0))
        )
        terms.total().backward()
        assert terms.total().item() == 0.0

    def test_settings_of_something_else_are_refused(self, backbone: Kind, part: Part) -> None:
        with pytest.raises(ConfigError):
            backbone(backbone_inputs(part), Settings())
        with pytest.raises(ValueError, match="extra"):
            small_settings(backbone, no_such_setting=1)

    def test_the_checkerboard_is_learned(self, backbone: Kind) -> None:
        part = shards_of(checkerboard_world(), 1)[0]
        model, shard = build_model(part, backbone, dtype=torch.float32), part.shard
        settings = FitSettings(max_epochs=8, patience=8, batch_size=240, learning_rate=0.05)

        def recall() -> float:
            with torch.no_grad():
                users, items = model.embeddings(train_graph(part, dtype=torch.float32))
            held_out = make_pairs(
                np.concatenate([shard.valid.users, shard.test.users]),
                np.concatenate([shard.valid.items, shard.test.items]),
                num_items=shard.num_items,
            )
            return rank_metrics(users, items, held_out, shard.train, ALONE, k=4).recall

        def ranking() -> float:
            graph = train_graph(part, dtype=torch.float32)
            return sum(model.loss(graph, batch).ranking.item() for batch in batches_of(part))

        before = ranking()
        state = fitted(part, model=model, settings=settings)
        set_parameters(model, state.parameters)  # the last epoch: recall@20 is satisfied earlier
        assert state.history[-1]["loss"] < state.history[0]["loss"]
        assert ranking() < 0.5 * before
        assert recall() > 0.99  # by chance 1 in 7

    def test_shares_of_three_workers_add_up_to_the_loss_of_one(
        self, backbone: Kind, changes: Changes, part: Part
    ) -> None:
        parts = shards_of(tiny_world(), 3)

        def share(collective: Collective) -> float:
            own, inner = parts[collective.rank], Differentiable(collective)
            model, batch = build_model(own, backbone, **changes), batches_of(own, inner)[0]
            return model.loss(train_graph(own, inner), batch).total().item()

        expected = total_loss(build_model(part, backbone, **changes), part, batches_of(part)[0]).item()
        assert sum(in_threads(3, share)) == pytest.approx(expected, rel=1e-9)
