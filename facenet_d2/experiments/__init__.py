"""Training and evaluating the rows of the paper's tables: what tools/reproduce.py is made of."""

from .choice import Protocol, choose_rows, find_protocol
from .plan import OPTIONS, Job, Plan, PlannedRow, check_models, compose, make_plan
from .report import Report
from .training import command_of, lock, shell_line, train

__all__ = [
    "OPTIONS",
    "Job",
    "Plan",
    "PlannedRow",
    "Protocol",
    "Report",
    "check_models",
    "choose_rows",
    "command_of",
    "compose",
    "find_protocol",
    "lock",
    "make_plan",
    "shell_line",
    "train",
]
