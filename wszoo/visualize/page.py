"""The page under every picture: its size in points, its colours, its heading and its text."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib takes half a second to import; each picture imports it itself
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1a1a1a", "#5f6368", "#d9dbde"
HEADING_LEADING = 18.0  # points
_HEADING_SIZE = 13  # points
_POINTS = 72  # per inch


def new_page() -> "Figure":
    """An empty white figure that no window and no other figure knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=_POINTS, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def resize(figure: "Figure", width: float, height: float) -> None:
    """Set the size of the page, in points."""
    figure.set_size_inches(width / _POINTS, height / _POINTS)


def page_size(figure: "Figure") -> tuple[float, float]:
    """Width and height of the page, in points."""
    width, height = figure.get_size_inches()
    return width * _POINTS, height * _POINTS


def area(
    figure: "Figure", left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """A rectangle given in points, as the shares of the page that axes are placed by."""
    page_width, page_height = page_size(figure)
    return left / page_width, bottom / page_height, width / page_width, height / page_height


def save(figure: "Figure", path: Path) -> None:
    """Write the page as a PNG file."""
    # Without the version of matplotlib, the same data gives the same file.
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})


def write(figure: "Figure", left: float, top: float, text: str, **style: Any) -> None:
    """Write one line whose upper left corner is ``(left, top)``, points from the lower left."""
    width, height = page_size(figure)
    figure.text(left / width, top / height, text, va="top", ha="left", parse_math=False, **style)


def heading_lines(figure: "Figure", title: str | None, width: float) -> list[str]:
    """The lines that ``title`` takes as a heading of at most ``width`` points; none without one."""
    return wrap(title, width, text_width(figure, _HEADING_SIZE, "bold")) if title else []


def write_heading(figure: "Figure", lines: list[str], margin: float) -> None:
    """Write the lines of a heading at the top of the page, ``margin`` points from its edges."""
    top = page_size(figure)[1] - margin
    for line, text in enumerate(lines):
        y = top - HEADING_LEADING * line
        write(figure, margin, y, text, fontsize=_HEADING_SIZE, color=INK, weight="bold")


def text_width(figure: "Figure", size: float, weight: str = "normal") -> Callable[[str], float]:
    """A function from a line of text to its width in points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import FontProperties

    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    font = FontProperties(size=size, weight=weight)
    return lambda text: float(renderer.get_text_width_height_descent(text, font, False)[0])


def wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Break ``text`` into lines of at most ``width``; words that are longer are broken too."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}".strip()
            if measure(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            while measure(word) > width and len(word) > 1:
                cut = next(
                    n for n in range(len(word) - 1, 0, -1) if n == 1 or measure(word[:n]) <= width
                )
                lines.append(word[:cut])
                word = word[cut:]
            line = word
        lines.append(line)
    return lines


def shorten(text: str, width: float, measure: Callable[[str], float]) -> str:
    """Cut ``text`` to ``width``, with an ellipsis where something went."""
    if measure(text) <= width:
        return text
    while text and measure(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
