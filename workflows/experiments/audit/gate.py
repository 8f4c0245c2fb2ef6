"""The audit between a deletion and its publication: what needs neither a Retrain nor shadow models, in seconds.

A nightly deletion has no Retrain to be held against. So the reference is what the model never saw (held-out pairs of
the same users and of like items), which is the weaker one, and the verdict says so. What it looks at: the residue in
shared tables, the ranks of forgotten pairs, whether deleted rows and their moments are fresh; exposure is reported.
``tru audit job.yaml --batch ID`` gives the full verdict later, for as long as the batch's own data is kept.

One process reads the whole data set, both models and nothing else: about what one epoch of training holds in memory.
"""

import sys
import time
from typing import Any

from tru_core.audits.attacks import GATE_ATTACKS
from tru_core.collective import LocalCollective
from tru_core.quoting import printable
from workflows.config.job import JobConfig
from workflows.experiments.audit.case import ExamineSettings, Kept, examine
from workflows.running.worker import TaskRun
from workflows.storage import FileEntry, ObjectStore
from workflows.tasks import WorkerTask


def audit_batch(
    store: ObjectStore,
    job: JobConfig,
    *,
    original: FileEntry,
    candidate: FileEntry,
    snapshot: FileEntry,
    request: FileEntry,
    method: str | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Examine what a batch of deletions is about to publish. Needs no connection to Ray and writes nothing.

    Args:
        original: The model that served when the batch was planned.
        candidate: The model that would serve.
        snapshot: The data that still holds what the batch deletes.
        request: The batch's request by rows.
        method: What made the candidate: what it optimises is no evidence for it. None: the job's own method; "": none.

    Returns:
        ``verdict``: ``passed``, ``failed`` or ``inconclusive``; ``reference``: ``never_seen``; ``reason``;
        ``findings``: flat rows; ``version`` of the audit's rules; ``audit_seed``, ``inputs``, ``recalls``, ``seconds``.

    Raises:
        AuditError: If the data holds another number of the request's interactions than was planned.
        DataError: If a model is not of this data and job.
        IntegrityError: If a file differs from its digest.
    """
    started = time.perf_counter()
    task = WorkerTask(job=job, run_id="audit-gate", snapshot=snapshot, stages=[], request=request, original=original)
    run = TaskRun(task, LocalCollective(), store=store)
    method = job.unlearn.method if method is None else method
    asked = ExamineSettings(
        original=Kept(name="Original", seed=job.fit.seed, model=original),
        candidate=Kept(name="candidate", seed=job.fit.seed, model=candidate),
        method=method,
        fresh_seeds=job.unlearn.fresh_seeds(method),
        attacks=list(GATE_ATTACKS),
        seed=job.audit.seed,
    )
    found = examine(run, asked)
    seconds = time.perf_counter() - started
    if show_progress:
        sys.stderr.write(f"audit: {found['verdict']} in {seconds:.1f} s. {printable(found['reason'])}\n")
    names = ("verdict", "reference", "reason", "findings", "recalls", "audit_seed", "inputs")
    return {name: found[name] for name in names} | {"version": found["audit_version"], "seconds": seconds}
