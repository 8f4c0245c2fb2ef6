"""Gate, branch scale and module choice: by hand, and by what must always hold."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tru_core.errors import NumericsError
from tru_core.unlearning.paper.interventions import branch_scale, gate_gradient, select_modules

ENERGY = st.floats(0, 1e6, allow_nan=False)
BAD = [math.nan, math.inf, -1e-9]


def test_the_gate_by_hand() -> None:
    gradient, weight = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, -3.0, 0.0])
    assert gate_gradient(gradient, weight, gate_weight=0.25, sign="shrink").tolist() == [0.75, 1.25, 1.0]
    assert gate_gradient(gradient, weight, gate_weight=0.25, sign="literal").tolist() == [1.25, 0.75, 1.0]
    assert gradient.tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.floats(-5, 5).filter(lambda w: abs(w) > 0.01), min_size=1, max_size=8))
def test_ascent_along_shrink_shrinks_every_weight_and_along_literal_grows_it(values: list[float]) -> None:
    weight = torch.tensor(values, dtype=torch.float64)
    nothing = torch.zeros_like(weight)
    shrunk = weight + 0.01 * gate_gradient(nothing, weight, gate_weight=0.5, sign="shrink")
    grown = weight + 0.01 * gate_gradient(nothing, weight, gate_weight=0.5, sign="literal")
    assert (shrunk.abs() < weight.abs()).all()
    assert (grown.abs() > weight.abs()).all()


def test_a_gate_of_weight_zero_is_off() -> None:
    gradient = torch.tensor([0.3, -0.7])
    for sign in ("shrink", "literal"):
        assert torch.equal(gate_gradient(gradient, torch.ones(2), gate_weight=0.0, sign=sign), gradient)


def test_scales_by_hand() -> None:
    scales = branch_scale(
        {"id": 1.0, "visual": 3.0, "text": 0.01, "silent": 0.0},
        {"id": 2.0, "visual": 2.0, "text": 2.0, "silent": 0.0},
        floor=0.1,
    )
    assert scales == {"id": pytest.approx(0.5), "visual": 1.0, "text": 0.1, "silent": 0.1}


@given(ENERGY, ENERGY, ENERGY, st.floats(0.01, 1))
def test_a_scale_lies_between_floor_and_one_and_falls_as_forgetting_grows(
    retain: float, forget: float, more: float, floor: float
) -> None:
    first = branch_scale({"m": retain}, {"m": forget}, floor=floor)["m"]
    second = branch_scale({"m": retain}, {"m": forget + more}, floor=floor)["m"]
    assert floor <= second <= first <= 1
    if forget > 0 and floor < retain / (forget + 1e-8) < 1:
        assert first == pytest.approx(retain / (forget + 1e-8))


@pytest.mark.parametrize("bad", BAD)
def test_an_energy_that_is_no_norm_is_refused(bad: float) -> None:
    with pytest.raises(NumericsError, match="retain gradient's norm of visual"):
        branch_scale({"visual": bad}, {"visual": 1.0}, floor=0.1)
    with pytest.raises(NumericsError, match="forget gradient's norm of visual"):
        branch_scale({"visual": 1.0}, {"visual": bad}, floor=0.1)
    with pytest.raises(NumericsError, match="sensitivity of table"):
        select_modules({"table": bad}, {"table": 1}, share=0.5, min_parameter_share=0)


SENSITIVITY = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
SIZES = {"a": 1, "b": 1, "c": 8, "d": 90}


@pytest.mark.parametrize(
    ("share", "min_parameter_share", "expected"),
    [
        (0.25, 0.0, "a"),
        (0.26, 0.0, "ab"),
        (0.5, 0.0, "ab"),
        (1.0, 0.0, "abcd"),
        (0.25, 0.02, "ab"),
        (0.25, 0.021, "abc"),
        (0.25, 0.1, "abc"),
        (0.25, 0.11, "abcd"),
        (0.25, 1.0, "abcd"),
    ],
)
def test_the_choice_by_hand(share: float, min_parameter_share: float, expected: str) -> None:
    chosen = select_modules(SENSITIVITY, SIZES, share=share, min_parameter_share=min_parameter_share)
    assert chosen == frozenset(expected)


def test_ties_go_to_the_name_that_sorts_first() -> None:
    sensitivity = {"c": 1.0, "b": 1.0, "a": 1.0}
    chosen = select_modules(sensitivity, dict.fromkeys("abc", 1), share=1 / 3, min_parameter_share=0)
    assert chosen == frozenset("a")


def test_modules_without_a_gradient_are_never_chosen() -> None:
    chosen = select_modules({"a": 1.0, "b": 0.0}, {"a": 1, "b": 99}, share=1.0, min_parameter_share=1.0)
    assert chosen == frozenset("a")
    assert select_modules({"a": 0.0}, {"a": 1}, share=1.0, min_parameter_share=1.0) == frozenset()


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.tuples(ENERGY, st.integers(1, 1000)), min_size=1, max_size=9),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_what_is_chosen_is_a_head_of_the_ranking_large_enough_and_no_larger(
    modules: dict[str, tuple[float, int]], share: float, min_parameter_share: float
) -> None:
    sensitivity, sizes = {n: e for n, (e, _) in modules.items()}, {n: s for n, (_, s) in modules.items()}
    chosen = select_modules(sensitivity, sizes, share=share, min_parameter_share=min_parameter_share)
    moving = {name for name, value in sensitivity.items() if value > 0}
    assert chosen <= moving
    left = moving - chosen
    if chosen and left:
        assert min(sensitivity[n] for n in chosen) >= max(sensitivity[n] for n in left)
    enough = min_parameter_share * sum(sizes.values())
    if left:
        assert len(chosen) >= math.ceil(share * len(modules))
        assert sum(sizes[n] for n in chosen) >= enough
    if len(chosen) > math.ceil(share * len(modules)):
        last = max(chosen, key=lambda n: (-sensitivity[n], n))
        assert sum(sizes[n] for n in chosen - {last}) < enough
