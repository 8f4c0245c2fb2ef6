"""What a store on S3 does when the network, the service, the rights or the address are not as they should be."""

import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import make_bucket
from tru_core.errors import AccessError, ConfigError, MissingObjectError, TransientError, TruError
from workflows.storage import LogEntry, StorageConfig, append_log_entry, open_store, put_file, read_log
from workflows.storage import s3 as storage_s3
from workflows.storage.config import check_endpoint
from workflows.storage.s3 import MAX_ATTEMPTS, S3Store
from workflows.testing.faults import (
    CUT,
    DROP,
    DROP_ANSWER,
    FAIL_ANSWER,
    HANG_ANSWER,
    TRICKLE,
    TWICE,
    Answer,
    Proxy,
    run_proxy,
)

SLOW_DOWN = Answer(503, "SlowDown")
PATIENCE_SECONDS = 20  # far above the limits that the tests set, for a busy machine


@pytest.fixture
def proxy(moto_endpoint: str) -> Iterator[Proxy]:
    with run_proxy(moto_endpoint) as running:
        yield running


@pytest.fixture
def faulty_store(moto_config: StorageConfig, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A store on moto whose requests go through the proxy, with short waits between attempts."""
    monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 0.01)
    return S3Store(changed(moto_config, endpoint_url=proxy.url, timeout_seconds=10))


def changed(config: StorageConfig, **changes: Any) -> StorageConfig:
    return StorageConfig.model_validate(config.model_dump() | changes)


def error_of(call: Any, *arguments: Any) -> TruError:
    with pytest.raises(TruError) as caught:
        call(*arguments)
    return caught.value


def assert_says(error: TruError, *parts: str) -> None:
    for part in parts:
        assert part in str(error)


# --- an unclear answer to create-if-absent ------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "keeps_metadata"),
    [(DROP_ANSWER, True), (FAIL_ANSWER, True), (TWICE, True), (DROP_ANSWER, False), (FAIL_ANSWER, False)],
)
def test_a_write_whose_answer_was_lost_is_still_mine(
    faulty_store: S3Store, proxy: Proxy, fault: str, keeps_metadata: bool
) -> None:
    proxy.keeps_metadata = keeps_metadata
    proxy.faults = [fault]
    assert faulty_store.put_if_absent("a", b"mine")
    assert faulty_store.read("a") == b"mine"
    assert not faulty_store.put_if_absent("a", b"mine")


def test_a_write_whose_answer_never_came_is_still_mine(moto_config: StorageConfig, proxy: Proxy) -> None:
    store = S3Store(changed(moto_config, endpoint_url=proxy.url, timeout_seconds=2))
    proxy.faults = [HANG_ANSWER]
    started = time.monotonic()
    error = error_of(store.put_if_absent, "a", b"mine")  # one answer may take the whole time of 2 seconds
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert isinstance(error, TransientError)
    assert_says(error, "ReadTimeoutError", "Whether the object was written is unknown")
    patient_store = S3Store(moto_config)
    assert not patient_store.put_if_absent("a", b"other")
    assert put_file(patient_store, "a", b"mine").size_bytes == 4  # running the same command again finds out


@pytest.mark.parametrize("fault", [DROP, SLOW_DOWN, Answer(409, "ConditionalRequestConflict")], ids=str)
def test_a_write_that_did_not_arrive_is_repeated(faulty_store: S3Store, proxy: Proxy, fault: str) -> None:
    proxy.faults = [fault]
    assert faulty_store.put_if_absent("a", b"mine")
    assert faulty_store.read("a") == b"mine"


@pytest.mark.parametrize("body", [b"mine", b"theirs"], ids=["same bytes", "other bytes"])
@pytest.mark.parametrize("fault", [DROP, FAIL_ANSWER, SLOW_DOWN, Answer(412, "PreconditionFailed")], ids=str)
def test_a_write_of_somebody_else_is_never_taken_for_mine(
    faulty_store: S3Store, proxy: Proxy, moto_config: StorageConfig, fault: str, body: bytes
) -> None:
    assert S3Store(moto_config).put_if_absent("a", body)
    proxy.faults = [fault]
    assert not faulty_store.put_if_absent("a", b"mine")
    assert faulty_store.read("a") == body


@pytest.mark.parametrize("fault", [DROP, FAIL_ANSWER, SLOW_DOWN], ids=str)
def test_other_bytes_are_never_taken_for_mine_where_the_store_keeps_no_token(
    faulty_store: S3Store, proxy: Proxy, moto_config: StorageConfig, fault: str
) -> None:
    assert S3Store(moto_config).put_if_absent("a", b"theirs")
    proxy.keeps_metadata = False
    proxy.faults = [fault]
    assert not faulty_store.put_if_absent("a", b"mine")


def test_four_writers_of_one_log_agree_who_wrote_what_while_every_third_request_breaks(
    moto_config: StorageConfig, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 0.01)
    kinds = [None, DROP, DROP_ANSWER, FAIL_ANSWER, SLOW_DOWN, TWICE, CUT]
    proxy.faults = random.Random(7).choices(kinds, weights=[12, 1, 1, 1, 1, 1, 1], k=5000)
    is_full = threading.Event()

    def append_until_full(writer: int) -> tuple[list[LogEntry], list[LogEntry]]:
        store = S3Store(changed(moto_config, endpoint_url=proxy.url))
        won, unknown = [], []
        for attempt in itertools.count():
            try:
                log = read_log(store, "log")
            except TransientError:
                continue
            if len(log) >= 12:
                is_full.set()
            if is_full.is_set():
                return won, unknown
            mine = LogEntry(len(log) + 1, {"writer": writer, "attempt": attempt})
            try:
                if append_log_entry(store, "log", number=mine.number, entry=mine.entry):
                    won.append(mine)
            except TransientError:
                unknown.append(mine)
        raise AssertionError("the loop above has no other end")

    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(append_until_full, range(4)))
    written = read_log(S3Store(moto_config), "log")
    assert len(written) >= 12
    for won, _ in results:
        assert [entry for entry in won if entry not in written] == []  # nobody won in vain
    known = [entry for won, unknown in results for entry in (*won, *unknown)]
    assert [entry for entry in written if entry not in known] == []  # no entry that its writer thinks lost
    assert len({won[0].entry["writer"] for won, _ in results if won}) >= 2  # there was a race


def test_the_client_sends_one_request_for_one_attempt(faulty_store: S3Store, proxy: Proxy) -> None:
    proxy.faults = [DROP, DROP]
    assert faulty_store.put_if_absent("a", b"mine")
    assert proxy.methods == ["PUT", "GET", "GET", "PUT"]  # each repeat looks first whether the object is there


# --- faults that pass, and faults that stay -----------------------------------------------------


@pytest.mark.parametrize("fault", [DROP, CUT, SLOW_DOWN, Answer(500, "InternalError"), Answer(429, "Slow")], ids=str)
def test_a_passing_fault_is_not_seen_by_the_reader(faulty_store: S3Store, proxy: Proxy, fault: str) -> None:
    faulty_store.put_if_absent("a", b"0123456789")
    proxy.faults = [fault, fault]
    assert faulty_store.read("a") == b"0123456789"
    proxy.faults = [DROP]
    assert [info.key for info in faulty_store.list("")] == ["a"]
    proxy.faults = [SLOW_DOWN]
    assert faulty_store.exists("a")
    proxy.faults = [DROP_ANSWER]
    faulty_store.delete("a")
    assert not faulty_store.exists("a")


@pytest.mark.parametrize("call", ["put_if_absent", "read", "exists", "list", "delete"])
def test_throttling_without_end_is_given_up_in_time(moto_config: StorageConfig, proxy: Proxy, call: str) -> None:
    store = S3Store(changed(moto_config, endpoint_url=proxy.url, timeout_seconds=1))
    proxy.faults = [SLOW_DOWN] * 100
    started = time.monotonic()
    error = error_of(getattr(store, call), "a", *([b"1"] if call == "put_if_absent" else []))
    assert isinstance(error, TransientError)
    assert error.exit_code == 7
    assert_says(error, proxy.url, "503 SlowDown", "attempts, ", "Run the same command again")
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert len(proxy.methods) < MAX_ATTEMPTS  # the time was used up first


def test_attempts_are_bounded_also_with_much_time(faulty_store: S3Store, proxy: Proxy) -> None:
    proxy.faults = [SLOW_DOWN] * 100
    assert isinstance(error_of(faulty_store.read, "a"), TransientError)
    assert len(proxy.methods) == MAX_ATTEMPTS


def test_a_server_that_sends_byte_by_byte_is_given_up(moto_config: StorageConfig, proxy: Proxy) -> None:
    store = S3Store(changed(moto_config, endpoint_url=proxy.url, timeout_seconds=1))
    S3Store(moto_config).put_if_absent("a", b"x" * 1000)  # would take 50 seconds
    proxy.faults = [TRICKLE]
    started = time.monotonic()
    assert isinstance(error_of(store.read, "a"), TransientError)
    assert time.monotonic() - started < PATIENCE_SECONDS


# --- what is not there --------------------------------------------------------------------------


def test_a_missing_bucket_is_told_from_a_missing_key(moto_store: S3Store, moto_endpoint: str) -> None:
    error = error_of(moto_store.read, "a")
    assert isinstance(error, MissingObjectError)
    assert_says(error, "object does not exist", f"{moto_store.url}/a")
    other = S3Store(StorageConfig(url="s3://no-such-bucket/x", endpoint_url=moto_endpoint))
    for call, arguments in (
        (other.read, ("a",)),
        (other.exists, ("a",)),
        (other.list, ("",)),
        (other.delete, ("a",)),
        (other.put_if_absent, ("a", b"1")),
    ):
        error = error_of(call, *arguments)
        assert isinstance(error, AccessError)
        assert not isinstance(error, MissingObjectError)
        assert error.exit_code == 4
        assert_says(error, "bucket 'no-such-bucket' does not exist")


@pytest.mark.s3
def test_a_missing_bucket_on_seaweed_is_told_from_a_missing_key(
    seaweed_store: S3Store, seaweed_config: StorageConfig
) -> None:
    assert isinstance(error_of(seaweed_store.read, "a"), MissingObjectError)
    other = S3Store(changed(seaweed_config, url="s3://no-such-bucket/x"))
    for call, arguments in ((other.read, ("a",)), (other.list, ("",)), (other.put_if_absent, ("a", b"1"))):
        error = error_of(call, *arguments)
        assert not isinstance(error, MissingObjectError)
        assert_says(error, "bucket 'no-such-bucket' does not exist")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_endpoint_that_nobody_serves_is_given_up_in_time(
    s3_credentials: None, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    # Only the waits use up the store's time: how long an attempt takes here hangs on the machine.
    waits: list[float] = []
    monkeypatch.setattr(storage_s3, "time", SimpleNamespace(monotonic=lambda: sum(waits), sleep=waits.append))
    monkeypatch.setattr(storage_s3, "FIRST_WAIT_SECONDS", 1.6)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"{scheme}://127.0.0.1:{unused.getsockname()[1]}"
        store = S3Store(StorageConfig(url="s3://bucket/x", endpoint_url=url, timeout_seconds=10))
        started = time.monotonic()
        error = error_of(store.put_if_absent, "a", b"1")
    assert type(error) is AccessError
    assert error.exit_code == 4
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert_says(error, url, "cannot be reached", " s). Check its address, DNS and TLS")
    num_attempts = int(str(error).split(" attempts, ")[0].rpartition(" ")[2])
    assert 2 <= num_attempts < MAX_ATTEMPTS


def test_a_name_that_does_not_resolve_is_an_unreachable_endpoint(
    s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    url = "https://storage.invalid"
    store = S3Store(StorageConfig(url="s3://bucket/x", endpoint_url=url, timeout_seconds=1))
    error = error_of(store.read, "a")
    assert type(error) is AccessError
    assert_says(error, url, "EndpointConnectionError")


def test_a_server_without_tls_is_an_unreachable_endpoint(proxy: Proxy, s3_credentials: None) -> None:
    url = proxy.url.replace("http:", "https:")
    error = error_of(S3Store(StorageConfig(url="s3://bucket/x", endpoint_url=url, timeout_seconds=1)).read, "a")
    assert type(error) is AccessError
    assert_says(error, url, "SSLError", "TLS")


# --- what is not allowed ------------------------------------------------------------------------


@pytest.mark.s3
def test_wrong_credentials_are_told_with_action_bucket_and_prefix(
    seaweed_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sentinel-wrong-secret")
    with run_proxy(seaweed_endpoint) as proxy:
        store = S3Store(StorageConfig(url="s3://tests/team", endpoint_url=proxy.url))
        for action, call, arguments in (
            ("PutObject", store.put_if_absent, ("folder/a", b"1")),
            ("GetObject", store.read, ("folder/a",)),
            ("ListBucket", store.list, ("folder",)),
            ("DeleteObject", store.delete, ("folder/a",)),
        ):
            proxy.methods.clear()
            error = error_of(call, *arguments)
            assert type(error) is AccessError
            assert_says(error, "access denied (403", action, "bucket 'tests'", "prefix 'team/folder'", proxy.url)
            assert "sentinel" not in str(error)
            assert len(proxy.methods) == 1  # not tried again


def test_no_credentials_at_all_are_told_as_such(moto_config: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = error_of(S3Store(moto_config).read, "a")
    assert type(error) is AccessError
    assert_says(error, "no usable credentials")
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    assert_says(error_of(S3Store(moto_config).read, "a"), "no usable credentials", "ProfileNotFound")


def test_expired_credentials_and_a_wrong_clock_are_told_apart(faulty_store: S3Store, proxy: Proxy) -> None:
    proxy.faults = [Answer(400, "ExpiredToken")]
    error = error_of(faulty_store.read, "a")
    assert isinstance(error, TransientError)
    assert_says(error, "credentials expired")
    proxy.faults = [Answer(403, "RequestTimeTooSkewed", date="Thu, 01 Jan 1970 00:00:00 GMT")]
    error = error_of(faulty_store.read, "a")
    assert isinstance(error, AccessError)
    seconds = float(str(error).split("clock is ")[1].split(" s ahead")[0])
    assert abs(seconds + time.time()) < 60
    assert len(proxy.methods) == 2


def test_a_refused_request_and_a_server_that_is_no_s3_are_not_retried(faulty_store: S3Store, proxy: Proxy) -> None:
    proxy.faults = [Answer(400, "InvalidArgument")]
    error = error_of(faulty_store.read, "a")
    assert type(error) is AccessError
    assert_says(error, "400 InvalidArgument")
    assert len(proxy.methods) == 1


# --- addresses ----------------------------------------------------------------------------------

REFUSED = [
    "http://storage.example.com",
    "http://10.0.0.5:9000",
    "http://0.0.0.0:9000",
    "http://localhost.example.com",
    "https://user:password@storage.example.com",
    "https://user@storage.example.com",
    "ftp://storage.example.com",
    "storage.example.com:9000",
    "https://",
    "https://storage.example.com/path",
    "https://storage.example.com?x=1",
    "https://storage.example.com:99999999",
    "https://[::1",
    "https://169.254.169.254",
    "https://169.254.170.2",
    "https://2852039166",
    "https://0xa9fea9fe",
    "https://0251.0376.0251.0376",
    "https://169.254.43518",
    "https://[fe80::1]",
    "https://[fe80::1%25eth0]",
    "https://[fd00:ec2::254]",
    "https://[::ffff:169.254.169.254]",
    "https://[2002:a9fe:a9fe::]",
    "https://100.100.100.200",
    "https://metadata.google.internal",
    "https://METADATA.google.internal.",
]


@pytest.mark.parametrize("url", REFUSED)
def test_an_endpoint_against_the_policy_is_refused_before_any_request(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StorageConfig(url="s3://bucket/x", endpoint_url=url)
    assert caught.value.exit_code == 2
    assert "password" not in str(caught.value).replace("user or password", "")


@pytest.mark.parametrize(
    "url",
    [
        "https://storage.example.com",
        "https://storage.example.com:9000/",
        "https://10.0.0.5",
        "http://127.0.0.1:9000",
        "http://127.0.0.2",
        "http://localhost:9000",
        "http://[::1]:9000",
    ],
)
def test_an_endpoint_within_the_policy_is_accepted(url: str) -> None:
    check_endpoint(url)
    assert StorageConfig(url="s3://bucket", endpoint_url=url).endpoint_url == url


def test_a_name_that_leads_to_a_metadata_address_is_refused(
    s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    store = S3Store(StorageConfig(url="s3://bucket/x", endpoint_url="https://harmless.example.com"))
    with pytest.raises(ConfigError, match="metadata address"):
        store.read("a")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_from_the_environment_obeys_the_policy_too(
    s3_credentials: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://169.254.169.254")
    store = S3Store(StorageConfig(url="s3://bucket/x"))
    for call in (lambda: store.read("a"), store.filesystem):
        with pytest.raises(ConfigError, match="metadata address"):
            call()


def test_an_endpoint_from_the_environment_is_used_by_both_clients(
    moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bucket(moto_endpoint, "from-environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_endpoint)
    store = S3Store(StorageConfig(url="s3://from-environment"))
    assert store.put_if_absent("a", b"1")
    filesystem, base = store.filesystem()
    assert filesystem.open_input_file(f"{base}/a").read() == b"1"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3://",
        "s3:///prefix",
        "s3://Bucket/x",
        "s3://b_b/x",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://bucket/x?endpoint=evil",
        "s3://key:secret@bucket/x",
        "s3://bucket/" + "x" * 121,
        "gs://bucket/x",
        "https://bucket.s3.amazonaws.com",
        "file://host/folder",
    ],
)
def test_a_storage_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert caught.value.exit_code == 2
    assert "secret" not in str(caught.value)


def test_a_folder_has_no_endpoint() -> None:
    with pytest.raises(ConfigError, match="remove endpoint_url"):
        StorageConfig(url="/data", endpoint_url="https://storage.example.com")


# --- what a plain delete or listing would miss --------------------------------------------------


def test_deleting_in_a_bucket_with_versions_leaves_no_version(moto_store: S3Store, moto_endpoint: str) -> None:
    import boto3

    bucket = moto_store.url.split("/")[2]
    client = boto3.client("s3", endpoint_url=moto_endpoint, region_name="us-east-1")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for key in ("a", "ab"):
        moto_store.put_if_absent(key, b"1")
    client.put_object(Bucket=bucket, Key="store/a", Body=b"2")
    moto_store.delete("a")
    answer = client.list_object_versions(Bucket=bucket)
    left = [version["Key"] for version in (*answer.get("Versions", ()), *answer.get("DeleteMarkers", ()))]
    assert left == ["store/ab"]
    assert moto_store.put_if_absent("a", b"3")


@pytest.mark.s3
def test_an_upload_that_was_never_finished_can_be_removed(seaweed_store: S3Store, seaweed_endpoint: str) -> None:
    import boto3

    prefix = seaweed_store.url.split("/")[-1]
    client = boto3.client("s3", endpoint_url=seaweed_endpoint, region_name="us-east-1")
    for key in (f"{prefix}/a", f"{prefix}-other/a"):
        client.create_multipart_upload(Bucket="tests", Key=key)
    assert seaweed_store.delete_leftovers(older_than_seconds=3600) == 0
    assert seaweed_store.delete_leftovers(older_than_seconds=-3600) == 1
    assert seaweed_store.delete_leftovers(older_than_seconds=-3600) == 0
    left = client.list_multipart_uploads(Bucket="tests", Prefix=f"{prefix}-other/")["Uploads"]
    assert len(left) == 1


def test_a_listing_of_many_pages_is_whole(moto_store: S3Store) -> None:
    for number in range(7):
        moto_store.put_if_absent(f"a/{number}", b"1")

    def two_at_a_time(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = 2

    moto_store._open_client().meta.events.register("before-parameter-build.s3.ListObjectsV2", two_at_a_time)
    assert [info.key for info in moto_store.list("a")] == [f"a/{number}" for number in range(7)]


def test_a_folder_marker_of_another_program_is_no_object(moto_store: S3Store, moto_endpoint: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=moto_endpoint, region_name="us-east-1")
    client.put_object(Bucket=moto_store.url.split("/")[2], Key="store/log/", Body=b"")
    assert moto_store.list("") == []
    assert moto_store.list("log") == []
