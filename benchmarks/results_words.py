"""What the rows of ``results.py`` say in words, by the rules :func:`passes` and :func:`as_good_for_less` alone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from results_plan import ABLATION_METHODS, ALONE, LITERAL, TRU, Cell
from results_rows import Record, read_sheet, valid_rows

from tru_core.errors import ConfigError
from workflows.config.compare import ORIGINAL, RETRAIN
from workflows.experiments.compare.comparison import (
    FigureSummary,
    RunFigures,
    SummaryRow,
    flat_residue,
    summarise,
    t_interval,
)

JUDGED = {"test_recall20": "retained Recall@20", "forget_recall20": "forget Recall@20", "residue": "residue"}
BEYOND = "residue_beyond"
"""The residue of forgotten pairs less that of held-out pairs: what is memory, whatever the shape of the space."""


@dataclass(frozen=True)
class Block:
    """What is known of a cell.

    Attributes:
        records: By seed, by the row's label.
        alone: The rows that ran one after the other, whose seconds can be compared; by seed, by label.
        rows: Summaries by label, over the seeds that have figures.
    """

    cell: Cell
    records: dict[int, dict[str, Record]]
    alone: dict[int, dict[str, Record]]
    rows: dict[str, SummaryRow]

    def measured(self, label: str) -> list[Record]:
        """The rows of a label that have figures, by seed."""
        found = (rows[label] for rows in self.records.values() if label in rows)
        return [row for row in found if "figures" in row]


def read_blocks(folder: Path, cells: Sequence[Cell]) -> list[Block]:
    """Read what is measured of every cell; rows of other settings than today's are as good as missing.

    Raises:
        ConfigError: If rows of one data set were measured on different data.
    """
    blocks: list[Block] = []
    digests: dict[str, tuple[str, Path]] = {}
    for cell in cells:
        records, timed = (_read_records(cell, place, digests) for place in (folder, folder / ALONE))
        alone = {
            seed: {label: row for label, row in rows.items() if not row["measured"]["side_by_side"]}
            | timed.get(seed, {})
            for seed, rows in records.items()
        }
        blocks.append(Block(cell, records, alone, _summaries(cell, records, alone)))
    return blocks


def _read_records(cell: Cell, folder: Path, digests: dict[str, tuple[str, Path]]) -> dict[int, dict[str, Record]]:
    """Read a cell's rows by seed, each with its machine.

    Args:
        digests: The digest of each data set and the file where it was first seen; filled.
    """
    records = {}
    for seed in cell.retrain_seeds:
        path = cell.path(folder, seed)
        if (sheet := read_sheet(path)) is None:
            continue
        first = digests.setdefault(cell.data, (sheet["data_digest"], path))
        if first[0] != sheet["data_digest"]:
            raise ConfigError(
                f"{first[1].name} and {path.name} were measured on different data called {cell.data}. No page was "
                "written. Delete the files of the older data, or measure them again with --data."
            )
        machines = sheet["machines"]
        records[seed] = {
            label: row | {"machine": machines[row["measured"]["machine"]]}
            for label, row in valid_rows(sheet, cell, seed).items()
        }
    return records


def _summaries(
    cell: Cell, records: Mapping[int, Mapping[str, Record]], alone: Mapping[int, Mapping[str, Record]]
) -> dict[str, SummaryRow]:
    """Summaries by label. Seconds are those of runs alone; a speed-up is of one store and one seed."""
    runs, ratios = [], {}
    for label in cell.labels:
        for seed, rows in records.items():
            if "figures" not in rows.get(label, {}):
                continue
            row = rows[label]
            figures = dict(row["figures"])
            if "residue" in row["details"]:
                figures |= flat_residue(row["details"]["residue"])
            del figures["seconds"]
            timed = alone[seed].get(label, {})
            if "figures" in timed:
                figures["seconds"] = timed["figures"]["seconds"]
                if label != ORIGINAL and figures["seconds"] > 0 and "retrain_seconds" in timed:
                    ratios.setdefault(label, []).append(timed["retrain_seconds"] / figures["seconds"])
            runs.append(RunFigures(cell.data, cell.title, label, seed, figures))
    found = {row.method: row for row in summarise(runs, reference=RETRAIN)}
    for label, row in found.items():
        row.figures.pop("speedup", None)
        if label in ratios:
            low, high = t_interval(ratios[label]) or (None, None)
            row.figures["speedup"] = FigureSummary(float(np.mean(ratios[label])), low, high, None, None, None)
    return found


def passes(row: SummaryRow) -> dict[str, bool]:
    """On which of the judged figures a method passes; those without a band or a value are left out."""
    places = {name: row.figures[name].place for name in JUDGED if name in row.figures}
    return {
        name: place != "below" if name == "test_recall20" else place == "inside"
        for name, place in places.items()
        if place is not None
    }


def shortfalls(row: SummaryRow) -> dict[str, float]:
    """By how much a method misses each of the judged figures: its mean's distance from the band, 0 where it passes."""
    is_passed, figures = passes(row), row.figures
    return {
        name: 0.0 if is_passed[name] else max(found.band_low - found.mean, found.mean - found.band_high)
        for name, found in figures.items()
        if name in is_passed and found.band_low is not None and found.band_high is not None
    }


