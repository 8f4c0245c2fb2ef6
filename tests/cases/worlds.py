"""The shared cases, the worlds in which their commands run, and a case that was tried in a copy of its world.

``../shared/cases`` lies beside the repository; ``TRU_CASES`` names another folder. Its README says what the
placeholders stand for.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.cases.commands import REPOSITORY, Said, run_line
from tests.deletion_world import run_here
from workflows.running import runs

NUM_USERS, NUM_ITEMS, PAIRS_PER_USER = 40, 30, 9
JOB = """storage: {store}
dataset: tiny
model: tiny-mgcn
backbone: {name: mgcn, settings: {embedding_size: 8}}
fit: {max_epochs: 1}
delete: {audit: "off", min_requests: 1}
keys: {folder: {keys}}
"""
AS_PROCESS = ("requests/small_file_large_table",)  # its memory is measured


def cases_folder() -> Path:
    """Where the shared cases lie, or should."""
    return Path(os.environ.get("TRU_CASES") or REPOSITORY.parent / "shared" / "cases")


@dataclass(frozen=True)
class Case:
    """An entry of ``cases.yaml``. A name is unique within its kind."""

    key: str
    entry: dict[str, Any]

    @property
    def expect(self) -> dict[str, str]:
        return {name: str(text) for name, text in self.entry["expect"].items()}


def read_cases() -> list[Case]:
    """Every case, in the order of the file; none where the file is not there."""
    path = cases_folder() / "cases.yaml"
    if not path.is_file():
        return []
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Case(f"{entry['kind']}/{entry['name']}", entry) for entry in entries]


# --- worlds -------------------------------------------------------------------------------------


@contextlib.contextmanager
def workers_here() -> Iterator[None]:
    """Workers train in this process. What is tried here is what comes before and after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_task", run_here)
        yield


def write_raw(folder: Path, *, is_text: bool) -> Path:
    """The raw tables of a world. User 5 has item 7."""
    users = np.repeat(np.arange(NUM_USERS), PAIRS_PER_USER)
    items = (users + 2 * np.tile(np.arange(PAIRS_PER_USER), NUM_USERS)) % NUM_ITEMS
    ids = pa.array([f"{user:04d}" for user in users]) if is_text else pa.array(users, pa.int64())
    (folder / "features").mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ids, "item_id": pa.array(items, pa.int64())}), folder / "interactions.parquet")
    draw = np.random.default_rng(0)
    for name, num_columns in (("visual", 6), ("text", 4)):
        np.save(folder / "features" / f"{name}.npy", draw.normal(size=(NUM_ITEMS, num_columns)).astype(np.float32))
    return folder


class Worlds:
    """Worlds that are made when they are first asked for. They are copied, never changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> Path:
        """The folder of ``tiny``, ``text``, or ``receipted``: tiny with a receipt in ``receipt.json``."""
        folder = self._folder / name
        if folder.exists():
            return folder
        if name == "receipted":
            shutil.copytree(self.get("tiny"), folder)
            place = Place(folder)
            (folder / "one.csv").write_text("request_id,kind,user_id,item_id\nre-1,user,38,\n")
            self._run(place, "tru delete submit {folder}/one.csv --job {job}", "tru delete run --now --job {job}")
            self._run(place, "tru delete receipt re-1 --job {job} --out {receipt}")
            return folder
        raw = write_raw(self._folder / f"raw-{name}", is_text=name == "text")
        folder.mkdir()
        place = Place(folder)
        self._run(place, "tru keys new {keys}", f"tru data import {raw} --to {{store}}/datasets/tiny --keys {{keys}}")
        self._run(place, "tru train {job}")
        return folder

    @staticmethod
    def _run(place: "Place", *lines: str) -> None:
        place.prepare()
        for line in lines:
            with workers_here():
                said = run_line(place.fill(line), place.work)
            if said.exit != 0:
                raise RuntimeError(f"the world could not be made: {line} ended with {said.exit}: {said.text}")


@dataclass(frozen=True)
class Place:
    """A folder in which a case is tried, and what its placeholders stand for."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def case(self) -> Path:
        return self.folder / "case"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def job(self) -> Path:
        return self.folder / "job.yaml"

    def fill(self, text: str) -> str:
        """Put places where placeholders stand. Other braces are left."""
        names = ("case", "store", "keys", "job", "work", "out", "folder")
        for name in names:
            text = text.replace(f"{{{name}}}", str(getattr(self, name)))
        return text.replace("{receipt}", str(self.folder / "receipt.json"))

    def prepare(self) -> None:
        """Make the folders and the job file, for this place."""
        for folder in (self.work, self.out):
            folder.mkdir(exist_ok=True)
        self.job.write_text(self.fill(JOB))

    def copy_cases(self) -> None:
        """A copy of the shared folder that may be changed, with the job files filled in."""
        shutil.copytree(cases_folder(), self.case)
        for path in (self.case, *self.case.rglob("*")):
            path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR)
        for path in (self.case / "jobs").iterdir():
            path.write_bytes(self.fill(path.read_text(encoding="utf-8")).encode())


# --- trying a case ------------------------------------------------------------------------------


@dataclass
class Trial:
    """A case that was tried: where, and what its commands said, in order."""

    case: Case
    place: Place
    said: list[Said] = field(default_factory=list)

    def run(self, line: str) -> Said:
        """Run one more command in this place; it is not one of the case's own."""
        line = self.place.fill(line)
        with workers_here():
            return run_line(line, self.place.work, as_process=self.case.key in AS_PROCESS and line.startswith("tru"))

    @property
    def text(self) -> str:
        """Everything that the case's commands said."""
        return "".join(said.text for said in self.said)

    @property
    def codes(self) -> list[int]:
        return [said.exit for said in self.said]

    @property
    def is_refused(self) -> bool:
        return self.said[0].exit != 0


def try_case(case: Case, worlds: Worlds, folder: Path, *, extra: str = "") -> Trial:
    """Run a case's commands in a copy of its world. After a refused ``delete submit`` the rest is left out.

    Args:
        extra: Words to add to each command of ``tru``.
    """
    commands = case.entry["command"]
    needs_receipt = any("{receipt}" in line for line in commands)
    shutil.copytree(worlds.get("receipted" if needs_receipt else case.entry.get("world", "tiny")), folder)
    place = Place(folder)
    place.prepare()
    place.copy_cases()
    trial = Trial(case, place)
    for line in case.entry.get("setup", []):
        done = run_line(place.fill(line), place.case)
        if done.exit != 0:
            raise RuntimeError(f"{case.key}: the setup {line} failed: {done.err}")
    for line in commands:
        trial.said.append(trial.run(f"{line} {extra}".strip() if line.startswith("tru") else line))
        if trial.said[-1].exit != 0 and case.entry["kind"] == "requests":
            break
    if case.entry["kind"] == "keys":
        trial.said = trial.said[-1:]  # the first makes the file
    return trial
