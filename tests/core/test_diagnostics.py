"""Shifts, similarities of branches and distances of lists whose values are known beforehand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.backbones import BACKBONES
from tru_core.collective import Collective
from tru_core.errors import DataError, NumericsError
from tru_core.fit import parameter_values
from tru_core.hashing import hash_uniform, text_key
from tru_core.interactions import select
from tru_core.measures import diagnostics
from tru_core.measures.diagnostics import TopLists, branch_cka, layer_shift, linear_cka, list_distance, top_lists
from tru_core.testing.models import ALONE, build_model, train_graph
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import Part, shards_of, tiny_world


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


def uniform(name: str, *shape: int) -> Tensor:
    """Numbers in [-1, 1) that follow from a name."""
    return torch.from_numpy(2.0 * hash_uniform(text_key(name), *np.indices(shape)) - 1.0)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_an_unchanged_model_did_not_shift(backbone: str, part: Part) -> None:
    model = build_model(part, backbone)
    assert layer_shift(parameter_values(model), model, ALONE) == dict.fromkeys(model.anatomy.modules, 0.0)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_a_module_half_as_large_again_shifted_by_a_half_and_no_other_did(backbone: str, part: Part) -> None:
    model = build_model(part, backbone)
    before = parameter_values(model)
    for module, names in model.anatomy.modules.items():
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).mul_(1.5)
        shifts = layer_shift(before, model, ALONE)
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).copy_(before[name])
        assert shifts.pop(module) == pytest.approx(0.5)
        assert not any(shifts.values())


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_shift_is_that_of_all_workers_rows(world_size: int) -> None:
    def shift(num_workers: int) -> list[dict[str, float]]:
        parts = shards_of(tiny_world(), num_workers)

        def body(collective: Collective) -> dict[str, float]:
            own = parts[collective.rank]
            model = build_model(own, "mgcn", trainable_features=True)
            before = parameter_values(model)
            other = build_model(own, "mgcn", trainable_features=True, seed=1)
            with torch.no_grad():
                other.get_parameter("features.visual").add_(torch.from_numpy(own.features["visual"].item_rows)[:, None])
            everything = tuple(name for name, _ in other.named_parameters())
            other.anatomy = replace(other.anatomy, modules={**other.anatomy.modules, "everything": everything})
            return layer_shift(before, other, collective)

        return in_threads(num_workers, body)

    (alone,) = shift(1)
    assert min(alone[name] for name in ("user_table", "item_table", "features.visual")) > 0.1
    for found in shift(world_size):
        assert found == pytest.approx(alone)


def test_values_of_another_model_are_refused(part: Part) -> None:
    model = build_model(part, "mgcn")
    values = parameter_values(model)
    with pytest.raises(DataError, match="another model's"):
        layer_shift({name: value for name, value in values.items() if name != "item_table"}, model, ALONE)
    with pytest.raises(DataError, match="another model's"):
        layer_shift(values | {"item_table": values["item_table"][:-1]}, model, ALONE)


def test_a_module_that_was_zero_has_no_shift(part: Part) -> None:
    model = build_model(part, "mgcn")
    before = parameter_values(model)
    with pytest.raises(NumericsError, match="user_table has no finite shift"):
        layer_shift(before | {"user_table": torch.zeros_like(before["user_table"])}, model, ALONE)


def test_a_rotated_scaled_and_shifted_copy_has_a_cka_of_one() -> None:
    vectors = uniform("cka", 40, 5)
    rotation, _ = torch.linalg.qr(uniform("rotation", 5, 5))
    assert linear_cka(vectors, vectors @ rotation * 3.0 + 7.0, ALONE) == pytest.approx(1.0)


def test_a_stretched_copy_has_not() -> None:
    vectors = uniform("cka", 40, 5)
    # One column alone of five nearly uncorrelated ones of one size: about 1 / sqrt(5).
    assert linear_cka(vectors, vectors[:, :1], ALONE) == pytest.approx(5**-0.5, abs=0.1)


def test_independent_noise_has_a_cka_near_zero_and_orthogonal_columns_of_zero() -> None:
    assert linear_cka(uniform("one", 4000, 5), uniform("other", 4000, 5), ALONE) < 0.005
    first, second = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(first, second, ALONE) == 0.0


def test_cka_by_hand() -> None:
    # Centred columns (1, -1, 0) and (1, 0, -1): 1^2 / (2 * 2)
    found = linear_cka(torch.tensor([[2.0], [0.0], [1.0]]), torch.tensor([[1.0], [0.0], [-1.0]]), ALONE)
    assert found == pytest.approx(0.25)


def test_vectors_that_are_all_the_same_cannot_be_compared() -> None:
    with pytest.raises(NumericsError, match="tells nothing"):
        linear_cka(torch.ones(4, 2), uniform("one", 4, 2), ALONE)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_every_two_branches_are_compared_once_whatever_the_workers(backbone: str, part: Part) -> None:
    alone = branch_cka(build_model(part, backbone), train_graph(part), ALONE)
    branches = sorted(set(build_model(part, backbone).anatomy.branch.values()) - {"shared"})
    assert list(alone) == [f"{a}-{b}" for place, a in enumerate(branches) for b in branches[place + 1 :]]
    assert all(0 <= value <= 1 for value in alone.values())
    parts = shards_of(tiny_world(), 3)

    def body(collective: Collective) -> dict[str, float]:
        own = parts[collective.rank]
        return branch_cka(build_model(own, backbone), train_graph(own, collective), collective)

    for found in in_threads(3, body):
        assert found == pytest.approx(alone)


def lists_of(world_size: int, *, excluded: np.ndarray | None = None, num_users: int = 9, k: int = 4) -> list[TopLists]:
    """Lists by fixed vectors of the tiny world's users and items, on every worker."""
    parts = shards_of(tiny_world(), world_size)

    def body(collective: Collective) -> TopLists:
        shard = parts[collective.rank].shard
        users = uniform("users", 24, 3)[torch.from_numpy(shard.user_rows)]
        return top_lists(
            users,
            uniform("items", 30, 3),
            shard.train,
            shard,
            collective,
            num_users=num_users,
            k=k,
            seed=1,
            excluded_users=excluded,
        )

    return in_threads(world_size, body)


