"""How near to Retrain does each method come, at what cost, on which backbone and forget set? Writes docs/results.md.

    python benchmarks/results.py --data ../shared/data --store store/results --minutes 60
    python benchmarks/results.py --speed --data ../shared/data --store store/results --minutes 60
    python benchmarks/results.py --page
    python benchmarks/results.py --quick --data ../shared/data

The whole grid takes many hours; the command goes on where it stood. What is measured is kept in ``benchmarks/results``
and committed: a row whose content (data, settings, forget set, seed, method) is there already is not run again, in a
fresh clone without any store either. A row of other settings is run anew. Runs go one after the other, so that seconds
can be compared. A surprise would be a method that is cheaper than TRU and inside Retrain's band wherever TRU is.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from machine import REPOSITORY, describe_machine
from results_measure import Measuring, drop_rows, measure, num_missing, ray_runner, say, work_list
from results_page import compared_with_page, render
from results_plan import (
    ALONE,
    CELLS,
    CHEAP_METHODS,
    SPEED_GROUPS,
    SPEED_WORDS,
    Cell,
    chosen_cells,
    data_digest,
    known_words,
)

from tru_core.errors import ConfigError, TruError

ROWS_FOLDER = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "results.md"
QUICK_CELLS = ("tiktok:mgcn:user", "tiktok:mgcn:interaction")


def quick(call: Measuring, cells: Sequence[Cell]) -> str:
    """Measure the cheap methods with one seed, whatever the page has, and put the figures beside the page's.

    Trainings take nine tenths of the time and run side by side, so that every core works; the methods after them run
    one after the other.
    """
    from workflows.cli.tables import format_table
    from workflows.experiments.compare.compare import summary_rows

    texts = []
    for cell in cells:
        call.runner.compare(call.job(cell, [0], band=True, side_by_side=True))
        found = call.runner.compare(call.job(cell, [0], CHEAP_METHODS, band=True))
        texts += [format_table(summary_rows(found)), "", compared_with_page(cell, 0, found["runs"], call.folder), ""]
    return "\n".join(texts)


def _code_differs() -> bool:
    """Whether the code on this machine is another than the commit's; rows and pages are no code."""
    command = ["git", "-C", str(REPOSITORY), "status", "--porcelain", "--untracked-files=no"]
    done = subprocess.run([*command, "--", "tru_core", "workflows"], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())


def write_page(folder: Path, page: Path, cells: Sequence[Cell] = CELLS) -> None:
    """Render the page from the rows that are there."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(folder, cells), encoding="utf-8")


def main(cells: Sequence[Cell] = CELLS) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets' folders")
    parser.add_argument("--store", default="store/results", help="where models and results lie while it runs")
    parser.add_argument("--only", nargs="*", default=[], help="cells: tiktok:mgcn:user, *:mig_gt, tiktok:mgcn:shares")
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--methods", nargs="*", default=[], help="rows: tru, retrain, original, ablations, ...")
    parser.add_argument("--minutes", type=float, help="start nothing after so long; the next call goes on")
    parser.add_argument("--again", action="store_true", help="drop the chosen rows first, and measure them anew")
    parser.add_argument("--side-by-side", action="store_true", help="faster; seconds are marked as not comparable")
    parser.add_argument(
        "--without-retrain",
        action="store_true",
        help="train no Retrain for other rows: no distance where none is there",
    )
    parser.add_argument("--quick", action="store_true", help="two cells, one seed, cheap methods, beside the page")
    parser.add_argument(
        "--speed", action="store_true", help="cheap methods of seed 0 one after the other, for the page's speed-ups"
    )
    parser.add_argument("--page", action="store_true", help="only render the page from the rows that are there")
    parser.add_argument("--rows", type=Path, default=ROWS_FOLDER, help="folder of the measured rows")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page's file")
    arguments = parser.parse_args()
    try:
        if arguments.speed and arguments.side_by_side:
            raise ConfigError("--speed runs one row after the other: leave out --side-by-side. Nothing was started.")
        if unknown := set(arguments.methods) - known_words(cells):
            raise ConfigError(
                f"--methods: {', '.join(sorted(unknown))} unknown: {', '.join(sorted(known_words(cells)))}"
            )
        return _main(arguments, cells)
    except TruError as error:
        say(f"{type(error).__name__}: {error}")
        return error.exit_code


def _main(arguments: argparse.Namespace, cells: Sequence[Cell]) -> int:
    if arguments.page:
        write_page(arguments.rows, arguments.out, cells)
        return 0
    asked = chosen_cells(cells, QUICK_CELLS if arguments.quick else arguments.only)
    folder, seeds, words = arguments.rows, arguments.seeds, arguments.methods
    if arguments.speed:
        asked = [cell for cell in asked if cell.group in SPEED_GROUPS]
        folder, seeds, words = folder / ALONE, seeds or [0], words or SPEED_WORDS
    work = work_list(asked, seeds)
    sources = {name: arguments.data / name for name in sorted({cell.data for cell in asked})}
    # Results of runs side by side must not come to stand for runs alone, nor old ones for a quick look: a store each.
    part = "quick" if arguments.quick else "side-by-side" if arguments.side_by_side else "alone"
    storage = str(Path(arguments.store, part).absolute())
    machine = describe_machine()
    code = {"commit": machine.pop("commit"), "is_modified": _code_differs()}
    del machine["load"], machine["is_modified"]
    call = Measuring(
        runner=ray_runner(sources, storage),
        folder=folder,
        storage=storage,
        data={name: data_digest(folder) for name, folder in sources.items()},
        machine=machine,
        code=code,
        words=words,
        side_by_side=arguments.side_by_side,
        without_retrain=arguments.without_retrain,
    )
    if arguments.again:
        drop_rows(call, work)
    if not arguments.quick and not num_missing(call, work):
        say("every row asked for is there")
        write_page(arguments.rows, arguments.out, cells)
        return 0
    from workflows.config.job import ScalingConfig
    from workflows.running.cluster import connected

    with connected(ScalingConfig()):
        if arguments.quick:
            print(quick(call, asked))
            return 0
        limit = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
        num_left = measure(replace(call, deadline=limit), work)
    write_page(arguments.rows, arguments.out, cells)
    say(f"{num_left} rows are missing still: the same command goes on" if num_left else "every row is there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
