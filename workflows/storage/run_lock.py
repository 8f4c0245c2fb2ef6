"""One run at a time on a data set: a lease in storage, told by epochs and counters and by no clock but one's own.

Whoever creates epoch n+1 holds the lease; epochs are create-if-absent, so one wins. The holder writes a counted beat
every quarter of the lease. A newcomer that sees a beat while it watches says so and goes; one that sees none for a
whole lease, by its own monotonic clock, takes the next epoch. Clocks of two machines are never compared.

A holder that was paused for longer comes back to a higher epoch than its own. :meth:`Lease.check` stands before every
commit and refuses then. What is left between the check and the commit is small and harmless: every commit is itself
a create-if-absent of the next entry of a log, made from the entry before.
"""

import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from tru_core.errors import ConflictError, TruError
from workflows.storage import ObjectStore, append_log_entry, write_json
from workflows.storage.object_keys import lock_prefix

_EPOCH = re.compile(r"([0-9]{8})\.json")
_BEATS_PER_LEASE = 4
_LOOKS_PER_LEASE = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lease:
    """The right to change a data set and its models, as long as ``epoch`` is the newest."""

    store: ObjectStore
    dataset: str
    epoch: int

    def check(self) -> None:
        """Do nothing if the lease is still ours. To be called immediately before every commit.

        Raises:
            ConflictError: If another run has taken it over.
        """
        newest = _newest_epoch(self.store, self.dataset)
        if newest != self.epoch:
            raise ConflictError(
                f"data set {self.dataset}: this run held lease {self.epoch} and was silent for longer than a lease "
                f"lasts; another run holds lease {newest} now. This run commits nothing more. What was published "
                f"before stays. Look how the other run ends; the same command goes on from there."
            )


def _folder(dataset: str, what: str) -> str:
    return f"{lock_prefix(dataset)}/{what}"


def _newest_epoch(store: ObjectStore, dataset: str) -> int:
    """The number of the newest epoch, 0 if there was none."""
    prefix = _folder(dataset, "epochs")
    found = [_EPOCH.fullmatch(info.key[len(prefix) + 1 :]) for info in store.list(prefix)]
    return max((int(match[1]) for match in found if match), default=0)


def _released_key(dataset: str, epoch: int) -> str:
    return f"{_folder(dataset, 'released')}/{epoch:08d}.json"


def _beats_folder(dataset: str, epoch: int) -> str:
    return f"{_folder(dataset, 'beats')}/{epoch:08d}"


def _wait_until_silent(store: ObjectStore, dataset: str, epoch: int, lease_seconds: float) -> None:
    """Return once the holder has released its epoch, or was silent for a whole lease.

    Raises:
        ConflictError: If the holder is alive, or another newcomer was first.
    """
    silent_since, beats = time.monotonic(), None
    if not store.exists(_released_key(dataset, epoch)):
        log.warning(
            "lease %d of data set %s is held; looking for %g s whether its run is alive", epoch, dataset, lease_seconds
        )
    while not store.exists(_released_key(dataset, epoch)):
        seen = [info.key for info in store.list(_beats_folder(dataset, epoch))]
        if (beats is not None and seen != beats) or _newest_epoch(store, dataset) != epoch:
            raise ConflictError(
                f"data set {dataset}: another run works on it (lease {epoch}). Nothing was changed by this one. Wait "
                f"until that run has ended; what is due then is taken by the next."
            )
        beats = seen
        if time.monotonic() - silent_since >= lease_seconds:
            log.warning("the run that held lease %d of data set %s is silent; this one goes on", epoch, dataset)
            return
        time.sleep(lease_seconds / _LOOKS_PER_LEASE)


def _drop_old_beats(store: ObjectStore, dataset: str, epoch: int) -> None:
    own = f"{_beats_folder(dataset, epoch)}/"
    for info in store.list(_folder(dataset, "beats")):
        if not info.key.startswith(own):
            store.delete(info.key)


def _beat(lease: Lease, stop: threading.Event, lease_seconds: float) -> None:
    """Write beats until told to stop or another run has the lease."""
    number, folder = 0, _beats_folder(lease.dataset, lease.epoch)
    while not stop.wait(lease_seconds / _BEATS_PER_LEASE):
        number += 1
        try:
            lease.check()
            lease.store.put_if_absent(f"{folder}/{number:08d}.json", b"{}")
            lease.store.delete(f"{folder}/{number - 1:08d}.json")
        except ConflictError:
            return
        except TruError as error:
            log.warning("lease %d of data set %s: a beat failed (%s)", lease.epoch, lease.dataset, type(error).__name__)


@contextmanager
def hold_lease(store: ObjectStore, dataset: str, *, lease_seconds: float) -> Iterator[Lease]:
    """Hold the lease of a data set inside the block. Released at its end, also by Ctrl-C or an error.

    Args:
        lease_seconds: How long a holder may be silent before another run takes over. Every run must use the same.

    Raises:
        ConflictError: If another run holds it.
    """
    newest = _newest_epoch(store, dataset)
    if newest:
        _wait_until_silent(store, dataset, newest, lease_seconds)
    entry = {
        "owner": secrets.token_hex(8),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    lease = Lease(store, dataset, newest + 1)
    if not append_log_entry(store, _folder(dataset, "epochs"), number=lease.epoch, entry=entry):
        raise ConflictError(
            f"data set {dataset}: another run was first to take lease {lease.epoch}. Nothing was changed by this one."
        )
    _drop_old_beats(store, dataset, lease.epoch)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(lease, stop, lease_seconds), daemon=True, name="lease")
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        _release(lease)


def _release(lease: Lease) -> None:
    try:
        lease.check()
        write_json(lease.store, _released_key(lease.dataset, lease.epoch), {})
    except TruError as error:
        log.warning(
            "lease %d of data set %s was not released (%s); the next run waits for a lease's time",
            lease.epoch,
            lease.dataset,
            type(error).__name__,
        )
