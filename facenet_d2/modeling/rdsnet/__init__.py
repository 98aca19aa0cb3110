"""RDSNet: heads, matching, mask loss and meta-architecture."""

from .heads import AnchorHead, PixelBranch
from .meta_arch import RDSNet
from .predictions import RDSNetPredictions

__all__ = ["AnchorHead", "PixelBranch", "RDSNet", "RDSNetPredictions"]
