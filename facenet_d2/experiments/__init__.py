"""Training and evaluation of the models in the paper's tables, for tools/reproduce.py."""

from .choice import Protocol, choose_rows, find_protocol
from .plan import (
    OPTION_OF_KEY,
    Job,
    PlannedRow,
    TrainingPlan,
    check_models,
    make_plan,
    write_row_config,
)
from .report import Report
from .training import run_training, shell_line, training_command

__all__ = [
    "OPTION_OF_KEY",
    "Job",
    "PlannedRow",
    "Protocol",
    "Report",
    "TrainingPlan",
    "check_models",
    "choose_rows",
    "find_protocol",
    "make_plan",
    "run_training",
    "shell_line",
    "training_command",
    "write_row_config",
]
