"""A small process that holds a lease and commits what it is told to: for tests that pause or kill it.

Usage: python tests/lease_holder.py FOLDER SECONDS

It writes one line for each thing that happens: ``held EPOCH``, then for every line read ``committed`` or ``refused``,
and ``conflict`` if it did not get the lease.
"""

import sys

from tru_core.errors import ConflictError
from workflows.storage import open_store
from workflows.storage.run_lock import hold_lease


def main() -> None:
    store = open_store(sys.argv[1])
    try:
        with hold_lease(store, "tiny", lease_seconds=float(sys.argv[2])) as lease:
            print(f"held {lease.epoch}", flush=True)
            for number, _ in enumerate(sys.stdin):
                try:
                    lease.check()
                    store.put_if_absent(f"commits/{lease.epoch}-{number}", b"")
                    print("committed", flush=True)
                except ConflictError:
                    print("refused", flush=True)
    except ConflictError:
        print("conflict", flush=True)


if __name__ == "__main__":
    main()
