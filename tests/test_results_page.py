"""The results page says what the rows say, names what is missing, and nothing that is there is run again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import results_plan
from results_ablations import ablation_lines
from results_measure import Measuring, Runner, drop_rows, drop_run, measure, work_list
from results_page import compared_with_page, render
from results_plan import (
    ALONE,
    CELLS,
    FEW_METHODS,
    LITERAL,
    MAIN_METHODS,
    TRU,
    Cell,
    chosen_cells,
    chosen_labels,
    data_digest,
    row_digest,
)
from results_rows import add_row, new_sheet, read_sheet, write_sheet
from results_words import (
    as_good_for_less,
    passes,
    read_blocks,
    retrain_against_retrains,
    sentence,
    shortfalls,
    ways_gone,
)

from tru_core.errors import ConfigError, TransientError
from workflows.config.compare import CompareMethod, ForgetConfig
from workflows.config.job import JobConfig
from workflows.storage import open_store

DATA = {"tiktok": "0123456789abcdef"}
MACHINE = {
    "system": "Linux",
    "processor": "slow",
    "cores": 2,
    "memory_bytes": 2**33,
    "accelerator": "none",
    "python": "3.11",
    "versions": {"torch": "2"},
}
CODE = {"commit": "abcdef0123", "is_modified": False}
CELL = Cell("main", "tiktok", "mgcn", ForgetConfig(regime="user"), FEW_METHODS, (0, 1, 2))

# Two Retrains span 0.10-0.12, 0.06-0.08 and 0.52-0.54.
RETRAINS = {0: (0.10, 0.06, 0.52), 1: (0.12, 0.08, 0.54)}
INSIDE, FORGETS_TOO_LITTLE, LOSES_RECALL = (0.11, 0.07, 0.53), (0.11, 0.30, 0.53), (0.09, 0.07, 0.53)


def put(
    folder: Path, label: str, values: tuple[float, float, float], seed: int = 0, *, retrain: bool = True, **changes: Any
) -> None:
    """Write one row as it would be measured."""
    cell = changes.pop("cell", CELL)
    path = cell.path(folder, seed)
    sheet = read_sheet(path) or new_sheet(cell, seed, DATA["tiktok"])
    names = ("test_recall20", "forget_recall20", "residue")
    figures = dict(zip(names, values, strict=True)) | {"seconds": changes.pop("seconds", 100.0)}
    measured = {"at": "2026-11-24T04:00:00+00:00", "load": 1.0, "side_by_side": changes.pop("side_by_side", False)}
    record = {
        "digest": row_digest(cell, seed, label, data=DATA["tiktok"]),
        "figures": figures,
        "details": changes.pop("details", {}),
        "measured": measured | CODE,
    }
    if retrain:
        record["retrain_seconds"] = 100.0
    add_row(sheet, label, record, machine=MACHINE)
    write_sheet(path, sheet, cell.labels)


def put_retrains(folder: Path) -> None:
    for seed, values in RETRAINS.items():
        put(folder, "Retrain", values, seed)


def words(folder: Path) -> str:
    return sentence(read_blocks(folder, [CELL])[0])


# --- what the page says -------------------------------------------------------------------------


def test_a_residue_that_differs_as_the_held_out_one_does_is_inside_the_band_beyond_it(tmp_path: Path) -> None:
    def held_out(value: float, residue: float) -> dict[str, Any]:
        return {"residue": {"overall": residue, "counts": [9], "held_out": {"overall": value, "counts": [9]}}}

    for seed, values in RETRAINS.items():
        put(tmp_path, "Retrain", values, seed, details=held_out(values[2] - 0.01 * (1 + seed), values[2]))
    put(tmp_path, "TRU", (0.11, 0.07, 0.60), details=held_out(0.585, 0.60))
    text = words(tmp_path)
    assert "its residue is above the band (0.6000; 0.5200–0.5400)" in text
    assert "residue beyond that of held-out pairs is inside the band (+0.0150; +0.0100 to +0.0200)" in text


def test_places_against_the_band_are_said_as_they_are(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", (0.13, 0.03, 0.53), seconds=5.0)
    said = words(tmp_path)
    assert "retained Recall@20 is above the band (0.1300; 0.1000–0.1200)" in said
    assert "forget Recall@20 is below the band (0.0300; 0.0600–0.0800)" in said
    assert "residue is inside the band (0.5300; 0.5200–0.5400)" in said
    assert "1/20.0 of Retrain's seconds (1 seed, band of 2)" in said


def test_recall_above_the_band_passes_and_below_does_not_while_forgetting_must_be_inside(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", (0.13, 0.09, 0.51))
    put(tmp_path, "RowReset", LOSES_RECALL)
    rows = read_blocks(tmp_path, [CELL])[0].rows
    assert passes(rows["TRU"]) == {"test_recall20": True, "forget_recall20": False, "residue": False}
    assert passes(rows["RowReset"]) == {"test_recall20": False, "forget_recall20": True, "residue": True}


def test_a_cheaper_method_that_passes_where_tru_does_is_named_and_a_dearer_or_worse_one_is_not(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", INSIDE, seconds=5.0)
    put(tmp_path, "RowReset", INSIDE, seconds=1.0)
    put(tmp_path, "RowRefit", INSIDE, seconds=6.0)
    put(tmp_path, "EdgeDeletion", FORGETS_TOO_LITTLE, seconds=0.1)
    assert as_good_for_less(read_blocks(tmp_path, [CELL])[0].rows) == ["RowReset"]
    assert words(tmp_path).endswith("As good for less, of 3 methods run, of 3: RowReset (passes on all).")
    page = render(tmp_path, [CELL])
    assert "passes on everything in 1 of the 1 cells" in page
    assert "In 1 of the 1 of them where its seconds can be compared another method" in page.replace("\n", " ")


def test_where_tru_fails_too_a_method_that_fails_alike_is_as_good_but_not_said_to_pass(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", FORGETS_TOO_LITTLE, seconds=5.0)
    put(tmp_path, "EdgeDeletion", FORGETS_TOO_LITTLE, seconds=0.1)
    assert words(tmp_path).endswith("As good for less, of 1 methods run, of 3: EdgeDeletion.")


def test_where_tru_misses_a_little_a_method_that_misses_by_far_is_not_as_good(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", (0.11, 0.081, 0.53), seconds=5.0)
    put(tmp_path, "EdgeDeletion", (0.11, 0.8, 0.53), seconds=0.1)
    put(tmp_path, "RowReset", (0.11, 0.0805, 0.53), seconds=0.1)
    rows = read_blocks(tmp_path, [CELL])[0].rows
    assert shortfalls(rows["TRU"]) == pytest.approx({"test_recall20": 0, "forget_recall20": 0.001, "residue": 0})
    assert as_good_for_less(rows) == ["RowReset"]


def test_a_method_as_good_as_tru_is_never_tru_itself_nor_retrain(tmp_path: Path) -> None:
    cell = replace(CELL, methods=(TRU, LITERAL), ablations=True)
    for seed, values in RETRAINS.items():
        put(tmp_path, "Retrain", values, seed, cell=cell, seconds=1.0)
    put(tmp_path, "TRU", INSIDE, cell=cell, seconds=5.0)
    for label in ("Original", "Algorithm 1", "TRU, no reverse"):
        put(tmp_path, label, INSIDE, cell=cell, seconds=1.0)
    assert as_good_for_less(read_blocks(tmp_path, [cell])[0].rows) == []


def test_how_often_a_retrain_itself_passes_is_said_beside_how_often_tru_does(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", INSIDE)
    assert retrain_against_retrains(read_blocks(tmp_path, [CELL])) == (0, 0)  # two make no band for a third
    put(tmp_path, "Retrain", (0.11, 0.07, 0.53), seed=2)
    # The new one lies between the others in all; the first is below them in recall; the second forgets too little.
    assert retrain_against_retrains(read_blocks(tmp_path, [CELL])) == (1, 3)
    page = render(tmp_path, [CELL]).replace("\n", " ")
    assert "a Retrain itself passes on everything in 1 of 3 tries." in page


def test_at_a_glance_every_judged_cell_has_a_line_with_what_does_not_pass_in_bold(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "Retrain", (0.11, 0.07, 0.53), seed=2)
    put(tmp_path, "TRU", FORGETS_TOO_LITTLE, seconds=5.0)
    page = render(tmp_path, [CELL, replace(CELL, backbone="mig_gt")])
    lines = [line for line in page.split("## How to read it")[0].splitlines() if line.startswith("| tiktok")]
    assert lines == ["| tiktok · MGCN · user 5 % | 0.1100 = | **0.3000 >** | 0.5300 = | 1 of 3 | 20.0x |"]


def test_how_far_tru_goes_from_the_original_to_retrain_is_a_share_of_that_way(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "Original", (0.11, 0.87, 0.73))
    assert ways_gone(read_blocks(tmp_path, [CELL]), "forget_recall20") == []
    put(tmp_path, "TRU", (0.11, 0.03, 0.68))
    blocks = read_blocks(tmp_path, [CELL])
    assert ways_gone(blocks, "forget_recall20") == pytest.approx([0.84 / 0.80])
    assert ways_gone(blocks, "residue") == pytest.approx([0.25])
    page = render(tmp_path, [CELL]).replace("\n", " ")
    assert "TRU goes 105% to 105% (median 105%) in forget Recall@20 and 25% to 25% (median 25%) in residue." in page


def test_ablations_name_what_moves_a_figure_against_the_row_that_they_change(tmp_path: Path) -> None:
    cell = replace(CELL, ablations=True)
    for seed in (0, 1):
        put(tmp_path, "TRU", (0.11, 0.07 + seed, 0.53), seed, cell=cell)
        put(tmp_path, "TRU, no reverse", (0.11, 0.10 + seed, 0.53), seed, cell=cell)
    put(tmp_path, "TRU, with repair", (0.112, 0.07, 0.53), cell=cell)
    put(tmp_path, "TRU, shared modules move", (0.05, 0.07, 0.53), cell=cell)
    put(tmp_path, "TRU, shared, no gate", (0.05, 0.07, 0.51), cell=cell)
    put(tmp_path, "Algorithm 1, SGD", (0.11, 0.07, 0.53), cell=cell)  # Algorithm 1 itself is missing
    assert ablation_lines(read_blocks(tmp_path, [cell])[0]) == [
        "- Against TRU: *no reverse* (forget Recall@20 +0.030) and *shared modules move* (retained Recall@20 -0.060) "
        "move what is judged. *with repair* moves none of it by more than 0.002.",
        "- Against TRU, shared modules move: *no gate* (residue -0.020) moves what is judged.",
    ]


def test_seconds_of_runs_side_by_side_stand_in_parentheses_and_in_no_comparison(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", INSIDE, seconds=5.0, side_by_side=True)
    put(tmp_path, "RowReset", INSIDE, seconds=1.0)
    assert "| (5.0) | - | 1 |" in render(tmp_path, [CELL])
    assert "Costs are not compared, TRU was run side by side with others" in words(tmp_path)
    assert "its speed-up is not known" in words(tmp_path)
    assert "In 0 of the 0 of them where its seconds can be compared" in render(tmp_path, [CELL]).replace("\n", " ")


def test_seconds_and_speed_up_are_those_of_rows_run_alone_and_figures_those_of_all_seeds(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    for seed, recall in ((0, 0.11), (1, 0.13)):
        put(tmp_path, "TRU", (recall, 0.07, 0.53), seed, seconds=9.0, side_by_side=True)
        put(tmp_path, "RowReset", (recall, 0.07, 0.53), seed, seconds=9.0, side_by_side=True)
    put(tmp_path / ALONE, "TRU", (0.0, 0.0, 0.0), seconds=4.0)
    tru = read_blocks(tmp_path, [CELL])[0].rows["TRU"]
    assert [tru.figures[name].mean for name in ("test_recall20", "seconds", "speedup")] == [0.12, 4.0, 25.0]
    assert "1/25.0 of Retrain's seconds in the one seed that was run alone" in words(tmp_path)
    assert as_good_for_less(read_blocks(tmp_path, [CELL])[0].rows) == []  # what RowReset costs alone is not known
    put(tmp_path / ALONE, "RowReset", (0.0, 0.0, 0.0), seconds=1.0)
    assert as_good_for_less(read_blocks(tmp_path, [CELL])[0].rows) == ["RowReset"]
    page = render(tmp_path, [CELL]).replace("\n", " ")
    assert "Speed-ups are of 4 runs one after the other, at a load of 1.0 to 1.0." in page


def test_a_row_run_alone_without_a_retrain_has_seconds_and_no_speed_up(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", INSIDE, seconds=5.0, retrain=False)
    assert "| 5.0 | - | 1 |" in render(tmp_path, [CELL])
    assert "its speed-up is not known" in words(tmp_path)


def test_a_method_that_passes_where_tru_fails_is_named_though_no_cost_is_known(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", FORGETS_TOO_LITTLE, side_by_side=True)
    put(tmp_path, "RowRefit", INSIDE, side_by_side=True)
    put(tmp_path, "RowReset", LOSES_RECALL, side_by_side=True)
    assert words(tmp_path).endswith("as good whatever the cost, of 2 methods run, of 3: RowRefit (passes on all).")
    put(tmp_path, "TRU", FORGETS_TOO_LITTLE, seconds=5.0)
    assert words(tmp_path).endswith("not compared: RowRefit (passes on all).")


def test_one_retrain_makes_no_band_and_nothing_is_claimed(tmp_path: Path) -> None:
    put(tmp_path, "Retrain", RETRAINS[0])
    put(tmp_path, "TRU", INSIDE)
    assert words(tmp_path) == "No band yet: 1 of at least 2 Retrains run. Nothing can be said of TRU."


def test_an_interval_is_given_from_three_seeds_on(tmp_path: Path) -> None:
    for seed, recall in ((0, 0.10), (1, 0.12)):
        put(tmp_path, "RowReset", (recall, 0.07, 0.53), seed)
    assert "| RowReset | 0.1100 | 0.0700 |" in render(tmp_path, [CELL])
    put(tmp_path, "RowReset", (0.11, 0.07, 0.53), 2)
    # s = 0.01, t(2) = 4.303: 4.303 * 0.01 / sqrt(3) = 0.0248
    assert "| RowReset | 0.1100 ±0.0248 | 0.0700 ±0.0000 |" in render(tmp_path, [CELL])


def test_what_is_missing_is_listed_by_seed_and_stands_in_its_table(tmp_path: Path) -> None:
    put(tmp_path, "Retrain", RETRAINS[0])
    put(tmp_path, "TRU", INSIDE)
    put(tmp_path, "RowReset", INSIDE)
    empty = replace(CELL, forget=ForgetConfig(regime="item"))
    page = render(tmp_path, [CELL, empty])
    assert "| RowRefit | not run yet |" in page
    gaps = page.partition("## Not run yet")[2]
    assert "- tiktok · MGCN · user 5 %, seed 0" not in gaps.partition("seeds 0, 1, 2: Original")[0]
    assert "- tiktok · MGCN · user 5 %, seeds 0, 1, 2: Original; EdgeDeletion; RowRefit\n" in gaps
    assert "- tiktok · MGCN · user 5 %, seeds 1, 2: RowReset; TRU; Retrain\n" in gaps
    assert "- tiktok · MGCN · item 5 %, seeds 0, 1, 2: every row\n" in gaps
    more = render(tmp_path, [replace(CELL, band_seeds=(3, 4))]).partition("## Not run yet")[2]
    assert "- tiktok · MGCN · user 5 %, seeds 1, 2: RowReset; TRU\n" in more
    assert "- tiktok · MGCN · user 5 %, seeds 1, 2, 3, 4: Retrain\n" in more


def test_the_band_is_of_all_retrains_and_the_rest_of_the_seeds_that_have_it(tmp_path: Path) -> None:
    cell = replace(CELL, band_seeds=(3,))
    put_retrains(tmp_path)
    put(tmp_path, "TRU", (0.13, 0.07, 0.53))
    put(tmp_path, "Retrain", (0.14, 0.07, 0.53), seed=3, cell=cell)
    assert "retained Recall@20 is above the band (0.1300; 0.1000–0.1200)" in render(tmp_path, [CELL])
    page = " ".join(render(tmp_path, [cell]).split())
    assert "retained Recall@20 is inside the band (0.1300; 0.1000–0.1400)" in page


def test_a_row_of_other_settings_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_retrains(tmp_path)
    put(tmp_path, "TRU", INSIDE)
    settings = results_plan.BACKBONE_SETTINGS["mgcn"]
    other = settings | {"fit": settings["fit"] | {"patience": 11}}
    monkeypatch.setitem(results_plan.BACKBONE_SETTINGS, "mgcn", other)
    assert words(tmp_path) == "TRU is not run yet."


def test_rows_of_two_versions_of_a_data_set_are_never_put_together(tmp_path: Path) -> None:
    put_retrains(tmp_path)
    path = CELL.path(tmp_path, 1)
    path.write_text(path.read_text().replace(DATA["tiktok"], "f" * 16))
    with pytest.raises(ConfigError, match="measured on different data called tiktok"):
        render(tmp_path, [CELL])


def test_drift_over_batches_is_the_mean_over_seeds(tmp_path: Path) -> None:
    cell = replace(CELL, group="sequence", forget=ForgetConfig(batches=2))
    for seed, recall in ((0, 0.1), (1, 0.3)):
        put(tmp_path, "TRU", INSIDE, seed, cell=cell)
        sheet = read_sheet(cell.path(tmp_path, seed))
        assert sheet is not None
        batch = {"test_recall20": recall, "forget_recall20": 0.5}
        sheet["rows"]["TRU"]["details"]["drift"] = [batch, batch | {"forget_recall20": recall}]
        write_sheet(cell.path(tmp_path, seed), sheet, cell.labels)
    assert "| TRU | 0.2000 / 0.5000 | 0.2000 / 0.2000 |" in render(tmp_path, [cell])


# --- what names a row ---------------------------------------------------------------------------


def test_a_rows_name_changes_with_data_seed_forget_set_and_settings_and_with_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def name(cell: Cell = CELL, seed: int = 0, label: str = "TRU", data: str = "d") -> str:
        return row_digest(cell, seed, label, data=data)

    slower = CompareMethod(name="tru", settings={"reverse_steps": 3})
    others = {
        name(seed=1),
        name(data="e"),
        name(label="Retrain"),
        name(replace(CELL, backbone="mig_gt")),
        name(replace(CELL, forget=ForgetConfig(regime="item"))),
        name(replace(CELL, methods=(slower,))),
    }
    assert len(others) == 6
    assert name() not in others
    assert name(replace(CELL, seeds=(0,), methods=MAIN_METHODS, ablations=True)) == name()
    monkeypatch.setattr(results_plan, "MEASURES_VERSION", results_plan.MEASURES_VERSION + 1)
    assert name() not in {*others, row_digest(CELL, 0, "TRU", data="e")}
    monkeypatch.undo()
    assert name() == name()


def test_a_data_sets_name_follows_its_files_and_not_its_readme(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "visual.npy").write_bytes(b"1")
    before = data_digest(tmp_path)
    (tmp_path / "README.md").write_text("told")
    assert data_digest(tmp_path) == before
    (tmp_path / "features" / "visual.npy").write_bytes(b"2")
    assert data_digest(tmp_path) != before
    with pytest.raises(ConfigError, match="no data set is there"):
        data_digest(tmp_path / "nowhere")


def test_no_two_cells_or_rows_share_a_name() -> None:
    paths = [cell.path(Path(), seed) for cell in CELLS for seed in cell.retrain_seeds]
    assert len(set(paths)) == len(paths)
    for cell in CELLS:
        assert len(set(cell.labels)) == len(cell.labels)


def test_patterns_and_words_choose_cells_and_rows() -> None:
    assert [cell.title for cell in chosen_cells(CELLS, ["tiktok:mgcn:user"])] == ["tiktok · MGCN · user 5 %"]
    assert {cell.group for cell in chosen_cells(CELLS, ["*:*:shares"])} == {"shares"}
    assert chosen_cells(CELLS, []) == list(CELLS)
    with pytest.raises(ConfigError, match="no such cell"):
        chosen_cells(CELLS, ["tiktok:mgcm"])
    cell = CELLS[0]
    assert chosen_labels(cell, ["tru", "retrain"], 0) == ["TRU", "Retrain"]
    assert chosen_labels(cell, ["algorithm_one"], 0) == ["Algorithm 1"]
    ablations = chosen_labels(cell, ["ablations"], 0)
    assert "TRU" not in ablations
    assert {"Algorithm 1", "TRU, no reverse"} <= set(ablations)
    assert [chosen_labels(cell, words, cell.band_seeds[0]) for words in ([], ["retrain"], ["tru"])] == [
        ["Retrain"],
        ["Retrain"],
        [],
    ]


# --- what is run --------------------------------------------------------------------------------


@dataclass
class FakeRuns:
    """A store and what would be run in it; each figure follows from method and seed."""

    stored: set[tuple[str, int]] = field(default_factory=set)
    ran: list[tuple[str, int]] = field(default_factory=list)
    fails: dict[str, str] = field(default_factory=dict)

    def compare(self, job: JobConfig) -> dict[str, Any]:
        runs, failed = [], []
        asked = job.compare
        named = ["Original", *(method.title for method in asked.methods), "Retrain"]
        wanted = dict.fromkeys(asked.seeds, named) | {seed: ["Retrain"] for seed in asked.band_seeds}
        for seed, labels in wanted.items():
            for label in labels:
                if label in self.fails:
                    failed.append({"method": label, "seed": seed, "error_kind": self.fails[label], "error": "broken"})
                    continue
                if (label, seed) not in self.stored:
                    self.ran.append((label, seed))
                    self.stored.add((label, seed))
                figures = {"test_recall20": 0.1, "forget_recall20": 0.07, "residue": 0.53, "seconds": 2.0 + seed}
                if label != "Retrain" or len(wanted) > 1:
                    figures["distance"] = 0.25
                runs.append({"method": label, "seed": seed, "figures": figures, "details": {"epochs": 3}})
        return {"runs": runs, "failed": failed}

    def has_results(self, job: JobConfig) -> bool:
        asked = job.compare
        runs = {(label, seed) for label in ("Original", "Retrain") for seed in asked.seeds}
        return self.stored >= runs | {("Retrain", seed) for seed in asked.band_seeds}

    def drop_results(self, job: JobConfig, labels: Sequence[str]) -> None:
        self.stored -= {(label, seed) for label in labels for seed in job.compare.seeds}


def call_of(runs: FakeRuns, folder: Path, **changes: Any) -> Measuring:
    runner = Runner(compare=runs.compare, has_results=runs.has_results, drop_results=runs.drop_results)
    return Measuring(
        runner=runner, folder=folder, storage="store", data=DATA, machine=dict(MACHINE), code=dict(CODE), **changes
    )


def test_a_row_that_is_there_is_not_run_again_even_with_an_empty_store(tmp_path: Path) -> None:
    first, work = FakeRuns(), work_list([CELL], [0])
    assert measure(call_of(first, tmp_path), work) == 0
    assert sorted(first.ran) == sorted((label, 0) for label in CELL.labels)
    clone = FakeRuns()
    assert measure(call_of(clone, tmp_path), work) == 0
    assert clone.ran == []


def test_a_new_method_in_a_fresh_store_costs_its_references_and_leaves_their_rows(tmp_path: Path) -> None:
    measure(call_of(FakeRuns(), tmp_path), work_list([CELL], [0]))
    before = read_sheet(CELL.path(tmp_path, 0))
    more = replace(CELL, methods=(*FEW_METHODS, CompareMethod(name="sisa")))
    clone = FakeRuns()
    measure(call_of(clone, tmp_path), work_list([more], [0]))
    assert clone.ran == [("Original", 0), ("SISA", 0), ("Retrain", 0)]
    after = read_sheet(CELL.path(tmp_path, 0))
    assert before is not None
    assert after is not None
    assert {label: row for label, row in after["rows"].items() if label != "SISA"} == before["rows"]


def test_only_the_row_whose_settings_changed_is_run_anew(tmp_path: Path) -> None:
    runs = FakeRuns()
    measure(call_of(runs, tmp_path), work_list([CELL], [0]))
    runs.ran.clear()
    runs.stored.discard(("TRU", 0))  # the store names results by content: of the new settings it has none
    changed = replace(CELL, methods=(*FEW_METHODS[:-1], CompareMethod(name="tru", settings={"reverse_steps": 3})))
    measure(call_of(runs, tmp_path), work_list([changed], [0]))
    assert runs.ran == [("TRU", 0)]


def test_measuring_again_goes_on_from_no_checkpoint(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for name in ("retrain/result.json", "retrain/checkpoints/epoch-000003/state", "retrain-more/result.json"):
        store.put_if_absent(f"runs/grid-1/{name}", b"x")
    drop_run(store, "runs/grid-1/retrain/result.json")
    assert [found.key for found in store.list("runs")] == ["runs/grid-1/retrain-more/result.json"]


def test_changed_data_are_measured_from_the_start(tmp_path: Path) -> None:
    measure(call_of(FakeRuns(), tmp_path), work_list([CELL], [0]))
    runs = FakeRuns()
    measure(replace(call_of(runs, tmp_path), data={"tiktok": "e" * 16}), work_list([CELL], [0]))
    assert len(runs.ran) == len(CELL.labels)
    assert render(tmp_path, [CELL])


def test_a_band_seed_is_a_retrain_and_nothing_else(tmp_path: Path) -> None:
    cell, runs = replace(CELL, band_seeds=(3, 4)), FakeRuns()
    work = work_list([cell], [])
    assert [seed for _, seed in work] == [0, 1, 2, 3, 4]
    assert measure(call_of(runs, tmp_path), work) == 0
    assert sorted(runs.ran) == sorted(
        [*((label, seed) for label in CELL.labels for seed in CELL.seeds), ("Retrain", 3), ("Retrain", 4)]
    )
    page = render(tmp_path, [cell])
    assert "Nothing: every row of every seed is there." in page
    retrain, band = (
        next(line for line in page.splitlines() if line.startswith(name)) for name in ("| Retrain", "| *b")
    )
    assert [line.rpartition("| ")[2] for line in (retrain, band)] == ["5 |", "5 |"]


def test_time_that_is_over_stops_before_the_next_run_and_the_next_call_goes_on(tmp_path: Path) -> None:
    runs, work = FakeRuns(), work_list([CELL], [])
    assert measure(call_of(runs, tmp_path, deadline=0.0), work) == 3 * len(CELL.labels)
    assert runs.ran == []
    assert measure(call_of(runs, tmp_path), work) == 0
    assert len(runs.ran) == len(set(runs.ran)) == 3 * len(CELL.labels)


def test_retrains_get_their_distance_once_two_of_them_are_in_the_store(tmp_path: Path) -> None:
    runs = FakeRuns()
    measure(call_of(runs, tmp_path), work_list([CELL], [0]))
    assert "| Retrain | 0.1000 | 0.0700 | 0.5300 | - | - |" in render(tmp_path, [CELL])
    measure(call_of(runs, tmp_path), work_list([CELL], [1]))
    assert len(runs.ran) == 2 * len(CELL.labels)
    assert "| Retrain | 0.1000 | 0.0700 | 0.5300 | - | 0.2500 |" in render(tmp_path, [CELL])


def test_only_the_words_asked_for_are_run_and_again_runs_them_anew(tmp_path: Path) -> None:
    runs, work = FakeRuns(), work_list([CELL], [0])
    call = call_of(runs, tmp_path, words=["tru", "original", "retrain"])
    assert measure(call, work) == 0
    assert {label for label, _ in runs.ran} == {"TRU", "Original", "Retrain"}
    runs.ran.clear()
    again = replace(call, words=["tru"])
    drop_rows(again, work)
    measure(again, work)
    assert runs.ran == [("TRU", 0)]


def test_a_failure_of_a_method_is_a_row_on_the_page_and_a_lost_machine_is_not(tmp_path: Path) -> None:
    runs, work = FakeRuns(fails={"RowRefit": "NumericsError"}), work_list([CELL], [0])
    assert measure(call_of(runs, tmp_path), work) == 0
    page = render(tmp_path, [CELL])
    assert "| RowRefit | failed |" in page
    assert "seed 0: RowRefit: NumericsError: broken" in page
    lost = FakeRuns(fails={"RowRefit": "TransientError"})
    with pytest.raises(TransientError, match="RowRefit: broken"):
        measure(call_of(lost, tmp_path / "other"), work)
    assert "failed" not in render(tmp_path / "other", [CELL])


def test_a_fast_pass_runs_all_at_once_and_says_so_in_every_row(tmp_path: Path) -> None:
    asked: list[JobConfig] = []
    runs = FakeRuns()
    call = call_of(runs, tmp_path, side_by_side=True)

    def compare(job: JobConfig) -> dict[str, Any]:
        asked.append(job)
        return runs.compare(job)

    measure(replace(call, runner=replace(call.runner, compare=compare)), work_list([CELL], [0]))
    assert [job.compare.max_concurrent_runs for job in asked] == [None]
    sheet = read_sheet(CELL.path(tmp_path, 0))
    assert sheet is not None
    assert all(row["measured"]["side_by_side"] for row in sheet["rows"].values())


def test_a_fast_pass_runs_the_same_rows_of_all_seeds_of_a_cell_at_once_and_each_once(tmp_path: Path) -> None:
    asked: list[list[int]] = []
    runs = FakeRuns()
    call = call_of(runs, tmp_path, side_by_side=True, words=["retrain"])

    def compare(job: JobConfig) -> dict[str, Any]:
        asked.append([*job.compare.seeds, *job.compare.band_seeds])
        return runs.compare(job)

    cell = replace(CELL, band_seeds=(3, 4))
    measure(replace(call, runner=replace(call.runner, compare=compare)), work_list([cell], [2, 3, 4]))
    assert asked[0] == [2, 3, 4]
    assert sorted(run for run in runs.ran if run[0] == "Retrain") == [("Retrain", seed) for seed in (2, 3, 4)]
    for seed in (2, 3, 4):
        sheet = read_sheet(cell.path(tmp_path, seed))
        assert sheet is not None
        assert sheet["rows"]["Retrain"]["figures"]["seconds"] == 2.0 + seed


def test_a_fresh_figure_stands_beside_that_of_the_same_seed_on_the_page(tmp_path: Path) -> None:
    put(tmp_path, "TRU", INSIDE)
    runs = FakeRuns().compare(call_of(FakeRuns(), tmp_path).job(CELL, [0, 1], [TRU]))["runs"]
    text = compared_with_page(CELL, 0, runs, tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("TRU")]
    assert line.split("   ")[-1].strip() == "2.0 | 100.0"
    assert "0.1000 | 0.1100" in line
    assert "0.1000 | -" in text
