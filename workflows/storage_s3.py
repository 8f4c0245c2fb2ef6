"""Objects in an S3 bucket: bounded attempts, bounded time, and errors that say what to do."""

import ipaddress
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.exceptions as boto_errors
from botocore.config import Config

from tru_core.errors import AccessError, ConfigError, MissingObjectError, TransientError, TruError
from workflows.storage import ObjectInfo, StorageConfig, check_key

if TYPE_CHECKING:
    import pyarrow.fs

MAX_ATTEMPTS = 5
MIN_BYTES_PER_SECOND = 256 * 1024  # a slower download counts as hung
_READ_CHUNK_BYTES = 8 * 1024 * 1024
_WRITER = "tru-writer"  # object metadata: which call created the object
_METADATA_HOSTS = ("metadata", "metadata.google.internal", "instance-data")
_METADATA_ADDRESSES = tuple(ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16"))
_UNREACHABLE = (
    boto_errors.EndpointConnectionError,
    boto_errors.ConnectTimeoutError,
    boto_errors.ProxyConnectionError,
    boto_errors.SSLError,
)
_NO_CREDENTIALS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.ProfileNotFound,
)
_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_THROTTLE_CODES = ("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded")

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Failure:
    """What one failed attempt means."""

    error: TruError
    is_retried: bool
    status: int  # HTTP status, 0 if there was no answer


