"""Measured rows -> ``docs/results.md``: the sentences of ``results_words.py``, tables, gaps, and how it was run."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results_ablations import ablation_lines
from results_plan import ABLATION_METHODS, BACKBONE_TITLES, GROUP_TITLES, LITERAL, NUM_SHARDS, TRU, Cell, Group
from results_rows import read_sheet, valid_rows
from results_words import (
    BEYOND,
    JUDGED,
    Block,
    is_judged,
    passes,
    read_blocks,
    retrain_against_retrains,
    sentence,
    summary,
)

from workflows.config.compare import ORIGINAL, RETRAIN
from workflows.experiments.compare.comparison import SummaryRow

SEEDS_FOR_INTERVAL = 3
FIGURE_TITLES = {
    "test_recall20": "test R@20",
    "forget_recall20": "forget R@20",
    "residue": "residue",
    BEYOND: "beyond",
    "distance": "distance",
}
MARKS = {"inside": " =", "below": " <", "above": " >", None: ""}
HEAD = """# Results

Written by `python benchmarks/results.py`; every figure and every sentence on this page follows from the rows in
`benchmarks/results`, and a change by hand is lost at the next run.
"""
GLANCE = """TRU against the band of Retrains: `=` inside it, `<` below, `>` above; what does not pass is **bold**.
Retained Recall@20 passes above the band too. *Retrain* says how often a Retrain itself passes on all three against the
band of the other seeds; *speed-up* is over Retrain, of runs one after the other in the same job.
"""
READING = """## How to read it

