"""Writing the page into a folder of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wszoo.gallery.cards import Cards
from wszoo.gallery.page import render
from wszoo.gallery.rows import Row
from wszoo.gallery.speed import SPEEDS, Speeds, write_speeds
from wszoo.weights_file import write_whole

PAGE = "index.html"


@dataclass(frozen=True, kw_only=True)
class Site:
    """What was written.

    Attributes:
        page: The file to open.
        bytes: Its size.
        models: Rows of the table.
        with_weights: Those of them that have weights.
        cards: Those that have a card.
        speeds: Whether the page tells of speed.
    """

    page: Path
    bytes: int
    models: int
    with_weights: int
    cards: int
    speeds: bool

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return {**vars(self), "page": str(self.page)}

    def __str__(self) -> str:
        speed = "with speed" if self.speeds else "without speed"
        return (
            f"{self.page}: {self.bytes} bytes, {self.models} model{'s' * (self.models != 1)}, "
            f"{self.with_weights} with weights, {self.cards} with a card, {speed}"
        )


def check_folder(folder: Path) -> None:
    """Return if the page may be written to ``folder``: new, empty, or an earlier page's.

    Raises:
        FileExistsError: It holds anything else.
        NotADirectoryError: It is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name a folder")
    foreign = sorted(path.name for path in folder.glob("*") if path.name not in (PAGE, SPEEDS))
    if foreign:
        raise FileExistsError(
            f"{folder} holds {foreign[0]!r}, which is no gallery's; name a new or an empty folder"
        )


def write_site(
    folder: Path,
    rows: Sequence[Row],
    cards: Cards,
    speeds: Speeds | None,
    *,
    measured: bool = False,
) -> Site:
    """Write the page.

    Args:
        folder: Made where it is missing.
        rows: The models.
        cards: Where their cards are.
        speeds: What was measured of them.
        measured: Keep ``speeds`` beside the page.

    Raises:
        OSError: The folder holds other files, or cannot be written.
        ValueError: A card or benchmark cannot be read.
    """
    check_folder(folder)
    page = render(rows, cards, speeds).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make {folder}: {error.strerror}; name another folder") from error
    if speeds and measured:
        write_speeds(speeds, folder / SPEEDS)
    write_whole(folder / PAGE, page)
    return Site(
        page=folder / PAGE,
        bytes=len(page),
        models=len(rows),
        with_weights=sum(row.weights is not None for row in rows),
        cards=sum(cards.has_card(row) for row in rows),
        speeds=speeds is not None,
    )
