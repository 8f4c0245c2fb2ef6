"""The base of every settings model: unknown names, NaN and infinity are refused, values do not change."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen settings. A number written as text (YAML reads ``1e-3`` so) is taken as the number."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )
