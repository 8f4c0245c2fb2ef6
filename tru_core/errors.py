"""Every error this project raises on purpose, with the exit code that a shell sees.

An error message says where, what was expected, what was found, what is safe now and what to do.
It never holds a person's id: rows of a table and request ids are named instead.
"""

from tru_core.quoting import printable


class TruError(Exception):
    """Base of all errors that are the user's or the environment's business. Never raised itself.

    Its text is harmless wherever it is shown or logged: control characters, which a file's name or header may hold, are
    written as ``\\x1b``.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(TruError):
    """A job file, an option or a request file cannot mean what it says."""

    exit_code = 2


class DataError(TruError):
    """Input data breaks the catalogue of accepted tables, or a model does not fit its data."""

    exit_code = 3


class AccessError(TruError):
    """Storage is unreachable, denies access, or lacks the object."""

    exit_code = 4


class MissingObjectError(AccessError):
    """The object that was asked for does not exist."""


class ConflictError(TruError):
    """Somebody else was first: a version, a log entry or a request id is taken by other content."""

    exit_code = 5


class AuditError(TruError):
    """A model did not pass its audit, or its count of visited forget rows differs from the request."""

    exit_code = 6


class NumericsError(TruError):
    """A loss, gradient or weight is not finite. The last good model is kept."""

    exit_code = 6


class TransientError(TruError):
    """Retries are used up: storage faults, missing cluster resources, lost workers."""

    exit_code = 7


class IntegrityError(TruError):
    """Bytes differ from their digest, or a file could run code when opened."""

    exit_code = 8


class EditedReceiptError(IntegrityError):
    """A receipt is not what was signed: a byte or a field differs, or it was never one."""


class UnknownKeyError(IntegrityError):
    """A receipt is signed by a key that the verifier was not given."""


class ExpiredKeyError(IntegrityError):
    """A receipt says that it was signed after its key had expired."""


class PredicateTypeError(IntegrityError):
    """A well-signed statement is about something else than a deletion."""


class ChainGapError(IntegrityError):
    """A receipt between two others is missing, or the one before is not the one that is named."""


class ChainOrderError(IntegrityError):
    """Receipts are not in the order in which they were signed."""


class PolicyError(TruError):
    """A rule forbids it: a deletion that is too large, a hold, an unverified requester."""

    exit_code = 9
