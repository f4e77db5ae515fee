"""The section of a card that says how to load the weights, in lines that run as they are."""

from collections.abc import Sequence

from wszoo.cards.text import table


def places(name: str, *, hub: str | None, here: str | None) -> str:
    """What to hand to ``timm.create_model``, by where the weights are.

    Args:
        name: ``model.tag``.
        hub: ``"namespace/repository@commit"``, if they are there.
        here: Where the package finds them under ``name``; None where it knows no such name.
    """
    repository, commit = hub.split("@") if hub else (f"NAMESPACE/{name}", "COMMIT")
    rows = [(f"this package, which knows the name ({here})", f'"{name}"')] if here else []
    rows += [
        ("the Hub, newest", f'"hf-hub:{repository}"'),
        ("the Hub, pinned: no request once it is cached", f'"hf-hub:{repository}@{commit}"'),
        ("a copy of this folder, without a network", '"local-dir:FOLDER"'),
    ]
    text = table(
        ("where", "`timm.create_model(..., pretrained=True)` of"),
        [(where, f"`{argument}`") for where, argument in rows],
    )
    if hub is None:
        text += (
            "\n\nNAMESPACE and COMMIT are those of this repository on the Hub, once it is there."
        )
    return f"{text}\n\n`import wszoo` comes first: timm learns of the nets from it."


def classify(name: str, classes: int, *, answer: str) -> str:
    """A photo to its class.

    Args:
        name: For ``timm.create_model``.
        classes: Of the classifier.
        answer: Python for what to print, out of ``model`` and ``shares``.
    """
    return f"""Classify a photo:

```python
import wszoo, timm
from PIL import Image

model = timm.create_model("{name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
photo = Image.open("photo.jpg").convert("RGB")
shares = model(transform(photo)[None]).softmax(1)[0]  # ({classes},)
print({answer})
```"""


def features(
    name: str,
    size: int,
    strides: Sequence[int],
    channels: Sequence[int],
    *,
    registered: bool,
) -> str:
    """Feature maps, and where ``name`` is ``registered`` a detector and a segmenter over them."""
    heads = f"""

# A detector counts the background among its classes.
detector = wszoo.detection.faster_rcnn("{name}", num_classes=3)
segmenter = wszoo.segmentation.semantic_fpn("{name}", num_classes=11)"""
    return f"""Feature maps, for detectors and segmenters:

```python
import wszoo, timm, torch

body = timm.create_model("{name}", pretrained=True, features_only=True)
maps = body(torch.randn(1, 3, {size}, {size}))
assert body.feature_info.reduction() == {[*strides]}  # strides
assert [each.shape[1] for each in maps] == {[*channels]}  # channels{heads * registered}
```"""


def body(name: str, size: int) -> str:
    """Feature maps of any timm model."""
    return f"""Feature maps, for detectors and segmenters:

```python
import wszoo, timm, torch

body = timm.create_model("{name}", pretrained=True, features_only=True)
maps = body(torch.randn(1, 3, {size}, {size}))
print(body.feature_info.reduction(), body.feature_info.channels())  # strides, channels
```"""


def embed(name: str, size: int, width: int | None) -> str:
    """A photo to a vector."""
    return f"""A vector per image:

```python
import wszoo, timm, torch

embed = timm.create_model("{name}", pretrained=True, num_classes=0).eval()
vector = embed(torch.randn(1, 3, {size}, {size})){f"  # (1, {width})" if width else ""}
```"""
