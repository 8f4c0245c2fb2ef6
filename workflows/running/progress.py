"""Progress of the workers on the driver's terminal: bars where there is a terminal, plain lines where there is none."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.exceptions
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tru_core.quoting import printable

POLL_SECONDS = 0.5
LINE_SECONDS = 10.0
SHOWN = {
    "valid_recall20": "validation recall@20",
    "forget_recall20": "forget recall@20",
    "forget_auc": "forget AUC",
    "residue_auc": "residue AUC",
}


class Board:
    """What the workers last said, by stage. Holds recalls and epochs, never rows of people."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, Any]] = {}

    def tell(self, stage: str, epoch: int, max_epochs: int, numbers: dict[str, float]) -> None:
        self.stages[stage] = {"epoch": epoch, "max_epochs": max_epochs, "numbers": numbers}

    def drop(self, stage: str) -> None:
        self.stages.pop(stage, None)

    def read(self) -> dict[str, dict[str, Any]]:
        return self.stages


def open_board() -> Any:
    """Start the actor that workers tell their progress to. It takes no CPU from them."""
    return ray.remote(num_cpus=0)(Board).remote()


def _describe(stage: dict[str, Any]) -> str:
    """How far a stage is: epochs of training, or rounds of steps where it says how far it has forgotten."""
    numbers = stage["numbers"]
    word = "round" if "residue_auc" in numbers else "epoch"
    texts = [f"{title} {numbers[name]:.4f}" for name, title in SHOWN.items() if name in numbers]
    return ", ".join([f"{word} {stage['epoch']}", *texts])


def _poll(board: Any) -> dict[str, dict[str, Any]]:
    try:
        return ray.get(board.read.remote(), timeout=5)
    except ray.exceptions.RayError:
        return {}


def _show_bars(board: Any, stop: threading.Event) -> None:
    columns = (TextColumn("{task.description:<10}", markup=False), BarColumn())
    console = Console(stderr=True, markup=False, emoji=False)
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[said]}", markup=False), console=console
    ) as bars:
        tasks: dict[str, Any] = {}
        is_last = False
        while not is_last:
            is_last = stop.wait(POLL_SECONDS)
            for name, stage in _poll(board).items():
                if name not in tasks:
                    tasks[name] = bars.add_task(printable(name), total=stage["max_epochs"], said="")
                bars.update(tasks[name], completed=stage["epoch"], said=_describe(stage))
            if is_last:
                for task in tasks.values():
                    bars.update(task, total=bars.tasks[task].completed)


def _show_lines(board: Any, stop: threading.Event) -> None:
    last: dict[str, int] = {}
    is_last = False
    while not is_last:
        is_last = stop.wait(LINE_SECONDS)
        for name, stage in _poll(board).items():
            if last.get(name) != stage["epoch"]:
                last[name] = stage["epoch"]
                stamp = time.strftime("%H:%M:%S", time.gmtime())
                sys.stderr.write(f"{stamp} {printable(name)}: {_describe(stage)}\n")


@contextmanager
def follow(board: Any) -> Iterator[None]:
    """Show what a board is told on standard error while the block runs. None shows nothing."""
    if board is None:
        yield
        return
    stop = threading.Event()
    show = _show_bars if sys.stderr.isatty() else _show_lines
    thread = threading.Thread(target=show, args=(board, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)
