"""What a failed call to S3 means: whose fault it is, whether another attempt can help, what to do."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import botocore.exceptions as boto

from tru_core.errors import AccessError, MissingObjectError, TransientError, TruError

ClientFailure = (boto.BotoCoreError, boto.ClientError)  # everything that the client raises on purpose
_UNREACHABLE = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ProxyConnectionError,
    boto.SSLError,
)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
)
_BROKEN_CONNECTION = (boto.HTTPClientError, boto.IncompleteReadError)
_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_THROTTLE_CODES = ("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded")


@dataclass(frozen=True)
class S3Call:
    """A call, for messages. ``action`` is the name of the permission it needs."""

    action: str
    bucket: str
    name: str
    endpoint_url: str
    num_attempts: int
    elapsed_seconds: float

    def __str__(self) -> str:
        return f"{self.action} on s3://{self.bucket}/{self.name} at {self.endpoint_url}"

    @property
    def effort(self) -> str:
        return f"{self.num_attempts} attempts, {self.elapsed_seconds:.1f} s"


@dataclass(frozen=True)
class Failure:
    """The error to raise when there is no further attempt, and whether a further one can help."""

    error: TruError
    can_retry: bool


def explain_failure(error: Exception, call: S3Call) -> Failure:
    """Say what it means that a call failed."""
    if isinstance(error, boto.ClientError):
        return _explain_answer(error, call)
    kind = type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        text = "no usable credentials were found. Set them in the environment or in the AWS configuration files"
        return Failure(AccessError(f"{call}: {text} ({kind})."), can_retry=False)
    if isinstance(error, _UNREACHABLE):
        text = f"the endpoint cannot be reached ({kind}; {call.effort}). Check its address, DNS and TLS"
        return Failure(AccessError(f"{call}: {text}."), can_retry=True)
    if isinstance(error, _BROKEN_CONNECTION):
        text = f"the connection broke ({kind}; {call.effort}). {_again(call)}"
        return Failure(TransientError(f"{call}: {text}"), can_retry=True)
    text = f"the call or its answer makes no sense ({kind}). Check that an S3 service answers there"
    return Failure(AccessError(f"{call}: {text}."), can_retry=False)


def _explain_answer(error: boto.ClientError, call: S3Call) -> Failure:
    status, code = status_of(error), str(error.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        text = f"bucket {call.bucket!r} does not exist. Correct the storage url, or create the bucket"
        return Failure(AccessError(f"{call}: {text}."), can_retry=False)
    if status == 404:
        text = "the object does not exist. Check the storage url and the name"
        return Failure(MissingObjectError(f"{call}: {text}."), can_retry=False)
    if code == "RequestTimeTooSkewed":
        text = f"the service's clock is {_skew(error)} ahead of this machine's. Set this machine's clock"
        return Failure(AccessError(f"{call}: {text}."), can_retry=False)
    if code in _EXPIRED_CODES:
        text = f"the credentials expired. Renew them. {_again(call)}"
        return Failure(TransientError(f"{call}: {text}"), can_retry=False)
    if status in (401, 403):
        folder = call.name.rpartition("/")[0]
        text = f"access denied ({status} {code}): {call.action} in bucket {call.bucket!r}, prefix {folder!r}, "
        text += f"at {call.endpoint_url}. It was not tried again. Grant this action, or use other credentials."
        return Failure(AccessError(text), can_retry=False)
    if status >= 500 or status in (409, 429) or code in _THROTTLE_CODES:
        text = f"the service failed ({status} {code}; {call.effort}). {_again(call)}"
        return Failure(TransientError(f"{call}: {text}"), can_retry=True)
    return Failure(AccessError(f"{call}: the service refused the request ({status} {code})."), can_retry=False)


def status_of(error: boto.ClientError) -> int:
    """The HTTP status of an answer, 0 if it had none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _again(call: S3Call) -> str:
    if call.action == "PutObject":
        return "Whether the object was written is unknown. Run the same command again: it finds out."
    return "Run the same command again."


def _skew(error: boto.ClientError) -> str:
    header = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return f"{(parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds():.0f} s"
    except (ValueError, TypeError):  # no date, or one without a zone
        return "an unknown time"
