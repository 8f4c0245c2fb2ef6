"""The worlds of ``tru_core.testing``, by the name that tests know them by."""

from tru_core.testing.worlds import (
    NUM_ITEM_BUCKETS,
    NUM_USER_BUCKETS,
    Part,
    PlantedWorld,
    World,
    backbone_inputs,
    checkerboard_world,
    planted_world,
    shards_of,
    tiny_world,
)

__all__ = [
    "NUM_ITEM_BUCKETS",
    "NUM_USER_BUCKETS",
    "Part",
    "PlantedWorld",
    "World",
    "backbone_inputs",
    "checkerboard_world",
    "planted_world",
    "shards_of",
    "tiny_world",
]
