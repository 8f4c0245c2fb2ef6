"""Where the objects lie, and which endpoints may be asked for them."""

import ipaddress
import re
import socket
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tru_core.errors import ConfigError, IntegrityError
from workflows.storage.keys import check_key

MAX_PREFIX_BYTES = 120  # with MAX_KEY_BYTES below the 1024 bytes of S3
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_METADATA_HOSTS = ("metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal")
_METADATA_ADDRESSES = tuple(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16")
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class StorageConfig(BaseModel):
    """A storage. In a job file a plain string means ``url``.

    Credentials are no part of it: each process takes them from the standard AWS chain.

    Raises:
        ConfigError: The url is of no known kind, or the endpoint is against the policy (``check_endpoint``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(min_length=1)  # a folder path, file:///folder or s3://bucket/prefix
    endpoint_url: str | None = None  # another S3 service than AWS: https://, on loopback also http://
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]+$")
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600, allow_inf_nan=False)  # for one operation
    unsafe_single_writer: bool = False  # publish on a store that lets two writers win; receipts say so

    @model_validator(mode="before")
    @classmethod
    def _accept_plain_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_allowed(self) -> Self:
        if is_s3(self.url):
            split_s3_url(self.url)
            if self.endpoint_url is not None:
                check_endpoint(self.endpoint_url)
        else:
            folder_of_url(self.url)
            if self.endpoint_url is not None:
                raise ConfigError(f"storage {self.url!r} is a folder and has no endpoint: remove endpoint_url.")
        return self


def is_s3(url: str) -> bool:
    """Whether a storage url names a bucket."""
    return url.startswith("s3://")


def folder_of_url(url: str) -> str:
    """The folder of a path or of file:///folder. ConfigError for a url of any other kind."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return url
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ConfigError(
            f"storage url of kind {scheme[:20]!r} is not understood. Expected a folder path, file:///folder "
            f"or s3://bucket/prefix."
        )
    return unquote(parts.path)


def split_s3_url(url: str) -> tuple[str, str]:
    """The bucket of s3://bucket/prefix, and its prefix without slashes at the ends. Else ConfigError."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if "@" in url or parts.query or parts.fragment or _BUCKET.fullmatch(parts.netloc) is None:
        raise ConfigError(  # without the url, which may hold a password
            "storage url is not of the form s3://bucket/prefix, without user, password, query and fragment. "
            "Credentials come from the environment or from the AWS configuration files."
        )
    try:
        if prefix and len(check_key(prefix).encode()) > MAX_PREFIX_BYTES:
            raise ConfigError(f"the prefix of storage url {url!r} is over {MAX_PREFIX_BYTES} bytes.")
    except IntegrityError as error:
        raise ConfigError(f"the prefix of storage url {url!r} cannot be part of a key.") from error
    return parts.netloc, prefix


def check_endpoint(endpoint_url: str, *, is_looked_up: bool = False) -> None:
    """Refuse an endpoint that could leak data or credentials.

    Allowed are https to any host that is neither link-local nor a cloud's metadata service, and http on
    loopback. With ``is_looked_up`` the host's name is resolved and every address of it is checked; a name
    that cannot be resolved passes here, as the request itself will fail.

    Raises:
        ConfigError: The endpoint is against this policy.
    """
    try:
        parts = urlsplit(endpoint_url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise ConfigError(f"storage endpoint is not a URL: {error}.") from error
    if "@" in endpoint_url:
        raise ConfigError("storage endpoint holds a user or password. Put credentials into the environment.")
    is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment
    if parts.scheme not in ("http", "https") or not host or not is_bare:
        raise ConfigError(f"storage endpoint {endpoint_url!r} is not of the form https://host[:port].")
    written = _written_addresses(host)
    addresses = written or (_look_up(host, port) if is_looked_up else ())
    if host in _METADATA_HOSTS or any(_is_metadata(address) for address in addresses):
        raise ConfigError(
            f"storage endpoint {endpoint_url!r} is a link-local or metadata address, which is refused: "
            f"credentials of this machine lie there. Name the host of an S3 service."
        )
    is_loopback = host == "localhost" or any(address.is_loopback for address in written)
    if parts.scheme == "http" and not is_loopback:
        raise ConfigError(f"storage endpoint {endpoint_url!r} is not encrypted. Use https; http is for loopback.")


def _is_metadata(address: Address) -> bool:
    return address.is_link_local or address in _METADATA_ADDRESSES


def _written_addresses(host: str) -> tuple[Address, ...]:
    """The address that a host is written as, or the IPv4 address inside it. Empty for a name.

    ``inet_aton`` reads what a resolver would read too: ``2852039166``, ``0xa9fea9fe``, ``127.1``.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return (ipaddress.IPv4Address(socket.inet_aton(host)),)
        except (OSError, UnicodeError):
            return ()
    inside = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return (inside,) if inside is not None else (address,)


def _look_up(host: str, port: int | None) -> tuple[Address, ...]:
    try:
        answers = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(address for answer in answers for address in _written_addresses(str(answer[4][0])))
