"""The example of ``docs/write-your-own-backbone.md``, run as a reader would: saved as a file and registered."""

import importlib.util
import re
import tempfile
from pathlib import Path

import pytest
import torch

from tru_core.backbones import BACKBONES, Backbone
from tru_core.collective import Collective
from tru_core.fit import FitSettings
from tru_core.interactions import make_request
from tru_core.problem import measure
from tru_core.testing import BackboneContract
from tru_core.testing.models import ALONE, batches_of, build_model, builder, fitted, problem_of, train_graph
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import Part, World, shards_of, tiny_world
from tru_core.unlearning.method import Tools, run_method
from tru_core.unlearning.methods import METHODS
from tru_core.unlearning.tru.method import unlearn
from tru_core.unlearning.tru.settings import TRUSettings

PAGE = Path(__file__).parents[2] / "docs" / "write-your-own-backbone.md"
FIT = FitSettings(max_epochs=3, patience=3, batch_size=32, learning_rate=0.05)


def example() -> type[Backbone]:
    """The class of the page, from a file as a reader would save it."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vbpr.py"
        path.write_text(code)
        spec = importlib.util.spec_from_file_location("vbpr_of_the_page", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.VBPR


VBPR = example()


class TestTheExample(BackboneContract):
    backbones = (VBPR,)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "vbpr", VBPR)


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world(modalities=("visual", "text"))


@pytest.fixture(scope="module")
def part(world: World) -> Part:
    return shards_of(world, 1)[0]


def test_its_score_is_the_formula_of_the_page(world: World, part: Part) -> None:
    model = build_model(part, "vbpr")
    users, items = model.embeddings(train_graph(part))
    size = 6
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for user, item in ((0, 0), (3, 17), (23, 29)):
        row = weights["item_table"][item]
        score = weights["user_table"][user] @ row[:size] + row[size]
        for modality, features in world.features.items():
            content = weights[f"project.{modality}.weight"] @ torch.from_numpy(features[item])
            score = score + weights[f"taste.{modality}"][user] @ content[:size] + content[size]
        assert (users[user] @ items[item]).item() == pytest.approx(score.item(), rel=1e-12)


def test_its_shares_of_several_workers_add_up_to_the_loss_of_one(world: World, part: Part) -> None:
    parts = shards_of(world, 3)

    def share(own: Part, collective: Collective) -> float:
        model, batch = build_model(own, "vbpr"), batches_of(own, collective)[0]
        return model.loss(train_graph(own, collective), batch).total().item()

    found = in_threads(3, lambda collective: share(parts[collective.rank], collective))
    assert sum(found) == pytest.approx(share(part, ALONE), rel=1e-12)


def test_the_example_is_unlearned_by_methods_that_never_heard_of_it(part: Part) -> None:
    model = build_model(part, "vbpr", dtype=torch.float32)
    fitted(part, model=model, settings=FIT)
    problem = problem_of(part, make_request(users=part.shard.user_rows[3:6]), dtype=torch.float32)
    tools = Tools(new_model=builder(part, "vbpr"), fit=FIT)
    method = METHODS["edge_deletion"]
    candidate = run_method(method, model, problem, method.settings_type(), tools)
    before = measure(candidate.users, candidate.items, problem, ALONE)

    unlearn(model, problem, TRUSettings(batch_size=32))
    users, items = model.embeddings(problem.graph_without)
    after = measure(users.detach(), items.detach(), problem, ALONE)
    assert after.forget.recall < before.forget.recall
