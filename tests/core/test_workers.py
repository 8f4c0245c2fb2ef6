"""One, two and four workers give the same numbers.

The processes are started once; each runs all jobs of ``worker_jobs.py`` among 4, 2 and 1 of them. The yardstick
is the same job in this process, without any exchange.
"""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

from tests.core.worker_jobs import JOBS, WORLD_SIZES, run_alone, work
from tru_core.artifact import unpack_tensors

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
Numbers = dict[str, Any]

every_run = pytest.mark.parametrize(
    ("job", "world_size"), [(name, size) for name, job in JOBS.items() for size in job.world_sizes]
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    # A fork server imports PyTorch once, not once per worker.
    multiprocessing.set_forkserver_preload(["torch", "torch._dynamo"])
    context = torch.multiprocessing.start_processes(
        work, args=(str(folder),), nprocs=max(WORLD_SIZES), join=False, start_method="forkserver"
    )
    assert context is not None
    run_alone(folder)
    while not context.join(timeout=300):
        pass
    return folder


def numbers_of(folder: Path, name: str) -> Numbers:
    return json.loads((folder / f"{name}.json").read_text())


def tensors_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return unpack_tensors((folder / f"{name}.safetensors").read_bytes(), key=name)


def flat(value: Any, path: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in flat(inner, f"{path}.{name}").items()}
    if isinstance(value, list):
        return {k: v for place, inner in enumerate(value) for k, v in flat(inner, f"{path}.{place}").items()}
    return {path: value}


@every_run
def test_losses_recalls_scales_sensitivities_choices_and_metrics_are_those_of_one_worker(
    results: Path, job: str, world_size: int
) -> None:
    expected = flat(numbers_of(results, f"{job}-alone-0"))
    assert any("sensitivity" in name for name in expected)
    for rank in range(world_size):
        found = flat(numbers_of(results, f"{job}-{world_size}-{rank}"))
        assert found == pytest.approx(expected, rel=TOLERANCE[JOBS[job].dtype], abs=1e-12)


@every_run
def test_all_workers_report_the_same_numbers_to_the_bit(results: Path, job: str, world_size: int) -> None:
    numbers = [numbers_of(results, f"{job}-{world_size}-{rank}") for rank in range(world_size)]
    assert all(other == numbers[0] for other in numbers)


@every_run
def test_parameters_and_vectors_are_those_of_one_worker(results: Path, job: str, world_size: int) -> None:
    expected = tensors_of(results, f"{job}-alone-0")
    tolerance = TOLERANCE[JOBS[job].dtype]
    held: dict[str, list[int]] = {}
    for rank in range(world_size):
        for name, found in tensors_of(results, f"{job}-{world_size}-{rank}").items():
            if name.startswith("rows/"):
                held.setdefault(name, []).extend(found.tolist())
                continue
            table = name if name.startswith("vectors/") else name.partition("/")[2]
            rows = tensors_of(results, f"{job}-{world_size}-{rank}").get(f"rows/{table}")
            wanted = expected[name] if rows is None else expected[name][rows]
            scale = float(expected[name].abs().max())
            torch.testing.assert_close(
                found, wanted, rtol=tolerance, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
            )
    for name, rows in held.items():
        assert sorted(rows) == sorted(expected[name].tolist())


@every_run
def test_replicated_parameters_stay_equal_to_the_bit(results: Path, job: str, world_size: int) -> None:
    tensors = [tensors_of(results, f"{job}-{world_size}-{rank}") for rank in range(world_size)]
    for name, first in tensors[0].items():
        is_local = name.startswith("rows/") or {f"rows/{name}", f"rows/{name.partition('/')[2]}"} & set(tensors[0])
        if not is_local:
            assert all(torch.equal(first, other[name]) for other in tensors), name


@pytest.mark.parametrize(("job", "num_rows"), [("one-pair", 1), ("three-pairs", 3), ("fewer-users-than-workers", 2)])
def test_a_deletion_smaller_than_the_worker_count_is_still_visited_once(results: Path, job: str, num_rows: int) -> None:
    numbers = numbers_of(results, f"{job}-4-0")
    assert numbers["num_forget"] == num_rows
    assert [row["num_rows_visited"] for row in numbers["unlearn"]] == [num_rows, num_rows]
    assert {row["num_rows_visited"] for row in numbers["sequence"]} == {num_rows}


def test_the_jobs_are_worth_comparing(results: Path) -> None:
    for job in JOBS:
        numbers = numbers_of(results, f"{job}-alone-0")
        assert numbers["fit"][-1]["loss"] < numbers["fit"][0]["loss"]
        for row in numbers["unlearn"]:
            choices = [value for name, value in row.items() if name.startswith("chosen/")]
            assert 0 < sum(choices) < len(choices)
            assert all(value > 0 for name, value in row.items() if name.startswith("sensitivity/"))
    rounds = {job: numbers_of(results, f"{job}-alone-0")["sequence"] for job in JOBS}
    assert min(len(rounds[job]) for job in ("users", "interactions")) >= 2, "no round: the stop rule ended them at once"
    assert rounds["interactions"][0]["forget_auc"] != rounds["interactions"][-1]["forget_auc"]
    assert rounds["users"][0]["residue_auc"] != rounds["users"][-1]["residue_auc"]
    scales = numbers_of(results, "users-alone-0")["unlearn"][-1]
    assert any(value < 1 for name, value in scales.items() if name.startswith("scale/"))
