"""Publication under faults and in any order: a history of it is that of one log, with one winner for each number."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from publish_races import judge, race_in_threads, take_part

from tests.publish_history import Publish, Read, check_history, find_anomalies
from tests.test_publish import model_file
from tru_core.errors import ConflictError
from workflows.models.publish import Version, publish_version, read_versions
from workflows.storage import FileEntry, StorageConfig, open_store
from workflows.storage import s3 as storage_s3
from workflows.storage.local import LocalStore

# --- the checker itself -------------------------------------------------------------------------

FIRST = Publish(1, "a", 0.0, 1.0, "ok")
SECOND = Publish(2, "b", 2.0, 3.0, "ok")


def test_a_sound_history_has_no_anomaly() -> None:
    history = [
        FIRST,
        Read((), 0.2, 0.4),  # before the first came to be
        Read(("a",), 0.3, 0.6),
        SECOND,
        Publish(2, "c", 1.5, 3.5, "fail"),
        Publish(3, "d", 3.1, 4.0, "unknown"),
        Read(("a", "b", "d"), 5.0, 6.0),  # what was unknown did happen
        Publish(4, "e", 5.0, 6.0, "unknown"),  # and this did not
    ]
    assert find_anomalies(history, ["a", "b", "d"]) == []


@pytest.mark.parametrize(
    ("operation", "final"),
    [
        (Read((), 1.5, 1.6), ["a", "b"]),  # a stale read: "a" was there for good at 1.0
        (Read(("a",), 3.5, 3.6), ["a", "b"]),
        (Read(("a", "b"), 0.5, 1.5), ["a", "b"]),  # it saw "b" before anybody wrote it
        (Read(("x",), 1.5, 1.6), ["a", "b"]),  # an entry that was replaced later
        (Publish(2, "c", 2.0, 3.0, "ok"), ["a", "b"]),  # two winners
        (Publish(2, "c", 2.0, 3.0, "fail"), ["a", "c"]),  # one that lost and won
        (Publish(3, "c", 3.0, 4.0, "fail"), ["a", "b"]),  # beaten by nobody
        (Publish(2, "c", 0.5, 1.5, "fail"), ["a", "b"]),  # beaten by one that had not begun
        (Publish(3, "c", 3.0, 4.0, "ok"), ["a", "b"]),  # published and lost
        (Publish(3, "c", 3.0, 4.0, "unknown"), ["a", "b", "x"]),  # nobody's entry
    ],
)
def test_each_anomaly_is_found(operation: Publish | Read, final: list[str]) -> None:
    assert find_anomalies([FIRST, SECOND, operation], final)


# --- with faults --------------------------------------------------------------------------------


def test_a_history_with_faults_is_that_of_one_log(moto_config: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 0.01)
    figures = check_history(moto_config, num_operations=150, operations_per_log=50)
    assert figures["anomalies"] == 0
    assert figures["operations"] >= 150
    assert figures["ok"] > 10
    assert figures["fail"] > 10


def test_publications_of_which_nobody_knows_whether_they_happened_fit_into_one_log_too(
    moto_config: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 0.002)
    figures = check_history(moto_config, num_operations=40, operations_per_log=40, share=0.6)
    assert figures["anomalies"] == 0
    assert figures["unknown"] > 0


def test_a_publisher_that_takes_anothers_entry_for_its_own_is_found(
    moto_config: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checker is tried on a broken program: whoever is refused believes that the object is its own."""
    sound = storage_s3.S3Store.put_if_absent
    monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(storage_s3.S3Store, "put_if_absent", lambda *call: sound(*call) or "log" in call[1])
    assert check_history(moto_config, num_operations=60, operations_per_log=60, share=0.0)["anomalies"] > 0


