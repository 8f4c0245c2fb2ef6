"""Import raw interactions and modality features as an immutable, checked data set snapshot."""

from workflows.ingest.importer import import_dataset
from workflows.ingest.settings import ColumnNames, IngestConfig

__all__ = ["ColumnNames", "IngestConfig", "import_dataset"]
