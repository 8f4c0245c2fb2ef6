"""The part of a job file that the commands on requests read. Checking all of it would bring the training code along."""

from pathlib import Path

from pydantic import Field

from tru_core.settings import Settings
from workflows.config.batch_sizes import BatchSizes
from workflows.config.ledger import LedgerConfig
from workflows.config.names import Name
from workflows.config.parsing import parse
from workflows.config.yaml_reader import load_settings
from workflows.key_files import KeysConfig
from workflows.storage import StorageConfig

# Blocks that other commands read. A name that stands not here has the whole file checked, which takes longer.
_OTHER_BLOCKS = frozenset({"precision", "feature_scaling", "backbone", "fit", "forget", "unlearn", "scaling"})
_OTHER_BLOCKS |= {"sweep", "compare", "audit"}


class LedgerJob(Settings):
    """As in :class:`workflows.config.job.JobConfig`; of ``delete`` what says how long requests wait."""

    storage: StorageConfig
    dataset: Name
    model: Name
    delete: BatchSizes = Field(default_factory=BatchSizes)
    ledger: LedgerConfig = Field(default_factory=LedgerConfig)
    keys: KeysConfig = Field(default_factory=KeysConfig)


def load_ledger_job(path: Path) -> LedgerJob:
    """Read a job file and check the part that the ledger needs; all of it where it has a block that is not known here.

    Raises:
        ConfigError: Naming the file, the setting, what was expected and what was found.
    """
    values = load_settings(path)
    own = {name: value for name, value in values.items() if name not in _OTHER_BLOCKS}
    if not own.keys() <= LedgerJob.model_fields.keys():
        from workflows.config.job import load_job

        job = load_job(path)
        sizes = BatchSizes.model_validate(job.delete.model_dump(include=set(BatchSizes.model_fields)))
        return LedgerJob(
            storage=job.storage,
            dataset=job.dataset,
            model=job.model,
            delete=sizes,
            ledger=job.ledger,
            keys=job.keys,
        )
    if isinstance(own.get("delete"), dict):
        own["delete"] = {name: value for name, value in own["delete"].items() if name in BatchSizes.model_fields}
    return parse(LedgerJob, own, where=str(path))