def as_good(rows: Mapping[str, SummaryRow]) -> list[SummaryRow]:
    """The other methods that miss no judged figure by more than TRU does, whatever they cost."""
    goals = shortfalls(rows[TRU.title])
    own = {ORIGINAL, RETRAIN, TRU.title, LITERAL.title, *(method.title for method in ABLATION_METHODS)}
    others = {label: shortfalls(row) for label, row in rows.items() if label not in own}
    return [
        rows[label]
        for label, missed in others.items()
        if all(missed.get(name, math.inf) <= by for name, by in goals.items())
    ]


def as_good_for_less(rows: Mapping[str, SummaryRow]) -> list[str]:
    """Those of :func:`as_good` that take fewer seconds than TRU, the quickest first. Unknown costs are not lower."""
    if "seconds" not in rows[TRU.title].figures:
        return []
    limit = rows[TRU.title].figures["seconds"].mean
    costs = {row.method: row.figures["seconds"].mean for row in as_good(rows) if "seconds" in row.figures}
    return sorted((label for label, cost in costs.items() if cost < limit), key=lambda label: costs[label])


def sentence(block: Block) -> str:
    """Say of a cell in words where TRU is, how fast, and who is as good for less."""
    if TRU.title not in block.rows:
        return "TRU is not run yet."
    tru, num_retrains = block.rows[TRU.title], len(block.measured(RETRAIN))
    if not is_judged(block):
        return f"No band yet: {num_retrains} of at least 2 Retrains run. Nothing can be said of TRU."
    parts = []
    for name, title in JUDGED.items():
        figure = tru.figures.get(name)
        if figure is None or figure.place is None:
            parts.append(f"{title} is not measured")
        else:
            band = f"{figure.band_low:.4f}–{figure.band_high:.4f}"
            parts.append(f"{title} is {figure.place} the band ({figure.mean:.4f}; {band})")
    beyond = tru.figures.get(BEYOND)
    if beyond is not None and beyond.place is not None:
        band = f"{beyond.band_low:+.4f} to {beyond.band_high:+.4f}"
        parts.append(f"residue beyond that of held-out pairs is {beyond.place} the band ({beyond.mean:+.4f}; {band})")
    speed = tru.figures.get("speedup")
    fast = "its speed-up is not known" if speed is None else f"it takes 1/{speed.mean:.1f} of Retrain's seconds"
    if speed is not None and speed.mean < 1:
        fast = f"it takes {1 / speed.mean:.1f} times Retrain's seconds"
    if speed is not None and speed.low is None and tru.num_seeds > 1:
        fast += " in the one seed that was run alone"
    return f"TRU's {', its '.join(parts)}; {fast} ({_seeds(tru.num_seeds)}, band of {num_retrains}). {_for_less(block)}"


