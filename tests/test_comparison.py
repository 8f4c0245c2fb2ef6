"""Seeds put together: intervals of known samples, the band of Retrain, and a table that fits the terminal."""

import csv
import io
import json
import math
import re

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from tru_core.errors import ConfigError, NumericsError
from tru_core.student import student_quantile
from workflows.cli.tables import format_table
from workflows.experiments.compare.comparison import (
    FIGURES,
    RunFigures,
    SummaryRow,
    summarise,
    t_interval,
    to_json,
    to_table,
)
from workflows.storage import canonical_json


def run(method: str, seed: int, *, forget: str = "user 5%", backbone: str = "mgcn", **figures: float) -> RunFigures:
    return RunFigures(backbone=backbone, forget=forget, method=method, seed=seed, figures=figures)


def row_of(rows: list[SummaryRow], method: str, forget: str = "user 5%") -> SummaryRow:
    (found,) = [row for row in rows if (row.method, row.forget) == (method, forget)]
    return found


def test_the_interval_of_a_known_sample() -> None:
    # mean 3, s = sqrt(2.5), t(4) = 2.776: half = 2.776 * sqrt(2.5 / 5)
    low, high = t_interval([1, 2, 3, 4, 5]) or (0, 0)
    assert (low, high) == pytest.approx((3 - 2.776 * math.sqrt(0.5), 3 + 2.776 * math.sqrt(0.5)))


def test_one_seed_has_no_interval() -> None:
    assert t_interval([0.5]) is None
    summary = row_of(summarise([run("TRU", 0, residue=0.5)]), "TRU").figures["residue"]
    assert (summary.mean, summary.low, summary.high) == (0.5, None, None)


@pytest.mark.parametrize("freedom", [1, 2, 5, 17, 30])
def test_the_quantiles_leave_a_fortieth_of_the_t_distribution_above(freedom: int) -> None:
    # The density's integral from 0 to the quantile, by Simpson's rule, is 0.475.
    low, high = t_interval([0.0] * freedom + [1.0]) or (0, 0)
    error = float(np.std([0.0] * freedom + [1.0], ddof=1)) / math.sqrt(freedom + 1)
    points = np.linspace(0, (high - low) / 2 / error, 20_001)
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    density = scale * (1 + points**2 / freedom) ** (-(freedom + 1) / 2)
    weights = np.ones(len(points))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    assert (weights * density).sum() * points[1] / 3 == pytest.approx(0.475, abs=3e-5)


def test_the_quantiles_fall_to_the_normal_one() -> None:
    quantiles = [student_quantile(0.975, freedom) for freedom in (1, 2, 3, 5, 10, 30, 100, 10_000)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert quantiles[-1] == pytest.approx(1.960, abs=1e-3)


def test_a_mean_lies_inside_below_or_above_what_retraining_twice_gives() -> None:
    rows = summarise(
        [
            run("Retrain", 0, test_recall20=0.10, forget_recall20=0.01, residue=0.6),
            run("Retrain", 1, test_recall20=0.12, forget_recall20=0.02, residue=0.7),
            run("TRU", 0, test_recall20=0.10, forget_recall20=0.00, residue=0.71),
        ]
    )
    figures = row_of(rows, "TRU").figures
    assert [figures[name].place for name in ("test_recall20", "forget_recall20", "residue")] == [
        "inside",
        "below",
        "above",
    ]
    assert (figures["residue"].band_low, figures["residue"].band_high) == (0.6, 0.7)
    own = row_of(rows, "Retrain").figures["residue"]
    assert (own.band_low, own.band_high, own.place) == (0.6, 0.7, None)
    assert own.mean == pytest.approx(0.65)


def test_one_retrain_makes_no_band() -> None:
    rows = summarise([run("Retrain", 0, residue=0.6), run("TRU", 0, residue=0.6)])
    figures = row_of(rows, "TRU").figures["residue"]
    assert (figures.band_low, figures.band_high, figures.place) == (None, None, None)


def test_the_band_is_that_of_the_same_backbone_and_forget_set() -> None:
    rows = summarise(
        [
            run("Retrain", 0, residue=0.6),
            run("Retrain", 1, residue=0.7),
            run("Retrain", 0, forget="item 5%", residue=0.8),
            run("Retrain", 1, forget="item 5%", residue=0.9),
            run("Retrain", 0, backbone="lightgcn", residue=0.1),
            run("TRU", 0, forget="item 5%", residue=0.65),
        ]
    )
    found = row_of(rows, "TRU", "item 5%").figures["residue"]
    assert (found.band_low, found.band_high, found.place) == (0.8, 0.9, "below")
    assert [(row.backbone, row.forget, row.method, row.num_seeds) for row in rows] == [
        ("mgcn", "user 5%", "Retrain", 2),
        ("mgcn", "item 5%", "Retrain", 2),
        ("mgcn", "item 5%", "TRU", 1),
        ("lightgcn", "user 5%", "Retrain", 1),
    ]


def test_the_speed_up_is_the_mean_of_ratios_of_the_same_seed() -> None:
    rows = summarise(
        [
            run("Retrain", 0, seconds=100.0),
            run("Retrain", 1, seconds=200.0),
            run("TRU", 1, seconds=2.0),
            run("TRU", 0, seconds=10.0, speedup=7.0),
            run("TRU", 2, seconds=1.0),
            run("Edges", 0, seconds=0.0),
        ]
    )
    speedup = row_of(rows, "TRU").figures["speedup"]
    assert speedup.mean == pytest.approx(55)  # 10x with seed 0, 100x with seed 1, no Retrain of seed 2
    assert row_of(rows, "TRU").num_seeds == 3
    assert "speedup" not in row_of(rows, "Edges").figures
    assert row_of(rows, "Retrain").figures["speedup"].mean == 1.0


def test_a_figure_that_some_seeds_lack_is_the_mean_of_those_that_have_it() -> None:
    rows = summarise([run("TRU", 0, residue=0.5, distance=0.2), run("TRU", 1, residue=0.7)])
    figures = row_of(rows, "TRU").figures
    assert list(figures) == ["residue", "distance"]
    assert figures["residue"].mean == pytest.approx(0.6)
    assert (figures["distance"].mean, figures["distance"].low) == (0.2, None)


def test_another_reference_makes_another_band() -> None:
    rows = summarise(
        [run("A", 0, residue=0.1), run("A", 1, residue=0.2), run("Retrain", 0, residue=0.3)], reference="A"
    )
    assert row_of(rows, "Retrain").figures["residue"].place == "above"


def test_two_runs_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two runs are called the same"):
        summarise([run("TRU", 0, residue=0.5), run("TRU", 0, residue=0.5)])


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ConfigError, match="no figure is called 'recall'"):
        summarise([run("TRU", 0, recall=0.5)])


