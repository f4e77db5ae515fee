"""Pictures of results: predictions on photos, curves, confusion matrices, as PNG files.

Colours are told apart by colour-blind readers too, and no meaning rests on colour alone.
"""

from wszoo.visualize.confusion import draw_confusion
from wszoo.visualize.curves import draw_curves
from wszoo.visualize.predictions import draw_predictions

__all__ = ["draw_confusion", "draw_curves", "draw_predictions"]