*test* is Recall@20 of held-out pairs of everybody who stays; *forget* the same of the deleted pairs
themselves; *residue* says whether the vectors tell which rows the deleted pairs brought together (0.5: no); *beyond* is
the residue less that of pairs which somebody had together in held-out data alone: like goes with like in any model, and
in some spaces more than in others, so a residue that falls as the held-out one does is no memory that went; *distance*
is that of the top-20 lists to those of the Retrain of the same seed. The *band* is the least and the greatest of the
Retrain runs: `=` inside it, `<` below, `>` above. One more Retrain would fall inside that of three in half of all cases
and inside that of eight in seven of nine, in one figure alone; so Retrains have more seeds than the other rows. Nothing
is claimed of a mean inside the band but that these seeds cannot tell it from retraining. ± is half of the 95 % interval
over seeds (Student's t), given from three seeds on.

The rules of the sentences: a method *passes* on retained Recall@20 where its mean is not below the band, on forget
Recall@20 and on residue where it is inside; else it misses by the distance of its mean from the band. A method is *as
good for less* than TRU where it misses none of the three by more than TRU does and takes fewer seconds; what a method
spends before the first request comes (shards) is not counted.
"""


def _plain(row: SummaryRow, name: str, digits: int = 4) -> str:
    """A mean and, from three seeds on, half of its interval."""
    found = row.figures.get(name)
    if found is None:
        return "-"
    text = f"{found.mean:.{digits}f}"
    if found.high is None or row.num_seeds < SEEDS_FOR_INTERVAL:
        return text
    return f"{text} ±{found.high - found.mean:.{digits}f}"


def _figure(row: SummaryRow, name: str) -> str:
    """The same with the mark that says where it lies against the band."""
    return f"{_plain(row, name)}{MARKS[row.figures[name].place] if name in row.figures else ''}"


def _wrapped(text: str) -> str:
    """Break a paragraph or a point of a list into lines."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _seconds(block: Block, label: str) -> str:
    row = block.rows[label]
    if "seconds" in row.figures:
        return _plain(row, "seconds", 0 if row.figures["seconds"].mean >= 100 else 1)
    return f"({np.mean([record['figures']['seconds'] for record in block.measured(label)]):.1f})"


def _line(block: Block, label: str) -> str:
    """A row of a table; a method that is missing has its line too."""
    if label not in block.rows:
        is_failed = any("error" in rows.get(label, {}) for rows in block.records.values())
        return f"| {label} | {'failed' if is_failed else 'not run yet'} | | | | | | 0 |"
    row = block.rows[label]
    cells = [_figure(row, name) for name in FIGURE_TITLES]
    speed = row.figures.get("speedup")
    cells += [_seconds(block, label), "-" if speed is None else f"{speed.mean:.1f}x", str(row.num_seeds)]
    return f"| {label} | {' | '.join(cells)} |"


def _band_line(block: Block) -> str:
    bands = []
    for name in FIGURE_TITLES:
        found = [row.figures[name] for row in block.rows.values() if name in row.figures]
        known = [figure for figure in found if figure.band_low is not None]
        bands.append(f"{known[0].band_low:.4f}–{known[0].band_high:.4f}" if known else "-")
    return f"| *band* | {' | '.join(bands)} | | | {len(block.measured(RETRAIN))} |"


def _table(block: Block, labels: Iterable[str]) -> list[str]:
    heads = ["method", *FIGURE_TITLES.values(), "seconds", "speed-up", "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    return [*lines, *(_line(block, label) for label in labels), _band_line(block), ""]


def _glance(blocks: Sequence[Block]) -> list[str]:
    """TRU's place in every cell where there is a band, a line each."""
    heads = ["cell", *JUDGED.values(), "Retrain", "speed-up"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for block in filter(is_judged, blocks):
        tru = block.rows[TRU.title]
        cells = []
        for name in JUDGED:
            figure = tru.figures.get(name)
            text = "-" if figure is None else f"{figure.mean:.4f}{MARKS[figure.place]}"
            cells.append(text if passes(tru).get(name, True) else f"**{text}**")
        passed, tried = retrain_against_retrains([block])
        speed = tru.figures.get("speedup")
        cells += [f"{passed} of {tried}" if tried else "-", "-" if speed is None else f"{speed.mean:.1f}x"]
        lines.append(f"| {block.cell.title} | {' | '.join(cells)} |")
    return lines


def _group(blocks: Sequence[Block], group: Group) -> list[str]:
    lines = [f"## {GROUP_TITLES[group]}", ""]
    for block in blocks:
        if block.cell.group == group and any(block.records.values()):
            lines += [f"### {block.cell.title}", ""]
            lines += _table(block, [ORIGINAL, *(method.title for method in block.cell.methods), RETRAIN])
            lines += _drift(block)
    return lines if len(lines) > 2 else [*lines, "Not run yet.", ""]


def _drift(block: Block) -> list[str]:
    """Of requests that come in one after the other: test and forget recall after the first, and after each further."""
    if block.cell.forget.batches == 1:
        return []
    lines = ["Test / forget Recall@20 after each batch, mean over seeds:", ""]
    heads = ["method", *(str(number) for number in range(1, block.cell.forget.batches + 1))]
    lines += [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for method in block.cell.methods:
        drifts = [row["details"]["drift"] for row in block.measured(method.title) if row["details"].get("drift")]
        if drifts:
            means = [
                [float(np.mean([batch[name] for batch in batches])) for name in ("test_recall20", "forget_recall20")]
                for batches in zip(*drifts, strict=True)
            ]
            lines.append(f"| {method.title} | {' | '.join(f'{test:.4f} / {forget:.4f}' for test, forget in means)} |")
    return [*lines, ""]


def _ablations(blocks: Sequence[Block]) -> list[str]:
    lines = ["## TRU without each of its parts", ""]
    labels = [TRU.title, *(method.title for method in ABLATION_METHODS), LITERAL.title]
    for block in blocks:
        if block.cell.ablations and any(block.measured(label) for label in labels):
            lines += [f"### {block.cell.title}: ablations", "", *_table(block, [ORIGINAL, *labels, RETRAIN])]
            if said := ablation_lines(block):
                lines += [*map(_wrapped, said), ""]
    return lines if len(lines) > 2 else [*lines, "Not run yet.", ""]


def _gaps(blocks: Sequence[Block]) -> list[str]:
    """What is missing, and what failed, by name."""
    missing, failed = [], []
    for block in blocks:
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for label in block.cell.labels:
            wanted = (seed for seed in block.cell.retrain_seeds if label in block.cell.labels_of(seed))
            seeds = tuple(seed for seed in wanted if label not in block.records.get(seed, {}))
            if seeds:
                by_seeds.setdefault(seeds, []).append(label)
        for seeds, labels in by_seeds.items():
            names = "every row" if labels == block.cell.labels else "; ".join(labels)
            listed = ", ".join(map(str, seeds))
            missing.append(f"- {block.cell.title}, seed{'s' if len(seeds) > 1 else ''} {listed}: {names}")
        for seed, rows in block.records.items():
            errors = {label: row["error"] for label, row in rows.items() if "error" in row}
            failed += [
                f"- {block.cell.title}, seed {seed}: {label}: {error['kind']}: {error['text']}"
                for label, error in errors.items()
            ]
    lines = [
        "## Not run yet",
        "",
        *(_wrapped(line) for line in missing or ["Nothing: every row of every seed is there."]),
        "",
    ]
    return [*lines, "## Failed", "", *(_wrapped(line) for line in failed), ""] if failed else lines


def _how(blocks: Sequence[Block]) -> list[str]:
    """Seeds, versions, dates, machines and commits behind the figures."""
    rows = [row for block in blocks for found in block.records.values() for row in found.values()]
    if not rows:
        return []
    days = sorted(row["measured"]["at"][:10] for row in rows)
    alone = [row for block in blocks for found in block.alone.values() for row in found.values()]
    loads = sorted(f"{row['measured']['load']:.1f}" for row in alone)
    commits = sorted({f"{row['measured']['commit'][:7]}{'+' * row['measured']['is_modified']}" for row in rows})
    machines = {
        f"- {machine['cores']} core{'s' * (machine['cores'] != 1)} of {machine['processor']}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"accelerator {machine['accelerator']}, {machine['system']}; Python {machine['python']}, "
        f"{', '.join(f'{name} {version}' for name, version in machine['versions'].items())}"
        for machine in (row["machine"] for row in rows)
    }
    spoken = ""
    if loads:
        spoken = f"Speed-ups are of {len(alone)} runs one after the other, at a load of {loads[0]} to {loads[-1]}. "
    lines = [
        "## How it was run",
        "",
        "```bash",
        "python benchmarks/results.py --data ../shared/data --minutes 60    # again, until nothing is missing",
        "python benchmarks/results.py --data ../shared/data --speed    # speed-ups: cheap rows alone",
        "python benchmarks/results.py --quick --data ../shared/data    # two cells, one seed, beside this page",
        "```",
        "",
        _wrapped(
            f"{len(rows)} rows, {days[0]} to {days[-1]}, one worker of one thread; seconds "
            "are those of training and unlearning, validation included. "
            f"{spoken}Seconds in parentheses are of runs side by side with others, and in no speed-up. "
            f"Commits (+: with changes not committed): {', '.join(commits)}."
        ),
        "",
        *(_wrapped(machine) for machine in sorted(machines)),
        "",
    ]
    backbones = {BACKBONE_TITLES[block.cell.backbone] for block in blocks if block.records}
    settings = f"Settings of {' and '.join(sorted(backbones))}: `benchmarks/results_plan.py`."
    if any("num_shards" in method.settings for block in blocks for method in block.cell.methods):
        settings += f" SISA, RecEraser and UltraRE: {NUM_SHARDS} shards."
    return [*lines, _wrapped(settings), ""]


def render(folder: Path, cells: Sequence[Cell]) -> str:
    """The whole page as Markdown.

    Args:
        folder: Where the files of rows are.

    Raises:
        ConfigError: If rows of one data set were measured on different data.
    """
    blocks = read_blocks(folder, cells)
    lines = [HEAD, "## At a glance", "", _wrapped(summary(blocks)), "", GLANCE, *_glance(blocks), "", READING]
    lines += ["## In words", "", *(_wrapped(f"- **{block.cell.title}**: {sentence(block)}") for block in blocks), ""]
    for group in GROUP_TITLES:
        if any(cell.group == group for cell in cells):
            lines += _group(blocks, group)
            if group == "main":
                lines += _ablations(blocks)
    return "\n".join([*lines, *_gaps(blocks), *_how(blocks)]).rstrip() + "\n"


def compared_with_page(cell: Cell, seed: int, runs: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Figures of a fresh comparison beside those of the same seed on the page, as text.

    Args:
        runs: The runs of a comparison, as ``tru compare --json`` gives them.
    """
    sheet = read_sheet(cell.path(folder, seed))
    rows = valid_rows(sheet, cell, seed) if sheet is not None else {}
    names = [*JUDGED, "seconds"]
    lines = [f"{cell.title}, seed {seed}: here | on the page"]
    lines.append(f"{'':<16}" + "".join(f"{name:>22}" for name in names))
    for run in runs:
        if run["seed"] == seed:
            page = rows.get(run["method"], {}).get("figures", {})
            pairs = [(run["figures"].get(name), page.get(name), 1 if name == "seconds" else 4) for name in names]
            shown = [f"{_number(here, digits)} | {_number(there, digits)}" for here, there, digits in pairs]
            lines.append(f"{run['method']:<16}" + "".join(f"{text:>22}" for text in shown))
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