class S3Store:
    """The ObjectStore of an S3 bucket.

    The client is made in the process that uses it, with the credentials that this process finds in
    the standard AWS chain. A pickled store holds the configuration only.
    """

    def __init__(self, config: StorageConfig) -> None:
        parts = urlsplit(config.url)
        if "@" in parts.netloc or parts.query or parts.fragment or not parts.netloc:
            raise ConfigError(
                "storage url must be s3://bucket/prefix, without user, password, query or fragment. "
                "Credentials come from the environment or the AWS configuration files."
            )
        if config.endpoint_url is not None:
            check_endpoint(config.endpoint_url)
        self._config = config
        self._bucket = parts.netloc
        self._prefix = f"{check_key(parts.path.strip('/'))}/" if parts.path.strip("/") else ""
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self._config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["config"])

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def put_if_absent(self, key: str, body: bytes) -> bool:
        name = self._name(key)
        writer = uuid.uuid4().hex
        is_unsure = False  # an earlier attempt may have created the object

        def attempt(client: Any) -> bool:
            nonlocal is_unsure
            if is_unsure:
                written_by = self._writer_of(client, name, body)
                if written_by is not None:
                    return written_by in (writer, "same bytes")
            try:
                client.put_object(
                    Bucket=self._bucket, Key=name, Body=body, IfNoneMatch="*", Metadata={_WRITER: writer}
                )
            except boto_errors.ClientError as error:
                if _status(error) == 412:
                    written_by = self._writer_of(client, name, body)
                    return written_by == writer or (is_unsure and written_by == "same bytes")
                is_unsure = is_unsure or _status(error) >= 500 or _status(error) == 409
                raise
            except boto_errors.BotoCoreError:
                is_unsure = True
                raise
            return True

        return self._call("PutObject", name, attempt)

    def _writer_of(self, client: Any, name: str, body: bytes) -> str | None:
        """Who created an object: a writer's token, "same bytes" or "other bytes" where the store kept no token."""
        try:
            answer = client.get_object(Bucket=self._bucket, Key=name)
        except boto_errors.ClientError as error:
            if _status(error) == 404:
                return None
            raise
        with answer["Body"] as stream:
            token = answer.get("Metadata", {}).get(_WRITER)
            if token is not None:
                return token
            is_same = answer["ContentLength"] == len(body) and stream.read() == body
        return "same bytes" if is_same else "other bytes"

    def read(self, key: str) -> bytes:
        name = self._name(key)
        started = time.monotonic()

        def attempt(client: Any) -> bytes:
            answer = client.get_object(Bucket=self._bucket, Key=name)
            allowed_seconds = self._config.timeout_seconds + answer["ContentLength"] / MIN_BYTES_PER_SECOND
            chunks = []
            with answer["Body"] as stream:
                for chunk in stream.iter_chunks(_READ_CHUNK_BYTES):
                    chunks.append(chunk)
                    if time.monotonic() - started > allowed_seconds:
                        raise boto_errors.ReadTimeoutError(endpoint_url=self._endpoint())
            return b"".join(chunks)

        return self._call("GetObject", name, attempt)

    def exists(self, key: str) -> bool:
        name = self._name(key)

        def attempt(client: Any) -> bool:
            # A listing, because the answer to HEAD does not tell a missing bucket from a missing key.
            answer = client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)
            return any(found["Key"] == name for found in answer.get("Contents", ()))

        return self._call("ListBucket", name, attempt)

    def list(self, prefix: str) -> list[ObjectInfo]:
        name = f"{self._name(prefix)}/" if prefix else self._prefix
        found: list[ObjectInfo] = []
        token: str | None = None
        while True:
            answer = self._call("ListBucket", name, lambda client, token=token: self._list_page(client, name, token))
            for item in answer.get("Contents", ()):
                if not item["Key"].endswith("/"):  # a folder marker of some other program
                    found.append(ObjectInfo(item["Key"][len(self._prefix) :], item["Size"]))
            token = answer.get("NextContinuationToken")
            if not token:
                return sorted(found, key=lambda info: info.key)

    def _list_page(self, client: Any, name: str, token: str | None) -> dict[str, Any]:
        more = {"ContinuationToken": token} if token else {}
        return client.list_objects_v2(Bucket=self._bucket, Prefix=name, **more)

    def delete(self, key: str) -> None:
        name = self._name(key)

        def attempt(client: Any) -> None:
            answer = client.delete_object(Bucket=self._bucket, Key=name)
            if answer.get("DeleteMarker") or answer.get("VersionId"):
                self._delete_versions(client, name)

        self._call("DeleteObject", name, attempt)

    def _delete_versions(self, client: Any, name: str) -> None:
        """In a bucket with versions, deleting hides an object only: remove each version of it."""
        for page in client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=name):
            for version in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if version["Key"] == name:
                    client.delete_object(Bucket=self._bucket, Key=name, VersionId=version["VersionId"])

    def filesystem(self) -> "tuple[pyarrow.fs.FileSystem, str]":
        import pyarrow.fs

        options: dict[str, Any] = {}
        if self._config.endpoint_url is not None:
            parts = urlsplit(self._config.endpoint_url)
            options = {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        filesystem = pyarrow.fs.S3FileSystem(
            region=self._config.region,
            connect_timeout=self._connect_seconds(),
            request_timeout=self._read_seconds(),
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
            **options,
        )
        return filesystem, f"{self._bucket}/{self._prefix}".rstrip("/")

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _endpoint(self) -> str:
        return self._config.endpoint_url or f"https://s3.{self._config.region}.amazonaws.com"

    def _connect_seconds(self) -> float:
        return min(5.0, self._config.timeout_seconds)

    def _read_seconds(self) -> float:
        return min(20.0, self._config.timeout_seconds)

    def _open_client(self) -> Any:
        with self._lock:
            if self._client is None:
                session = boto3.session.Session()
                client = session.client(
                    "s3",
                    endpoint_url=self._config.endpoint_url,
                    region_name=self._config.region,
                    config=Config(
                        # One request per call: the SDK must not repeat a conditional put behind our back.
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        connect_timeout=self._connect_seconds(),
                        read_timeout=self._read_seconds(),
                        max_pool_connections=16,
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                        s3={"addressing_style": "path" if self._config.endpoint_url else "auto"},
                    ),
                )
                check_endpoint(client.meta.endpoint_url, is_resolved=True)  # also one from AWS_ENDPOINT_URL
                self._client = client
            return self._client

    def _call(self, action: str, name: str, attempt: Callable[[Any], Result]) -> Result:
        """Try until it works, it cannot work, or attempts or time are used up."""
        started = time.monotonic()
        for number in range(1, MAX_ATTEMPTS + 1):
            try:
                return attempt(self._open_client())
            except (boto_errors.BotoCoreError, boto_errors.ClientError) as error:
                failure = self._explain(error, action=action, name=name, number=number, started=started)
                wait_seconds = random.uniform(0.5, 1.0) * 0.2 * 2**number
                is_late = time.monotonic() - started + wait_seconds > self._config.timeout_seconds
                if not failure.is_retried or number == MAX_ATTEMPTS or is_late:
                    raise failure.error from error
                time.sleep(wait_seconds)
        raise TransientError(f"{action} on {self.url}: no attempt was made.")

    def _explain(self, error: Exception, *, action: str, name: str, number: int, started: float) -> _Failure:
        """Say what a failed attempt means, and whether another one can help."""
        spent = f"after {number} attempts in {time.monotonic() - started:.1f} s"
        where = f"{action} on s3://{self._bucket}/{name} at {self._endpoint()}"
        if isinstance(error, boto_errors.ClientError):
            return self._explain_answer(error, where=where, action=action, name=name, spent=spent)
        if isinstance(error, _NO_CREDENTIALS):
            text = f"{where}: no credentials were found. Set them in the environment or in the AWS configuration files."
            return _Failure(AccessError(text), False, 0)
        if isinstance(error, _UNREACHABLE):
            text = f"{where}: the endpoint cannot be reached {spent} ({type(error).__name__}). Check its address, DNS "
            return _Failure(AccessError(text + "and TLS. Nothing was changed by attempts without connection."), True, 0)
        if isinstance(error, boto_errors.HTTPClientError | boto_errors.IncompleteReadError):
            text = f"{where}: the connection failed {spent} ({type(error).__name__}). Run the same command again."
            return _Failure(TransientError(text), True, 0)
        return _Failure(AccessError(f"{where}: the client refused the call ({type(error).__name__})."), False, 0)

    def _explain_answer(
        self, error: boto_errors.ClientError, *, where: str, action: str, name: str, spent: str
    ) -> _Failure:
        status, code = _status(error), str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            return _Failure(AccessError(f"{where}: bucket {self._bucket!r} does not exist. Create it."), False, status)
        if status == 404:
            text = f"{where}: the object does not exist. Check the storage url and the name."
            return _Failure(MissingObjectError(text), False, status)
        if code == "RequestTimeTooSkewed":
            text = f"{where}: clocks differ by {_skew_seconds(error)} s. Set this machine's clock."
            return _Failure(AccessError(text), False, status)
        if code in _EXPIRED_CODES:
            text = f"{where}: the credentials expired during the run. Renew them and run the same command again."
            return _Failure(TransientError(text), False, status)
        if status in (401, 403):
            text = f"access denied ({code}): {action} in bucket {self._bucket!r}, prefix {name.rpartition('/')[0]!r}, at "
            text += f"{self._endpoint()}. It was not tried again. Grant this action, or use other credentials."
            return _Failure(AccessError(text), False, status)
        if status >= 500 or status in (409, 429) or code in _THROTTLE_CODES:
            text = f"{where}: the service failed {spent} (last answer {status} {code}). Run the same command again later."
            return _Failure(TransientError(text), True, status)
        return _Failure(AccessError(f"{where}: the service refused the request ({status} {code})."), False, status)


def check_endpoint(endpoint_url: str, *, is_resolved: bool = False) -> None:
    """Refuse an endpoint that could leak data or credentials.

    Allowed: https to any host that is not link-local and not a cloud's metadata service, http on
    loopback. With ``is_resolved`` the host is looked up and every address is checked; a host that
    cannot be looked up passes, as a request will say so.

    Raises:
        ConfigError: The endpoint is against this policy.
    """
    try:
        parts = urlsplit(endpoint_url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"storage endpoint is not a URL: {error}.") from error
    if "@" in parts.netloc:
        raise ConfigError("storage endpoint holds a user or password. Put credentials into the environment.")
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"storage endpoint {endpoint_url!r} is not of the form https://host[:port].")
    addresses = _literal_addresses(host) or (_look_up(host, port) if is_resolved else ())
    is_metadata = host.rstrip(".").lower() in _METADATA_HOSTS
    if is_metadata or any(address.is_link_local or address in _METADATA_ADDRESSES for address in addresses):
        raise ConfigError(f"storage endpoint {endpoint_url!r} is a link-local or metadata address, which is refused.")
    is_loopback = host == "localhost" or any(address.is_loopback for address in _literal_addresses(host))
    if parts.scheme == "http" and not is_loopback:
        raise ConfigError(f"storage endpoint {endpoint_url!r} is not encrypted. Use https (http is for loopback only).")


def _literal_addresses(host: str) -> "tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]":
    """The address that a host is written as, and the IPv4 address inside it. Empty for a name.

    ``inet_aton`` also reads the forms that a resolver would: ``2852039166``, ``0xa9fea9fe``, ``127.1``.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return (ipaddress.IPv4Address(socket.inet_aton(host)),)
        except (OSError, UnicodeError):
            return ()
    inner = getattr(address, "ipv4_mapped", None)
    return (inner,) if inner is not None else (address,)


def _look_up(host: str, port: int | None) -> "tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]":
    try:
        answers = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(address for answer in answers for address in _literal_addresses(str(answer[4][0])))


def _status(error: boto_errors.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _skew_seconds(error: boto_errors.ClientError) -> str:
    header = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return f"{(parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds():.0f}"
    except ValueError:
        return "an unknown number of"
