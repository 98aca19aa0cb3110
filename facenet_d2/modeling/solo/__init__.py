"""SOLO: heads and meta-architecture."""

from .heads import CategoryHead, DecoupledMaskHead, SOLOMaskHead
from .meta_arch import SOLO, SOLOPredictions

__all__ = ["SOLO", "CategoryHead", "DecoupledMaskHead", "SOLOMaskHead", "SOLOPredictions"]
