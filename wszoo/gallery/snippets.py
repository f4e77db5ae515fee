"""Code to copy, per model; what a test runs is what the page shows."""

from dataclasses import dataclass

from wszoo.gallery.rows import Row


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """Code for one purpose.

    Attributes:
        title: What it is for.
        language: ``python`` or ``console``.
        code: Complete; a file ``photo.jpg`` and folders are all it needs.
    """

    title: str
    language: str
    code: str


def snippets(row: Row) -> tuple[Snippet, ...]:
    """What one would do with a model first: classify, take features, build on it, fine-tune."""
    first = (
        Snippet(title="Classify a photo", language="python", code=_classify(row))
        if row.weights
        else Snippet(title="Train it", language="python", code=_train(row))
    )
    return (
        first,
        Snippet(title="Feature maps", language="python", code=_features(row)),
        Snippet(title="As a backbone", language="python", code=_backbone(row)),
        Snippet(title="Fine-tune on your own photos", language="console", code=_finetune(row)),
    )


def access(row: Row) -> str:
    """What has to happen before the weights load, in a sentence or two; empty where nothing has."""
    weights = row.weights
    if weights is None:
        return "There are no weights yet: the code starts from random ones."
    if weights.packaged:
        return ""
    if weights.hub:
        return "The first use fetches the weights from the Hugging Face Hub."
    if weights.origin is None:
        return (
            "The weights are in the repository, not in the package: "
            "set WSZOO_WEIGHTS to its folder model_cards first."
        )
    text = f"The first use fetches the original from {weights.origin.host} and converts it."
    if not any(file.sha256_prefix for file in weights.origin.files):
        text += " Its name carries no hash, so it is taken only with WSZOO_ACCEPT_UNVERIFIED=1."
    if not row.checked:
        text += f" Nobody has checked it yet; `wszoo confirm {row.name} --data imagenet/val` does."
    return text


def _classify(row: Row) -> str:
    return f"""\
import timm, torch, wszoo
from PIL import Image

name = "{row.name}"
model = timm.create_model(name, pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config)
photo = transform(Image.open("photo.jpg").convert("RGB"))
with torch.inference_mode():
    shares, classes = model(photo[None])[0].softmax(0).topk(5)
labels = wszoo.weights.find(name).label_names()
for share, index in zip(shares, classes):
    print(f"{{share:6.1%}}  {{labels[index]}}")
"""


def _train(row: Row) -> str:
    return f"""\
import timm, torch, wszoo

model = timm.create_model("{row.name}", num_classes=10)
images, classes = torch.randn(1, 3, 224, 224), torch.tensor([3])  # a batch of one
loss = torch.nn.functional.cross_entropy(model(images), classes)
loss.backward()
"""


def _features(row: Row) -> str:
    strides, channels = (", ".join(map(str, kept[-4:])) for kept in (row.strides, row.channels))
    return f"""\
import timm, torch, wszoo

net = timm.create_model(
    "{row.name}",
    pretrained={bool(row.weights)},
    features_only=True,
    out_indices=(1, 2, 3, 4),
)
# channels {channels}; strides {strides}
maps = net(torch.randn(1, 3, 224, 224))
"""


def _backbone(row: Row) -> str:
    random = "" if row.weights else ", pretrained=False"
    return f"""\
import torch, wszoo

name = "{row.name}"
backbone = wszoo.load_backbone(name{random}, output_stride=16)
print(backbone.out_channels, backbone.strides, backbone.mean, backbone.std)
maps = backbone(torch.randn(1, 3, 256, 320))

detector = wszoo.detection.faster_rcnn(name, num_classes=4{random})
segmenter = wszoo.segmentation.semantic_fpn(name, num_classes=11{random})
"""


def _finetune(row: Row) -> str:
    random = "" if row.weights else " --random-weights"
    return f"""\
wszoo check-data --task classify --data photos
wszoo finetune classify --data photos --model {row.name}{random} \\
    --batch-size 4 --out runs/mine
wszoo predict runs/mine photo.jpg
"""
