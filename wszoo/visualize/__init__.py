"""Pictures of results, written as PNG without a display."""

from wszoo.visualize.boxes import draw_boxes
from wszoo.visualize.confusion import draw_confusion
from wszoo.visualize.curves import draw_curves
from wszoo.visualize.masks import draw_masks
from wszoo.visualize.pairs import best_median_worst
from wszoo.visualize.precision_recall import draw_precision_recall
from wszoo.visualize.predictions import draw_predictions

__all__ = [
    "best_median_worst",
    "draw_boxes",
    "draw_confusion",
    "draw_curves",
    "draw_masks",
    "draw_precision_recall",
    "draw_predictions",
]