# --- races --------------------------------------------------------------------------------------


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["local", "moto", "seaweed"])
def test_of_eight_publishers_one_wins_each_of_twenty_rounds(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "local":
        config = StorageConfig(url=request.getfixturevalue("local_store").url)
    else:
        config = request.getfixturevalue(f"{kind}_config")
    figures = race_in_threads([open_store(config) for _ in range(8)], "races", num_rounds=20)
    assert figures == {
        "publishers": 8,
        "rounds": 20,
        "rounds_with_one_winner": 20,
        "rounds_with_no_winner": 0,
        "rounds_with_several_winners": 0,
        "double_publications": 0,
        "conflicts": 140,
        "other_errors": 0,
    }


def test_the_judge_of_races_finds_two_winners_and_a_winner_who_is_not_in_the_log(tmp_path: Path) -> None:
    class One:
        def wait(self, timeout: float | None = None) -> int:
            return 0

    store = LocalStore(tmp_path)
    won = take_part(store, "races", 0, num_rounds=2, start=One())
    assert judge(store, "races", [won])["rounds_with_one_winner"] == 2
    assert judge(store, "races", [won, won])["rounds_with_several_winners"] == 2
    assert judge(store, "races", [["lost"] * 2, won])["rounds_with_one_winner"] == 0
    assert judge(store, "races", [["lost"] * 2])["rounds_with_no_winner"] == 2


# --- any sequence of publications ---------------------------------------------------------------


class Publication(RuleBasedStateMachine):
    """Publications in any order, against a list: the model of what the log must be."""

    folder: Path
    manifests = Bundle("manifests")

    @initialize()
    def start(self) -> None:
        self.store = LocalStore(self.folder / f"{id(self)}")
        self.served: list[FileEntry] = []
        self.count = 0

    def _publish(self, manifest: FileEntry, parent: int | None) -> Version:
        return publish_version(
            self.store,
            "m",
            manifest=manifest,
            parent_version=parent,
            method="tru",
            dataset="tiny",
            snapshot_id="s",
            run_id="r",
            job_digest="j",
        )

    def _fresh(self) -> FileEntry:
        self.count += 1
        return model_file(self.count)

    @rule(target=manifests)
    def publish_from_the_one_that_serves(self) -> FileEntry:
        manifest = self._fresh()
        version = self._publish(manifest, len(self.served) or None)
        self.served.append(manifest)
        assert version.version == len(self.served)
        return manifest

    @rule(target=manifests)
    def publish_trained_anew(self) -> FileEntry:
        manifest = self._fresh()
        assert self._publish(manifest, None).version == len(self.served) + 1
        self.served.append(manifest)
        return manifest

    @rule(distance=st.integers(min_value=1, max_value=3), is_ahead=st.booleans())
    def publish_from_another(self, distance: int, is_ahead: bool) -> None:
        parent = len(self.served) + (distance if is_ahead else -distance)
        with pytest.raises(ConflictError, match="It was not published and nothing was lost"):
            self._publish(self._fresh(), parent)

    @rule(manifest=manifests, parent=st.none() | st.integers(min_value=1, max_value=4))
    def publish_again(self, manifest: FileEntry, parent: int | None) -> None:
        assert self._publish(manifest, parent).version == self.served.index(manifest) + 1

    @rule(target=manifests, manifest=consumes(manifests))
    def lose_the_answer_and_try_again(self, manifest: FileEntry) -> FileEntry:
        """The process died after its entry was written: the same command again finds it."""
        fresh = self._fresh()
        self._publish(fresh, None)
        self.served.append(fresh)
        self.store = LocalStore(self.store.url)
        assert self._publish(fresh, len(self.served) - 1 or None).version == len(self.served)
        return manifest

    @invariant()
    def the_log_is_the_list(self) -> None:
        if hasattr(self, "served"):
            versions = read_versions(self.store, "m")
            assert [version.manifest for version in versions] == self.served
            assert [version.version for version in versions] == list(range(1, len(self.served) + 1))


def test_any_sequence_of_publications_leaves_the_log_that_a_list_would_be(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine: Any = type("Here", (Publication,), {"folder": tmp_path})
    chosen = settings(
        max_examples=15,
        stateful_step_count=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)
