"""The tables of docs/audits.md, between its two marks, from the rows that were measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
MARKS = {"passed": "passed", "failed": "**failed**", "inconclusive": "inconclusive"}
SHORT = {"passed": "p", "failed": "**F**", "inconclusive": "i"}


def write_page(page: Path, folder: Path) -> None:
    """Write the tables anew and leave the rest of the page as it is.

    Raises:
        ValueError: If the page has not the two marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: expected the marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{render(folder)}\n{END}{after}", encoding="utf-8")


def read_rows(folder: Path) -> dict[str, dict[int, dict[str, Row]]]:
    """Every row by data set, seed of the Original, and candidate."""
    found: dict[str, dict[int, dict[str, Row]]] = {}
    for path in sorted(folder.glob("*-seed*.json")):
        place, _, seed = path.stem.rpartition("-seed")
        found.setdefault(place, {})[int(seed)] = json.loads(path.read_text(encoding="utf-8"))
    return found


def render(folder: Path) -> str:
    """The tables of all data sets."""
    rows = read_rows(folder)
    if not rows:
        return "Nothing is measured yet.\n"
    parts = []
    for place, by_seed in rows.items():
        parts += [
            f"### {_title(place)}\n",
            _setting(by_seed),
            _verdicts(by_seed),
            _attacks(by_seed),
            _evidence(by_seed),
        ]
    return "\n".join(parts)


def _title(place: str) -> str:
    data, _, rest = place.partition("-mgcn-")
    return f"{data}, MGCN, {rest.replace('-', ' ').replace('pct', ' %')}"


def _all(by_seed: dict[int, dict[str, Row]]) -> list[Row]:
    return [row for sheet in by_seed.values() for row in sheet.values()]


def _setting(by_seed: dict[int, dict[str, Row]]) -> str:
    first = _all(by_seed)[0]
    return (
        f"{first['num_forget']} interactions to forget, {first['num_retrains']} Retrains as the reference, "
        f"{first['num_shadows']} shadow models; Originals from seeds {', '.join(map(str, sorted(by_seed)))}.\n"
    )


def _candidates(by_seed: dict[int, dict[str, Row]]) -> list[str]:
    return list(dict.fromkeys(name for sheet in by_seed.values() for name in sheet))


def _name(rows: Sequence[Row]) -> str:
    return rows[0]["candidate"].partition(", seed")[0]


def _verdicts(by_seed: dict[int, dict[str, Row]]) -> str:
    """A line for each candidate: its verdict from each Original, and what it is still good for."""
    seeds = sorted(by_seed)
    head = ["candidate", *(f"Original {seed}" for seed in seeds), "the gate", "test R@20", "forget R@20"]
    lines = [_line(head), _line(["---"] * len(head))]
    for candidate in _candidates(by_seed):
        rows = [by_seed[seed][candidate] for seed in seeds if candidate in by_seed[seed]]
        verdicts = [
            MARKS[by_seed[seed][candidate]["verdict"]] if candidate in by_seed[seed] else "not run" for seed in seeds
        ]
        recalls = [_mean(rows, name) for name in ("test_recall20", "forget_recall20")]
        lines.append(_line([_name(rows), *verdicts, _gates(rows), *recalls]))
    costs = [row["gate"] for row in _all(by_seed) if row.get("gate") and row["gate"]["method_seconds"] > 0]
    if costs:
        cpu, method = (max(cost[name] for cost in costs) for name in ("cpu_seconds", "method_seconds"))
        lines += [
            "",
            f"The gate took at most {cpu:.1f} s of processor time, a method at most {method:.1f} s of the clock.",
        ]
    return "\n".join(lines) + "\n"


def _gates(rows: Sequence[Row]) -> str:
    """What the gate said, from each Original: one word if always the same."""
    words = [MARKS[row["gate"]["verdict"]] if row.get("gate") else "-" for row in rows]
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def _mean(rows: Sequence[Row], name: str) -> str:
    values = [row["recalls"]["candidate"][name] for row in rows]
    return f"{sum(values) / len(values):.4f}"


