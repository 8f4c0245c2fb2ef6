"""Deletions on real Ray workers: the whole commands, and a worker that is killed in the middle."""

import json
from functools import partial
from pathlib import Path

import pytest

from tests.deletion_world import (
    HEADER,
    LINES,
    copy_world,
    delete,
    end_state,
    ledger_of,
    make_job,
    pairs_of,
    run_here,
    write_file,
)
from tests.ray_loops import loop_killed_while_deleting
from tru_core.unlearning.paper.algorithm_one import AlgorithmOneSettings
from workflows.cli import main
from workflows.config.unlearn import UnlearnConfig
from workflows.data.snapshot import current_snapshot
from workflows.running import jobs, runs
from workflows.storage import open_store

pytestmark = pytest.mark.ray


def test_a_killed_ray_worker_changes_nothing_of_how_a_deletion_ends(
    ray_session: None, trained_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "run_task", run_here)
    with_epochs = UnlearnConfig(method="algorithm_one", settings=AlgorithmOneSettings(batch_size=256))
    copy_world(trained_world, tmp_path / "whole")
    whole = make_job(tmp_path / "whole", unlearn=with_epochs)
    delete(whole, tmp_path / "whole", *LINES)
    copy_world(trained_world, tmp_path / "killed")
    killed = make_job(tmp_path / "killed", unlearn=with_epochs)
    monkeypatch.setattr(runs, "run_task", partial(jobs.run_task, loop=loop_killed_while_deleting))
    delete(killed, tmp_path / "killed", *LINES)
    assert (tmp_path / "killed" / "diary" / "killed").exists()
    assert end_state(killed) == end_state(whole)


def test_the_commands_delete_with_two_ray_workers_and_a_second_run_does_nothing(
    ray_session: None, trained_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = copy_world(trained_world, tmp_path)
    pairs = pairs_of(open_store(job.storage), current_snapshot(open_store(job.storage), "tiny"))
    path = tmp_path / "job.yaml"
    settings = job.model_dump(mode="json", exclude_defaults=True)
    path.write_text(json.dumps(settings | {"scaling": {"num_workers": 2}}))
    requests = write_file(tmp_path, HEADER + "".join(f"{line}\n" for line in LINES))

    assert main(["delete", "run", "--json", str(path), "--requests", str(requests)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["version"], figures["num_requests"]) == (2, {"not_found": 1, "published": 2})
    store = open_store(job.storage)
    assert pairs_of(store, current_snapshot(store, "tiny")) == {p for p in pairs if p[0] != 3 and p[1] != 7}
    assert main(["delete", "run", "--json", str(path), "--requests", str(requests)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["num_requests"], figures["submitted"]["known"]) == ({}, 3)

    assert main(["versions", "--json", "--job", str(path)]) == 0
    lines = json.loads(capsys.readouterr().out)["versions"]
    assert [(line["status"], line["files"]) for line in lines] == [("withdrawn", "purged"), ("serving", "kept")]
    assert main(["rollback", "1", "--job", str(path)]) == 9
    assert main(["delete", "submission-id", "--job", str(path)]) == 0
    assert capsys.readouterr().out.strip() == ""
    assert ledger_of(job).counts() == {"receipted": 3}
