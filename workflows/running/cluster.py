"""Connecting to Ray: the cluster that a job runs in, or a private one on this machine that is gone afterwards."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import ray
from ray._private import ray_constants, services
from ray._private.grpc_utils import init_grpc_channel

from tru_core.errors import ConfigError, TransientError
from workflows.config.job import ScalingConfig
from workflows.failures import first_line, own_error
from workflows.running.interrupts import handlers_kept, undisturbed
from workflows.running.private_ray import (
    check_authentication,
    cluster_address,
    private_folder,
    remove_dead_sessions,
    require_authentication,
)

CONNECT_SECONDS = 15.0
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
        ConfigError: If the address cannot be one of a cluster, the cluster does not accept the token, Ray's
            authentication is switched off, or a switch that lets Ray unpickle files is set.
        TransientError: If the cluster does not answer, or a private one cannot be started.
    """
    unsafe = [name for name in _UNPICKLING_SWITCHES if os.environ.get(name)]
    if unsafe:
        raise ConfigError(f"{unsafe[0]} is set: it lets a data file run code when it is read. Unset it.")
    if ray.is_initialized():
        yield
        return
    address = cluster_address()
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address is None:
        with _private_session(scaling):
            yield
    else:
        check_cluster(address)
        with _session({"address": address}, failure=f"no connection to the Ray cluster {_shown(address)}"):
            yield


@contextmanager
def _private_session(scaling: ScalingConfig) -> Iterator[None]:
    require_authentication()
    remove_dead_sessions()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with private_folder() as folder, _on_loopback():
        settings = {
            "address": "local",
            "num_cpus": max(os.cpu_count() or 1, scaling.num_workers * scaling.threads_per_worker),
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(folder),
        }
        with _session(settings, failure="no private Ray session could be started"):
            check_authentication()
            yield


@contextmanager
def _session(settings: dict[str, object], *, failure: str) -> Iterator[None]:
    """Be connected inside the block. Ray's own ways to fail and to be interrupted become ours.

    Args:
        failure: Begins the message where Ray fails.
    """
    try:
        with handlers_kept():
            _init(settings, failure)
        yield
    finally:
        with undisturbed():
            ray.shutdown()


def _init(settings: dict[str, object], failure: str) -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)  # pyright: ignore[reportArgumentType]
    except Exception as error:
        own = own_error(error)
        if isinstance(own, ConfigError):
            raise own from error
        raise TransientError(
            f"{failure} ({type(error).__name__}: {first_line(error)}). Nothing was started. Look at the memory, the "
            "space in /dev/shm and in the temporary folder, and the limits on processes and open files of this "
            "machine; then run the same command again."
        ) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray take 127.0.0.1 for this machine's address, so that its servers listen there and nowhere else.

    By itself Ray puts the network's address in place of a local one, and its servers then listen on all addresses.
    It does not where it supports no clusters, which is what this constant says.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def check_cluster(address: str) -> None:
    """Ask a cluster who it is, for a limited time: Ray itself tries for minutes, and does not say what is wrong.

    Raises:
        ConfigError: If no cluster can have that address, or it does not accept the token.
        TransientError: If nobody answers.
    """
    shown = _shown(address)
    if address.startswith("http"):
        raise ConfigError(
            "RAY_ADDRESS names a dashboard (http...). Submit this command to it with `ray job submit`, or unset it."
        )
    if address.startswith("ray://"):
        raise ConfigError(
            f"RAY_ADDRESS names a Ray Client server ({shown}), through which no training can run. Nothing was started. "
            "Run this command on a node of the cluster with RAY_ADDRESS=HOST:PORT of its head, or submit it with "
            "`ray job submit`."
        )
    with _no_cluster(shown):
        found = services.canonicalize_bootstrap_address(address)
        if found is None:
            raise ConnectionError("no cluster is known on this machine")
        if not found.rpartition(":")[2].isdecimal():
            raise ValueError(found)
    code = _ask(found)
    if code is grpc.StatusCode.UNAUTHENTICATED and address != "auto":  # for "auto" Ray finds a token by itself
        raise ConfigError(
            f"the Ray cluster {shown} did not accept this command's token, or none is set. Nothing was started. Set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a copy of the cluster's token file."
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise TransientError(
            f"the Ray cluster {shown} (RAY_ADDRESS) did not answer within {CONNECT_SECONDS:g} s. Nothing was started. "
            "Look whether its head runs and whether this machine reaches it, or unset RAY_ADDRESS for a private "
            "session."
        )


def _ask(address: str) -> grpc.StatusCode | None:
    """The code with which the head of a cluster refuses to say its name; None where it says it."""
    channel = init_grpc_channel(address)
    try:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        ask(b"", timeout=CONNECT_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        return error.code()
    finally:
        channel.close()
    return None


@contextmanager
def _no_cluster(shown: str) -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        raise TransientError(
            f"RAY_ADDRESS is {shown}, and no Ray cluster runs on this machine. Nothing was started. Start one, name "
            "another as HOST:PORT, or unset RAY_ADDRESS for a private session."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"RAY_ADDRESS is {shown}: expected HOST:PORT of a cluster's head, or auto. Nothing was started."
        ) from error


def _shown(address: str) -> str:
    """An address as a message may show it: without a user, a password or anything unprintable."""
    return ascii(address.rpartition("@")[2][:100])[1:-1]


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
