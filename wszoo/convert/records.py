"""Whose weights can be converted, and what travels with them: formula, photos, licence."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Card:
    """How photos have to be prepared.

    Attributes:
        channels: ``"RGB"`` or ``"BGR"``, the order of the input, of ``mean`` and of ``std``.
        mean: Subtracted per channel, of photos in 0..1.
        std: Divided by per channel.
        size: Pixels of the centre crop.
        resize: Pixels of the shorter edge before it.
        interpolation: How photos are resized.
        crop_mode: timm's word for what happens to longer photos: ``"center"`` cuts their ends off,
            ``"squash"`` resizes both edges to ``resize``.
    """

    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    crop_mode: str = "center"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One family of published weights.

    Attributes:
        name: Key in ``SOURCES``.
        title: Whose weights they are.
        formula: Name in ``wszoo.FORMULAS``; None for kernels that are not standardized.
        card: How their photos have to be prepared.
        license: Of the weights, as their publisher states it.
        layout: How tensors are named and laid out: key of ``LAYOUTS``, or ``"mmdet"``.
        suffix: What its norms and kernels add to the name of a net.
        prefix: Before every key in the published files; files without it are taken, too.
        lookalikes: Sources whose files have the same keys and shapes. A file does not tell which
            of them it is, since kernels trained with WS look like any others; a prefix is a hint
            at most. ``recognise`` names one of them, and a user who knows better another.
        note: What tensors cannot say and a user has to know.
    """

    name: str
    title: str
    formula: str | None
    card: Card
    license: str
    layout: str
    suffix: str
    prefix: str = ""
    lookalikes: tuple[str, ...] = ()
    note: str = ""


_IMAGENET = Card()
_BGR_MEAN = (103.530 / 255, 116.280 / 255, 123.675 / 255)
_BGR_MEAN_OF_BENCHMARK = (102.9801 / 255, 115.9465 / 255, 122.7717 / 255)
_BYTES = (1 / 255, 1 / 255, 1 / 255)  # a std of 1 for photos in 0..255
_DETECTRON = Card(channels="BGR", mean=_BGR_MEAN, std=_BYTES)
_HALF = (0.5, 0.5, 0.5)
_STRIDE = (
    "Stride 2 has to be in the 3x3 convolutions. No tensor tells; evaluate once after converting."
)

