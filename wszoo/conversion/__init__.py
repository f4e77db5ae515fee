"""Conversion of foreign weights files: which net runs them, proof, report, folder."""

from wszoo.conversion.files import convert_file
from wszoo.conversion.proof import Proof, prove
from wszoo.conversion.reference import reference_net, standardize_as_published
from wszoo.conversion.report import Report

__all__ = ["Proof", "Report", "convert_file", "prove", "reference_net", "standardize_as_published"]
