"""Objects in an S3 bucket: bounded attempts, bounded time, and errors that say what to do."""

import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.exceptions as boto
import urllib3
from botocore.config import Config

from tru_core.errors import TruError
from workflows.storage.config import StorageConfig, check_endpoint, split_s3_url
from workflows.storage.object_keys import ObjectInfo, check_key
from workflows.storage.s3_errors import ClientFailure, S3Call, explain_failure, status_of
from workflows.storage.time_limit import within

if TYPE_CHECKING:
    import pyarrow.fs

MAX_ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.4  # between two attempts; doubles each time, less up to half of it by chance
MIN_BYTES_PER_SECOND = 256 * 1024  # a slower download counts as hung
_READ_CHUNK_BYTES = 1024 * 1024
_WRITER = "tru-writer"  # object metadata that tells which call created the object

Result = TypeVar("Result")


class S3Store:
    """The ObjectStore of an S3 bucket.

    The client is made in the process that uses it, with the credentials that this process finds in
    the standard AWS chain. A pickled store holds the configuration and nothing else.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._bucket, prefix = split_s3_url(config.url)
        self._prefix = f"{prefix}/" if prefix else ""
        self._lock = threading.Lock()
        self._client: Any = None

    def __reduce__(self) -> "tuple[type[S3Store], tuple[StorageConfig]]":
        return S3Store, (self._config,)

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def command_options(self) -> tuple[str, ...]:
        endpoint, region = self._config.endpoint_url, self._config.region
        is_default = region == StorageConfig.model_fields["region"].default
        return (*(("--endpoint-url", endpoint) if endpoint else ()), *(() if is_default else ("--region", region)))

    @property
    def unsafe_single_writer(self) -> bool:
        return self._config.unsafe_single_writer

    def raw_client(self) -> tuple[Any, str, str]:
        """The SDK's client, the bucket, and what stands before every key. For examining the service alone."""
        return self._open_client(), self._bucket, self._prefix

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def put_if_absent(self, key: str, body: bytes) -> bool:
        name = self._name(key)
        writer = uuid.uuid4().hex
        is_unsure = False  # an earlier attempt may have created the object

        def attempt(client: Any) -> bool:
            nonlocal is_unsure
            # A store that is trusted with one writer only may replace what is there, so it is asked before.
            must_look = is_unsure or self._config.unsafe_single_writer
            if must_look and (found := self._find_writer(client, name, body)) is not None:
                return found == writer or (is_unsure and found == "")
            try:
                client.put_object(Bucket=self._bucket, Key=name, Body=body, IfNoneMatch="*", Metadata={_WRITER: writer})
            except boto.ClientError as error:
                if status_of(error) == 412:  # taken, maybe by a copy of this request that a proxy sent twice
                    found = self._find_writer(client, name, body)
                    return found == writer or (is_unsure and found == "")
                is_unsure = True
                raise
            except boto.BotoCoreError:
                is_unsure = True
                raise
            return True

        return self._call("PutObject", name, attempt, size_bytes=len(body))

    def _find_writer(self, client: Any, name: str, body: bytes) -> str | None:
        """The token of the call that created an object, None if there is no object.

        Where the store kept no token, "" says that the bytes are the same and "other" that they are not.
        """
        try:
            answer = client.get_object(Bucket=self._bucket, Key=name)
        except boto.ClientError as error:
            if status_of(error) == 404:
                return None
            raise
        with closing(answer["Body"]) as stream:
            token = answer.get("Metadata", {}).get(_WRITER)
            if token:
                return token
            return "" if answer["ContentLength"] == len(body) and stream.read() == body else "other"

    def read(self, key: str) -> bytes:
        name = self._name(key)
        started = time.monotonic()

        def attempt(client: Any) -> bytes:
            answer = self._limited(lambda: client.get_object(Bucket=self._bucket, Key=name))
            allowed_seconds = self._config.timeout_seconds + answer["ContentLength"] / MIN_BYTES_PER_SECOND
            return _read_body(answer["Body"], answer["ContentLength"], deadline=started + allowed_seconds)

        return self._call("GetObject", name, attempt, has_own_limit=True)

    def exists(self, key: str) -> bool:
        name = self._name(key)

        def attempt(client: Any) -> bool:
            # A listing, because the answer to HEAD does not tell a missing bucket from a missing key.
            answer = client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)
            return any(found["Key"] == name for found in answer.get("Contents", ()))

        return self._call("ListBucket", name, attempt)

    def list(self, prefix: str) -> list[ObjectInfo]:
        folder = f"{self._name(prefix)}/" if prefix else self._prefix
        found: dict[str, ObjectInfo] = {}
        more: dict[str, str] = {}
        while True:
            answer = self._call("ListBucket", folder, self._list_page(folder, more))
            for item in answer.get("Contents", ()):
                if not item["Key"].endswith("/"):  # a folder marker of some other program
                    key = item["Key"][len(self._prefix) :]
                    found[key] = ObjectInfo(key=key, size_bytes=item["Size"])
            if not answer.get("NextContinuationToken"):
                return [found[key] for key in sorted(found)]
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def names(self, prefix: str) -> "list[str]":
        folder = f"{self._name(prefix)}/" if prefix else self._prefix
        found: set[str] = set()
        more = {"Delimiter": "/"}
        while True:
            answer = self._call("ListBucket", folder, self._list_page(folder, more))
            found |= {item["Key"][len(folder) :] for item in answer.get("Contents", ())}
            found |= {item["Prefix"][len(folder) : -1] for item in answer.get("CommonPrefixes", ())}
            if not answer.get("NextContinuationToken"):
                return sorted(found - {""})  # "" is a folder marker of some other program
            more["ContinuationToken"] = answer["NextContinuationToken"]

    def _list_page(self, folder: str, more: dict[str, str]) -> Callable[[Any], dict[str, Any]]:
        return lambda client: client.list_objects_v2(Bucket=self._bucket, Prefix=folder, **more)

    def delete(self, key: str) -> None:
        name = self._name(key)

        def attempt(client: Any) -> None:
            answer = client.delete_object(Bucket=self._bucket, Key=name)
            if answer.get("DeleteMarker") or answer.get("VersionId"):
                self._delete_versions(client, name)

        self._call("DeleteObject", name, attempt)

    def _delete_versions(self, client: Any, name: str) -> None:
        """In a bucket with versions a plain delete only hides an object: remove each version of it."""
        for page in client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=name):
            for version in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if version["Key"] == name:
                    client.delete_object(Bucket=self._bucket, Key=name, VersionId=version["VersionId"])

    def delete_leftovers(self, *, older_than_seconds: float) -> int:
        oldest_kept = datetime.now(UTC) - timedelta(seconds=older_than_seconds)

        def attempt(client: Any) -> int:
            num_deleted = 0
            pages = client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < oldest_kept:
                        client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        num_deleted += 1
            return num_deleted

        return self._call("AbortMultipartUpload", self._prefix, attempt)

    def filesystem(self) -> "tuple[pyarrow.fs.FileSystem, str]":
        import pyarrow.fs

        endpoint = urlsplit(self._endpoint_url())
        options: dict[str, Any] = {}
        if not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
            options = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        filesystem = pyarrow.fs.S3FileSystem(
            region=self._config.region,
            connect_timeout=self._connect_seconds(),
            request_timeout=self._answer_seconds(),
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
            **options,
        )
        return filesystem, f"{self._bucket}/{self._prefix}".rstrip("/")

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _connect_seconds(self) -> float:
        return min(5.0, self._config.timeout_seconds)

    def _answer_seconds(self) -> float:
        return min(20.0, self._config.timeout_seconds)

    def _endpoint_url(self) -> str:
        return self._open_client().meta.endpoint_url

    def _open_client(self) -> Any:
        with self._lock:
            if self._client is None:
                client = boto3.session.Session().client(
                    "s3",
                    endpoint_url=self._config.endpoint_url,
                    region_name=self._config.region,
                    config=Config(
                        # One request per call: the SDK must not repeat a conditional put behind our back.
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        connect_timeout=self._connect_seconds(),
                        read_timeout=self._answer_seconds(),
                        max_pool_connections=16,
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                        s3={"addressing_style": "path" if self._config.endpoint_url else "auto"},
                    ),
                )
                # Again, because AWS_ENDPOINT_URL or a configuration file may have named another one.
                check_endpoint(client.meta.endpoint_url, is_looked_up=True)
                self._client = client
            return self._client

    def _limited(self, work: Callable[[], Result], *, size_bytes: int = 0) -> Result:
        """Do work that sends or gets so many bytes. The client's own time-outs are for a silence, not for the whole."""
        allowed_seconds = self._config.timeout_seconds + size_bytes / MIN_BYTES_PER_SECOND
        try:
            return within(allowed_seconds, work, expected=(*ClientFailure, TruError))
        except TimeoutError as error:
            raise boto.ReadTimeoutError(endpoint_url=self._config.endpoint_url) from error

    def _call(
        self,
        action: str,
        name: str,
        attempt: Callable[[Any], Result],
        *,
        size_bytes: int = 0,
        has_own_limit: bool = False,
    ) -> Result:
        """Try until it works, cannot work, or attempts or time are used up."""
        started = time.monotonic()
        number = 0
        while True:
            number += 1
            try:
                client = self._open_client()
                return (
                    attempt(client) if has_own_limit else self._limited(partial(attempt, client), size_bytes=size_bytes)
                )
            except ClientFailure as error:
                elapsed_seconds = time.monotonic() - started
                call = S3Call(
                    action=action,
                    bucket=self._bucket,
                    name=name,
                    endpoint_url=self._client.meta.endpoint_url if self._client else "AWS",
                    num_attempts=number,
                    elapsed_seconds=elapsed_seconds,
                )
                failure = explain_failure(error, call)
                wait_seconds = random.uniform(0.5, 1.0) * FIRST_WAIT_SECONDS * 2 ** (number - 1)  # noqa: S311, no secret hangs on it
                is_late = elapsed_seconds + wait_seconds > self._config.timeout_seconds
                if not failure.can_retry or number == MAX_ATTEMPTS or is_late:
                    raise failure.error from error
                time.sleep(wait_seconds)


def _read_body(stream: Any, size_bytes: int, *, deadline: float) -> bytes:
    """Read an answer to its end. A server that sends byte by byte is given up at the deadline."""
    body = bytearray()
    try:
        with stream as raw:  # the connection itself: it hands over what has arrived, the stream waits for more
            while chunk := raw.read1(_READ_CHUNK_BYTES):
                body += chunk
                if time.monotonic() > deadline:
                    raise boto.ReadTimeoutError(endpoint_url="of the object")
    except urllib3.exceptions.HTTPError as error:
        raise boto.ResponseStreamingError(error=error) from error
    if len(body) != size_bytes:
        raise boto.IncompleteReadError(actual_bytes=len(body), expected_bytes=size_bytes)
    return bytes(body)
