"""Connecting to Ray: the cluster that a job runs in, or a private one on this machine that is gone afterwards."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from tru_core.errors import ConfigError, TransientError
from workflows.config.job import ScalingConfig

_UNPICKLING_SWITCHES = (
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
)


@contextmanager
def connected(scaling: ScalingConfig) -> Iterator[None]:
    """Be connected to Ray inside the block.

    With ``RAY_ADDRESS`` set, as inside a submitted job, that cluster is used. Otherwise a private
    cluster is started on this machine, with its own temporary folder, which is deleted afterwards:
    it can hold spilled rows of people. A connection that is there already is used and kept.

    Raises:
        ConfigError: If the address is a dashboard's, or a switch that lets Ray unpickle files is set.
    """
    unsafe = [name for name in _UNPICKLING_SWITCHES if os.environ.get(name)]
    if unsafe:
        raise ConfigError(f"{unsafe[0]} is set: it lets a data file run code when it is read. Unset it.")
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith("http"):
        raise ConfigError(
            "RAY_ADDRESS names a dashboard (http...). Submit this command to it with `ray job submit`, or unset it."
        )
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    folder = Path(tempfile.mkdtemp(prefix="tru-"))
    try:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, scaling.num_workers * scaling.threads_per_worker),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_cpus(scaling: ScalingConfig) -> None:
    """Wait until the cluster has the CPUs that the workers need.

    Raises:
        TransientError: If it has not after ``start_timeout_seconds``, with what is there.
    """
    needed = scaling.num_workers * scaling.threads_per_worker
    started = time.monotonic()
    while (found := ray.cluster_resources().get("CPU", 0.0)) < needed:
        waited = time.monotonic() - started
        if waited >= scaling.start_timeout_seconds:
            raise TransientError(
                f"scaling asks for {scaling.num_workers} workers of {scaling.threads_per_worker} CPUs ({needed} CPUs); "
                f"the cluster has {found:g} after {waited:.0f} s. Nothing was started. Add nodes, lower "
                "scaling.num_workers (results do not depend on it), or raise scaling.start_timeout_seconds."
            )
        time.sleep(min(2.0, scaling.start_timeout_seconds / 10))
