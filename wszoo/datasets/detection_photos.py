"""Photos of a detection set, compared with what their annotations say of them."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from PIL import Image

from wszoo.datasets.annotations import AnnotatedImage
from wszoo.datasets.box_checks import Size
from wszoo.datasets.classification import open_image
from wszoo.datasets.detection_problems import Problem
from wszoo.datasets.masks import read_header

Progress = Callable[[Sequence[Any]], Iterable[Any]]
_AT_ONCE = 1024  # photos in the pool, so that a stop by Ctrl-C does not wait for all


def known_sizes(images: Sequence[AnnotatedImage]) -> tuple[list[Size | None], list[Problem]]:
    """Width and height as annotations tell them, else of the upright photo by its header.

    Of a missing or unreadable photo it may be None.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(_known_size, images))
    return [size for size, _ in results], [problem for _, problem in results if problem]


def _known_size(image: AnnotatedImage) -> tuple[Size | None, Problem | None]:
    if image.size is not None or image.source is None:
        return image.size, None
    try:
        width, height = read_header(image.source).upright
    except Exception:  # Pillow's readers raise almost anything; decoding finds the words
        problem = _undecodable(image)
        if problem is None:
            raise
        return None, problem
    return (width, height), None


def check_photos(
    images: Sequence[AnnotatedImage], progress: Progress
) -> tuple[list[Size | None], list[Problem]]:
    """Decode every photo.

    Args:
        images: Those that are missing are passed over: the readers tell them.
        progress: Wraps them, as ``tqdm`` does.

    Returns:
        Width and height of each upright photo, or as annotated where something is wrong with it;
        and what is wrong.
    """
    left = iter(progress(images))
    results: list[tuple[Size | None, Problem | None]] = []
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        while chunk := list(islice(left, _AT_ONCE)):
            results += pool.map(_check_photo, chunk)
    return [size for size, _ in results], [problem for _, problem in results if problem]


def _check_photo(image: AnnotatedImage) -> tuple[Size | None, Problem | None]:
    if image.source is None:
        return image.size, None
    if problem := _undecodable(image):
        return image.size, problem
    header = read_header(image.source)
    width, height = header.upright
    size, code = image.size or (width, height), ""
    if image.size is None or image.size == header.upright:
        code = "image-turned" if header.is_ambiguous else ""
    elif image.size == header.stored:
        code = "image-sideways"
    else:
        code = "image-size"
    told = f"{image.name}: {width} x {height}"
    if header.orientation > 1:
        told += f" upright, orientation {header.orientation}"
    if image.size is not None:
        told += f", annotated as {image.size[0]} x {image.size[1]}"
    return size, Problem(code, told, image.name) if code else None


def _undecodable(image: AnnotatedImage) -> Problem | None:
    """What is wrong with a photo that cannot be decoded; a bomb is told by its header."""
    source, name = image.source, image.name
    assert source is not None
    if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
        return Problem("image-empty-file", f"{name}: it is empty", name)
    try:
        open_image(source, name)
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix(f"cannot decode {name}: ").partition("; ")[0]
        code = "image-bomb" if _is_bomb(error) else "image-broken"
        return Problem(code, f"{name}: {reason}", name)
    return None


def _is_bomb(error: Exception) -> bool:
    """Whether Pillow or ``open_image``, whose limit is lower, found too many pixels."""
    known = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    return isinstance(error.__cause__, known) or "decompression bomb" in str(error)
