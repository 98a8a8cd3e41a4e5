from .check import Check
from .outcome import Run, RunFailedError
from .register import Registered
from .report import Report
from .runs import Runs

__all__ = [
    "Check",
    "Registered",
    "Report",
    "Run",
    "RunFailedError",
    "Runs",
]