def _attacks(by_seed: dict[int, dict[str, Row]]) -> str:
    """A line for each attack, a column for each candidate: one letter for each Original."""
    candidates = _candidates(by_seed)
    names = list(
        dict.fromkeys(f["attack"] for row in _all(by_seed) for f in row["findings"] if f["verdict"] != "reported")
    )
    heads = [_name([sheet[c] for sheet in by_seed.values() if c in sheet]) for c in candidates]
    lines = [_line(["attack", *heads]), _line(["---"] * (len(candidates) + 1))]
    for attack in names:
        cells = [
            " ".join(_letter(sheet[candidate], attack) for _, sheet in sorted(by_seed.items()) if candidate in sheet)
            for candidate in candidates
        ]
        lines.append(_line([attack, *cells]))
    key = (
        "One letter for each Original: p passed, **F** failed, i inconclusive, - not asked; * the method optimises it."
    )
    return "\n".join([*lines, "", key]) + "\n"


def _letter(row: Row, attack: str) -> str:
    """The worst of an attack's findings."""
    findings = [f for f in row["findings"] if f["attack"] == attack and f["verdict"] != "reported"]
    if not findings:
        return "-"
    verdicts = {finding["verdict"] for finding in findings}
    worst = "failed" if "failed" in verdicts else "passed" if "passed" in verdicts else "inconclusive"
    return SHORT[worst] + ("\\*" if any(finding["is_optimised"] for finding in findings) else "")


def _evidence(by_seed: dict[int, dict[str, Row]]) -> str:
    """The figures behind the letters, from the first Original."""
    seed = min(by_seed)
    sheet = by_seed[seed]
    any_row = next(iter(sheet.values()))
    lines = [f"The figures behind them, Original {seed}:", ""]
    head = ["what is measured", "Original", "reference", *(_name([row]) for row in sheet.values())]
    lines += [_line(head), _line(["---"] * len(head))]
    for place in [_place(f) for f in any_row["findings"] if f["verdict"] != "reported"]:
        found = {name: _find(row, place) for name, row in sheet.items()}
        first = next(f for f in found.values() if f is not None)
        original = "-" if first["original"] is None else f"{first['original']:.3f}"
        values = ["-" if f is None else f"{f['value']:.3f}{_own(f, first)}{_flag(f)}" for f in found.values()]
        lines.append(_line([f"{place[0]}: {place[1]}", original, _reference(first), *values]))
    lines += ["", _measured(list(sheet.values()))]
    return "\n".join(lines) + "\n"


def _measured(rows: Sequence[Row]) -> str:
    """When and where, the candidates named that were examined apart from the first."""
    first = rows[0]["measured"]
    apart: dict[str, list[str]] = {}
    for row in rows:
        if row["measured"]["at"] != first["at"]:
            apart.setdefault(row["measured"]["at"], []).append(_name([row]))
    said = f"Measured {first['at']} on {first['cores']} cores ({first['processor']}), other work beside"
    said += "".join(f"; {', '.join(names)}: {at}" for at, names in apart.items()) + "."
    return said + (" In parentheses the reference of that time, where it is another." if apart else "")


def _reference(finding: Row) -> str:
    margin = f" ±{finding['margin']:.3f}" if finding["margin"] else ""
    return "-" if finding["reference_value"] is None else f"{finding['reference_value']:.3f}{margin}"


def _own(finding: Row, first: Row) -> str:
    """The reference that a candidate was held against, where it is not that of the column: examined another time."""
    own = _reference(finding)
    return "" if own == _reference(first) else f" ({own})"


def _flag(finding: Row) -> str:
    return " **F**" if finding["verdict"] == "failed" else ""


def _place(finding: Row) -> tuple[str, str]:
    return finding["attack"], finding["statistic"]


def _find(row: Row, place: tuple[str, str]) -> Row | None:
    return next((finding for finding in row["findings"] if _place(finding) == place), None)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
