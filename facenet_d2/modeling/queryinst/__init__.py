"""QueryInst: heads of its stages, losses and meta-architecture."""

from .heads import BoxHead, DynamicInteraction, MaskHead
from .meta_arch import QueryInst, QueryInstPredictions

__all__ = ["BoxHead", "DynamicInteraction", "MaskHead", "QueryInst", "QueryInstPredictions"]
