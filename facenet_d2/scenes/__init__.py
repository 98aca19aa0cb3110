"""Whole geo-referenced scenes: rasters in, instances with a place on the map out."""
