"""``tru demo``: a small world with known tastes goes the whole way of the data on this machine.

Users and items have latent tastes; the tastes make both the interactions and the modality
features, so a multimodal recommender has something to find, and a deleted user something to lose.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tru_core.fit import FitSettings
from tru_core.quoting import printable
from workflows.config.job import BackboneConfig, ForgetConfig, JobConfig, ScalingConfig, parse
from workflows.experiments.compare.compare import compare
from workflows.ingest import import_dataset
from workflows.running import runs
from workflows.running.cluster import connected
from workflows.storage import StorageConfig, dataset_log, open_store, read_log

NUM_USERS, NUM_ITEMS, NUM_TASTES = 1200, 600, 12
INTERACTIONS_PER_USER = 14
MODALITIES = {"visual": 48, "text": 32}
WORLD_SEED = 7


def write_world(folder: Path) -> None:
    """Write raw tables of a small world: ``interactions.parquet`` and ``features/<modality>.npy``."""
    rng = np.random.default_rng(WORLD_SEED)
    user_tastes = rng.dirichlet(np.full(NUM_TASTES, 0.12), size=NUM_USERS)
    item_tastes = rng.dirichlet(np.full(NUM_TASTES, 0.08), size=NUM_ITEMS)
    popularity = rng.zipf(1.6, size=NUM_ITEMS).clip(max=40) ** 0.5
    users, items = [], []
    for user in range(NUM_USERS):
        chance = (item_tastes @ user_tastes[user] + 0.01) * popularity
        items.append(rng.choice(NUM_ITEMS, INTERACTIONS_PER_USER, replace=False, p=chance / chance.sum()))
        users.append(np.full(INTERACTIONS_PER_USER, user))
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"user_id": np.concatenate(users), "item_id": np.concatenate(items)})
    pq.write_table(table, folder / "interactions.parquet")
    (folder / "features").mkdir(exist_ok=True)
    for modality, num_columns in MODALITIES.items():
        directions = rng.normal(size=(NUM_TASTES, num_columns))
        noise = rng.normal(scale=0.25, size=(NUM_ITEMS, num_columns))
        features = (item_tastes @ directions + noise).astype(np.float32)
        np.save(folder / "features" / f"{modality}.npy", features)


def demo_job(storage: str) -> JobConfig:
    """The demo's job: the same settings that a job file would hold."""
    return JobConfig(
        storage=parse(StorageConfig, {"url": storage}, where="--folder"),
        dataset="demo",
        model="demo-mgcn",
        backbone=BackboneConfig(name="mgcn", settings={"embedding_size": 32}),
        fit=FitSettings(max_epochs=60, patience=6, batch_size=512, learning_rate=3e-3),
        forget=ForgetConfig(regime="user", share=0.05),
        scaling=ScalingConfig(num_workers=2),
    )


def run_demo(folder: Path) -> dict[str, Any]:
    """Make a world, import it, train, unlearn 5 % of the users, retrain, and compare.

    Returns:
        The comparison's figures.
    """
    job = demo_job(str(folder))
    store = open_store(job.storage)

    def say(text: str) -> None:
        sys.stderr.write(f"{printable(text)}\n")

    say(f"1/4 Making a world of {NUM_USERS} users, {NUM_ITEMS} items and {', '.join(MODALITIES)} features in {folder}")
    raw = folder / "raw"
    write_world(raw)
    with connected(job.scaling):
        if read_log(store, dataset_log(job.dataset)):
            say("2/4 The data set is there already")
        else:
            say("2/4 Importing it with Ray Data: checks, vocabularies, split, buckets, item graphs")
            import_dataset(str(raw), store, job.dataset)
        say(f"3/4 Training on {job.scaling.num_workers} Ray Train workers, users sharded")
        runs.train(job)
        say(f"4/4 Deleting {job.forget.label}: TRU, and two Retrains from scratch for comparison, side by side")
        return compare(job.model_copy(update={"scaling": ScalingConfig(num_workers=1)}))
