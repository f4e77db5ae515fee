"""What a run is about to do, in rows for people."""

from torch import nn

from wszoo.datasets.detection import DetectionImages
from wszoo.finetune.data import Images, Splits, objects_text
from wszoo.finetune.defaults import lr_text
from wszoo.finetune.models import census_text, size_text
from wszoo.finetune.settings import FineTuning
from wszoo.training.batches import BatchPlan


def plan_rows(
    settings: FineTuning, splits: Splits, plan: BatchPlan, model: nn.Module, steps: int
) -> dict[str, str]:
    """What is about to be done, for people."""
    train, held_out, name = splits.train, splits.held_out, splits.held_out_name
    rows = {
        "model": f"{settings.head} over {settings.model}, {size_text(model)}",
        "norms": census_text(model),
        "photos": f"{len(train):,} to learn from (train), {len(held_out):,} to judge by ({name})",
        "objects": "; ".join(map(_objects_text, (train, held_out))),
        "classes": ", ".join(
            f"{each} {splits.counts.get(each, '')}".strip() for each in splits.classes
        ),
        "batch": str(plan),
        "learning rate": f"{lr_text(settings)}; {settings.warmup_steps} steps of warm-up",
        "steps": f"{steps * settings.epochs:,} = {settings.epochs} "
        f"epoch{'s' * (settings.epochs != 1)} x {steps:,}",
        "images": _images_text(settings),
        "precision": settings.precision + (f", EMA {settings.ema}" if settings.ema else ""),
    }
    return {key: value for key, value in rows.items() if value.strip("; ")}


def _objects_text(images: Images) -> str:
    return objects_text(images) if isinstance(images, DetectionImages) else ""


def _images_text(settings: FineTuning) -> str:
    side, low, high = settings.image_size, *settings.scale
    if settings.task == "classify":
        return f"squares of {side} px over {low:.0%} to {high:.0%} of a photo"
    if settings.task == "detect":
        return f"short side {side} px, long side at most {settings.max_size} px, x {low} to {high}"
    return (
        f"squares of {side} px, out of photos resized x {low} to {high}; judged whole, up to "
        f"{settings.max_size} px"
    )
