"""Recommenders on one contract. A new backbone is one file beside these and one line in ``BACKBONES``."""

from tru_core.backbones.base import Anatomy, Backbone, BackboneInputs, ItemFeatures, LossTerms
from tru_core.backbones.lightgcn import LightGCN
from tru_core.backbones.mgcn import MGCN

BACKBONES: dict[str, type[Backbone]] = {"lightgcn": LightGCN, "mgcn": MGCN}

__all__ = ["BACKBONES", "MGCN", "Anatomy", "Backbone", "BackboneInputs", "ItemFeatures", "LightGCN", "LossTerms"]
