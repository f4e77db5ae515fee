"""Weights that others published, read safely and renamed to what our nets call them.

State dicts go in and come out; what net they belong to is a name here, never a module.
"""

from wszoo.convert.attribution import source_of_file
from wszoo.convert.reading import read_foreign
from wszoo.convert.records import SOURCES, Card, Source
from wszoo.convert.sources import Converted, convert_state, recognise, restore_state

__all__ = [
    "SOURCES",
    "Card",
    "Converted",
    "Source",
    "convert_state",
    "read_foreign",
    "recognise",
    "restore_state",
    "source_of_file",
]
