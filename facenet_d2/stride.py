"""The stride of masks, in a module that needs no PyTorch."""

MASK_STRIDE = 4
"""Stride of the mask features, and of the ground-truth masks they are trained with.

SOLOv2 can have another one, ``MODEL.SOLOV2.MASK_STRIDE``.
"""
