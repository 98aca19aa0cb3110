"""Detection in whole georeferenced scenes: rasters in, georeferenced instances out."""
