"""The type of a setting that names a data set or a model."""

from typing import Annotated

from pydantic import AfterValidator

from tru_core.errors import ConfigError
from workflows.storage.object_keys import check_name


def _name_of_something(name: str) -> str:
    try:
        return check_name(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # so that pydantic says which setting it is


Name = Annotated[str, AfterValidator(_name_of_something)]
