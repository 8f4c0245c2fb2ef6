"""The block ``ledger`` of a job file: regulations and their deadlines, and what a submission is taken as."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from tru_core.settings import Settings


class Regulation(Settings):
    """By when a request must be carried out, counted from its receipt in UTC.

    Attributes:
        months, days: The time to carry it out: calendar months, or days; one of the two.
        extension_months, extension_days: By how much it may be extended once, with a reason.
        acknowledge_business_days: Business days (Monday to Friday) to confirm the receipt; None asks for none.
    """

    months: PositiveInt | None = None
    days: PositiveInt | None = None
    extension_months: NonNegativeInt = 0
    extension_days: NonNegativeInt = 0
    acknowledge_business_days: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> "Regulation":
        if (self.months is None) == (self.days is None):
            raise ValueError("a regulation needs months or days, one of the two")
        return self


GDPR = Regulation(months=1, extension_months=2)
CCPA = Regulation(days=45, extension_days=45, acknowledge_business_days=10)


class LedgerConfig(Settings):
    """How requests are taken.

    Attributes:
        default_regulation: Of requests that name none.
        regulations: By name, beside gdpr and ccpa, or in their place. Names are lower case.
        count_as_verified: Whether the requester counts as verified where the file does not say.
        received_time: ``required`` refuses requests without one; ``submission`` takes the time of submission for it.
        request_id_format: ``uuid`` refuses request ids that are no UUID.
        max_unknown_share: Where a larger share of a submission names ids that the data set does not know, it is held;
            of a batch, those requests are. Most often a file has the wrong column or another spelling. A person
            releases the hold.
        min_unknown: Fewer such requests are never held.
        sweep_every_days: How old the newest `tru delete sweep` may be before `tru delete due` says so.
    """

    default_regulation: str = "gdpr"
    regulations: dict[str, Regulation] = Field(default_factory=dict)
    count_as_verified: bool = True
    received_time: Literal["required", "submission"] = "submission"
    request_id_format: Literal["text", "uuid"] = "text"
    max_unknown_share: float = Field(default=0.2, ge=0, le=1)
    min_unknown: PositiveInt = 3
    sweep_every_days: int = Field(default=30, ge=1, le=45)

    @field_validator("regulations")
    @classmethod
    def _lower_case(cls, regulations: dict[str, Regulation]) -> dict[str, Regulation]:
        for name in regulations:
            if name != name.lower() or not name.strip():
                raise ValueError("names of regulations are lower case")
        return regulations

    @model_validator(mode="after")
    def _default_is_known(self) -> "LedgerConfig":
        if self.default_regulation not in self.table:
            raise ValueError(f"default_regulation is none of {', '.join(sorted(self.table))}")
        return self

    @property
    def table(self) -> dict[str, Regulation]:
        """Every known regulation by name."""
        return {"gdpr": GDPR, "ccpa": CCPA} | self.regulations
