"""A process that holds a private Ray session, as a command does, says what it sees of it, and waits to be ended."""

import json
import sys
import time

import psutil
import ray

from workflows.config.job import ScalingConfig
from workflows.running.cluster import connected
from workflows.running.interrupts import interruptible


@ray.remote
def answer() -> int:
    return 42


def listening() -> list[str]:
    """Addresses on which this process and all of its children listen."""
    own = psutil.Process()
    found = [found for process in [own, *own.children(recursive=True)] for found in process.net_connections()]
    return sorted({found.laddr.ip for found in found if found.status == psutil.CONN_LISTEN})


def main() -> None:
    """Say the answer of a task, addresses and processes in one line; then wait."""
    with interruptible(), connected(ScalingConfig()):
        seen = {
            "answer": ray.get(answer.remote()),
            "addresses": listening(),
            "processes": [process.pid for process in psutil.Process().children(recursive=True)],
        }
        print(json.dumps(seen), flush=True)
        time.sleep(float(sys.argv[1]))


if __name__ == "__main__":
    main()
