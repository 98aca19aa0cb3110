"""Conversion of published data sets to COCO format, used by the ``tools/prepare_*`` commands."""
