"""What the ablations say in words: what each part of TRU, and each of the paper's interventions, moves."""

from collections.abc import Sequence

import numpy as np
from results_plan import ABLATION_METHODS, LITERAL, TRU
from results_words import JUDGED, Block

WORTH_NAMING = 0.01
"""A smaller change of a judged figure is not named: two seeds of one method differ by as much."""
SHARED = "TRU, shared modules move"
_BASES = {"TRU, shared, ": SHARED, f"{LITERAL.title}, ": LITERAL.title, "TRU, ": TRU.title}


def base_of(label: str) -> tuple[str, str]:
    """The row that an ablation is held against, and what is different in it."""
    for start, base in _BASES.items():
        if label.startswith(start) and label != base:
            return base, label.removeprefix(start)
    return TRU.title, label


def changes(block: Block, label: str) -> dict[str, float]:
    """By how much an ablation moves each judged figure: a mean over the seeds of which both rows are there."""
    base, _ = base_of(label)
    pairs = [
        (rows[label]["figures"], rows[base]["figures"])
        for rows in block.records.values()
        if "figures" in rows.get(label, {}) and "figures" in rows.get(base, {})
    ]
    return {
        name: float(np.mean([found[name] - before[name] for found, before in pairs]))
        for name in JUDGED
        if pairs and all(name in found and name in before for found, before in pairs)
    }


def ablation_lines(block: Block) -> list[str]:
    """One point for each row that ablations are held against; none where nothing can be compared."""
    lines = []
    for base in (TRU.title, SHARED, LITERAL.title):
        labels = [method.title for method in ABLATION_METHODS if base_of(method.title)[0] == base]
        moved = {label: found for label in labels if (found := changes(block, label))}
        if moved:
            lines.append(f"- Against {base}: {_sentence(moved)}")
    return lines


def _sentence(moved: dict[str, dict[str, float]]) -> str:
    large = {label: found for label, found in moved.items() if max(map(abs, found.values())) > WORTH_NAMING}
    small = [label for label in moved if label not in large]
    named = [
        f"*{base_of(label)[1]}* ("
        + ", ".join(f"{JUDGED[name]} {by:+.3f}" for name, by in found.items() if abs(by) > WORTH_NAMING)
        + ")"
        for label, found in large.items()
    ]
    parts = [f"{_listed(named)} {'moves' if len(named) == 1 else 'move'} what is judged."] if named else []
    if small:
        most = max(abs(by) for label in small for by in moved[label].values())
        names = _listed([f"*{base_of(label)[1]}*" for label in small])
        parts.append(f"{names} {'moves' if len(small) == 1 else 'move'} none of it by more than {most:.3f}.")
    return " ".join(parts)


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
