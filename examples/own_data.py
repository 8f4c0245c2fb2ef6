"""For those who have data: a folder of tables becomes a data set, a job file trains a model on it, on this machine.

    python examples/own_data.py FOLDER

FOLDER gets `raw/` (what you would bring), `store/` (the storage) and `job.yaml`. The same in the shell is
`tru data import raw --to store/datasets/shop` and `tru train job.yaml`.
"""

import sys
from pathlib import Path

import numpy as np

from workflows.config.job import load_job
from workflows.ingest import import_dataset
from workflows.running import runs
from workflows.running.cluster import connected
from workflows.storage import open_store

NUM_USERS, NUM_ITEMS, PAIRS_PER_USER = 120, 60, 12
JOB = """\
storage: {storage}
dataset: shop
model: shop-mgcn
backbone: {{name: mgcn, settings: {{embedding_size: 16}}}}
fit: {{max_epochs: 2, batch_size: 512, learning_rate: 5e-3}}
"""


def write_raw(folder: Path) -> None:
    """Write what an import needs: interactions with outside ids, and a row of features for each item."""
    numbers = np.random.default_rng(0)
    (folder / "features").mkdir(parents=True, exist_ok=True)
    lines = ["user_id,item_id"]
    for user in range(NUM_USERS):
        lines += [f"{user},{item}" for item in numbers.choice(NUM_ITEMS, PAIRS_PER_USER, replace=False)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    np.save(folder / "features" / "image.npy", numbers.normal(size=(NUM_ITEMS, 8)).astype(np.float32))


def main(folder: Path) -> None:
    """Write raw tables, import them, train what the job file says, and print where everything is."""
    write_raw(folder / "raw")
    (folder / "job.yaml").write_text(JOB.format(storage=(folder / "store").absolute()))
    job = load_job(folder / "job.yaml")
    with connected(job.scaling):  # a private Ray on this machine
        snapshot = import_dataset(str(folder / "raw"), open_store(job.storage), job.dataset)
        figures = runs.train(job, show_progress=False)
    counts = snapshot.counts
    print(f"data set {job.dataset}: {snapshot.num_users} users, {snapshot.num_items} items, {counts.train} pairs")
    print(f"model {job.model}: version {figures['version']} after {figures['epochs']} epochs")
    print(f"next: python examples/recommend.py {folder / 'store'} {job.model}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
