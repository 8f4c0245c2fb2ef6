"""Commands that messages print for a storage: whole, so that they can be pasted into a shell."""

import shlex

from workflows.storage import ObjectStore


def doctor_command(store: ObjectStore) -> str:
    """The command that examines a store."""
    return shlex.join(["tru", "doctor", store.url, *store.command_options])


def result_command(store: ObjectStore, run_id: str) -> str:
    """The command that says how a run of a store ended."""
    return shlex.join(["tru", "result", run_id, "--storage", store.url, *store.command_options])
