"""A published version that is read without Ray is the model that was published, on the data that it stands for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.deletion_world import LINES, delete, with_policy
from tests.tiny_snapshot import item_id, user_id
from tru_core.collective import LocalCollective
from tru_core.errors import DataError, MissingObjectError, PolicyError
from tru_core.interactions import contains, make_request
from tru_core.ranking import rank_metrics
from workflows.config.job import ForgetConfig, JobConfig
from workflows.models.publish import current_version
from workflows.running import runs
from workflows.running.published import read_published
from workflows.running.worker_data import load_data
from workflows.storage import open_store, read_json


def test_its_vectors_give_the_recall_that_the_training_measured(deletion_job: JobConfig) -> None:
    store = open_store(deletion_job.storage)
    published = read_published(store, "mgcn")
    run_id = current_version(store, "mgcn").run_id
    measured = read_json(store, f"runs/{run_id}/original/result.json")
    data = load_data(store, published.snapshot, LocalCollective(), dtype=torch.float64, standardised=True)
    found = rank_metrics(published.users, published.items, data.shard.test, data.shard.train, LocalCollective())
    assert found.recall == pytest.approx(measured["test_recall20"], abs=1e-12)


def test_no_item_that_a_user_had_is_listed_and_ids_are_those_of_the_rows(deletion_job: JobConfig) -> None:
    store = open_store(deletion_job.storage)
    published = read_published(store, "mgcn")
    data = load_data(store, published.snapshot, LocalCollective(), dtype=torch.float64, standardised=True)
    users = np.array([9, 2, 9])
    listed = published.top_items(users, k=6)
    assert listed.shape == (3, 6)
    assert not contains(data.shard.train, users[:, None], listed).any()
    assert listed[0].tolist() == listed[2].tolist() != listed[1].tolist()
    named = published.recommend([user_id(9), user_id(2)], k=6)
    assert named == [[item_id(row) for row in line] for line in listed[:2].tolist()]


def test_after_a_deletion_the_deleted_user_is_unknown_and_the_deleted_item_never_listed(
    deletion_job: JobConfig, tmp_path: Path
) -> None:
    delete(with_policy(deletion_job), tmp_path, *LINES)
    published = read_published(open_store(deletion_job.storage), "mgcn")
    assert published.version.version == 2
    with pytest.raises(DataError, match=r"1 of 2 ids are no users .* at place 1") as caught:
        published.recommend([user_id(4), user_id(3)], k=3)
    assert user_id(3) not in str(caught.value)
    everything = published.top_items(np.array([0, 4]), k=published.snapshot.num_items)
    assert 7 in published.snapshot.deleted_item_rows
    assert not (everything == 7).any()
    assert (everything == -1).any(axis=1).all(), "what a user had is left out, so no list is full"


def test_a_version_that_forgot_what_its_snapshot_holds_is_not_served_with_those_edges(
    deletion_job: JobConfig,
) -> None:
    job = deletion_job.model_copy(update={"forget": ForgetConfig(regime="user", count=3)})
    runs.unlearn(job, show_progress=False)
    store = open_store(job.storage)
    with pytest.raises(PolicyError, match="still holds") as caught:
        read_published(store, "mgcn")
    assert caught.value.exit_code == 9
    some, others = (
        read_published(store, "mgcn", forgotten=make_request(users=np.array([row]))).users for row in (5, 6)
    )
    assert not torch.equal(some, others)
    assert read_published(store, "mgcn", number=1).version.method == "fit"


@pytest.mark.parametrize(("model", "number"), [("mgcm", None), ("mgcn", 2), ("mgcn", 0), ("mgcn", -1)])
def test_what_does_not_exist_is_told_as_such(deletion_job: JobConfig, model: str, number: int | None) -> None:
    with pytest.raises(MissingObjectError):
        read_published(open_store(deletion_job.storage), model, number=number)


@pytest.mark.parametrize("row", [-1, 10_000])
def test_a_row_of_nobody_is_refused(deletion_job: JobConfig, row: int) -> None:
    with pytest.raises(DataError, match="outside"):
        read_published(open_store(deletion_job.storage), "mgcn").top_items(np.array([0, row]), k=2)
