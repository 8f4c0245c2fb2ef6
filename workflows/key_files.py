"""Keys in files: made once with mode 0600, refused when anybody else could read them.

``identity.key`` holds 64 hexadecimal digits. ``signing.key`` is an Ed25519 private key in PEM, as `openssl genpkey
-algorithm ed25519` writes it. ``signing.pub`` is the public half in PEM, below an optional line ``not-after:`` with a
time.
"""

import codecs
import os
import re
import secrets
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from tru_core.errors import ConfigError, ConflictError
from tru_core.identity import SECRET_BYTES, IdentityKey, PublicKey, SigningKey
from tru_core.settings import Settings
from workflows.output_files import refuse_vanishing

IDENTITY_FILE = "identity.key"
SIGNING_FILE = "signing.key"
PUBLIC_FILE = "signing.pub"
IDENTITY_VARIABLE = "TRU_IDENTITY_KEY_FILE"
SIGNING_VARIABLE = "TRU_SIGNING_KEY_FILE"

_MAX_KEY_FILE_BYTES = 4096
_HEX_KEY = re.compile(rb"[0-9a-f]{64}\n?")
_LIMIT = re.compile(rb"[ \t]*not-after[ \t]*:[ \t]*([0-9T:.+Zz -]{10,40}?)[ \t\r]*", re.IGNORECASE)
_PUBLIC_BLOCK = re.compile(
    rb"^-----BEGIN PUBLIC KEY-----[ \t]*\r?\n(?:[A-Za-z0-9+/=]+[ \t]*\r?\n)+-----END PUBLIC KEY-----[ \t]*\r?$",
    re.MULTILINE,
)


class KeysConfig(Settings):
    """Where the secret keys lie. They are read from files only and are never part of a job, a log or an object.

    Attributes:
        folder: Folder with ``identity.key`` and ``signing.key``, as `tru keys new` makes it. The environment's
            TRU_IDENTITY_KEY_FILE and TRU_SIGNING_KEY_FILE name other files. Inside a submitted job it must be absolute.
    """

    folder: str = Field(default="keys", min_length=1)


# --- reading ------------------------------------------------------------------------------------


def load_identity_key(config: KeysConfig) -> IdentityKey:
    """Read the key that turns outside ids into keyed digests.

    Raises:
        ConfigError: If the file is missing, is no key, or could be read by others.
    """
    return read_identity_key(_secret_path(config, IDENTITY_FILE, IDENTITY_VARIABLE))


def read_identity_key(path: Path) -> IdentityKey:
    """Read an identity key from a file. Raises as :func:`load_identity_key`."""
    body = _read_secret(path)
    if _HEX_KEY.fullmatch(body) is None:
        raise ConfigError(
            f"{path} is no identity key: expected {2 * SECRET_BYTES} hexadecimal digits in one line, found "
            f"{len(body)} bytes of another form. Nothing was started. Restore the file from a backup: with another "
            f"key no earlier deletion would be recognised."
        )
    return IdentityKey(bytes.fromhex(body.decode()))


def load_signing_key(config: KeysConfig) -> SigningKey:
    """Read the key that signs receipts.

    Raises:
        ConfigError: If the file is missing, is no key, or could be read by others.
    """
    path = _secret_path(config, SIGNING_FILE, SIGNING_VARIABLE)
    try:
        key = serialization.load_pem_private_key(_read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None  # and not as a cause: what the parser says could quote the file
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path} is no signing key: expected an Ed25519 private key in PEM without a password. Nothing was "
            f"started. Restore the file, or make a new pair with `tru keys new FOLDER --only-signing`."
        )
    return SigningKey(key.private_bytes_raw())


def read_public_key(path: Path) -> PublicKey:
    """Read a public key and the time after which it may not sign.

    The file is one PEM block, and above or below it at most lines ``not-after:`` with a time, in capitals or small
    letters and with any blanks. Of several times the earliest counts.

    Raises:
        ConfigError: If the file cannot be read, is no Ed25519 public key in PEM, or holds a line that is neither.
    """
    try:
        with path.open("rb") as file:
            body = file.read(_MAX_KEY_FILE_BYTES + 1).removeprefix(codecs.BOM_UTF8)
    except (OSError, ValueError) as error:  # a ValueError: a path with a NUL byte
        reason = getattr(error, "strerror", None) or "this is no path"
        raise ConfigError(f"public key {path} cannot be read: {reason}. Name a signing.pub.") from error
    if len(body) > _MAX_KEY_FILE_BYTES:
        raise _no_public_key(path, f"it has more than {_MAX_KEY_FILE_BYTES} bytes")
    block = _PUBLIC_BLOCK.search(body)
    if block is None:
        raise _no_public_key(path, "it has no block BEGIN PUBLIC KEY, each line of it on its own")
    limits = [*_limits(path, body[: block.start()], 1)]
    limits += _limits(path, body[block.end() :], body.count(b"\n", 0, block.end()) + 1)
    try:
        key = serialization.load_pem_public_key(block.group())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise _no_public_key(path, "its block is another key, or damaged")
    return PublicKey(key.public_bytes_raw(), not_after=min(limits, default=None))


