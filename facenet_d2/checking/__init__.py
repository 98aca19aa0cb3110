"""Checks of COCO data sets: faults in their annotations, and their match with SOLOv2's grids."""

from ..data.faults import Fault
from .dataset_checks import DatasetReport, check_dataset
from .fault_kinds import FAULT_KINDS, NOTE_KINDS
from .grids import GridStudy, study_grids, suggest_grids
from .html_report import count_sizes, write_html_report
from .objects import GridSettings, Objects

__all__ = [
    "FAULT_KINDS",
    "NOTE_KINDS",
    "DatasetReport",
    "Fault",
    "GridSettings",
    "GridStudy",
    "Objects",
    "check_dataset",
    "count_sizes",
    "study_grids",
    "suggest_grids",
    "write_html_report",
]
