"""Conversion of published data sets to COCO JSON, used by the ``tools/prepare_*`` commands."""
