"""``tru_core`` as a library: a quick import, a dozen names, arrays in and a model that forgot out."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import tru_core
from tru_core import FitSettings, forget, make_dataset, make_request, train
from tru_core.errors import ConfigError, DataError
from tru_core.one_process import Original, nearest_items
from tru_core.settings import Settings
from tru_core.unlearning.method import Method, candidate_of

NUM_USERS, NUM_ITEMS = 20, 12
RNG = np.random.default_rng(3)
PAIRS = np.array([(user, item) for user in range(NUM_USERS) for item in range(NUM_ITEMS) if (user + item) % 3])
FEATURES = {"sound": RNG.normal(size=(NUM_ITEMS, 5)), "text": RNG.normal(size=(NUM_ITEMS, 3)).astype(np.float32)}


def arrays(**changes):
    """The arguments of a data set, ready to be changed."""
    values = {"train": PAIRS[::2], "valid": PAIRS[1::4], "test": PAIRS[3::4], "features": FEATURES}
    return values | {"num_users": NUM_USERS, "num_items": NUM_ITEMS, "num_neighbours": 4} | changes


def make(**changes):
    values = arrays(**changes)
    return make_dataset(values.pop("train"), **values)


@pytest.fixture(scope="module")
def original() -> Original:
    return train(make(), "lightgcn", schedule=FitSettings(max_epochs=2, batch_size=64, learning_rate=1e-2))


def test_importing_the_library_imports_neither_torch_nor_pytest_and_every_name_is_there() -> None:
    code = """
import sys, tru_core
sys.exit([n for n in ("torch", "numpy", "pydantic", "pytest") if n in sys.modules] or None)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(tru_core.__all__) == sorted(tru_core._HOMES)
    assert len(tru_core.__all__) <= 13
    for name in tru_core.__all__:
        assert getattr(tru_core, name) is not None
        assert name in dir(tru_core)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = tru_core.no_such_name  # pyright: ignore[reportAttributeAccessIssue]


def test_the_original_stays_what_it_was_and_the_same_request_gives_the_same_twice(original: Original) -> None:
    before = {name: value.detach().clone() for name, value in original.model.named_parameters()}
    request = make_request(users=np.array([4, 9]))
    one, two = (forget(original, request, method="row_reset") for _ in range(2))
    assert torch.equal(one.candidate.users, two.candidate.users)
    assert all(torch.equal(value, before[name]) for name, value in original.model.named_parameters())
    assert not torch.equal(one.candidate.users[4], original.model.get_parameter("user_table")[4])
    assert one.problem.num_forget == int(np.isin(PAIRS[::2, 0], [4, 9]).sum())


def test_a_method_of_ones_own_is_given_the_problem_and_a_copy(original: Original) -> None:
    seen = []

    def nothing(model, problem, settings, tools):
        seen.append((problem.num_forget, tools.fit.max_epochs, model is original.model, type(tools.new_model(0))))
        return candidate_of(model, problem)

    method = Method(title="Nothing", settings_type=Settings, forget=nothing)
    found = forget(original, make_request(items=np.array([5])), method=method)
    assert seen == [(int((PAIRS[::2, 1] == 5).sum()), 2, False, original.backbone)]
    assert found.candidate.items.shape[0] == NUM_ITEMS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": PAIRS[::2, 0]}, "train: expected integers of shape"),
        ({"valid": PAIRS.astype(float)}, "valid: expected integers"),
        ({"test": PAIRS + 1}, "test: .* user rows lie outside 0..19"),
        ({"train": PAIRS - [0, 1]}, "item rows lie outside 0..11"),
        ({"train": PAIRS[:0]}, "train has no pair"),
        ({"features": {"text": FEATURES["text"][:-1]}}, r"expected floats of shape \(12, columns\)"),
        ({"features": {"text": np.ones((NUM_ITEMS, 2), dtype=int)}}, "found int64"),
        ({"features": {"text": np.where(np.arange(12)[:, None] == 7, np.nan, 1.0)}}, "the first is row 7"),
    ],
)
def test_wrong_arrays_are_refused_with_their_name(changes: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make(**changes)


@pytest.mark.parametrize("rows", [{"users": [20]}, {"items": [-1]}, {"pair_users": [3], "pair_items": [12]}])
def test_a_request_for_a_row_that_does_not_exist_is_no_success(original: Original, rows: dict) -> None:
    request = make_request(**{name: np.array(values) for name, values in rows.items()})
    with pytest.raises(DataError, match="Nothing was forgotten"):
        forget(original, request)


def test_an_unknown_name_is_answered_with_those_that_there_are(original: Original) -> None:
    with pytest.raises(ConfigError, match=r"no method 'true'.*tru"):
        forget(original, make_request(), method="true")
    with pytest.raises(ConfigError, match=r"no backbone 'gcn'.*mgcn"):
        train(make(), "gcn")


def test_neighbours_in_blocks_are_those_of_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    features = RNG.normal(size=(11, 4))
    features[6] = 0.0
    whole = nearest_items(features, num_neighbours=3)
    monkeypatch.setattr("tru_core.one_process._BLOCK_ITEMS", 4)
    blocks = nearest_items(features, num_neighbours=3)
    np.testing.assert_array_equal(whole.neighbours, blocks.neighbours)
    np.testing.assert_allclose(whole.similarity, blocks.similarity)
    assert (whole.neighbours.reshape(11, 3)[:, 0] == np.arange(11)).all()
