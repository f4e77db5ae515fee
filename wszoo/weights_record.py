"""What is known of one set of weights: where it lives, how it was made, what it scores."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from timm.data import ImageNetInfo
from timm.models import PretrainedCfg

from wszoo.weights_file import WEIGHTS_FILE

ASSETS = Path(__file__).parent / "assets"
IMAGENET = "imagenet-1k"  # the classes that timm knows under this name
PUBLISHED = "ImageNet val (published)"  # in ``metrics``: as its authors say, not measured here


@dataclass(frozen=True, kw_only=True)
class OriginFile:
    """A checkpoint that somebody else published.

    Attributes:
        url: Where it lies.
        source: Key of ``wszoo.convert.SOURCES``, its layout.
        sha256_prefix: The hex digits of its sha256 that its name carries, eight of them: enough to
            tell damage, if not forgery. None where it carries none: nothing then tells anything.
    """

    url: str
    source: str
    sha256_prefix: str | None = None

    @property
    def file_name(self) -> str:
        return unquote(urlsplit(self.url).path).rpartition("/")[2]

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


@dataclass(frozen=True, kw_only=True)
class Origin(OriginFile):
    """Where weights come from that were trained elsewhere.

    Attributes:
        mirrors: The same weights in other places, tried in this order; those without a hash only
            with the user's word.
        checked_against_original: ``wszoo confirm`` was run on the real file, by a person. Until
            then its layout is known from the code that reads it only.
    """

    mirrors: tuple[OriginFile, ...] = ()
    checked_against_original: bool = False

    @property
    def files(self) -> tuple[OriginFile, ...]:
        return (self, *self.mirrors)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published set of weights.

    Attributes:
        model: Variant as registered with timm, e.g. ``"resnet50_gn_ws"``.
        tag: What follows the dot: origin or recipe, then data, e.g. ``"e12_tin200"``.
        sha256: Digest of ``model.safetensors``; None for converted weights that nobody confirmed.
        license: SPDX identifier of the weights, or a few words where there is none.
        formula: Name of the WS formula they were trained with; another one is refused.
        dtype: Type the file stores, as safetensors writes it, e.g. ``"F16"``.
        num_classes: Rows of the classifier in the file.
        labels: File of class names in ``wszoo/assets/labels``, or ``IMAGENET``.
        input_size: Channels, height, width at which ``metrics`` were measured.
        crop_pct: Share of the resized photo that the centre crop keeps.
        interpolation: How photos are resized.
        mean: Subtracted per channel, of photos in 0..1, RGB.
        std: Divided by per channel.
        recipe: Key of ``train.recipes.RECIPES``; None for weights trained elsewhere.
        metrics: ``{data: {metric: value in percent}}``.
        packaged: The file is in ``wszoo/assets/<model.tag>``.
        hub: ``"namespace/repository@commit"`` once pushed and verified.
        origin: The checkpoint that they are converted from at first use.
        origin_url: Page of those who trained them, if not this zoo.
        paper_ids: Papers to cite, as timm writes them.
    """

    model: str
    tag: str
    sha256: str | None
    license: str
    formula: str = "jhu"
    dtype: str = "F16"
    num_classes: int = 1000
    labels: str | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    recipe: str | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    packaged: bool = False
    hub: str | None = None
    origin: Origin | None = None
    origin_url: str | None = None
    paper_ids: str = "arXiv:1903.10520"

    @property
    def name(self) -> str:
        return f"{self.model}.{self.tag}"

    def pretrained_cfg(self, **architecture: Any) -> PretrainedCfg:
        """The record as timm's configuration; ``architecture`` adds what the variant knows."""
        return PretrainedCfg(
            file=str(ASSETS / self.name / WEIGHTS_FILE) if self.packaged else None,
            url=self.origin.url if self.origin else "",  # so that timm lists it as pretrained
            hf_hub_id=self.hub,
            hf_hub_filename=WEIGHTS_FILE if self.hub else None,
            num_classes=self.num_classes,
            input_size=self.input_size,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            license=self.license,
            origin_url=self.origin_url,
            paper_ids=self.paper_ids,
            **architecture,
        )

    def label_names(self) -> list[str]:
        """What to call each class, in order; their numbers where nothing better is known."""
        if self.labels is None:
            return [str(index) for index in range(self.num_classes)]
        return [name for _, name in _read_labels(self.labels)]

    def label_ids(self) -> list[str]:
        """The class folders of the training data, in order."""
        if self.labels is None:
            return [str(index) for index in range(self.num_classes)]
        return [identifier for identifier, _ in _read_labels(self.labels)]


@cache
def _read_labels(file: str) -> list[tuple[str, str]]:
    if file == IMAGENET:
        info = ImageNetInfo(file)
        synsets = info.label_names()
        return [(synset, info.label_name_to_description(synset)) for synset in synsets]
    lines = (ASSETS / "labels" / file).read_text(encoding="utf-8").splitlines()
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]
