"""Fill the templates beside this file: job files with ``{{name}}`` where a value goes.

Values are quoted before, by the functions here, for the language of the place they go to.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import indent


def fill(template: str, values: Mapping[str, str]) -> str:
    """The text of a template with its values.

    A value that has a line to itself may have several lines, which are indented as its place is,
    or none, which takes the line away.

    Args:
        template: Name of a file beside this one.
        values: By name; all that the template names, and no others.
    """
    text = (Path(__file__).parent / template).read_text()
    named = set(re.findall(r"\{\{(\w+)\}\}", text))
    assert named == set(values), named ^ set(values)
    lines = []
    for line in text.splitlines():
        if alone := re.fullmatch(r"( *)\{\{(\w+)\}\}", line):
            lines += indent(values[alone[2]], alone[1]).splitlines()
        else:
            lines.append(re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], line))
    return "\n".join(lines) + "\n"


def shell_lines(lines: Iterable[Iterable[str]]) -> str:
    """Words of each line, quoted for bash."""
    return "\n".join(shlex.join(words) for words in lines)


def yaml_text(value: str) -> str:
    """A YAML scalar that is read as this text. JSON is YAML; but YAML knows no surrogate pairs."""
    return json.dumps(value, ensure_ascii=False)


def kubernetes_text(value: str) -> str:
    """The same for an argument or a variable of a container, in which ``$(NAME)`` is put in."""
    return yaml_text(value.replace("$", "$$"))
