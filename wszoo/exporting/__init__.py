"""Nets as files that run without this package: ONNX, and programs of ``torch.export``."""

from wszoo.exporting.checking import Check, CheckFailed
from wszoo.exporting.formats import missing_packages
from wszoo.exporting.plan import Plan, make_plan
from wszoo.exporting.subject import Subject, subject_of_classifier, subject_of_run
from wszoo.exporting.write import Exported, export

__all__ = [
    "Check",
    "CheckFailed",
    "Exported",
    "Plan",
    "Subject",
    "export",
    "make_plan",
    "missing_packages",
    "subject_of_classifier",
    "subject_of_run",
]
