"""A small set of interactions and features, written in each raw layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_USERS, NUM_ITEMS = 20, 12
FIRST_USER = 770_001  # a number that is easy to find in a message, where it must not be
PART_NAMES = ("train", "valid", "test")
Columns = dict[str, list[Any]]


def interactions() -> Columns:
    """Each user meets 5 items: 3 train, 1 valid, 1 test. No pair twice, every user and item in train."""
    users, items, parts, times = [], [], [], []
    for user in range(NUM_USERS):
        for place in range(5):
            users.append(FIRST_USER + user)
            items.append((user * 5 + place * 2) % NUM_ITEMS)
            parts.append((0, 0, 0, 1, 2)[place])
            times.append(1_600_000_000 + user * 1000 + place)
    return {"user_id": users, "item_id": items, "x_label": parts, "timestamp": times}


def features(num_columns: int, *, num_items: int = NUM_ITEMS) -> np.ndarray:
    """Different rows of small binary fractions, which text holds exactly."""
    numbers = np.random.default_rng(num_columns).integers(-64, 64, size=(num_items, num_columns))
    return (numbers / 32).astype(np.float32)


def write_tru(folder: Path, columns: Columns | None = None, *, modalities: Sequence[str] = ("image", "text")) -> Path:
    """``interactions.parquet`` and ``features/<modality>.npy``."""
    table = pa.table(interactions() if columns is None else columns)
    (folder / "features").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "interactions.parquet")
    for number, modality in enumerate(modalities):
        np.save(folder / "features" / f"{modality}.npy", features(4 + number))
    return folder


def write_lists(folder: Path, rows: list[Any], *, items: list[int] | None = None, name: str = "image") -> None:
    """``features/<name>.parquet`` with a list of float32 for each item."""
    items = list(range(len(rows))) if items is None else items
    table = pa.table({"item_id": items, "vector": pa.array(rows, type=pa.list_(pa.float32()))})
    pq.write_table(table, folder / "features" / f"{name}.parquet")


def write_text(path: Path, columns: dict[str, list[Any]], *, delimiter: str = "\t", line_end: str = "\n") -> None:
    """A delimited text file."""
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(str(cell) for cell in row) for row in zip(*columns.values(), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + line_end for line in lines).encode())


def write_mmrec(folder: Path) -> Path:
    """MMRec's files."""
    table = interactions()
    names = {"userID": "user_id", "itemID": "item_id", "x_label": "x_label", "timestamp": "timestamp"}
    write_text(folder / "small.inter", {name: table[source] for name, source in names.items()})
    for number, modality in enumerate(("image", "text")):
        np.save(folder / f"{modality}_feat.npy", features(4 + number))
    return folder


def write_recbole(folder: Path, *, in_parts: bool) -> Path:
    """RecBole's atomic files, with the split as a column or as one file for each part."""
    table = interactions()
    names = {"user_id:token": "user_id", "item_id:token": "item_id", "timestamp:float": "timestamp"}
    columns = {name: table[source] for name, source in names.items()}
    if in_parts:
        for part, part_name in enumerate(PART_NAMES):
            own = [row for row, label in enumerate(table["x_label"]) if label == part]
            write_text(
                folder / f"small.{part_name}.inter",
                {name: [cells[row] for row in own] for name, cells in columns.items()},
            )
    else:
        write_text(folder / "small.inter", {**columns, "split:token": [PART_NAMES[part] for part in table["x_label"]]})
    lists = {
        f"{modality}:float_seq": [" ".join(str(value) for value in row) for row in features(4 + number)]
        for number, modality in enumerate(("image", "text"))
    }
    names_of_items = [f'A "quoted name {item}' for item in range(NUM_ITEMS)]
    write_text(
        folder / "small.item", {"item_id:token": list(range(NUM_ITEMS)), "name:token_seq": names_of_items, **lists}
    )
    return folder
