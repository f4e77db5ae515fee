"""Data sets on disk, read into one sample type per task."""

from wszoo.datasets.classification import LabelledImages, find_images, open_image
from wszoo.datasets.detection import DetectionImages, Objects, read_detection
from wszoo.datasets.labelled import read_labelled_images
from wszoo.datasets.shards import ShardedImages, open_shards
from wszoo.datasets.stored import StoredImages, store_images

__all__ = [
    "DetectionImages",
    "LabelledImages",
    "Objects",
    "ShardedImages",
    "StoredImages",
    "find_images",
    "open_image",
    "open_shards",
    "read_detection",
    "read_labelled_images",
    "store_images",
]
