"""Every set of weights, one record each; the first record of a model is its default tag.

The README's table, the model cards, timm's configurations and ``wszoo list`` are views of
``WEIGHTS``.
"""

from typing import Any

from wszoo.weights_record import IMAGENET, PUBLISHED, Origin, OriginFile, Weights

_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party"
_OPENMMLAB_BEFORE = "https://s3.ap-northeast-2.amazonaws.com/open-mmlab/pretrain/third_party"
_JHU = "https://cs.jhu.edu/~syqiao"
_TRAINED_AT_JHU: dict[str, Any] = dict(
    tag="jhu_in1k",
    license="none stated",
    dtype="F32",
    labels=IMAGENET,
)


def _gn(mirrored: str, original: str, *, checked: bool = False) -> dict[str, Any]:
    """The fields of GN+WS weights of the JHU, which OpenMMLab serves under names with a hash.

    Args:
        mirrored: File name at OpenMMLab, without its suffix.
        original: File name at the JHU, without its suffix.
        checked: ``wszoo confirm`` was run on the real file; then set ``sha256`` as well.
    """
    facts: dict[str, Any] = dict(source="openmmlab", sha256_prefix=mirrored.rpartition("-")[2])
    its_own = f"{_JHU}/WeightStandardization/{original}.pth.tar"
    return dict(
        **_TRAINED_AT_JHU,
        origin=Origin(
            url=f"{_OPENMMLAB}/{mirrored}.pth",
            **facts,
            mirrors=(
                OriginFile(url=f"{_OPENMMLAB_BEFORE}/{mirrored}.pth", **facts),
                OriginFile(url=its_own, source="jhu"),
            ),
            checked_against_original=checked,
        ),
        origin_url="https://github.com/joe-siyuan-qiao/WeightStandardization",
    )


def _bcn(original: str, *, checked: bool = False) -> dict[str, Any]:
    """The fields of BCN+WS weights of the JHU, for which no accuracy was published."""
    url = f"{_JHU}/BatchChannelNormalization/{original}.pth"
    return dict(
        **_TRAINED_AT_JHU,
        formula="bcn",
        origin=Origin(url=url, source="bcn", checked_against_original=checked),
        origin_url="https://github.com/joe-siyuan-qiao/Batch-Channel-Normalization",
        paper_ids="arXiv:1911.09738",
    )


def _published(top1_error: float, top5_error: float) -> dict[str, dict[str, float]]:
    """Accuracies in percent from the errors in the README of joe-siyuan-qiao's repository."""
    errors = {"top1": top1_error, "top5": top5_error}
    return {PUBLISHED: {metric: round(100 - error, 2) for metric, error in errors.items()}}


WEIGHTS: tuple[Weights, ...] = (
    Weights(
        model="resnet18_gn_ws",
        tag="e28_avg_tin200",
        sha256="23ba97f1343353402054864ff2cfbb138904cde8a7fb24690dda8dc6aced97f7",
        license="imagenet-research",
        num_classes=200,
        labels="tin200.tsv",
        input_size=(3, 80, 80),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe="e28_tin200",
        metrics={"Tiny ImageNet val": {"top1": 53.05, "top5": 77.73}},
        packaged=True,
    ),
    Weights(
        model="resnet18_gn_ws",
        tag="e28_tin200",
        sha256="8ad1de82072b0b9a7a3230104afe108b4f53e9631a760885f02bcf98a94a5463",
        license="imagenet-research",
        num_classes=200,
        labels="tin200.tsv",
        input_size=(3, 80, 80),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe="e28_tin200",
        metrics={"Tiny ImageNet val": {"top1": 51.92, "top5": 76.92}},
    ),
    Weights(
        model="resnet18_gn_ws",
        tag="e20_tin200",
        sha256="7879f028da0115360349d9816302522156ed3059487a2a6eb68333ac4b87be8c",
        license="imagenet-research",
        num_classes=200,
        labels="tin200.tsv",
        input_size=(3, 96, 96),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe="e20_tin200",
        metrics={"Tiny ImageNet val": {"top1": 51.4, "top5": 76.41}},
    ),
    Weights(
        model="resnet18_gn_ws",
        tag="e14_tin200",
        sha256="8d129f4245b75ccc9776cf86e587f12f4ca332c82876faf0e2e99248808d7bac",
        license="imagenet-research",
        num_classes=200,
        labels="tin200.tsv",
        input_size=(3, 80, 80),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe="e14_tin200",
        metrics={"Tiny ImageNet val": {"top1": 50.74, "top5": 75.83}},
    ),
    Weights(
        model="test_resnet_gn_ws",
        tag="e3_tin200",
        sha256="bae99a0609bf9b02bfc921bbbf7176407975add70933eef97c2edae1bace7ee8",
        license="imagenet-research",
        num_classes=200,
        labels="tin200.tsv",
        input_size=(3, 64, 64),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe="e3_tin200",
        metrics={"Tiny ImageNet val": {"top1": 17.42, "top5": 40.7}},
        packaged=True,
    ),
    # Detectron's GN weights are no weights of any variant here: they were trained without WS.
    Weights(
        model="resnet50_gn_ws",
        sha256=None,
        metrics=_published(23.72, 6.99),
        **_gn("resnet50_gn_ws-15beedd8", "R-50-GN-WS"),
    ),
    Weights(
        model="resnet101_gn_ws",
        sha256=None,
        metrics=_published(22.10, 6.07),
        **_gn("resnet101_gn_ws-3e3c308c", "R-101-GN-WS"),
    ),
    Weights(
        model="resnext50_32x4d_gn_ws",
        sha256=None,
        metrics=_published(22.71, 6.38),
        **_gn("resnext50_32x4d_gn_ws-0d87ac85", "X-50-GN-WS"),
    ),
    Weights(
        model="resnext101_32x4d_gn_ws",
        sha256=None,
        metrics=_published(21.80, 6.03),
        **_gn("resnext101_32x4d_gn_ws-34ac1a9e", "X-101-GN-WS"),
    ),
    Weights(model="resnet50_bcn_ws", sha256=None, **_bcn("rn50_bcn_ws")),
    Weights(model="resnet101_bcn_ws", sha256=None, **_bcn("rn101_bcn_ws")),
    Weights(model="resnext50_32x4d_bcn_ws", sha256=None, **_bcn("rx50_bcn_ws")),
)
