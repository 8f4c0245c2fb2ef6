"""Files that are nearly valid: every reader takes them or refuses them by an error of its own, soon and in few words.

``TRU_FUZZ_SECONDS`` says how long all readers together are tried; without it 12 seconds.
"""

import os
import resource
import signal
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.cases.commands import run_line
from tests.cases.judge import CODES, MAX_MESSAGE_LETTERS
from tests.near_valid import request_files
from tests.near_valid_jobs import job_files
from tests.near_valid_receipts import public_key_files, receipt_files
from tests.receipt_samples import IDENTITY, SIGNING
from tru_core.errors import ConfigError, TruError
from tru_core.receipts.receipt import verify_receipt
from workflows.config.job import load_job
from workflows.deletions.ledger.job import load_ledger_job
from workflows.deletions.ledger.request_files import open_request_file
from workflows.deletions.ledger.submission import subject_digests
from workflows.key_files import read_public_key
from workflows.running import cluster, runs

NUM_READERS = 4
SECONDS_EACH = float(os.environ.get("TRU_FUZZ_SECONDS", "12")) / NUM_READERS
SECONDS_AT_MOST = 10  # for one file; tens of milliseconds are usual
BYTES_AT_MOST = 2**30  # that a reader's files may add to the process
EXAMPLES_A_ROUND = 40
# A failing file is made smaller where there is time: that may take minutes.
PHASES = (Phase.generate, Phase.shrink) if "TRU_FUZZ_SECONDS" in os.environ else (Phase.generate,)
NO_HEALTH_CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
PEM = Ed25519PublicKey.from_public_bytes(SIGNING.public_key.raw).public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


class TooSlowError(Exception):
    """A reader did not end in time."""


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """Stop what takes longer. TooSlowError then."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal_of(read: Callable[[], Any]) -> TruError | None:
    """The error of a reader that refuses a file, None where it takes it. Anything but an error of ours is raised."""
    try:
        with in_time(SECONDS_AT_MOST):
            read()
    except TruError as error:
        return error
    return None


def check(read: Callable[[], Any]) -> None:
    """See that a file is taken, or refused with an exit code of the table and in few harmless words."""
    error = refusal_of(read)
    if error is None:
        return
    message = "\n".join([str(error), *getattr(error, "__notes__", ())])
    assert message.strip()
    assert error.exit_code in CODES
    assert len(message) <= MAX_MESSAGE_LETTERS, f"a message of {len(message)} letters"
    if any(is_strange(letter) for letter in message):  # as long as no terminal gets to see it
        strange = sorted({letter for letter in printed(error) if is_strange(letter)})
        assert not strange, f"control characters are printed: {strange}"


def is_strange(letter: str) -> bool:
    """Whether a letter could do something to a terminal, or cannot be written."""
    return unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t"


def printed(error: TruError) -> str:
    """What the command line prints of an error, with and without ``--json``."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "job.yaml").write_text("storage: store\ndataset: tiny\nmodel: mgcn\n")
        patch.setattr(cluster, "connected", lambda scaling: nullcontext())
        patch.setattr(runs, "train", fail)
        said = [run_line(f"tru train job.yaml{extra}", Path(folder)) for extra in ("", " --json")]
    assert [one.exit for one in said] == [error.exit_code] * 2
    return "".join(one.text for one in said)


def fuzz(files: st.SearchStrategy[Any], read: Callable[[Any], None]) -> None:
    """Try a reader on one round of files after the other until the time is over. The rounds' seeds are 0, 1, 2, ..."""
    ends, number = time.monotonic() + SECONDS_EACH, 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.monotonic() < ends:

        @seed(number)
        @settings(
            max_examples=EXAMPLES_A_ROUND,
            phases=PHASES,
            deadline=None,
            database=None,
            suppress_health_check=NO_HEALTH_CHECKS,
        )
        @given(files)
        def one_round(file: Any) -> None:
            read(file)

        one_round()
        number += 1
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    assert added < BYTES_AT_MOST, f"{added >> 20} MiB"


def test_a_request_file_near_a_valid_one_is_read_or_refused(tmp_path: Path) -> None:
    def read(file: tuple[str, bytes]) -> None:
        path = tmp_path / file[0]
        path.write_bytes(file[1])
        check(lambda: subject_digests(open_request_file(path).parse(), IDENTITY))

    fuzz(request_files(), read)


def test_a_job_file_near_a_valid_one_is_read_or_refused(tmp_path: Path) -> None:
    def read(body: bytes) -> None:
        path = tmp_path / "job.yaml"
        path.write_bytes(body)
        for reader in (load_job, load_ledger_job):
            check(lambda reader=reader: reader(path))

    fuzz(job_files, read)


def test_a_receipt_near_a_valid_one_is_verified_or_refused() -> None:
    fuzz(
        receipt_files(),
        lambda body: check(lambda: verify_receipt(body, public_keys=[SIGNING.public_key], where="receipt.json")),
    )


def test_a_public_key_file_near_a_valid_one_is_read_or_refused(tmp_path: Path) -> None:
    def read(body: bytes) -> None:
        path = tmp_path / "signing.pub"
        path.write_bytes(body)
        check(lambda: read_public_key(path))

    fuzz(public_key_files(PEM), read)


# --- what would be seen -------------------------------------------------------------------------


def test_a_reader_that_fails_otherwise_is_seen() -> None:
    def says(text: str) -> Callable[[], None]:
        def read() -> None:
            raise ConfigError(text)

        return read

    def hang() -> None:
        while True:
            time.sleep(0.01)

    check(says("line 3: expected a number. Nothing was started."))
    check(lambda: None)
    with pytest.raises(AssertionError, match="3000 letters"):
        check(says("x" * 3000))
    with pytest.raises(KeyError):
        check(lambda: {}["a"])
    with pytest.raises(TooSlowError), in_time(1):
        hang()


def test_what_is_tried_is_near_enough_to_be_taken_at_times(tmp_path: Path) -> None:
    """Of each kind some files are taken and some refused: otherwise only a first check would be tried."""
    found: dict[str, set[bool]] = {"requests": set(), "jobs": set(), "receipts": set(), "keys": set()}

    @settings(max_examples=80, deadline=None, database=None, suppress_health_check=NO_HEALTH_CHECKS)
    @seed(0)
    @given(request_files(), job_files, receipt_files(), public_key_files(PEM))
    def look(requests: tuple[str, bytes], job: bytes, receipt: bytes, key: bytes) -> None:
        readers: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
            "requests": (*requests, lambda path: open_request_file(path).parse()),
            "jobs": ("job.yaml", job, load_job),
            "receipts": (
                "r.json",
                receipt,
                lambda path: verify_receipt(path.read_bytes(), public_keys=[SIGNING.public_key]),
            ),
            "keys": ("signing.pub", key, read_public_key),
        }
        for name, (file, body, reader) in readers.items():
            (tmp_path / file).write_bytes(body)
            try:
                reader(tmp_path / file)
                found[name].add(True)
            except Exception:
                found[name].add(False)

    look()
    assert found == {name: {True, False} for name in found}
