"""An author outside the tree inherits the contracts: a sound backbone, method and store pass, broken ones fail."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

BACKBONE = """
import torch
from tru_core.backbones import LightGCN
from tru_core.testing import BackboneContract

class Mine(LightGCN):
    def loss(self, graph, batch):
        terms = super().loss(graph, batch)
        return type(terms)(terms.ranking FACTOR, terms.regulariser, terms.auxiliary)

class TestMine(BackboneContract):
    backbones = (Mine,)
"""
METHOD = """
from tru_core.testing import MethodContract
from tru_core.unlearning.method import Method, candidate_of
from tru_core.settings import Settings
import torch

def forget(original, problem, settings, tools):
    with torch.no_grad():
        original.get_parameter("user_table")[problem.forget.users] *= 0.5
        CHANGE
    return candidate_of(original, problem)

class TestMine(MethodContract):
    methods = {"halve": Method(title="Halve", settings_type=Settings, forget=forget)}
"""
STORE = """
import pytest
from workflows.storage.local import LocalStore
from workflows.testing import StoreContract

class Mine(LocalStore):
    def put_if_absent(self, key, body):
        CHECK
        return super().put_if_absent(key, body)

class TestMine(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return Mine(tmp_path / "store")
"""


def outcome_of(folder: Path, files: dict[str, str], *, chosen: str) -> tuple[int, dict[str, int], str]:
    """Run pytest on files in a folder of their own; the exit status, how many tests ended how, and the output."""
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "-k", chosen]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?)", ended.stdout)}
    return ended.returncode, counts, ended.stdout


def test_a_sound_backbone_method_and_store_pass_with_ten_lines_each(tmp_path: Path) -> None:
    files = {
        "backbone": BACKBONE.replace("FACTOR", "* 1.0"),
        "method": METHOD.replace("CHANGE", "pass"),
        "store": STORE.replace("CHECK", "pass"),
    }
    code, counts, output = outcome_of(tmp_path, files, chosen="not every_backbone and not checkerboard and not leaves")
    assert code == 0, output[-3000:]
    assert set(counts) == {"passed"}
    assert counts["passed"] >= 40


def test_broken_ones_fail_by_the_claim_that_they_break(tmp_path: Path) -> None:
    files = {
        # A stray detach: the loss has the right value, and no gradient.
        "backbone": BACKBONE.replace("FACTOR", ".detach()"),
        # It draws from the generator's state, so a second run gives something else.
        "method": METHOD.replace("CHANGE", 'original.get_parameter("item_table").add_(torch.rand(1).item())'),
        # Whoever comes later wins.
        "store": STORE.replace("CHECK", "self.delete(key)"),
    }
    chosen = "slope or twice_the_same or first_write or eight_writers or dict"
    code, counts, output = outcome_of(tmp_path, files, chosen=chosen)
    assert code == 1
    for name in ("slope_of_the_loss", "finite_vectors_twice_the_same", "first_write_stays", "a_dict_gives"):
        assert re.search(rf"FAILED .*{name}", output), f"{name} passed:\n{output[-3000:]}"
    assert counts["failed"] >= 6


def test_a_suite_that_names_nothing_is_no_success(tmp_path: Path) -> None:
    contracts = {"BackboneContract": "tru_core", "MethodContract": "tru_core", "StoreContract": "workflows"}
    files = {
        name: f"from {package}.testing import {name}\n\nclass TestMine({name}):\n    pass\n"
        for name, package in contracts.items()
    }
    code, counts, output = outcome_of(tmp_path, files, chosen="test")
    assert code != 0
    assert not counts.get("passed")
    assert "`backbones` is empty" in output
    assert "`methods` is empty" in output