def test_a_figure_that_is_no_number_is_refused() -> None:
    with pytest.raises(NumericsError, match="residue is nan"):
        summarise([run("TRU", 0, residue=math.nan)])


SYSTEMS = ("Original", "EdgeDeletion", "Retrain", "TRU", "MMRecUn", "RecEraser, shards by taste")


def realistic(seeds: int) -> list[SummaryRow]:
    runs = []
    for forget in ("user 5%", "interaction 1 pair"):
        for place, method in enumerate(SYSTEMS):
            for seed in range(max(seeds, 2) if method == "Retrain" else seeds):
                figures = {name: 0.0931 + 0.001 * place + 0.0001 * seed for name in FIGURES if name != "speedup"}
                figures["seconds"] = 0.3 + 1000.0 * place + seed
                runs.append(RunFigures("mgcn", forget, method, seed, figures))
    return summarise(runs)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_table_names_every_system_in_each_block_and_fits_120_columns(seeds: int) -> None:
    text = format_table(realistic(seeds))
    assert max(len(line) for line in text.splitlines()) <= 120
    for label in ("mgcn · user 5%", "mgcn · interaction 1 pair"):
        assert text.count(label) == 1
    assert text.count("EdgeDeletion") == 2
    assert text.count("±") == 1 + 2 * 5 * (len(SYSTEMS) if seeds == 3 else 1)


def test_the_table_marks_each_place_and_shows_the_band() -> None:
    text = format_table(realistic(1))
    lines = {match[1]: line for line in text.splitlines() if (match := re.match(r"\s+(\w+)\s+0\.", line))}
    assert lines["TRU"].count(">") == 4
    assert lines["Original"].count("<") == 4
    assert not re.search("[<=>]", lines["Retrain"])
    assert lines["band"].count("0.0951–0.0952") == 4


def test_what_was_not_measured_shows_as_a_dash_and_the_band_still_stands() -> None:
    runs = [run("Original", 0, residue=0.5), run("Retrain", 0, distance=0.4), run("Retrain", 1, distance=0.5)]
    lines = [line.split() for line in format_table(summarise(runs)).splitlines()]
    assert ["Original", "-", "-", "0.5000", "-", "-", "-"] in lines
    assert ["band", "-", "-", "-", "0.4000–0.5000"] in lines


def test_the_flat_table_goes_through_parquet_and_csv() -> None:
    rows = realistic(3)
    table = to_table(rows)
    assert table.num_rows == len(rows) == 12
    assert table.num_columns == 4 + 6 * len(FIGURES)
    stored = io.BytesIO()
    pyarrow.parquet.write_table(table, stored)
    assert pyarrow.parquet.read_table(stored).equals(table)
    text = io.BytesIO()
    pyarrow.csv.write_csv(table, text)
    (tru,) = [
        line
        for line in csv.DictReader(io.StringIO(text.getvalue().decode()))
        if (line["method"], line["forget"]) == ("TRU", "user 5%")
    ]
    summary = row_of(rows, "TRU").figures["residue"]
    assert (float(tru["residue_mean"]), float(tru["residue_low"])) == (summary.mean, summary.low)
    assert tru["residue_place"] == "above"


def test_columns_of_the_flat_table_have_types_even_where_nothing_was_measured() -> None:
    table = to_table(summarise([run("TRU", 0, residue=0.5)]))
    assert table.schema.field("distance_mean").type == pyarrow.float64()
    assert table.column("distance_mean").to_pylist() == [None]
    assert table.schema.field("distance_place").type == pyarrow.string()


def test_the_summary_is_json() -> None:
    rows = realistic(1)
    found = json.loads(canonical_json(to_json(rows), where="summary"))
    assert len(found) == len(rows)
    assert found[0]["figures"]["residue"] == {
        "mean": 0.0931,
        "low": None,
        "high": None,
        "band_low": pytest.approx(0.0951),
        "band_high": pytest.approx(0.0952),
        "place": "below",
    }
