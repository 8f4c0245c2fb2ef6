"""Several workers as processes with a gloo process group, without Ray: they start in seconds."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tru_core.collective import TorchCollective


def _in_group(rank: int, world_size: int, meeting: str, body: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size, timeout=timedelta(seconds=120)
    )
    try:
        return body(TorchCollective(), *arguments)
    finally:
        dist.destroy_process_group()


def in_processes(world_size: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run ``body(collective, *arguments)`` on every worker; give the results in rank order.

    Args:
        body: A function of a module that can be imported.
    """
    # A fork server imports PyTorch once, not once per worker.
    multiprocessing.set_forkserver_preload(["torch._dynamo", body.__module__])
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        with ProcessPoolExecutor(world_size, mp_context=multiprocessing.get_context("forkserver")) as pool:
            futures = [pool.submit(_in_group, rank, world_size, meeting, body, arguments) for rank in range(world_size)]
            return [future.result() for future in futures]
