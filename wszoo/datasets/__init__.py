"""Data sets on disk, read into one sample type per task."""

from wszoo.datasets.classification import (
    LabelledImages,
    find_images,
    open_image,
    read_labelled_images,
)

__all__ = ["LabelledImages", "find_images", "open_image", "read_labelled_images"]
