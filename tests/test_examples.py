"""Every script in ``examples/`` runs as a reader would start it, ends well and says what it did."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.receipt_samples import SIGNING, receipts
from workflows.cli import main

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
MAX_LINES = 90


def run_example(name: str, *arguments: str | Path, cwd: Path, expected: int = 0) -> str:
    """What a script prints. It is started in an empty folder, so that it must find nothing beside it."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    # A reader has switched nothing off; the tests' own cluster runs without authentication.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    environment |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == expected, f"{name}:\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


def public_pem() -> bytes:
    """The public half of the samples' signing key, as an operator gives it away."""
    key = Ed25519PublicKey.from_public_bytes(SIGNING.public_key.raw)
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_every_example_says_for_whom_it_is_and_is_run_by_this_file() -> None:
    mine = Path(__file__).read_text()
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) >= 6
    for script in scripts:
        text = script.read_text()
        assert text.startswith('"""For '), f"{script.name}: the docstring begins with for whom it is"
        assert text.count("\n") <= MAX_LINES, f"{script.name} is no short script any more"
        assert f'run_example("{script.stem}"' in mine, f"no test runs {script.name}"


def test_train_and_unlearn_ends_nearer_to_retrain_than_the_original(tmp_path: Path) -> None:
    printed = run_example("train_and_unlearn", cwd=tmp_path)
    forgotten = {row[0]: float(row[2]) for row in re.findall(r"^(\w+) +([\d.]+) +([\d.]+)", printed, re.MULTILINE)}
    assert abs(forgotten["tru"] - forgotten["retrain"]) < abs(forgotten["original"] - forgotten["retrain"]) / 2
    assert list(tmp_path.iterdir()) == []


def test_an_own_method_stands_beside_tru(tmp_path: Path) -> None:
    printed = run_example("own_method", cwd=tmp_path)
    assert re.findall(r"^(\w+): test recall@20 0\.\d+", printed, re.MULTILINE) == [
        "original",
        "shrink",
        "tru",
        "retrain",
    ]


@pytest.mark.ray
def test_own_data_becomes_a_model_that_recommends(tmp_path: Path) -> None:
    printed = run_example("own_data", tmp_path / "shop", cwd=tmp_path)
    assert "data set shop: 120 users, 60 items" in printed
    assert "version 1 after 2 epochs" in printed
    served = run_example("recommend", tmp_path / "shop" / "store", "shop-mgcn", cwd=tmp_path)
    assert "120 users" in served


def test_recommend_lists_items_for_users_of_a_published_version(trained_world: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_world / "store", tmp_path / "copy")
    printed = run_example("recommend", tmp_path / "copy", "mgcn", "--k", 4, cwd=tmp_path)
    lists = re.findall(r"^user \d: (.*)$", printed, re.MULTILINE)
    assert [len(set(line.split())) for line in lists] == [4, 4, 4]


def test_verify_receipt_tells_a_receipt_from_a_changed_one(tmp_path: Path) -> None:
    body = receipts()[0]
    (tmp_path / "receipt.json").write_bytes(body)
    (tmp_path / "signing.pub").write_bytes(public_pem())
    printed = run_example("verify_receipt", "receipt.json", "signing.pub", cwd=tmp_path)
    assert "valid: request" in printed
    assert printed.count("  checked:") >= 3
    (tmp_path / "changed.json").write_bytes(body.replace(b'"published"', b'"not_found"', 1))
    refused = run_example("verify_receipt", "changed.json", "signing.pub", cwd=tmp_path, expected=8)
    assert refused.startswith("not valid: changed.json")


def test_a_pyg_program_trains_on_an_exported_data_set(trained_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    options = ["--storage", str(trained_world / "store"), "--out", str(out), "--json"]
    assert main(["data", "export", "tiny", "--format", "pyg", *options]) == 0
    printed = run_example("pyg_lightgcn", out, cwd=tmp_path)
    (hits,) = re.findall(r"hits@20 ([\d.]+)", printed)
    assert printed.startswith("tiny, snapshot ")
    assert float(hits) > 0.5
