"""Keys: made once, readable by nobody else, and never seen anywhere but in their files."""

import json
import logging
import os
import pickle  # noqa: TID251, to see that it is refused
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tru_core.errors import ConfigError, ConflictError
from tru_core.identity import IdentityKey, SigningKey
from workflows.cli import main
from workflows.key_files import KeysConfig, load_identity_key, load_signing_key, make_keys, read_public_key

SECRETS = ("identity.key", "signing.key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def config(folder: Path) -> KeysConfig:
    return KeysConfig(folder=str(folder))


def test_new_keys_are_readable_by_nobody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0)
    try:
        assert main(["keys", "new", str(tmp_path / "keys"), "--json"]) == 0
    finally:
        os.umask(before)
    modes = {path.name: f"{path.stat().st_mode & 0o777:o}" for path in (tmp_path / "keys").iterdir()}
    assert modes == {"identity.key": "600", "signing.key": "600", "signing.pub": "644", ".gitignore": "644"}
    assert f"{(tmp_path / 'keys').stat().st_mode & 0o777:o}" == "700"
    config = KeysConfig(folder=str(tmp_path / "keys"))
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "identity_key_id": load_identity_key(config).key_id,
        "signing_key_id": load_signing_key(config).key_id,
        "public_key": str(tmp_path / "keys" / "signing.pub"),
        "files_written": [str(tmp_path / "keys")],
    }


def test_no_key_is_ever_overwritten(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for only_signing in (False, True):
        with pytest.raises(ConflictError, match="No key was made or changed"):
            make_keys(folder, only_signing=only_signing)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_public_half_checks_what_the_secret_half_signed(folder: Path, config: KeysConfig) -> None:
    signing, public = load_signing_key(config), read_public_key(folder / "signing.pub")
    assert public == signing.public_key
    assert public.key_id == signing.key_id
    assert public.has_signed(b"message", signing.sign(b"message"))
    assert not public.has_signed(b"other", signing.sign(b"message"))
    assert not public.has_signed(b"message", b"short")


def test_openssl_reads_the_pair(folder: Path) -> None:
    public = subprocess.run(
        ["openssl", "pkey", "-in", folder / "signing.key", "-pubout"], capture_output=True, check=True
    ).stdout
    assert public.decode() in (folder / "signing.pub").read_text()


def test_a_new_signing_pair_goes_on_with_the_identity_key(folder: Path, config: KeysConfig) -> None:
    expiry = datetime(2027, 3, 1, tzinfo=UTC)
    made = make_keys(folder / "2027", only_signing=True, not_after=expiry)
    assert sorted(path.name for path in (folder / "2027").iterdir()) == [".gitignore", "signing.key", "signing.pub"]
    assert read_public_key(folder / "2027" / "signing.pub").not_after == expiry
    assert made["signing_key_id"] != load_signing_key(config).key_id


def test_the_days_of_a_public_key_are_counted_from_today(tmp_path: Path) -> None:
    assert main(["keys", "new", str(tmp_path / "keys"), "--days", "30"]) == 0
    not_after = read_public_key(tmp_path / "keys" / "signing.pub").not_after
    assert not_after is not None
    assert abs(not_after - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)


# --- digests of ids -----------------------------------------------------------------------------


def test_a_keyed_digest_depends_on_key_kind_and_every_byte_of_every_id() -> None:
    key, other = IdentityKey(b"k" * 32), IdentityKey(b"o" * 32)
    digests = [
        key.digest("user", "7"),
        other.digest("user", "7"),
        key.digest("item", "7"),
        key.digest("user", "7 "),
        key.digest("interaction", "7", "1"),
        key.digest("interaction", "71", ""),
        key.digest("interaction", "7\x001"),
        key.digest("user", "\u00e9"),
        key.digest("user", "e\u0301"),
    ]
    assert len(set(digests)) == len(digests)
    # With another digest no tombstone of an earlier release would match. Checked once with openssl dgst -mac HMAC.
    assert digests[0] == "379fe4de280875cfac6da5976f2bc7a39cdd602c5657ad125c34498841fb077b"


# --- refused before work starts (catalogue row 73) ------------------------------------------------


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_key_is_refused_and_the_message_says_how_to_make_one(
    folder: Path, config: KeysConfig, name: str
) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name} does not exist\. Nothing was started\. .*tru keys new"):
        load(config, name)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700, 0o644])
def test_a_key_that_others_could_read_is_refused(folder: Path, config: KeysConfig, name: str, mode: int) -> None:
    (folder / name).chmod(mode)
    with pytest.raises(ConfigError, match=rf"has mode {mode:04o}, expected 0600 or less"):
        load(config, name)
    (folder / name).chmod(0o400)
    load(config, name)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("body", [b"", b"0" * 63, b"0" * 65, b"g" * 64, b"SENTINEL" * 8, b"SENTINEL" * 1000])
def test_a_file_that_is_no_key_is_refused_and_never_quoted(
    folder: Path, config: KeysConfig, name: str, body: bytes
) -> None:
    (folder / name).write_bytes(body)
    with pytest.raises(ConfigError) as caught:
        load(config, name)
    assert caught.value.exit_code == 2
    assert "SENTINEL" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "not-after: soon\n", "not-after: 2027-01-01T00:00:00\n"])
