"""What an S3 service must keep beyond the contract of every store: versions, unfinished uploads, its clock."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import botocore.exceptions as boto

from workflows.storage.s3 import S3Store
from workflows.storage.s3_errors import status_of

MAX_SKEW_SECONDS = 300
_PART = b"x" * 1024

Found = tuple[str, Any, str]  # name, outcome, detail


def examine_s3(store: S3Store, prefix: str) -> list[Found]:
    """Try out what only an S3 service has. Finding names, outcomes and details.

    Raises:
        AccessError: If the service denies a call that a purge needs.
    """
    client, bucket, root = store.raw_client()
    probes: dict[str, Callable[[], tuple[str, str]]] = {
        "conditional replace": lambda: _conditional_replace(store, client, bucket, root, f"{prefix}/replace"),
        "unfinished uploads": lambda: _unfinished_uploads(store, client, bucket, root, f"{prefix}/unfinished"),
        "conditional multipart": lambda: _conditional_multipart(store, client, bucket, root, f"{prefix}/multipart"),
        "old versions": lambda: _old_versions(store, client, bucket, root, f"{prefix}/versions"),
        "clock": lambda: _clock(client, bucket, root),
    }
    return [(name, *_ask(probe)) for name, probe in probes.items()]


def _ask(probe: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """A probe's outcome; a call that the service does not have, or denies, is reported as such."""
    try:
        return probe()
    except boto.ClientError as error:
        return "reported", f"could not be tried out: {status_of(error)} {error.response.get('Error', {}).get('Code')}"


def _conditional_replace(store: S3Store, client: Any, bucket: str, root: str, key: str) -> tuple[str, str]:
    """Whether ``If-Match`` with a wrong tag is refused. Nothing here replaces objects."""
    store.put_if_absent(key, b"first")
    try:
        client.put_object(Bucket=bucket, Key=root + key, Body=b"second", IfMatch='"0123456789abcdef0123456789abcdef"')
    except boto.ClientError as error:
        if status_of(error) == 412:
            return "reported", "refused, as it should be; nothing here needs it"
        raise
    return "reported", "the service ignores If-Match; nothing here needs it"


def _unfinished_uploads(store: S3Store, client: Any, bucket: str, root: str, key: str) -> tuple[str, str]:
    """An upload in parts is no object before its end, can be found, and can be removed: it may hold a person's data."""
    upload = client.create_multipart_upload(Bucket=bucket, Key=root + key)["UploadId"]
    client.upload_part(Bucket=bucket, Key=root + key, UploadId=upload, PartNumber=1, Body=_PART)
    is_hidden = not store.exists(key)
    was_found = upload in _uploads(client, bucket, root + key)
    client.abort_multipart_upload(Bucket=bucket, Key=root + key, UploadId=upload)
    is_gone = upload not in _uploads(client, bucket, root + key)
    if is_hidden and was_found and is_gone:
        return "passed", "no object before their end, listed, and gone when aborted"
    return "failed", f"hidden before their end: {is_hidden}; listed: {was_found}; gone when aborted: {is_gone}"


def _uploads(client: Any, bucket: str, name: str) -> set[str]:
    answer = client.list_multipart_uploads(Bucket=bucket, Prefix=name)
    return {upload["UploadId"] for upload in answer.get("Uploads", ())}


def _conditional_multipart(store: S3Store, client: Any, bucket: str, root: str, key: str) -> tuple[str, str]:
    """Whether finishing an upload in parts is refused where there is an object. Nothing here uploads in parts."""
    store.put_if_absent(key, b"first")
    upload = client.create_multipart_upload(Bucket=bucket, Key=root + key)["UploadId"]
    try:
        part = client.upload_part(Bucket=bucket, Key=root + key, UploadId=upload, PartNumber=1, Body=_PART)
        parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        client.complete_multipart_upload(
            Bucket=bucket, Key=root + key, UploadId=upload, MultipartUpload=parts, IfNoneMatch="*"
        )
    except boto.ClientError as error:
        client.abort_multipart_upload(Bucket=bucket, Key=root + key, UploadId=upload)
        if status_of(error) == 412:
            return "reported", "refused, as it should be; nothing here needs it"
        raise
    return "reported", "the service ignores the condition for uploads in parts; nothing here uploads so"


def _old_versions(store: S3Store, client: Any, bucket: str, root: str, key: str) -> tuple[str, str]:
    """In a bucket with versions, a deleted object's bytes are gone too."""
    status = client.get_bucket_versioning(Bucket=bucket).get("Status", "off")
    store.put_if_absent(key, b"first")
    if status == "off":
        return "passed", "the bucket keeps no versions"
    version = client.head_object(Bucket=bucket, Key=root + key).get("VersionId", "null")
    store.delete(key)
    answer = client.list_object_versions(Bucket=bucket, Prefix=root + key)
    left = len(answer.get("Versions", ())) + len(answer.get("DeleteMarkers", ()))
    is_readable = _is_readable(client, bucket, root + key, version)
    detail = f"versioning is {status}: {left} versions left after a delete; old bytes readable: {is_readable}"
    return ("failed" if left or is_readable else "passed"), detail


def _is_readable(client: Any, bucket: str, name: str, version: str) -> bool:
    try:
        client.get_object(Bucket=bucket, Key=name, VersionId=version)
    except boto.ClientError:
        return False
    return True


def _clock(client: Any, bucket: str, root: str) -> tuple[str, str]:
    """How far the service's clock is from this machine's. Requests are refused from 15 minutes on."""
    answer = client.list_objects_v2(Bucket=bucket, Prefix=root, MaxKeys=1)
    text = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date", "")
    try:
        skew = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return "reported", "the service names no time"
    return ("failed" if abs(skew) > MAX_SKEW_SECONDS else "passed"), f"{skew:+.0f} s from this machine's"
