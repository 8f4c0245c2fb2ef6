"""Runs of several systems, forget sets and seeds -> one summary. Pure: no Ray, no storage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tru_core.errors import ConfigError, NumericsError
from tru_core.student import student_quantile

FIGURES = (
    "test_recall20",
    "test_ndcg20",
    "valid_recall20",
    "forget_recall20",
    "forget_ndcg20",
    "residue",
    "residue_beyond",
    "distance",
    "seconds",
    "speedup",
)
Place = Literal["inside", "below", "above"]


@dataclass(frozen=True)
class RunFigures:
    """What one run of one system gave.

    Attributes:
        backbone: Name of the recommender.
        forget: Label of the forget set, such as ``user 5%``.
        method: Label of the row.
        seed: The seed of the run's training and unlearning.
        figures: Numbers by a name of :data:`FIGURES`; what was not measured is left out. ``speedup`` is not given
            but computed. ``distance`` is that of the lists to Retrain's of the same seed; of a Retrain run, to
            Retrain's of another seed.
    """

    backbone: str
    forget: str
    method: str
    seed: int
    figures: dict[str, float]


def flat_residue(residue: Mapping[str, Any]) -> dict[str, float]:
    """Take from a measured residue its AUC and, as ``residue_beyond``, how far it is above that of held-out pairs.

    Like goes with like in any model, in some vector spaces more than in others. What goes up and down with pairs
    that nobody forgot is no memory of the forgotten ones.
    """
    if not sum(residue["counts"]):
        return {}
    figures, level = {"residue": float(residue["overall"])}, residue.get("held_out")
    if level is not None and sum(level["counts"]):
        figures["residue_beyond"] = float(residue["overall"] - level["overall"])
    return figures


@dataclass(frozen=True)
class FigureSummary:
    """One figure of one system over seeds.

    Attributes:
        mean: Mean over the seeds that have the figure.
        low, high: Its 95 % interval by Student's t; None for one seed.
        band_low, band_high: Least and greatest value among the reference's runs with the same backbone and forget
            set; None where there are fewer than two.
        place: Where the mean lies against that band; None without a band and for the reference itself.
    """

    mean: float
    low: float | None
    high: float | None
    band_low: float | None
    band_high: float | None
    place: Place | None


@dataclass(frozen=True)
class SummaryRow:
    """One system on one backbone and forget set.

    Attributes:
        num_seeds: Runs that were put together.
        figures: By a name of :data:`FIGURES`, in their order; what no run measured is left out.
    """

    backbone: str
    forget: str
    method: str
    num_seeds: int
    figures: dict[str, FigureSummary]


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the mean: ``mean +- t * s / sqrt(n)``, s with n - 1; None for one value."""
    if len(values) < 2:
        return None
    freedom = len(values) - 1
    quantile = round(student_quantile(0.975, freedom), 3)
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def _check(runs: Sequence[RunFigures]) -> None:
    seen = set()
    for run in runs:
        where = f"{run.method} on {run.backbone}, {run.forget}, seed {run.seed}"
        if (key := (run.backbone, run.forget, run.method, run.seed)) in seen:
            raise ConfigError(f"{where}: two runs are called the same; each seed counts once. Nothing was summarised.")
        seen.add(key)
        for name, value in run.figures.items():
            if name not in FIGURES:
                raise ConfigError(f"{where}: no figure is called {name!r}; choose of {', '.join(FIGURES)}")
            if not math.isfinite(value):
                raise NumericsError(f"{where}: {name} is {value}. Nothing was summarised; look at that run.")


def _with_speedup(run: RunFigures, reference_seconds: dict[tuple[str, str, int], float]) -> dict[str, float]:
    """Add how many times faster the run was than the reference's of the same seed, where both took time."""
    figures = {name: value for name, value in run.figures.items() if name != "speedup"}
    reference = reference_seconds.get((run.backbone, run.forget, run.seed), 0.0)
    seconds = figures.get("seconds", 0.0)
    return figures | {"speedup": reference / seconds} if reference > 0 and seconds > 0 else figures


def _place(mean: float, low: float, high: float) -> Place:
    return "below" if mean < low else "above" if mean > high else "inside"


def _summarise(values: Sequence[float], band: Sequence[float], *, is_reference: bool) -> FigureSummary:
    mean = float(np.mean(values))
    low, high = t_interval(values) or (None, None)
    if len(band) < 2:
        return FigureSummary(mean=mean, low=low, high=high, band_low=None, band_high=None, place=None)
    band_low, band_high = min(band), max(band)
    place = None if is_reference else _place(mean, band_low, band_high)
    return FigureSummary(mean=mean, low=low, high=high, band_low=band_low, band_high=band_high, place=place)


def summarise(runs: Sequence[RunFigures], *, reference: str = "Retrain") -> list[SummaryRow]:
    """Put the seeds of each system together and place it against the reference's own spread.

    The band is what retraining twice already differs by: a mean inside is as good as retrained on that figure,
    as far as these seeds can tell. It needs two reference runs of one backbone and forget set, with any seeds.

    Args:
        reference: The row label of the runs that make the band and the time to compare with.

    Returns:
        One row for each backbone, forget set and method, blocks and rows in the order of their first run.

    Raises:
        ConfigError: If two runs are called the same, or a figure has an unknown name.
        NumericsError: If a figure is not finite.
    """
    _check(runs)
    seconds = {
        (run.backbone, run.forget, run.seed): run.figures["seconds"]
        for run in runs
        if run.method == reference and "seconds" in run.figures
    }
    blocks: dict[tuple[str, str], dict[str, list[dict[str, float]]]] = {}
    for run in runs:
        methods = blocks.setdefault((run.backbone, run.forget), {})
        methods.setdefault(run.method, []).append(_with_speedup(run, seconds))
    rows = []
    for (backbone, forget), methods in blocks.items():
        for method, found in methods.items():
            figures = {}
            for name in FIGURES:
                values = [figure[name] for figure in found if name in figure]
                band = [figure[name] for figure in methods.get(reference, []) if name in figure]
                if values:
                    figures[name] = _summarise(values, band, is_reference=method == reference)
            rows.append(SummaryRow(backbone, forget, method, num_seeds=len(found), figures=figures))
    return rows


def to_table(rows: Sequence[SummaryRow]) -> pa.Table:
    """Lay a summary out flat, for Parquet and CSV: one row each, ``<figure>_<part>`` columns, null where unmeasured."""
    names = ("backbone", "forget", "method")
    columns: dict[str, pa.Array] = {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in names}
    columns["num_seeds"] = pa.array([row.num_seeds for row in rows], pa.int64())
    for figure in FIGURES:
        found = [row.figures.get(figure) for row in rows]
        for part in ("mean", "low", "high", "band_low", "band_high", "place"):
            values = [None if summary is None else getattr(summary, part) for summary in found]
            columns[f"{figure}_{part}"] = pa.array(values, pa.string() if part == "place" else pa.float64())
    return pa.table(columns)


def to_json(rows: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """Lay a summary out as JSON objects, figures nested by name."""
    return [asdict(row) for row in rows]