def _for_less(block: Block) -> str:
    rows = block.rows

    def named(labels: Iterable[str]) -> str:
        found = [f"{label}{' (passes on all)' if all(passes(rows[label]).values()) else ''}" for label in labels]
        return ", ".join(found) or "none"

    others = [method.title for method in block.cell.methods if method not in (TRU, LITERAL)]
    of = f"of {sum(label in rows for label in others)} methods run, of {len(others)}"
    aside = [row.method for row in as_good(rows) if "seconds" not in row.figures]
    if "seconds" not in rows[TRU.title].figures:
        aside = [row.method for row in as_good(rows)]
        why = "Costs are not compared, TRU was run side by side with others"
        return f"{why}; as good whatever the cost, {of}: {named(aside)}."
    also = f" As good at a cost that is not compared: {named(aside)}." if aside else ""
    return f"As good for less, {of}: {named(as_good_for_less(rows))}.{also}"


def _seeds(number: int) -> str:
    return f"{number} seed{'s' if number != 1 else ''}"


def retrain_against_retrains(blocks: Sequence[Block]) -> tuple[int, int]:
    """How often a Retrain passes on everything against the band of the other Retrains, and of how many.

    How strict the rule is: of n numbers alike in distribution, one lies between the others in (n - 2) / n of cases.
    """
    num_passed = num_tried = 0
    for block in blocks:
        found = [row["figures"] for row in block.measured(RETRAIN)]
        for tried in range(len(found)):
            runs = [
                RunFigures(block.cell.data, block.cell.title, "tried" if seed == tried else RETRAIN, seed, figures)
                for seed, figures in enumerate(found)
            ]
            row = next(row for row in summarise(runs, reference=RETRAIN) if row.method == "tried")
            if is_passed := passes(row):
                num_passed += all(is_passed.values())
                num_tried += 1
    return num_passed, num_tried


def ways_gone(blocks: Sequence[Block], name: str) -> list[float]:
    """How far TRU goes from Original to Retrain in a figure, cell by cell: 0 stays, 1 is there, above 1 is beyond."""
    labels, ways = (ORIGINAL, TRU.title, RETRAIN), []
    for block in blocks:
        means = [row.figures[name].mean for row in map(block.rows.get, labels) if row and name in row.figures]
        if len(means) == len(labels) and means[0] != means[-1]:
            before, found, goal = means
            ways.append((before - found) / (before - goal))
    return sorted(ways)


def _yardsticks(blocks: Sequence[Block]) -> str:
    """What a reader needs to weigh the count of cells with."""
    passed, tried = retrain_against_retrains(blocks)
    parts = []
    if tried:
        parts.append(
            "The rule is strict: held against the band of the other seeds, a Retrain itself passes on everything in "
            f"{passed} of {tried} tries."
        )
    ways = {title: ways_gone(blocks, name) for name, title in JUDGED.items() if name != "test_recall20"}
    said = [
        f"{way[0]:.0%} to {way[-1]:.0%} (median {np.median(way):.0%}) in {title}" for title, way in ways.items() if way
    ]
    if said:
        parts.append(f"Of the way from Original to Retrain TRU goes {' and '.join(said)}.")
    return " ".join(parts)


def summary(blocks: Sequence[Block]) -> str:
    """Say in how many cells TRU passes, how often a Retrain itself would, and how far TRU goes."""
    judged = [block for block in blocks if is_judged(block)]
    inside = [block for block in judged if all(passes(block.rows[TRU.title]).values())]
    priced = [block for block in judged if "seconds" in block.rows[TRU.title].figures]
    beaten = [block for block in priced if as_good_for_less(block.rows)]
    return (
        f"TRU passes on everything in {len(inside)} of the {len(judged)} cells where there is a band. In {len(beaten)} "
        f"of the {len(priced)} of them where its seconds can be compared another method is as good for less. Cells "
        f"that cannot be judged yet: {len(blocks) - len(judged)} of {len(blocks)}. {_yardsticks(judged)}".rstrip()
    )


def is_judged(block: Block) -> bool:
    """Whether TRU has figures and Retrains span a band."""
    return TRU.title in block.rows and bool(passes(block.rows[TRU.title]))
