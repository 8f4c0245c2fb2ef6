"""The folder of a private Ray session: short, closed to others, and removed by the next command if its owner is killed.

Ray opens its own folder to everybody, so it lies below one of ours with mode 0700. The owner holds a lock on a file
in that folder. The lock ends with the process, whichever way that ends, also in a container with process numbers of
its own. Whoever gets the lock of a folder knows that its owner is dead.
"""

import fcntl
import logging
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tru_core.errors import ConfigError, TransientError

if TYPE_CHECKING:
    import psutil

PREFIX = "tru-"
MARK = "owner"
# The longest path of a Unix socket, and what Ray appends: /session_DATE_TIME_MICROSECONDS_PROCESS/sockets/plasma_store.
_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
_RAYS_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_OWN_BYTES = len(f"/{PREFIX}12345678/ray")
_END_SECONDS = 5.0

log = logging.getLogger(__name__)


def cluster_address() -> str | None:
    """What RAY_ADDRESS says, or None where this command starts a private session."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def protect_private_session() -> None:
    """Give a session that this process may start a token of its own. Ray reads this when it is first imported."""
    if not os.environ.get("RAY_AUTH_MODE") and cluster_address() is None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def require_authentication() -> None:
    """Refuse a private session that every user of this machine could give orders to, and see that it has a token.

    Without a token in the environment Ray would write one to the home folder, for all to read.

    Raises:
        ConfigError: If RAY_AUTH_MODE switches authentication off.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise ConfigError(
            "RAY_AUTH_MODE switches Ray's authentication off: every user of this machine could run code as you. "
            "Nothing was started. Unset it; this command then makes a token of its own."
        )
    if not os.environ.get("RAY_AUTH_TOKEN") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def check_authentication() -> None:
    """Refuse to go on in a session that Ray has started without authentication, as its versions before 2.59 do.

    Raises:
        ConfigError: If Ray has not switched authentication on.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise ConfigError("Ray started without authentication. Set RAY_AUTH_MODE=token before Python imports Ray.")


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder for Ray inside the block. At its end the processes of the session are ended and the folder removed.

    Raises:
        TransientError: If no folder that is short enough can be written to.
    """
    folder, lock = _make_folder()
    try:
        yield folder / "ray"
    finally:
        _remove(folder)
        os.close(lock)


def remove_dead_sessions() -> None:
    """Remove the folders of sessions whose owner is dead, after ending what still runs of them."""
    for place in _places():
        for folder in _folders_of_ours(place):
            with suppress(OSError):
                _remove_if_dead(folder)


def _places() -> list[Path]:
    """Where sessions may lie: the temporary folder, and what can stand in for it where its path is too long."""
    found = [tempfile.gettempdir(), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", "")]  # noqa: S108
    return [Path(place) for place in dict.fromkeys(found) if place]


def _fits(place: Path) -> bool:
    return len(os.fsencode(place)) + _OWN_BYTES + _RAYS_BYTES <= _SOCKET_BYTES


def _make_folder() -> tuple[Path, int]:
    """A folder with its mark, and the descriptor that holds the mark's lock."""
    places, troubles = _places(), []
    for place in places:
        if not _fits(place):
            troubles.append(f"{str(place)[:60]}...: its path is too long for Ray's sockets")
            continue
        try:
            while True:
                folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
                lock = _take_mark(folder)
                if lock is not None:
                    break
        except OSError as error:
            troubles.append(f"{place}: {error.strerror}")
            continue
        if troubles:
            log.warning("the private Ray session lies in %s (%s)", place, "; ".join(troubles))
        return folder, lock
    raise TransientError(
        f"no place for Ray's temporary files: {'; '.join(troubles)}. Nothing was started. Set TMPDIR to a folder of "
        f"yours with a path of at most {_SOCKET_BYTES - _OWN_BYTES - _RAYS_BYTES} bytes and free space."
    )


def _take_mark(folder: Path) -> int | None:
    """Lock a new folder's mark. None if another command took the folder for a dead one's in this very moment."""
    mark = folder / MARK
    lock = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = mark.stat().st_ino == os.fstat(lock).st_ino
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    except OSError:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if is_ours:
        return lock
    os.close(lock)
    return None


def _folders_of_ours(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            named = [Path(entry.path) for entry in entries if entry.name.startswith(PREFIX)]
    except OSError:
        return []
    return [folder for folder in named if _is_ours(folder)]


def _is_ours(folder: Path) -> bool:
    with suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return False


def _remove_if_dead(folder: Path) -> None:
    lock = os.open(folder / MARK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while the owner lives
        log.warning("removing %s, which a killed command left behind", folder)
        _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """End a session's processes and remove its folder; the mark goes last, so that half a removal is found again."""
    end_processes(folder)
    shutil.rmtree(folder / "ray", ignore_errors=True)
    try:
        (folder / MARK).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        log.warning("%s could not be removed (%s). It can hold rows of people: delete it.", folder, error.strerror)


def end_processes(folder: Path) -> None:
    """End the processes of a session: those of this user that Ray started with that folder, and no others."""
    import psutil

    for _ in range(3):
        found = [process for process in psutil.process_iter() if _belongs(process, folder)]
        if not found:
            return
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=_END_SECONDS)


def _belongs(process: "psutil.Process", folder: Path) -> bool:
    """Whether an option of the process names the folder, or it is one of Ray's that keeps a file there open."""
    import psutil

    try:
        if process.pid == os.getpid() or process.uids().real != os.getuid():
            return False
        words = process.cmdline()
        option = re.compile(rf"--[\w-]+={re.escape(str(folder))}/")
        if any(option.match(word) for word in words):
            return True
        # Ray's workers and agents overwrite their command line with such a title.
        is_rays = bool(words) and words[0].startswith("ray::")
        return is_rays and any(file.path.startswith(f"{folder}/") for file in process.open_files())
    except psutil.Error:
        return False
