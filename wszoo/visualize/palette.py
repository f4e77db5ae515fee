"""One colour per class, the same in every picture."""

import colorsys

# Okabe and Ito's colours, then those of Paul Tol's "muted" and "light" that differ from them:
# told apart by colour-blind readers, too.
_CHOSEN = (
    "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#332288",
    "#882255", "#117733", "#ddcc77", "#88ccee", "#aa4499", "#999933", "#661100", "#bbcc33",
    "#ffaabb", "#44bb99", "#ee8866", "#77aadd",
)  # fmt: skip
_GOLDEN = 0.618034  # of the circle of hues: successive ones lie far apart
_LIGHTNESS = (0.5, 0.35, 0.7)


def class_colour(index: int) -> tuple[int, int, int]:
    """Red, green and blue in 0..255 of class ``index``; any number of classes have one."""
    if index < len(_CHOSEN):
        code = _CHOSEN[index]
        return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
    later = index - len(_CHOSEN)
    lightness = _LIGHTNESS[later % len(_LIGHTNESS)]
    red, green, blue = colorsys.hls_to_rgb(later * _GOLDEN % 1, lightness, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def hex_code(colour: tuple[int, int, int]) -> str:
    """As matplotlib takes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def ink_on(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever is read better on ``colour``."""
    red, green, blue = colour
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
