"""What is wrong with a data set, in words that help to mend it."""

from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
SHOWN = 5  # files named with each finding


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of defect, wherever it occurs in a set.

    Attributes:
        code: Short and stable, such as ``"box-empty"``.
        level: ``error``: training would fail or learn nonsense; ``warning``: probably not meant;
            ``note``: worth knowing.
        message: What it is, in one line.
        fix: The way out, in one line.
        count: How often it occurs.
        examples: The first few places: a file, and what is wrong there.
        images: Names of all images it concerns, as the set's ``names`` has them.
    """

    code: str
    level: Level
    message: str
    fix: str
    count: int
    examples: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.level}: {self.count} x {self.message}; {self.fix} [{self.code}]"]
        return "\n".join([*lines, *(f"    {example}" for example in self.examples[:SHOWN])])

    def to_json(self) -> dict[str, Any]:
        """As plain data, with all images."""
        return {
            "code": self.code,
            "level": self.level,
            "count": self.count,
            "message": self.message,
            "fix": self.fix,
            "examples": list(self.examples[:SHOWN]),
            "images": list(self.images),
        }
