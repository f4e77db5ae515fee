"""Cards beside weights that load otherwise than by ``timm.create_model`` and this package."""

from wszoo.cards.text import slug
from wszoo.conversion.report import Report

_FOR_TIMM = """---
library_name: timm
pipeline_tag: image-classification
license: other
license_name: {license_name}
tags: [timm, image-classification, weight-standardization, group-normalization]
---
# {architecture} for timm alone

For **inference** with plain timm. Source: {title}.

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:, once pushed
```

timm builds `{model}` with `preact=False`, which is the same net, but standardizes kernels by
another formula than they were trained with (`{formula}` for `{published_formula}`). So every filter
was rescaled once, and timm makes of it the kernel that the published net has. On fixed images its
logits differ from the published net's, relative to the largest, by

- {float64:.1e} in float64, before the kernels are rounded to the type of the file;
- {stored:.1e} with the kernels as this file holds them ({dtype});
- {float32:.1e} with these, run in float32.

`report.json` has the errors of every stage.

**Do not fine-tune these weights; fine-tune those of `wszoo` instead.** The outputs are the same,
the gradients are not: standardization makes the gradient of a filter inversely proportional to its
scale, and rescaling gave each filter another one, so each would learn at its own, arbitrary rate.

With `in_chans` other than 3 timm adapts the raw stem kernel, which changes what it is standardized
to: convert images to RGB instead.

Photos: {channels}, mean {mean}, std {std}, resized to {resize}, cropped to {size}.
Licence of the weights: {license}.
"""


def inference_card(report: Report) -> str:
    """The README.md of a conversion for plain timm."""
    card = report.card
    return _FOR_TIMM.format(
        license=report.license,
        license_name=slug(report.license),
        architecture=report.architecture,
        title=report.title,
        model=report.model,
        formula=report.formula,
        published_formula=report.published_formula,
        dtype=report.dtype,
        channels=card.channels,
        mean=card.mean,
        std=card.std,
        resize=card.resize,
        size=card.size,
        **report.proof.worst_of_outputs,
    )


_DETECTOR = """---
library_name: pytorch
pipeline_tag: object-detection
license: other
license_name: {license_name}
tags: [object-detection, weight-standardization, group-normalization]
---
# {architecture}

Weights of {title}, converted.

```python
import wszoo.detection
from safetensors.torch import load_file

model = {call}
model.load_state_dict(load_file("FOLDER/model.safetensors"){strict})
```

All parts with weights compute what an independent torchvision detector does with the published
ones: {float64:.1e} (relative) in exact arithmetic, {float32:.1e} in float32; `report.json` has the
errors of every stage. {missing}

{notes}

Licence of the weights: {license}.
"""


def detector_card(report: Report) -> str:
    """The README.md of a converted detector."""
    lacking = ", ".join(report.missing)
    return _DETECTOR.format(
        license=report.license,
        license_name=slug(report.license),
        architecture=report.architecture,
        title=report.title,
        call=report.call,
        strict=", strict=False" if lacking else "",
        missing=f"To be trained, since the source has nothing for them: {lacking}." * bool(lacking),
        notes="\n".join(report.notes),
        **report.proof.worst,
    )
