"""Instances of whole scenes: reading rasters, tiles, the merge over their seams, vectors."""