def test_a_public_key_file_that_means_nothing_is_refused(folder: Path, text: str) -> None:
    path = folder / "signing.pub"
    path.write_text(text + (path.read_text() if text else ""))
    with pytest.raises(ConfigError, match="is no public key"):
        read_public_key(path)


LATE, EARLY = "2027-03-01T00:00:00+00:00", "2020-01-01T00:00:00+00:00"


def public_file(folder: Path, before: str, after: str = "") -> Path:
    path = folder / "other.pub"
    path.write_bytes(before.encode() + (folder / "signing.pub").read_bytes() + after.encode())
    return path


@pytest.mark.parametrize(
    "line",
    [
        f"not-after: {EARLY}",
        f"Not-After:{EARLY}",
        f"NOT-AFTER : {EARLY}  ",
        f"\tnot-after\t:\t{EARLY}",
        "not-after: 2020-01-01T00:00:00z",
        "not-after: 2020-01-01 01:00:00+01:00",
        f"not-after: {LATE}\nNOT-AFTER: {EARLY}",
        f"not-after: {EARLY}\n\nnot-after: {LATE}",
        f"\ufeffnot-after: {EARLY}",
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_limit_of_time_is_read_however_it_is_written_and_the_earliest_counts(
    folder: Path, line: str, line_end: str
) -> None:
    text = f"{line}\n".replace("\n", line_end)
    assert read_public_key(public_file(folder, text)).not_after == datetime(2020, 1, 1, tzinfo=UTC)
    if "\ufeff" not in line:
        below = read_public_key(public_file(folder, "\n", text))
        assert below.not_after == datetime(2020, 1, 1, tzinfo=UTC)
        assert below.key_id == read_public_key(folder / "signing.pub").key_id


@pytest.mark.parametrize(
    "line",
    [
        f"not_after: {EARLY}",
        f"notAfter={EARLY}",
        f"not after: {EARLY}",
        f"not-after = {EARLY}",
        f"not-after {EARLY}",
        f"# not-after: {EARLY}",
        f"not-after: {EARLY} # expired",
        f"not-after: '{EARLY}'",
        "not-after:",
        "not-after: never",
        "not-after: 01.03.2020",
        "not-after: 1577836800",
        "not-after: 2020-01-01",
        "not-after: 2020-01-01T00:00:00",
        "not-after: 2020-02-30T00:00:00+00:00",
        f"not\u2010after: {EARLY}",
        f"not-after\uff1a {EARLY}",
        f"not-after:\u00a0{EARLY}",
        f"not-after: {EARLY}\x0b",
        f"expires: {EARLY}",
        "a comment",
        "-----BEGIN PUBLIC KEY-----",
        "\x00",
    ],
)
def test_a_line_beside_a_public_key_that_is_no_limit_of_time_is_refused(folder: Path, line: str) -> None:
    for path in (public_file(folder, f"{line}\n"), public_file(folder, "", f"{line}\n")):
        with pytest.raises(
            ConfigError, match=r"is no public key: .*'not-after:' with a time in ISO 8601 with its zone"
        ):
            read_public_key(path)


def test_what_stands_between_behind_or_far_below_a_public_key_is_read_too(folder: Path) -> None:
    pem = (folder / "signing.pub").read_text()
    lines = pem.splitlines()
    for after in (pem, f"x\n{pem}", f"{'#' * 60}\n" * 200 + f"not-after: {EARLY}\n", "\n" * 5000):
        with pytest.raises(ConfigError, match="is no public key"):
            read_public_key(public_file(folder, "", after))
    for text in (
        "\n".join([lines[0], f"not-after: {EARLY}", *lines[1:]]),
        "\n".join([*lines[:-1], f"not-after: {EARLY} {lines[-1]}"]),
        "\r".join([f"not-after: {EARLY}", *lines]),
        f"not-after: {EARLY} {pem}",
        (folder / "signing.key").read_text(),
    ):
        (folder / "other.pub").write_text(text)
        with pytest.raises(ConfigError, match="is no public key"):
            read_public_key(folder / "other.pub")


def test_the_environment_names_another_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = KeysConfig(folder=str(tmp_path / "nowhere"))
    monkeypatch.setenv("TRU_IDENTITY_KEY_FILE", str(folder / "identity.key"))
    monkeypatch.setenv("TRU_SIGNING_KEY_FILE", str(folder / "signing.key"))
    assert load_identity_key(elsewhere).key_id
    assert load_signing_key(elsewhere).key_id


def test_a_submitted_job_never_takes_keys_from_its_uploaded_folder(
    folder: Path, config: KeysConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ConfigError, match="named by a relative path"):
        load_identity_key(KeysConfig(folder="keys"))
    assert load_identity_key(config).key_id


# --- seen nowhere -------------------------------------------------------------------------------


def test_no_secret_stands_in_a_text_a_log_or_a_pickle(config: KeysConfig, caplog: pytest.LogCaptureFixture) -> None:
    keys: list[IdentityKey | SigningKey] = [load_identity_key(config), load_signing_key(config)]
    logging.getLogger("tru").error("keys %s %r", keys, keys)
    for key in keys:
        for text in (str(key), repr(key), f"{key}", caplog.text, key.key_id):
            assert key.secret.hex() not in text
            assert repr(key.secret) not in text
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(key)


def load(config: KeysConfig, name: str) -> None:
    {"identity.key": load_identity_key, "signing.key": load_signing_key}[name](config)
