"""The part of the block ``delete`` of a job file that says how many requests make a batch, and how long they wait."""

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from tru_core.settings import Settings


class BatchSizes(Settings):
    """How many requests make a batch.

    Attributes:
        min_requests: Wait for so many requests: two versions that differ by one person's data tell much about that
            person. Waived when a deadline comes near, and when the operator asks with ``--requests`` or ``--now``;
            the batch's record and its receipts say so.
        max_requests: Requests in a batch at most; what is left makes the next batch of the same run.
        deadline_margin_days: A deadline is near when it is less than this ahead. Longer than the time between two runs.
    """

    min_requests: PositiveInt = 10
    max_requests: PositiveInt = 10_000
    deadline_margin_days: NonNegativeFloat = 3.0

    @model_validator(mode="after")
    def _sizes_fit(self) -> "BatchSizes":
        if self.min_requests > self.max_requests:
            raise ValueError(f"min_requests {self.min_requests} is more than max_requests {self.max_requests}")
        return self
