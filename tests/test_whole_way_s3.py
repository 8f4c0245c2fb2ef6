"""The whole way on S3 with real Ray workers: train, unlearn, compare; run again, nothing is made again."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_jobs import comparison_task, flat, tiny_job
from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.collective import LocalCollective
from workflows.experiments.compare import grid_runs
from workflows.experiments.compare.compare import compare
from workflows.models.publish import read_versions
from workflows.running import runs
from workflows.running.outcomes import newest_outcome
from workflows.running.worker import TaskRun
from workflows.storage import StorageConfig, read_json
from workflows.storage.local import LocalStore
from workflows.storage.s3 import S3Store

ROWS = {"original": "Original", "edges": "EdgeDeletion", "tru": "TRU", "retrain": "Retrain"}
pytestmark = [pytest.mark.ray, pytest.mark.s3]


def metrics(figures: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in flat(figures).items() if "recall20" in name or "ndcg20" in name}


def test_the_whole_way_on_s3_and_again(
    ray_session: None,
    seaweed_config: StorageConfig,
    seaweed_store: S3Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tiny_snapshot(seaweed_store)
    asked = {"methods": [{"name": "edge_deletion"}, {"name": "tru"}], "band": False}
    job = tiny_job(seaweed_config, tmp_path, scaling={"num_workers": 2}, compare=asked)
    trained = runs.train(job, show_progress=False)
    unlearned = runs.unlearn(job, show_progress=False)
    compared = compare(job, show_progress=False)

    versions = read_versions(seaweed_store, job.model)
    assert [(v.version, v.parent_version, v.method, v.run_id) for v in versions] == [
        (1, None, "fit", trained["run_id"]),
        (2, 1, "tru", unlearned["run_id"]),
    ]
    for figures in (trained, unlearned, compared):
        outcome = newest_outcome(seaweed_store, figures["run_id"])
        assert outcome["exit_code"] == 0
        assert read_json(seaweed_store, figures["result"])["figures"] == outcome["figures"]
        assert outcome["figures"] | {"result": figures["result"]} == figures

    # Neither the store nor the number of workers decides anything: one worker on a folder finds the same.
    store = LocalStore(tmp_path / "store")
    write_tiny_snapshot(store)
    alone = TaskRun(comparison_task(store, tiny_job(store.url, tmp_path)), LocalCollective()).run()
    systems = {run["method"]: run["figures"] for run in compared["runs"]}
    for name, row in ROWS.items():
        assert metrics(systems[row]) == pytest.approx(metrics(alone[name].plain_figures()), rel=1e-9)
    assert metrics(unlearned) == pytest.approx(metrics(systems["TRU"]), rel=1e-9)

    keys = [info.key for info in seaweed_store.list("")]
    assert not [key for key in keys if "/checkpoints/" in key]
    assert not [key for key in keys if not key.startswith("datasets/") and b"user-00" in seaweed_store.read(key)]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this was made already")

    for module in (runs, grid_runs):
        monkeypatch.setattr(module, "run_task", refuse)
    for workflow, first in ((runs.train, trained), (runs.unlearn, unlearned), (compare, compared)):
        again = workflow(job, show_progress=False)
        assert again.pop("result") != first["result"]
        assert again == {name: value for name, value in first.items() if name != "result"}
    assert read_versions(seaweed_store, job.model) == versions
