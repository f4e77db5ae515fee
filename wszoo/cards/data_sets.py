"""What there is to say about the data that published weights were trained on."""

from dataclasses import dataclass

from wszoo.weights import Weights


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A set of labelled photos, by the last part of a tag.

    Attributes:
        name: What people call it.
        identifier: On the Hub.
        split: On the Hub, of the photos that accuracy is measured on.
        what: Its size, in a few words.
        is_small: Too small for a net that is used as it is.
        terms: What its licence allows.
        terms_url: Where that is written.
        limits: What a net does not learn from it.
        citation: Who made it.
    """

    name: str
    identifier: str
    split: str
    what: str
    is_small: bool
    terms: str
    terms_url: str
    limits: str
    citation: str


_RUSSAKOVSKY = 'Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.'
_IMAGENET_TERMS = "https://www.image-net.org/download.php"
_DATA_SETS = {
    "tin200": DataSet(
        name="Tiny ImageNet",
        identifier="zh-plus/tiny-imagenet",
        split="valid",
        what="200 classes, 64 x 64 pixels",
        is_small=True,
        terms="a subset of ImageNet, whose terms hold: non-commercial research and education "
        "only; the photos belong to those who took them",
        terms_url=_IMAGENET_TERMS,
        limits="Learned from 64-pixel photos of 200 kinds of things: fine detail and most of the "
        "world are unknown to it, and the biases of web photos are its own.",
        citation='Le and Yang, "Tiny ImageNet Visual Recognition Challenge", CS 231N report, 2015. '
        + _RUSSAKOVSKY,
    ),
    "in1k": DataSet(
        name="ImageNet",
        identifier="ILSVRC/imagenet-1k",
        split="validation",
        what="1,000 classes, 1.28 million photos",
        is_small=False,
        terms="non-commercial research and education only; the photos belong to those who took "
        "them",
        terms_url=_IMAGENET_TERMS,
        limits="Learned from web photos of 1,000 kinds of things, more than a tenth of them breeds "
        "of dogs; their biases, of places and people above all, are its own.",
        citation=_RUSSAKOVSKY,
    ),
}


def data_set_of(weights: Weights) -> DataSet:
    """What a set of weights was trained on.

    Raises:
        ValueError: The last part of its tag names no known set.
    """
    key = weights.tag.rpartition("_")[2]
    if key not in _DATA_SETS:
        raise ValueError(
            f"no data set {key!r}, which the tag of {weights.name} ends with; known: "
            f"{', '.join(_DATA_SETS)}; add it to wszoo/cards/data_sets.py"
        )
    return _DATA_SETS[key]
