"""No endpoint leads to a cloud's metadata, however its address is written, and no message quotes what it holds."""

import ipaddress
import socket

import pytest

from tru_core.errors import ConfigError
from workflows.cli import main
from workflows.storage.config import check_endpoint

METADATA = ipaddress.IPv4Address("169.254.169.254")


def forms(address: ipaddress.IPv4Address) -> list[str]:
    """Every way to write an IPv4 address that a resolver reads, alone or inside of an IPv6 address."""
    number, parts = int(address), address.packed
    high, low = number >> 16, number & 0xFFFF
    inside = f"{high:x}:{low:x}"
    return [
        str(address),
        f"{address}.",
        str(number),
        f"0x{number:X}",
        f"0{number:o}",
        ".".join(f"0{part:o}" for part in parts),
        ".".join(f"{part:#x}" for part in parts),
        ".".join(f"0000{part:o}" for part in parts),
        f"{parts[0]}.{number & 0xFFFFFF}",
        f"{parts[0]}.{parts[1]}.{low}",
        f"{parts[0]:#x}.0{parts[1]:o}.{low}",
        f"[::ffff:{address}]",
        f"[::FFFF:{inside}]",
        f"[0:0:0:0:0:ffff:{inside}]",
        f"[::{address}]",
        f"[::ffff:0:{address}]",
        f"[64:ff9b::{address}]",
        f"[64:ff9b:1::{address}]",
        f"[64:ff9b:1:{high:x}:{low >> 8:x}:{(low & 0xFF) << 8:x}::]",
        f"[2002:{inside}::1]",
        f"[2001:0:{inside}::]",
        f"[2001:0:1:2:3:4:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}]",
        f"[2001:db8::5efe:{address}]",
    ]


@pytest.mark.parametrize("address", ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16"])
def test_a_forbidden_address_is_refused_in_every_form(address: str) -> None:
    for form in forms(ipaddress.IPv4Address(address)):
        for url in (f"https://{form}", f"HTTPS://{form}:8443/"):
            with pytest.raises(ConfigError, match="link-local or metadata address"):
                check_endpoint(url)


def test_the_same_forms_of_another_address_are_accepted() -> None:
    for form in forms(ipaddress.IPv4Address("192.0.2.77")):
        check_endpoint(f"https://{form}:8443/")


@pytest.mark.parametrize(
    "host",
    [
        "[fe80::1]",
        "[FE80:0:0:0::1]",
        "[febf::1]",
        "[fd00:0ec2:0:0::0254]",
        "[FD20:CE::254]",
        "metadata",
        "METADATA.google.internal",
        "metadata.google.internal..",
        "Metadata.Goog",
        "instance-data.ec2.internal",
    ],
)
def test_a_link_local_address_and_a_metadata_name_are_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="link-local or metadata address"):
        check_endpoint(f"https://{host}/")


@pytest.mark.parametrize(
    "url",
    [
        "https://１６９．２５４．１６９．２５４",
        "https://169。254。169。254",
        "https://169.254.169.254\u200b",
        "https://①⑥⑨.254.169.254",
        "https://metadata。google。internal",
        "https://ﬁle.example.com",
        "https://%31%36%39.254.169.254",
        "https://metadata%2egoogle.internal",
        "https://[fe80::1%25eth0]",
        "https://[fe80::1%eth0]",
        "https://[::1%25lo]",
        "https://user@169.254.169.254",
        "https://storage.example.com@169.254.169.254",
        "https://storage.example.com:443@169.254.169.254",
        "https://storage.example.com#@169.254.169.254",
        "https://storage.example.com\\@169.254.169.254",
        "https://storage.example.com\\.169.254.169.254",
        "https://storage.example.com:80:443",
        "https://storage.example.com:443.169.254.169.254",
        "https://storage.example.com:+443",
        "https://storage.example.com:65536",
        "https://storage.example.com:４４３",
        "https://169.254.\n169.254",
        "https://169.254.169.254\t",
        " https://169.254.169.254",
        "https://169.254.169.999",
        "https://6464006462",
        "https://0x1a9fea9fe",
        "https://storage.0x7f",
        "https://[169.254.169.254]",
        "https://[::1]evil",
        "https://[1::2::3]",
        "https:///169.254.169.254",
        "https:169.254.169.254",
        "//169.254.169.254",
        "https://.",
        "file:///etc/passwd",
        "gopher://storage.example.com",
        "https://storage.example.com/?x=hunter2",
        "https://storage.example.com/hunter2",
        "https://hunter2:hunter2",
    ],
)
def test_an_endpoint_that_two_programs_could_read_differently_is_refused_unquoted(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_endpoint(url)
    assert caught.value.exit_code == 2
    for secret in ("hunter2", "169", "storage.example"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_http_on_loopback_is_accepted_in_every_form(host: str) -> None:
    check_endpoint(f"http://{host}:9000")


@pytest.mark.parametrize(
    "host", ["[2002:7f00:1::]", "[64:ff9b::127.0.0.1]", "0.0.0.0", "[::]", "localhost.example", "128.0.0.1"]
)
def test_http_to_what_only_looks_like_loopback_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="not encrypted"):
        check_endpoint(f"http://{host}:9000")


@pytest.mark.parametrize(
    "answer", ["169.254.1.1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254"]
)
def test_a_name_that_leads_to_a_forbidden_address_is_refused(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("192.0.2.1", answer)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    check_endpoint("https://harmless.example.com")
    with pytest.raises(ConfigError, match="metadata address"):
        check_endpoint("https://harmless.example.com", is_looked_up=True)


@pytest.mark.parametrize(
    "value", ["https://0xa9fea9fe", "https://[64:ff9b::169.254.169.254]", "https://user:hunter2@host"]
)
@pytest.mark.parametrize("place", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "profile"])
def test_an_endpoint_of_the_environment_obeys_the_same_rules(
    value: str, place: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    if place == "profile":
        (path := tmp_path / "aws.config").write_text(f"[default]\nendpoint_url = {value}\n")  # type: ignore[operator]
        monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    else:
        monkeypatch.setenv(place, value)
    assert main(["result", "train-x", "--storage", "s3://bucket/x"]) == 2
    assert "hunter2" not in capsys.readouterr().err
