"""The block ``delete`` of a job file: policy of deletion batches."""

from typing import Literal

from pydantic import Field, JsonValue, NonNegativeFloat, PositiveFloat

from workflows.config.batch_sizes import BatchSizes
from workflows.config.unlearn import UnlearnConfig

Fallback = Literal["stronger", "retrain", "stop"]


class DeleteConfig(BatchSizes):
    """Policy of deletion batches, beside their sizes.

    Attributes:
        max_share: The largest share of the training interactions that a batch may name and still be unlearned.
        on_large: What to do with a larger one: ``refuse`` it, or ``retrain`` from scratch on what stays.
        audit: ``required`` publishes nothing that did not pass the audit; ``not_failed`` also what it could not decide,
            as with a few requests it seldom can, and receipts call that unaudited; ``off`` does not ask.
        on_refused: What to try, in this order, when the audit did not pass. At the end of the list, or at ``stop``, the
            old version goes on serving and the requests stay due.
        stronger: Settings of the job's method for the stronger attempt. The default is TRU's; another method has no
            such attempt unless they stand here.
        grace_days: How long files of a withdrawn model version are kept.
        leftover_minutes: How old incomplete uploads must be to be removed: younger ones may belong to a write that is
            under way.
        lease_seconds: How long a run may be silent before another takes its place.
    """

    max_share: float = Field(default=0.2, gt=0, le=1)
    on_large: Literal["refuse", "retrain"] = "refuse"
    audit: Literal["required", "not_failed", "off"] = "required"
    on_refused: list[Fallback] = Field(default_factory=lambda: ["stronger", "retrain", "stop"])
    stronger: dict[str, JsonValue] = Field(
        default_factory=lambda: {"reverse_steps": 64, "max_quality_loss": 0.1, "tolerance": 0.01}
    )
    grace_days: NonNegativeFloat = Field(default=7.0, le=7.0)
    leftover_minutes: NonNegativeFloat = 60.0
    lease_seconds: PositiveFloat = 30.0

    def stronger_method(self, unlearn: UnlearnConfig) -> UnlearnConfig:
        """The job's method with the settings of the stronger attempt.

        Raises:
            ConfigError: If there is no such setting, or it cannot have that value.
        """
        return unlearn.with_settings(self.stronger, where="delete.stronger")
