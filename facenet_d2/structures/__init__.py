"""Masks at stride 4, independent of models and data sets."""
