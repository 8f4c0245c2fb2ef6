"""A storage is examined before it is trusted: whatever it lacks is named, and nothing stays behind."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_bucket
from tests.test_publish import MODEL, publish
from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.errors import AccessError, IntegrityError, TruError
from workflows.cli import main
from workflows.models.publish import read_versions
from workflows.storage import ObjectInfo, ObjectStore, StorageConfig, doctor, doctor_s3, open_store
from workflows.storage.doctor import diagnose, examine
from workflows.storage.local import LocalStore
from workflows.storage.s3 import S3Store
from workflows.testing.faults import Answer, run_proxy

COMMON = [
    "create-only, other content",
    "create-only, same content",
    "create-only, contended",
    "read after write",
    "list after write",
    "delete",
    "names as written",
]
S3_ONLY = ["conditional replace", "unfinished uploads", "conditional multipart", "old versions", "clock"]


@pytest.fixture(autouse=True)
def few_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NUM_OBJECTS", 3)


def outcomes(store: ObjectStore, *, num_rounds: int = 2) -> dict[str, str]:
    return {finding.name: finding.outcome for finding in examine(store, num_rounds=num_rounds)}


# --- sound stores -------------------------------------------------------------------------------


def test_a_folder_has_every_property_and_nothing_stays_behind(tmp_path: Path) -> None:
    found = outcomes(LocalStore(tmp_path), num_rounds=100)
    assert found == dict.fromkeys([*COMMON, "cleaned up"], "passed")
    assert [path.name for path in tmp_path.rglob("*")] in (["doctor", ".aside"], [".aside", "doctor"])


def test_a_bucket_on_moto_has_every_property(moto_store: S3Store) -> None:
    found = outcomes(moto_store)
    assert list(found) == [*COMMON, *S3_ONLY, "cleaned up"]
    assert "failed" not in found.values()
    assert moto_store.list("") == []


@pytest.mark.s3
def test_a_bucket_on_seaweed_has_every_property(
    seaweed_config: StorageConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = str(seaweed_config.endpoint_url)
    assert main(["doctor", seaweed_config.url, "--endpoint-url", endpoint, "--rounds", "5", "--json"]) == 0
    found = {line["name"]: line for line in json.loads(capsys.readouterr().out)["findings"]}
    assert found["create-only, contended"]["detail"] == "one winner in each of 5 rounds of 8 writers"
    assert "failed" not in {line["outcome"] for line in found.values()}
    assert open_store(seaweed_config).list("") == []


def test_in_a_bucket_with_versions_the_old_bytes_must_be_gone(
    moto_store: S3Store, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, bucket, _ = moto_store.raw_client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert versions_finding(moto_store)[0] == "passed"
    monkeypatch.setattr(S3Store, "_delete_versions", lambda *_: None)  # as where the right to do so is missing
    outcome, detail = versions_finding(moto_store)
    assert outcome == "failed"
    assert "old bytes readable: True" in detail


def versions_finding(store: S3Store) -> tuple[str, str]:
    return next(
        found[1:] for found in doctor_s3.examine_s3(store, f"doctor/{uuid.uuid4()}") if found[0] == "old versions"
    )


# --- stores that lack something -----------------------------------------------------------------


@pytest.fixture
def careless(moto_config: StorageConfig, moto_endpoint: str) -> Iterator[StorageConfig]:
    """An S3 service that ignores If-None-Match, as some that call themselves compatible do."""
    with run_proxy(moto_endpoint) as proxy:
        proxy.lost_header = "if-none-match"
        yield StorageConfig.model_validate(moto_config.model_dump() | {"endpoint_url": proxy.url})


def test_a_service_that_ignores_conditions_is_told_by_name_and_with_exit_code_8(
    careless: StorageConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["doctor", careless.url, "--endpoint-url", str(careless.endpoint_url), "--rounds", "2", "--json"]
    assert main(command) == 8
    message = json.loads(capsys.readouterr().out)["message"]
    assert "lacks 3 of 13 properties" in message
    for name in COMMON[:3]:
        assert name in message
    assert "2 of 2 rounds had 8 to 8 winners" in message
    assert "Do not publish there" in message
    assert open_store(careless).list("") == []


class Lossy(LocalStore):
    """A folder of which one method can be replaced by a careless one."""

    careless: "dict[str, Callable[..., Any]]"

    def __getattribute__(self, name: str) -> Any:
        careless = object.__getattribute__(self, "__dict__").get("careless", {})
        return careless[name] if name in careless else object.__getattribute__(self, name)


def lossy(folder: Path, **careless: Callable[..., Any]) -> LocalStore:
    store = Lossy(folder)
    store.careless = careless
    return store


def test_each_missing_property_is_found_by_its_own_probe(tmp_path: Path) -> None:
    sound, listed, hidden = LocalStore(tmp_path), [0], set[str]()

    def replaces_equal_content(key: str, body: bytes) -> bool:
        return sound.put_if_absent(key, body) or sound.read(key) == body

    def lists_late(prefix: str) -> list[ObjectInfo]:
        listed[0] += 1
        return sound.list(prefix) if listed[0] % 2 else sound.list(prefix)[:-1]

    def hides(key: str) -> None:
        hidden.add(key)

    def ignores_case(key: str, body: bytes) -> bool:
        return sound.put_if_absent(key.lower(), body)

    found = {
        "equal": outcomes(lossy(tmp_path, put_if_absent=replaces_equal_content)),
        "late": outcomes(lossy(tmp_path, list=lists_late)),
        "keeps": outcomes(lossy(tmp_path, delete=hides)),
        "case": outcomes(lossy(tmp_path, put_if_absent=ignores_case)),
        "unseen": outcomes(lossy(tmp_path, exists=lambda key: False)),
    }
    failed = {name: {key for key, outcome in found[name].items() if outcome == "failed"} for name in found}
    assert failed["equal"] == {"create-only, same content", "create-only, contended"}
    assert "list after write" in failed["late"]
    assert failed["keeps"] == {"delete"}
    assert failed["case"] == {"names as written"}
    assert failed["unseen"] == {"read after write"}


def test_a_store_that_cannot_be_reached_is_no_unsound_store(moto_config: StorageConfig, moto_endpoint: str) -> None:
    with run_proxy(moto_endpoint) as proxy:
        proxy.faults = [Answer(403, "AccessDenied")] * 50
        denied = StorageConfig.model_validate(moto_config.model_dump() | {"endpoint_url": proxy.url})
        with pytest.raises(AccessError, match="access denied") as caught:
            diagnose(open_store(denied))
    assert caught.value.exit_code == 4


def test_a_call_that_the_service_does_not_have_is_reported(moto_config: StorageConfig, moto_endpoint: str) -> None:
    store = S3Store(moto_config)
    client, _, _ = store.raw_client()

    def refuse(**_: Any) -> Any:
        raise client.exceptions.ClientError(
            {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}, "call"
        )

    client.create_multipart_upload = client.get_bucket_versioning = refuse
    found = outcomes(store)
    for name in ("unfinished uploads", "conditional multipart", "old versions"):
        assert found[name] == "reported"


def test_a_clock_that_is_far_off_is_found(moto_config: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_s3, "MAX_SKEW_SECONDS", -1)
    assert outcomes(S3Store(moto_config))["clock"] == "failed"


# --- publishing asks first ----------------------------------------------------------------------


def test_nothing_is_published_on_a_service_that_ignores_conditions(careless: StorageConfig) -> None:
    store = open_store(careless)
    attempts: list[Callable[[], object]] = [lambda: publish(store, 1), lambda: write_tiny_snapshot(store)]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="created an object a second time instead of refusing") as caught:
            attempt()
        assert caught.value.exit_code == 8
        assert "tru doctor" in str(caught.value)
    assert read_versions(store, MODEL) == []
    assert store.list("datasets/tiny/log") == []


def test_the_escape_is_for_one_writer_and_never_replaces_what_is_there(careless: StorageConfig) -> None:
    store = open_store(careless.model_copy(update={"unsafe_single_writer": True}))
    assert store.unsafe_single_writer
    assert publish(store, 1).version == 1
    assert publish(store, 2, parent=1).version == 2
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert not store.put_if_absent("a", b"first")
    assert store.read("a") == b"first"


def test_a_sound_store_is_asked_once_and_not_for_every_publication(moto_config: StorageConfig) -> None:
    with run_proxy(str(moto_config.endpoint_url)) as proxy:
        store = open_store(StorageConfig.model_validate(moto_config.model_dump() | {"endpoint_url": proxy.url}))
        counts = []
        for number in (1, 1, 1):
            proxy.methods.clear()
            publish(store, number)
            counts.append(proxy.methods.count("PUT"))
    assert counts == [4, 0, 0]  # three questions and a version; then nothing new


def test_a_store_that_was_careless_once_is_asked_again(tmp_path: Path) -> None:
    sound = LocalStore(tmp_path)
    store = lossy(tmp_path, put_if_absent=lambda key, body: True)
    for _ in range(2):
        with pytest.raises(TruError):
            publish(store, 1)
    publish(sound, 1)


def test_two_stores_on_one_endpoint_are_each_asked(moto_config: StorageConfig, moto_endpoint: str) -> None:
    make_bucket(moto_endpoint, "second-bucket")
    for url in (moto_config.url, "s3://second-bucket/store"):
        store = open_store(StorageConfig(url=url, endpoint_url=moto_endpoint))
        publish(store, 1)
        assert [info.key for info in store.list("doctor")] == ["doctor/create-only"]
