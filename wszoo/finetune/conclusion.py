"""The end of a run: its best net is kept, shown and reported."""

from pathlib import Path
from typing import Any

from torch import nn

from wszoo.datasets import LabelledImages
from wszoo.datasets.detection import DetectionImages
from wszoo.finetune.data import DataSource, Images, Splits
from wszoo.finetune.outputs import FOLDER, best_state, save_output
from wszoo.finetune.report import add_to_report, draw_classified, draw_detected, draw_segmented
from wszoo.finetune.results import classify_photos, detect_photos, segment_photos
from wszoo.finetune.settings import FineTuning
from wszoo.training.readers import read_unreadable
from wszoo.training.run import Run


def conclude(
    run: Run,
    settings: FineTuning,
    source: DataSource,
    splits: Splits,
    origin: tuple[str, ...] = (),
) -> Path:
    """Write ``model``, pictures and ``report.md`` into the folder of a run that has ended.

    Args:
        run: Its loop.
        settings: What decided the outcome.
        source: Where its photos are.
        splits: The photos.
        origin: What it began with, see ``Facts``.

    Returns:
        The report.
    """
    assert run.best is not None
    step, epoch = int(run.best["step"]), int(run.best["epoch"])
    model = run.learner.best_model()
    model.load_state_dict(best_state(run.output, step))
    model.eval()
    row = run.rows[epoch - 1]
    metrics = {key: value for key, value in row.items() if isinstance(value, float)}
    metrics.pop("seconds", None)
    text, min_score = draw_results(
        model, settings, _readable(splits.held_out, run.output), run.output
    )
    save_output(
        run.output,
        model,
        settings,
        classes=splits.classes,
        class_ids=splits.class_ids,
        ignored=source.ignore,
        epoch=epoch,
        metrics=metrics,
        min_score=min_score,
        origin=origin,
    )
    summary: dict[str, Any] = {
        "model": f"{settings.head} over {settings.model}, in `{FOLDER}/`",
        "kept": f"epoch {epoch} of {len(run.rows)}, the best by {run.task.judged_by}",
        **row,
        "commands": _commands(run.output, source),
    }
    report = run.log.finish(summary)
    note = (
        f"The {len(splits.held_out):,} photos of the split {splits.held_out_name}, by which the "
        f"epoch was chosen; on photos that decided nothing, expect a little less."
    )
    add_to_report(report, "Held-out photos", f"{note} {text}")
    return report


def _readable(images: Images, output: Path) -> Images:
    """Photos other than those that could not be read in the run."""
    left_out = read_unreadable(output)
    return images.without(left_out) if left_out else images


def draw_results(
    model: nn.Module,
    settings: FineTuning,
    images: Images,
    folder: Path,
    title: str | None = None,
) -> tuple[str, float | None]:
    """Draw what a net, in eval mode, makes of photos, and describe it.

    Returns:
        Markdown, and for a detector the score below which boxes are better left out.
    """
    title = title or f"{settings.head} over {settings.model}"
    if isinstance(images, LabelledImages):
        return draw_classified(classify_photos(model, images), folder, title), None
    if isinstance(images, DetectionImages):
        found = detect_photos(model, images)
        least = round(found.min_score(), 3)
        return draw_detected(found, model, least, folder, title), least
    segmented = segment_photos(model, images, settings.max_size)
    return draw_segmented(segmented, model, settings.max_size, folder, title), None


def _commands(output: Path, source: DataSource) -> dict[str, str]:
    import shlex

    run, data = shlex.quote(str(output)), shlex.quote(str(source.path))
    return {
        "use it on photos": f"wszoo predict {run} PHOTOS --save pictures",
        "measure it on another split": f"wszoo eval {run} --data {data} --split test",
        "load it": f'model, facts = wszoo.load_finetuned("{output}")',
        "go on from it with other classes": f"wszoo finetune {source.task} --from {run} "
        f"--data OTHER --out ANOTHER",
    }
