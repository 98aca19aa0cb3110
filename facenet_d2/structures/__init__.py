"""Binary masks and their rasterisation, independent of models and data sets."""
