"""The tables of docs/audits.md say what the committed rows say, whatever somebody wrote there by hand."""

import json
import shutil
from pathlib import Path

import audits
import audits_page
import pytest

PAGE, ROWS = audits.PAGE, audits.ROWS_FOLDER


def test_the_page_is_what_the_rows_give(tmp_path: Path) -> None:
    page = tmp_path / "audits.md"
    shutil.copy(PAGE, page)
    before, begin, rest = page.read_text().partition(audits_page.BEGIN)
    page.write_text(f"{before}{begin}\nall passed\n{audits_page.END}{rest.partition(audits_page.END)[2]}")
    audits_page.write_page(page, ROWS)
    assert page.read_text() == PAGE.read_text()


def test_a_page_without_its_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "audits.md"
    page.write_text("by hand")
    with pytest.raises(ValueError, match="expected the marks"):
        audits_page.write_page(page, ROWS)
    assert page.read_text() == "by hand"


def test_a_candidate_examined_another_day_stands_beside_the_reference_of_that_day(tmp_path: Path) -> None:
    """A figure that failed by its own reference may lie inside that of the first candidate."""
    page, rows = tmp_path / "audits.md", tmp_path / "rows"
    shutil.copy(PAGE, page)
    shutil.copytree(ROWS, rows)
    path = rows / "tiktok-mgcn-user-5pct-seed0.json"
    sheet = audits.read_sheet(path)
    first, later = next(iter(sheet)), list(sheet)[-1]
    sheet = {first: sheet[first], later: sheet[later]}
    sheet[later]["measured"] = {**sheet[later]["measured"], "at": "2031-01-02T03:04:05+00:00"}
    finding = next(f for f in sheet[later]["findings"] if f["attack"] == "residue")
    finding |= {"value": 0.25, "reference_value": 0.125, "margin": 0.0625, "verdict": "failed"}
    audits.write_sheet(path, sheet)
    audits_page.write_page(page, rows)
    figures = page.read_text().partition("### tiktok")[2].partition("The figures behind them")[2]
    assert " 0.250 (0.125 ±0.062) **F** |" in figures
    assert figures.count(" (0.125 ±0.062)") == 1
    assert "Retrain: 2031-01-02T03:04:05+00:00. In parentheses the reference of that time" in figures


def test_a_row_of_other_settings_is_examined_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "ROWS_FOLDER", tmp_path)
    piece, digests = audits.Piece("tiktok", 0, "tru"), {"tiktok": "d" * 16}
    assert audits.missing([piece], digests) == [piece]
    examined = {
        "verdict": "passed",
        "findings": [{"attack": "residue", "value": 0.123456789, "paper": "x"}],
        "inputs": {},
    }
    audits.keep(piece, examined, data=digests["tiktok"], started={"at": "now"})
    assert audits.missing([piece], digests) == []
    assert audits.missing([piece], {"tiktok": "e" * 16}) == [piece]
    row = json.loads(piece.path.read_text())["tru"]
    assert row["findings"] == [{"attack": "residue", "value": 0.123457}]
    monkeypatch.setattr(audits, "SHADOW_EPOCHS", 3)
    assert audits.missing([piece], digests) == [piece]
