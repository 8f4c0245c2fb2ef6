"""What the environment does to a command, as an error of ours: a full disk, too little memory, a lost part of Ray.

One place decides it, for what the command line prints and for the outcome that storage keeps alike. Ray is not
imported here: its exceptions are known by the names of their classes.
"""

import errno
from collections.abc import Iterator

from tru_core.errors import ConfigError, DataError, TransientError, TruError

SHOWN_CHARACTERS = 200
_SAFE = "What was published before stays, and whole checkpoints are kept. Run the same command again: it resumes."
# Where Ray keeps what went wrong in a task, an actor or a training.
_CAUSES = ("cause", "controller_failure", "health_check_failure", "_base_exc")
_NO_ROOM = ("The cluster has no room for the workers", "Add nodes, or lower scaling.num_workers or threads_per_worker.")
_LOST = ("A worker process was lost", "Look at its node: memory, disk, who ended it.")
_NODE = ("A node of the cluster, or Ray's own process on it, was lost", "Look at the node: memory, disk, network.")
_SILENT = ("The cluster did not answer in time", "Look at its load and its network.")
_DISK = (
    "Ray has no space left for its objects",
    "Free space in /dev/shm and in the temporary folder (TMPDIR), or add nodes.",
)
_MEMORY = (
    "A node ran out of memory, and Ray ended a worker",
    "Give the node more memory, or lower scaling.num_workers; results do not depend on it.",
)
# What happened and what helps, by the name of a class or of one of its bases; the first that fits counts.
_RAY_FAILURES = {
    "OutOfMemoryError": _MEMORY,
    "ObjectStoreFullError": _DISK,
    "OutOfDiskError": _DISK,
    "NodeDiedError": _NODE,
    "LocalRayletDiedError": _NODE,
    "ObjectLostError": _NODE,
    "GetTimeoutError": _SILENT,
    "RpcError": _SILENT,
    "ActorUnavailableError": _SILENT,
    "WorkerHealthCheckTimeoutError": _SILENT,
    "CollectiveTimeoutError": _SILENT,
    "WorkerGroupStartupTimeoutError": _NO_ROOM,
    "WorkerGroupStartupFailedError": _NO_ROOM,
    "InsufficientClusterResourcesError": _NO_ROOM,
    "TaskUnschedulableError": _NO_ROOM,
    "ActorUnschedulableError": _NO_ROOM,
    "TaskPlacementGroupRemoved": _NO_ROOM,
    "ActorPlacementGroupRemoved": _NO_ROOM,
    "RuntimeEnvSetupError": ("A worker's environment could not be set up", "Look at the job's runtime_env."),
    "WorkerCrashedError": _LOST,
    "RayActorError": _LOST,
    "WorkerHealthCheckFailedError": _LOST,
    "PreemptionError": ("Nodes were taken away", "Run it where nodes stay longer."),
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


def own_error(error: BaseException) -> TruError | None:
    """Say which error of ours an exception is. None where the program itself is at fault.

    An error that a worker raised comes back as it was raised there. Ray adds a base class and a traceback to it.
    """
    if not is_rays(error):
        return error if isinstance(error, TruError) else _of_this_process(error)
    for found in linked(error):
        if isinstance(found, TruError) and not is_rays(found):
            notes = getattr(found, "__notes__", [])
            return type(found)(notes[0]) if notes else found
    causes = list(_causes(error))
    known = [found for cause in reversed(causes) if (found := _known(cause)) is not None]
    if known:
        return known[0]
    plain = [cause for cause in causes if not is_rays(cause)]
    if plain:
        return _of_this_process(plain[0])
    return TransientError(
        f"Ray could not finish its work ({type(error).__name__}). Look at the cluster's nodes and memory. {_SAFE}"
    )


def is_rays(error: BaseException) -> bool:
    """Whether a class of Ray's is among the bases of an exception."""
    return any(base.__module__.partition(".")[0] == "ray" for base in type(error).__mro__)


def linked(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that stand behind it, nearest first."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or any(current is known for known in seen):
            continue
        seen.append(current)
        yield current
        queue += [*_parts(current), current.__cause__, current.__context__]


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, cut to what fits into a message."""
    lines = str(error).strip().splitlines()
    return lines[0][:SHOWN_CHARACTERS] if lines else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception of Ray's and what it says was its cause. How Python got there is left out: it blames nobody."""
    yield error
    for part in _parts(error):
        yield from _causes(part)


def _parts(error: BaseException) -> list[BaseException]:
    found = [getattr(error, name, None) for name in _CAUSES] if is_rays(error) else []
    failures = getattr(error, "worker_failures", None)
    found += failures.values() if isinstance(failures, dict) else []
    return [part for part in found if isinstance(part, BaseException) and part is not error]


def _known(error: BaseException) -> TruError | None:
    """What one of Ray's exceptions means, if the table says it."""
    names = [base.__name__ for base in type(error).__mro__]
    if not is_rays(error):
        return None
    if "AuthenticationError" in names:
        return ConfigError(
            "The Ray cluster did not accept this command's token, or none is set. Nothing was started. Set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the cluster's token file."
        )
    for name, (what, advice) in _RAY_FAILURES.items():
        if name in names:
            return TransientError(f"{what} ({type(error).__name__}). {advice} {_SAFE}")
    return None


def _of_this_process(error: BaseException) -> TruError | None:
    if isinstance(error, MemoryError):
        return TransientError(f"There is not enough memory for this. Use a machine with more of it. {_SAFE}")
    if isinstance(error, RecursionError):
        return DataError(
            "An input is nested too deeply to be read. Nothing more was written. Look for lists within lists, or "
            "blocks within blocks, in the file that was read last."
        )
    if isinstance(error, UnicodeEncodeError) and not error.encoding.lower().startswith("utf"):
        return ConfigError(
            f"A name holds a character that this locale ({error.encoding}) cannot express. Nothing more was written. "
            "Set LC_ALL=C.UTF-8 or PYTHONUTF8=1, or rename the file."
        )
    if isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno is not None):
        return TransientError(_os_text(error))
    return None


def _os_text(error: OSError) -> str:
    places = [str(name)[-SHOWN_CHARACTERS:] for name in (error.filename, error.filename2) if name is not None]
    place = " and ".join(places) or "A file, the working folder or a connection"
    reason = str(error.strerror or type(error).__name__)[:SHOWN_CHARACTERS]
    advice = "Free space there, or set TMPDIR or the output to another disk." if error.errno in _FULL else ""
    advice = advice or "Look at that place: whether it exists, whether it may be read and written."
    return f"{place}: {reason}. {advice} {_SAFE}"
