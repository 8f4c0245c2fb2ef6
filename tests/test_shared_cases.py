"""Every case of ``../shared/cases`` goes through the real command line and is held against what its entry expects."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cases.commands import Said
from tests.cases.judge import JUDGES, allowed_codes, problems_of
from tests.cases.worlds import Case, Place, Trial, Worlds, cases_folder, read_cases, try_case

CASES = read_cases()
NOT_THERE = [pytest.param(None, id="the-folder-of-cases-is-there")]


@pytest.fixture(scope="session")
def worlds(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """The worlds of the cases; each is made when a case first asks for it."""
    return Worlds(tmp_path_factory.mktemp("worlds"))


@pytest.mark.ray
@pytest.mark.parametrize("case", [pytest.param(case, id=case.key) for case in CASES] or NOT_THERE)
def test_a_case_ends_as_its_entry_expects(
    case: Case | None, request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if case is None:
        pytest.fail(f"{cases_folder()} holds no cases.yaml: set TRU_CASES to the folder of the shared cases")
    worlds: Worlds = request.getfixturevalue("worlds")
    trial = try_case(case, worlds, tmp_path / "tiny")
    problems = problems_of(trial)
    if "the same with --json" in case.expect["exit"]:
        again = try_case(case, worlds, tmp_path / "json", extra="--json")
        problems += problems_of(again)
        if again.codes != trial.codes:
            problems.append(f"with --json it ends with {again.codes}, without with {trial.codes}")
    record_property("case", {"key": case.key, "codes": trial.codes, "problems": problems})
    record_property("said", [said.text.replace(str(trial.place.folder), "") for said in trial.said])
    assert problems == []


# --- the judges themselves ----------------------------------------------------------------------


def test_every_case_has_a_judge_and_every_judge_a_case() -> None:
    if CASES:
        assert sorted(JUDGES) == sorted(case.key for case in CASES)


class Mute(Trial):
    """A trial in which every command ends alike, and says nothing."""

    def run(self, line: str) -> Said:
        return Said(line, self.codes[0])


@pytest.mark.parametrize("exit_code", [0, 2])
@pytest.mark.parametrize("key", sorted(JUDGES))
def test_no_judge_is_content_with_a_program_that_does_nothing_or_refuses_all(
    key: str, exit_code: int, tmp_path: Path
) -> None:
    from workflows.key_files import make_keys

    entry = {"expect": {"exit": "0, 2, 3 or 4"}, "files": [f"{key}.csv"], "command": [""]}
    place = Place(tmp_path)
    place.prepare()
    make_keys(place.keys)
    trial = Mute(Case(key, entry), place, [Said("tru", exit_code)])
    assert problems_of(trial) != []


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (Said("tru", 0, err="Traceback (most recent call last):\n"), "traceback"),
        (Said("tru", 2, err="tru: \x1b[2J is no column\n"), "control characters"),
        (Said("tru", 2, out='{"message": "\\u009b2J is no column"}\n'), "control characters"),
        (Said("tru", 2, err="x" * 3000), "3000 letters"),
        (Said("tru", 2, err="tru: found 1.7E+01\n"), "holds '1.7E+01'"),
        (Said("tru", 1), "exit code 1"),
    ],
)
def test_what_no_case_may_do_is_seen_in_any_case(said: Said, problem: str, tmp_path: Path) -> None:
    from workflows.key_files import make_keys

    entry = {"expect": {"exit": "0, 2 or 3"}, "files": ["requests/exponent_ids.csv"], "command": [""]}
    place = Place(tmp_path)
    place.prepare()
    make_keys(place.keys)
    trial = Mute(Case("requests/exponent_ids", entry), place, [said])
    assert any(problem in found for found in problems_of(trial))


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("0", {0}),
        ("the exit code of a refusal (2 or 3), or 0", {0, 2, 3}),
        ("8 (ExpiredKeyError), or 2", {2, 8}),
        ("0, or a refusal that asks for another name", {0, 2, 3}),
        ("4 or 7 where nothing listens", {4, 7}),
    ],
)
def test_exit_codes_are_read_from_an_entrys_words(text: str, codes: set[int]) -> None:
    assert allowed_codes(text) == codes
