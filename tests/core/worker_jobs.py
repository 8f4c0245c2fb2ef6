"""What each worker process of ``test_workers.py`` does: train, unlearn, measure, and write down every number."""

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from tru_core.artifact import pack_tensors
from tru_core.backbones import Backbone
from tru_core.backbones.base import num_parameters
from tru_core.collective import Collective, TorchCollective, all_sum_number
from tru_core.fit import FitSettings, TrainingState, parameter_values, set_parameters
from tru_core.forget_sets import sample_request
from tru_core.interactions import Regime, Request, make_request
from tru_core.problem import Problem, evaluate
from tru_core.testing.models import ALONE, build_model, fitted, problem_of, train_graph
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.paper.algorithm_one import AlgorithmOneSettings, algorithm_one
from tru_core.unlearning.tru.method import unlearn
from tru_core.unlearning.tru.settings import TRUSettings

FIT = FitSettings(max_epochs=2, patience=2, batch_size=48, learning_rate=0.02)


@dataclass(frozen=True)
class Job:
    """One run from the untrained model to the unlearned one.

    Attributes:
        forget: A regime, from which a fifth is drawn; or how many training pairs of the world to forget.
        world_sizes: Among how many workers it runs.
    """

    forget: Regime | int
    backbone: str = "mgcn"
    dtype: str = "float64"
    trainable_features: bool = False
    num_users: int = 24
    num_items: int = 30
    reverse_objective: str = "ranking"
    replace_items: str = "predicted"
    world_sizes: tuple[int, ...] = (4, 2)


JOBS = {
    "users": Job("user", world_sizes=(4, 2, 1), replace_items="none"),
    "items": Job("item", trainable_features=True),
    "interactions": Job("interaction", reverse_objective="full", replace_items="none"),
    "users-float32": Job("user", dtype="float32"),
    "freedom": Job("user", backbone="freedom", trainable_features=True, reverse_objective="full", world_sizes=(2,)),
    "one-pair": Job(1, world_sizes=(4,)),
    "three-pairs": Job(3, world_sizes=(4,)),
    "fewer-users-than-workers": Job(2, num_users=3, num_items=9, trainable_features=True, world_sizes=(4,)),
}
WORLD_SIZES = (4, 2, 1)


def request_of(job: Job, part: Part, collective: Collective) -> Request:
    """The same subjects for any number of workers."""
    if isinstance(job.forget, str):
        return sample_request(part.shard, collective, regime=job.forget, share=0.2, seed=3)
    train = tiny_world(num_users=job.num_users, num_items=job.num_items).train
    chosen = train[np.linspace(0, len(train) - 1, job.forget).astype(int)]
    return make_request(pair_users=chosen[:, 0], pair_items=chosen[:, 1])


def flat_metrics(model: Backbone, problem: Problem, *, edges_in: bool = False) -> dict[str, float]:
    """Every number of an outcome by a flat name."""
    outcome = asdict(evaluate(model, problem, edges_in=edges_in))
    return {f"{name}/{metric}": value for name, row in outcome.items() for metric, value in row.items()}


def run_job(job: Job, collective: Collective) -> tuple[dict, dict[str, torch.Tensor]]:
    """Run a job as one worker; give its numbers, which all workers share, and its tensors."""
    world = tiny_world(num_users=job.num_users, num_items=job.num_items)
    part = shards_of(world, collective.world_size)[collective.rank]
    dtype = getattr(torch, job.dtype)
    model = build_model(part, job.backbone, dtype=dtype, trainable_features=job.trainable_features)
    trained = fitted(part, collective, model=model, settings=FIT)
    request = request_of(job, part, collective)
    problem = problem_of(part, request, collective, dtype=dtype)
    before = flat_metrics(model, problem, edges_in=True)
    settings = AlgorithmOneSettings(
        epochs=2,
        batch_size=32,
        energy_batches=2,
        learning_rate=0.01,
        min_parameter_share=0.3,
        max_gradient_norm=0.4,
        reverse_objective=job.reverse_objective,  # type: ignore[arg-type]
    )
    forgotten: TrainingState = algorithm_one(model, problem, settings)
    numbers = {
        "fit": trained.history,
        "before": before,
        "unlearn": forgotten.history,
        "after": flat_metrics(model, problem),
        "best_epochs": [trained.best_epoch, forgotten.best_epoch],
        "num_forget": problem.num_forget,
        "num_drawn": all_sum_number(len(request.users), collective),
        "num_parameters": num_parameters(model, [n for n, _ in model.named_parameters()], collective),
    }
    tensors = {f"value/{name}": value for name, value in parameter_values(model).items()}
    set_parameters(model, trained.best)
    sequence = TRUSettings(
        reverse_steps=3,
        round_steps=2,
        batch_size=32,
        tolerance=0.0,
        repair=True,
        shared_learning_rate=0.01,
        branch_scaling=True,
        min_parameter_share=0.3,
        replace_items=job.replace_items,  # type: ignore[arg-type]
    )
    numbers["sequence"] = unlearn(model, problem, sequence).history
    tensors |= {f"sequence/{name}": value for name, value in parameter_values(model).items()}
    tensors |= {f"trained/{name}": value for name, value in trained.parameters.items()}
    users, items = model.embeddings(train_graph(part, collective, dtype=dtype))
    tensors |= {"vectors/users": users.detach(), "vectors/items": items.detach()}
    for table, axis in model.anatomy.tables.items():
        if axis != "item":
            rows = part.shard.user_rows if axis == "user" else model.held_items(table)
            tensors[f"rows/{table}"] = torch.from_numpy(rows)
    tensors["rows/vectors/users"] = torch.from_numpy(part.shard.user_rows)
    return numbers, tensors


def work(rank: int, folder: str) -> None:
    """Run every job among each number of workers in turn; the body of a spawned process."""
    torch.set_num_threads(1)
    for world_size in WORLD_SIZES:
        if rank >= world_size:
            continue
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meet-{world_size}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=120),
        )
        for name, job in JOBS.items():
            if world_size not in job.world_sizes:
                continue
            write(Path(folder), f"{name}-{world_size}-{rank}", *run_job(job, TorchCollective()))
        dist.destroy_process_group()


def write(folder: Path, name: str, numbers: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Write one worker's results."""
    (folder / f"{name}.json").write_text(json.dumps(numbers))
    (folder / f"{name}.safetensors").write_bytes(pack_tensors(tensors))


def run_alone(folder: Path) -> None:
    """Run every job in this process, without a process group."""
    for name, job in JOBS.items():
        write(folder, f"{name}-alone-0", *run_job(job, ALONE))