@pytest.mark.parametrize("block", [2, 1024])
def test_lists_are_the_best_unmasked_items_of_ascending_users(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "BLOCK_USERS", block)
    ((users, lists),) = lists_of(1)
    assert (users.dtype, lists.dtype, lists.shape) == (np.int64, np.int32, (9, 4))
    assert users.tolist() == sorted(set(users.tolist()))
    scores = (uniform("users", 24, 3) @ uniform("items", 30, 3).T).numpy()
    for user, listed in zip(users, lists, strict=True):
        known = {item for owner, item in tiny_world().train.tolist() if owner == user}
        allowed = [item for item in range(30) if item not in known]
        assert listed.tolist() == sorted(allowed, key=lambda item: -scores[user, item])[:4]


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_worker_gets_the_lists_that_one_alone_gets(world_size: int) -> None:
    ((users, lists),) = lists_of(1)
    for found in lists_of(world_size):
        assert np.array_equal(found[0], users)
        assert np.array_equal(found[1], lists)


@pytest.mark.parametrize("world_size", [1, 3])
def test_excluded_users_are_not_asked_and_the_others_keep_their_lists(world_size: int) -> None:
    ((users, lists),) = lists_of(1, num_users=24)
    gone = users[::3]
    for found in lists_of(world_size, num_users=24, excluded=gone):
        assert np.array_equal(found[0], np.setdiff1d(users, gone))
        assert np.array_equal(found[1], lists[~np.isin(users, gone)])


def test_users_without_a_retained_pair_are_not_asked(part: Part) -> None:
    shard = part.shard
    masked = select(shard.train, shard.train.users % 2 == 0)
    users, _ = top_lists(uniform("users", 24, 3), uniform("items", 30, 3), masked, shard, ALONE, seed=0)
    assert users.tolist() == list(range(0, 24, 2))


def test_a_sample_has_the_asked_size_and_depends_on_the_seed(part: Part) -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        vectors = uniform("users", 24, 3), uniform("items", 30, 3)
        return tuple(top_lists(*vectors, part.shard.train, part.shard, ALONE, num_users=5, seed=seed)[0].tolist())

    assert {len(drawn(seed)) for seed in range(6)} == {5}
    assert len({drawn(seed) for seed in range(6)}) > 2


def test_lists_longer_than_the_items_left_end_in_minus_one(part: Part) -> None:
    shard = part.shard
    users, lists = top_lists(uniform("users", 24, 3), uniform("items", 30, 3), shard.train, shard, ALONE, k=35, seed=0)
    assert lists.shape == (24, 35)
    counts = np.bincount(shard.train.users, minlength=24)[users]
    assert ((lists >= 0).sum(axis=1) == 30 - counts).all()
    assert (lists[:, 30:] == -1).all()


def made(lists: dict[int, list[int]]) -> TopLists:
    return np.array(sorted(lists), dtype=np.int64), np.array([lists[user] for user in sorted(lists)], dtype=np.int32)


def test_the_distance_of_lists_by_hand() -> None:
    first = made({1: [1, 2, 3], 2: [1, 2, 3], 3: [1, 2, 3], 9: [0, 1, 2]})
    second = made({1: [3, 1, 2], 2: [4, 5, 6], 3: [1, 2, 9], 7: [0, 1, 2]})
    # Jaccard 1, 0 and 2 / 4; users 7 and 9 are in one of them alone
    assert list_distance(first, second) == pytest.approx(0.5)
    assert list_distance(second, first) == pytest.approx(0.5)
    assert list_distance(first, first) == 0.0


def test_places_without_an_item_are_no_common_item() -> None:
    assert list_distance(made({1: [1, -1, -1]}), made({1: [2, -1, -1]})) == 1.0
    assert list_distance(made({1: [1, 2, -1]}), made({1: [1, -1, -1]})) == pytest.approx(0.5)
    assert list_distance(made({1: [-1, -1]}), made({1: [-1, -1]})) == 0.0


def test_lists_without_a_common_user_have_no_distance() -> None:
    with pytest.raises(DataError, match="no user in common"):
        list_distance(made({1: [1]}), made({2: [1]}))
