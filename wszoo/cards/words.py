"""What only a person can say of a run: the files of a run do not hold it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_STATED = "not stated"
NOT_RECORDED = "not recorded"  # what no program wrote down when it happened


@dataclass(frozen=True, kw_only=True)
class Words:
    """A person's words for the card of a run.

    Attributes:
        name: Of the net; the run's own where None.
        license: Of the weights.
        data_license: Of the photos they were trained on.
        data_name: What to call these photos.
    """

    name: str | None = None
    license: str = NOT_STATED
    data_license: str = NOT_STATED
    data_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """A folder that the Hub takes.

    Attributes:
        folder: Where it is.
        files: Names of what is in it.
        missing: What the card says is not stated, and what states it.
    """

    folder: Path
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "folder": str(self.folder),
            "files": list(self.files),
            "missing": list(self.missing),
        }

    def __str__(self) -> str:
        lines = [f"{self.folder}: {', '.join(self.files)}"]
        return "\n".join([*lines, *(f"not stated: {each}" for each in self.missing)])


def missing(words: Words, *, inherits: bool) -> tuple[str, ...]:
    """What ``words`` leave open, and the option for it.

    Args:
        inherits: Whether the licence is that of the weights that the run began with.
    """
    said = {
        "the licence of the weights (--license)": inherits or words.license != NOT_STATED,
        "the licence of the data (--data-license)": words.data_license != NOT_STATED,
        "what the data is called (--data-name)": words.data_name is not None,
    }
    return tuple(what for what, is_said in said.items() if not is_said)