def _limits(path: Path, text: bytes, first_line: int) -> Iterator[datetime]:
    """The times of the lines beside a key. ConfigError for a line that is no limit of time and not blank."""
    for number, line in enumerate(text.split(b"\n"), start=first_line):
        if not line.strip(b" \t\r"):
            continue
        found = _LIMIT.fullmatch(line)
        try:
            limit = datetime.fromisoformat(found.group(1).decode("ascii").upper()) if found else None
        except ValueError:
            limit = None
        if limit is None:
            raise _no_public_key(path, f"line {number} is none that is known")
        if limit.tzinfo is None:
            raise _no_public_key(path, f"the time in line {number} has no zone")
        yield limit


def _no_public_key(path: Path, problem: str) -> ConfigError:
    """The error of a file that is not understood to its last line: what is passed over could be a limit of time."""
    return ConfigError(
        f"{path} is no public key: {problem}. Expected an Ed25519 public key in PEM, and beside it at most a line "
        f"'not-after:' with a time in ISO 8601 with its zone, such as 'not-after: 2027-03-01T00:00:00+00:00'. Nothing "
        f"was checked. Name the file signing.pub that `tru keys new` wrote."
    )


def _secret_path(config: KeysConfig, name: str, variable: str) -> Path:
    """The file of a secret. ConfigError for a relative path inside a submitted job."""
    path = Path(os.environ.get(variable) or Path(config.folder) / name).expanduser()
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not path.is_absolute():
        raise ConfigError(
            f"key file {path} is named by a relative path. A submitted job runs in an uploaded copy of the working "
            f"folder, and a key must never be in there. Nothing was started. Mount the keys on the machine that runs "
            f"the job and set keys.folder, or {variable}, to an absolute path."
        )
    return path


def _read_secret(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            body = file.read(_MAX_KEY_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"key file {path.absolute()} does not exist. Nothing was started. Name the folder that has it (keys.folder "
            f"in the job file, --keys of an import), restore it from a backup, or make keys once with `tru keys new "
            f"FOLDER`."
        ) from error
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be read: {error.strerror}. Nothing was started.") from error
    if mode & 0o177:
        raise ConfigError(
            f"key file {path} has mode {mode:04o}, expected 0600 or less: others could read or run it. Nothing was "
            f"started. Run `chmod 600 {path}`, and make a new key if somebody may have read it."
        )
    if len(body) > _MAX_KEY_FILE_BYTES:
        raise ConfigError(f"key file {path} is over {_MAX_KEY_FILE_BYTES} bytes: it is no key. Nothing was started.")
    return body


# --- making -------------------------------------------------------------------------------------


def make_keys(folder: Path, *, only_signing: bool = False, not_after: datetime | None = None) -> dict[str, str]:
    """Make new keys in a folder: both secrets with mode 0600, and the public half.

    Args:
        only_signing: Make the signing pair alone: to replace a signing key and go on with the identity key.
        not_after: When the new public key expires; None is never.

    Returns:
        Which keys they are and where the public one lies. Nothing secret.

    Raises:
        ConflictError: If one of the files exists. Nothing is ever overwritten.
        ConfigError: If the folder cannot be written to, or would vanish with a submitted job.
    """
    refuse_vanishing(folder, where="FOLDER")
    identity, signing = IdentityKey(secrets.token_bytes(SECRET_BYTES)), Ed25519PrivateKey.generate()
    public = signing.public_key()
    pem = signing.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    shown = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    limits = f"not-after: {not_after.isoformat(timespec='seconds')}\n" if not_after else ""
    files = {} if only_signing else {IDENTITY_FILE: (f"{identity.secret.hex()}\n".encode(), 0o600)}
    files |= {SIGNING_FILE: (pem, 0o600), PUBLIC_FILE: (limits.encode() + shown, 0o644)}
    taken = [name for name in files if (folder / name).exists()]
    if taken:
        raise ConflictError(
            f"{folder / taken[0]} exists. No key was made or changed: a lost key cannot be made again. Name a new "
            f"folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, (body, mode) in files.items():
            _write_new(folder / name, body, mode)
        if not (folder / ".gitignore").exists():  # neither into a repository nor into a job's uploaded folder
            _write_new(folder / ".gitignore", b"*\n", 0o644)
    except OSError as error:
        raise ConfigError(f"keys cannot be written to {folder}: {error.strerror}. Name a folder of yours.") from error
    made = {
        "signing_key_id": PublicKey(public.public_bytes_raw()).key_id,
        "public_key": str((folder / PUBLIC_FILE).absolute()),
    }
    return made if only_signing else made | {"identity_key_id": identity.key_id}


def _write_new(path: Path, body: bytes, mode: int) -> None:
    """Write a file that nobody else can read in between, and that survives a power cut."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
