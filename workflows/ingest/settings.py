"""What an import may be told: layout, split, column names and the policies for imperfect data."""

import textwrap
import types
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field

from tru_core.settings import Settings
from workflows.data.manifest import DEFAULT_NUM_ITEM_BUCKETS, DEFAULT_NUM_USER_BUCKETS

IN_SETTINGS = "in a file for --settings (`tru data import --help` lists its settings)"
"""Where messages say that an import's settings stand: no job file holds them."""


class ColumnNames(Settings):
    """Names of the columns of the interaction table, where they differ from the layout's own."""

    user: str | None = Field(default=None, description="column of the users' ids")
    item: str | None = Field(default=None, description="column of the items' ids")
    timestamp: str | None = Field(default=None, description="column of the times")
    split: str | None = Field(default=None, description="column that says train, valid or test")


class IngestConfig(Settings):
    """How raw tables become a snapshot. `tru data import --help` shows what stands here."""

    layout: Literal["auto", "tru", "mmrec", "recbole"] = Field(
        default="auto", description="how the source is laid out; auto looks at its files"
    )
    split: Literal["auto", "given", "random", "time"] = Field(
        default="auto",
        description="auto takes the split of the data if it has one, else random; random and time give every user with "
        "n >= 3 interactions max(1, round half up of 0.1 n) to valid and as many to test, and leave the others all in "
        "train",
    )
    split_seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the random split")
    columns: ColumnNames = Field(
        default=ColumnNames(), description="names of the interaction table's columns, where they are not the layout's"
    )
    missing_feature: Literal["error", "zero"] = Field(
        default="error", description="an item without a feature row stops the import, or gets zeros and is counted"
    )
    duplicates: Literal["drop", "error"] = Field(
        default="drop",
        description="of interactions of one user and item the one in train, then the earliest, is kept and the rest "
        "counted; or the import stops",
    )
    cold_users: Literal["keep", "drop", "error"] = Field(
        default="keep",
        description="users without a train interaction are kept, dropped with their interactions, or stop the import",
    )
    num_user_buckets: int = Field(
        default=DEFAULT_NUM_USER_BUCKETS, ge=1, le=65_536, description="files over which users are spread"
    )
    num_item_buckets: int = Field(
        default=DEFAULT_NUM_ITEM_BUCKETS, ge=1, le=65_536, description="files over which items are spread"
    )
    num_neighbours: int = Field(default=10, ge=1, le=1_000, description="nearest items of each item in the item graphs")
    neighbour_features: Literal["raw", "standardised"] = Field(
        default="raw", description="features before the item graphs' cosine"
    )
    tombstones: Literal["all"] | list[str] = Field(
        default="all",
        description="which data sets' deletions keep rows out: all of the storage, or those named, where the ids of "
        "the others name other people and things",
    )
    rows_per_task: int = Field(
        default=1_000_000,
        ge=1,
        description="interactions of a parquet file that one task reads; it changes speed, never the result",
    )


_EXAMPLE: dict[str, Any] = {
    "columns": {"user": "customer", "item": "sku", "timestamp": "bought_at"},
    "split": "time",
    "missing_feature": "zero",
}


def settings_help() -> str:
    """The text below `tru data import --help`: every setting with its values, default and meaning, and an example."""
    example = yaml.safe_dump(IngestConfig.model_validate(_EXAMPLE).model_dump(exclude_unset=True), sort_keys=False)
    return "\n".join(
        [
            "settings of the file for --settings, all optional; an option of the same name wins:",
            *_lines_of(IngestConfig, indent="  "),
            "",
            "example:",
            *(f"  {line}" for line in example.splitlines()),
        ]
    )


def _lines_of(kind: type[BaseModel], *, indent: str) -> list[str]:
    lines = []
    for name, field in kind.model_fields.items():
        if isinstance(field.default, BaseModel):
            lines.append(f"{indent}{name}: {field.description}")
            lines += _lines_of(type(field.default), indent=f"{indent}  ")
        else:
            default = "none" if field.default is None else field.default
            lines.append(f"{indent}{name}: {_values_of(field.annotation)}; default {default}")
            deeper = f"{indent}    "
            lines += textwrap.wrap(str(field.description), 100, initial_indent=deeper, subsequent_indent=deeper)
    return lines


def _values_of(kind: Any) -> str:
    """What a setting may be, in words."""
    if get_origin(kind) is Literal:
        return ", ".join(str(value) for value in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_values_of(part) for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is list:
        return f"a list of {_values_of(get_args(kind)[0])}s"
    return {str: "text", int: "whole number"}.get(kind, getattr(kind, "__name__", str(kind)))