_ALL = (
    Source(
        name="jhu",
        title="Weight Standardization, the authors' own files (JHU, .pth.tar)",
        formula="jhu",
        card=_IMAGENET,
        license="none stated",
        layout="timm",
        suffix="_gn_ws",
        prefix="module.",
        lookalikes=("timm",),
    ),
    Source(
        name="openmmlab",
        title="OpenMMLab's mirror of the authors' GN+WS files (jhu/*_gn_ws)",
        formula="jhu",
        card=_IMAGENET,
        license="none stated",
        layout="openmmlab",
        suffix="_gn_ws",
        lookalikes=("openmmlab_gn", "openmmlab_detectron", "groupnorm_reproduce"),
    ),
    Source(
        name="openmmlab_gn",
        title="OpenMMLab's mirrors of nets with GN and plain kernels (jhu/*_gn, contrib)",
        formula=None,
        card=_IMAGENET,
        license="none stated",
        layout="openmmlab",
        suffix="_gn",
        lookalikes=("openmmlab", "openmmlab_detectron", "groupnorm_reproduce"),
    ),
    Source(
        name="openmmlab_detectron",
        title="OpenMMLab's mirrors of Detectron's GN nets (detectron/resnet*_gn)",
        formula=None,
        card=_DETECTRON,
        license="none stated by the mirror; of the original: CC-BY-SA-3.0",
        layout="openmmlab",
        suffix="_gn",
        lookalikes=("openmmlab", "openmmlab_gn", "groupnorm_reproduce"),
        note=_STRIDE,
    ),
    Source(
        name="mmdet",
        title="mmdetection 2.x and 3.x, Faster and Mask R-CNN with GN+WS",
        formula="jhu",
        card=Card(size=800, resize=800),
        license="none stated",
        layout="mmdet",
        suffix="_gn_ws",
        note=(
            "Photos are resized to 800 pixels, 1333 at most on the longer edge, and not cropped. "
            "Detectors with GN alone have the same tensors; only configs/gn+ws belong here. "
            "mmdetection's RoIAlign shifts boxes by half a pixel (aligned) and samples "
            "each bin as often as it has pixels (sampling ratio 0), torchvision's neither (not "
            "aligned, ratio 2); mmdetection does not round anchors, torchvision does: "
            "detections differ slightly."
        ),
    ),
    Source(
        name="bcn",
        title="Batch-Channel Normalization with WS, the authors' own files (JHU, .pth)",
        formula="bcn",
        card=_IMAGENET,
        license="none stated",
        layout="bcn",
        suffix="_bcn_ws",
        prefix="module.",
    ),
    Source(
        name="detectron",
        title="Detectron's GN nets (.pkl)",
        formula=None,
        card=_DETECTRON,
        license="CC-BY-SA-3.0",
        layout="detectron",
        suffix="_gn",
        lookalikes=("jhu_detectron",),
        note=_STRIDE,
    ),
    Source(
        name="jhu_detectron",
        title="GN+WS backbones of the authors' maskrcnn-benchmark (JHU, .pkl)",
        formula="jhu",
        card=Card(channels="BGR", mean=_BGR_MEAN_OF_BENCHMARK, std=_BYTES),
        license="none stated",
        layout="detectron",
        suffix="_gn_ws",
        lookalikes=("detectron",),
        note=(
            "The scale of the input cannot be moved into the stem, which WS would undo: "
            "feed photos as the card says."
        ),
    ),
    Source(
        name="groupnorm_reproduce",
        title="GroupNorm-reproduce, PyTorch",
        formula=None,
        card=_IMAGENET,
        license="none stated (code: Apache-2.0)",
        layout="openmmlab",
        suffix="_gn",
        prefix="module.",
        lookalikes=("openmmlab", "openmmlab_gn", "openmmlab_detectron"),
    ),
    Source(
        name="timm",
        title="timm's ResNets with GN and plain kernels (resnet50_gn)",
        formula=None,
        card=Card(size=224, resize=238, interpolation="bicubic"),
        license="apache-2.0",
        layout="timm",
        suffix="_gn",
        lookalikes=("jhu",),
    ),
    Source(
        name="timm_bit",
        title="Google's BiT as timm publishes it (resnetv2_*_bit)",
        formula="timm_bit",
        card=Card(mean=_HALF, std=_HALF, size=448, resize=448),
        license="apache-2.0",
        layout="timm_bit",
        suffix="",
        note="The size of photos is not in the file: 448 for most, timm's configuration tells.",
    ),
    Source(
        name="bit",
        title="Google's BiT (.npz)",
        formula="bit",
        card=Card(mean=_HALF, std=_HALF, size=480, resize=480, crop_mode="squash"),
        license="apache-2.0",
        layout="google_bit",
        suffix="",
        note=(
            "The size that a file was tuned at is not in it: for ImageNet photos were squeezed to "
            "480 x 480, for distillation to 224. timm's net of this name standardizes with an eps "
            "of 1e-8, Google's with 1e-10."
        ),
    ),
    Source(
        name="tf",
        title="ResNets with GN and the authors' WS in TensorFlow, kernels in HWIO",
        formula="tf",
        card=_IMAGENET,
        license="as their owner states it",
        layout="tensorflow",
        suffix="_gn_ws",
        note=(
            "No such net was published; name variables as timm does, with slashes: "
            "layer1/0/conv1/kernel, layer1/0/bn1/gamma and beta, fc/kernel and bias. "
            "Pad as PyTorch does: TensorFlow's SAME differs wherever the stride is 2."
        ),
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
