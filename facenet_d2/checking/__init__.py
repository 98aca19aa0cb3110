"""What is wrong with a COCO data set, and how it meets SOLOv2's grids."""

from .examine import Examination, examine
from .fault_kinds import KINDS, NOTES, Fault
from .grids import GridStudy, Setting, describe, study, suggest
from .html_report import sizes_by_class, write_page
from .segmentations import check_run_lengths

__all__ = [
    "KINDS",
    "NOTES",
    "Examination",
    "Fault",
    "GridStudy",
    "Setting",
    "check_run_lengths",
    "describe",
    "examine",
    "sizes_by_class",
    "study",
    "suggest",
    "write_page",
]
