"""What the gate before a publication says of the same candidates: the weaker evidence beside the stronger."""

import time
from typing import Any

from tru_core.collective import LocalCollective
from workflows.config.job import JobConfig
from workflows.experiments.audit.gate import audit_batch
from workflows.experiments.audit.grid import list_audit
from workflows.experiments.audit.scope import scope_of
from workflows.running.results import read_result
from workflows.running.runs import kept_model
from workflows.running.worker import TaskRun
from workflows.storage import open_store, write_json
from workflows.tasks import RequestRows


def gate_verdicts(job: JobConfig) -> dict[str, dict[str, Any]]:
    """Ask the gate about every candidate that a method made of the Original, and the Original itself.

    Returns:
        By the candidate's title: ``verdict``, ``failed`` (names of attacks), ``cpu_seconds`` and ``method_seconds``.
    """
    store = open_store(job.storage)
    scope = scope_of(job, store)
    grid = list_audit(job, scope, store)
    if grid.original is None:
        return {}
    run = TaskRun(grid.original.task.model_copy(update={"forget": job.forget}), LocalCollective())
    asked = run.problem.request
    rows = RequestRows(users=asked.users.tolist(), items=[], pairs=[], num_train_pairs=run.problem.num_forget)
    request = write_json(store, f"requests/{job.dataset}-{job.forget.seed}.json", rows.model_dump(mode="json"))
    original = kept_model(read_result(store, grid.original.key), grid.original.task.run_id)
    made = {title: found for title, found in grid.candidates.items() if found.stage.method != "retrain"}
    entries = {"Do nothing": (original, "", 0.0)}
    for title, found in made.items():
        result = read_result(store, found.key)
        entries[title] = (kept_model(result, found.task.run_id), found.stage.method, result.seconds)
    verdicts = {}
    for title, (candidate, method, seconds) in entries.items():
        started = time.process_time()
        found = audit_batch(
            store,
            job,
            original=original,
            candidate=candidate,
            snapshot=scope.snapshot,
            request=request,
            method=method,
            show_progress=False,
        )
        failed = sorted({finding["attack"] for finding in found["findings"] if finding["verdict"] == "failed"})
        cost = {"cpu_seconds": time.process_time() - started, "method_seconds": seconds}
        verdicts[title] = {"verdict": found["verdict"], "failed": failed} | cost
    return verdicts
