"""Import raw interactions and modality features as an immutable, checked data set snapshot.

The names below are imported when somebody asks for them: they bring Ray along, and who only wants a part of this room,
such as :mod:`workflows.ingest.gates`, does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.ingest.importer import import_dataset
    from workflows.ingest.settings import ColumnNames, IngestConfig

__all__ = ["ColumnNames", "IngestConfig", "import_dataset"]

_MODULE_OF = {"ColumnNames": "settings", "IngestConfig": "settings", "import_dataset": "importer"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
