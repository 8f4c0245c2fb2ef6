"""Where the objects lie, and which endpoints may be asked for them."""

import ipaddress
import re
import socket
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from tru_core.errors import ConfigError, IntegrityError
from tru_core.quoting import quoted
from tru_core.settings import Settings
from workflows.storage.object_keys import check_key

MAX_PREFIX_BYTES = 120  # with MAX_KEY_BYTES below the 1024 bytes of S3
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ENDPOINT = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<ipv6>[0-9a-f.]*:[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE | re.ASCII,
)
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$")  # no name ends so: an address, or nothing
_METADATA_HOSTS = (
    *("metadata", "metadata.goog", "metadata.google.internal", "metadata.tencentyun.com"),
    *("instance-data", "instance-data.ec2.internal"),
)
_METADATA_ADDRESSES = tuple(
    ipaddress.ip_address(text)
    for text in (
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)
_NAT64, _LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class StorageConfig(Settings):
    """A storage. In a job file a plain string means ``url``.

    Credentials are no part of it: each process takes them from the standard AWS chain.

    Raises:
        ConfigError: The url is of no known kind, or the endpoint is against the policy (``check_endpoint``).
    """

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
                raise ConfigError(f"storage {quoted(self.url)} is a folder and has no endpoint: remove endpoint_url.")
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
    if "@" in endpoint_url:
        raise ConfigError("storage endpoint holds a user or password. Put credentials into the environment.")
    scheme, host, port = _parts_of_endpoint(endpoint_url)
    written = _written_address(host)
    addresses = (written,) if written is not None else _look_up(host, port) if is_looked_up else ()
    if host in _METADATA_HOSTS or any(_is_metadata(address) for address in addresses):
        raise ConfigError(
            f"storage endpoint {endpoint_url!r} is a link-local or metadata address, which is refused: "
            f"credentials of this machine lie there. Name the host of an S3 service."
        )
    if scheme == "http" and host != "localhost" and not _is_loopback(written):
        raise ConfigError(f"storage endpoint {endpoint_url!r} is not encrypted. Use https; http is for loopback.")


def _parts_of_endpoint(endpoint_url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an endpoint that is read in one way only. Else ConfigError, which does not quote it."""
    found = _ENDPOINT.fullmatch(endpoint_url)
    if found is not None:
        host, port = (found["name"] or found["ipv6"]).lower().rstrip("."), int(found["port"] or 443)
        is_name = bool(found["name"]) and _ENDS_IN_NUMBER.search(host) is None
        if host and port <= 65_535 and (is_name or _written_address(host) is not None):
            return found["scheme"].lower(), host, port
    raise ConfigError(
        "storage endpoint is not of the form https://host[:port], in plain ASCII and without path, query and %. "
        "Write an international name in its form xn--..., and an address as 192.0.2.1 or [2001:db8::1]."
    )


def _is_loopback(address: Address | None) -> bool:
    inside = getattr(address, "ipv4_mapped", None) or address
    return inside is not None and inside.is_loopback


def _is_metadata(address: Address) -> bool:
    """Whether an address, or an IPv4 address that it carries, is link-local or a cloud's metadata service."""
    every = [address, *_carried(address)] if isinstance(address, ipaddress.IPv6Address) else [address]
    return any(one.is_link_local or one in _METADATA_ADDRESSES for one in every)


def _carried(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address could be passed on to by a translator or a tunnel."""
    body, lowest = address.packed, ipaddress.IPv4Address(address.packed[12:])
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if body[:8] == bytes(8) or address in _NAT64 or body[8:12] in (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe"):
        carried.append(lowest)  # IPv4-compatible, -translated, NAT64 and ISATAP
    if address in _LOCAL_NAT64:  # RFC 6052: the prefix may have 48, 56, 64 or 96 bits; byte 8 is skipped
        bits = body[:8] + body[9:]
        carried += [lowest, *(ipaddress.IPv4Address(bits[start : start + 4]) for start in (6, 7, 8))]
    return [inside for inside in carried if inside is not None]


def _written_address(host: str) -> Address | None:
    """The address that a host is written as. None for a name.

    ``inet_aton`` reads what a resolver would read too: ``2852039166``, ``0xa9fea9fe``, ``127.1``.
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0])  # a resolver's answer may name the interface
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None


def _look_up(host: str, port: int) -> tuple[Address, ...]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    addresses = (_written_address(str(answer[4][0])) for answer in answers)
    return tuple(address for address in addresses if address is not None)
