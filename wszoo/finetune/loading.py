"""Fine-tuned nets for use in a program, and what is wrong with a path that holds none."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from wszoo.finetune.outputs import Facts, output_folder, read_facts
from wszoo.finetune.outputs import load_finetuned as load_output

_ROI_HEADS = ("faster_rcnn", "mask_rcnn")
_SHOWN = 3  # runs that an error names


def load_finetuned(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[nn.Module, Facts]:
    """A net that ``wszoo finetune`` has made, in eval mode, and what it is.

    Every tensor of the file must fit, and its sha256 be that of the configuration beside it; no
    pickle is read. Nothing is frozen.

    ======== ================================================= ===================================
    task     takes                                             gives
    ======== ================================================= ===================================
    classify ``(N, 3, H, W)`` normalised as timm's transforms: logits ``(N, classes)``
             ``create_transform(**resolve_data_config({},
             model=model))`` of ``timm.data``
    detect   list of ``(3, H, W)`` in 0..1, of any sizes       list of ``boxes`` (x1, y1, x2, y2),
                                                               ``labels``, ``scores``, ``masks``
    segment  ``(N, 3, H, W)`` in 0..1, 64 pixels or more       scores ``(N, classes, H, W)``
    ======== ================================================= ===================================

    Label ``k`` of a detector is ``facts.classes[k - 1]``, as the background is 0; row ``k`` of the
    others is ``facts.classes[k]``. What a detector finds with a score below ``facts.min_score`` is
    better left out.

    Args:
        path: Folder of the run (what ``--out`` named), or ``model`` in it, wherever it was moved.
        device: Where to; the CPU by default.
        dtype: Of its weights, and then of what it takes; float32 by default, and of ``faster_rcnn``
            and ``mask_rcnn`` always: RoIAlign needs features of the type of the boxes.
        classes: What its classes must be called, in this order; not compared by default.

    Raises:
        FileNotFoundError: There is no finished run; the message says what there is instead.
        ValueError: Weights or configuration are damaged, ``classes`` are others, or ``dtype`` is
            none for this net.
        RuntimeError: There is no such ``device``.
    """
    path = Path(path)
    require_run(path)
    facts = read_facts(path)
    if classes is not None:
        _require_classes(path, facts.classes, tuple(classes))
    if dtype is not None:
        _require_dtype(facts, dtype)
    model, facts = load_output(path)
    return model.to(device=device, dtype=dtype), facts


def require_run(path: Path) -> None:
    """See that a finished run of ``wszoo finetune`` is in a folder.

    Raises:
        FileNotFoundError: There is none; the message says what there is instead.
    """
    if output_folder(path) is None:
        raise FileNotFoundError(_what_is_there(path))


def _what_is_there(path: Path) -> str:
    if path.is_file():
        return f"{path} is a file; name the folder of the run that it is from"
    if not path.exists():
        return f"no such run: {path}; name the folder that --out of `wszoo finetune` named"
    if (declared := _declared(path)) is not None:
        if "recipe" in declared:
            return (
                f"{path} is a run of train.pretrain; `python -m train.publish {path}` makes "
                f"weights of it, which timm.create_model loads"
            )
        return f"{path} holds a run that has not ended; repeat its command to go on with it"
    runs = [each.name for each in sorted(path.iterdir()) if output_folder(each) is not None]
    if runs:
        listed = ", ".join(runs[:_SHOWN]) + (", …" if len(runs) > _SHOWN else "")
        return f"{path} holds several things, of which these are finished runs: {listed}; name one"
    return f"{path} holds no fine-tuned net; name the folder of a finished run of `wszoo finetune`"


def _declared(path: Path) -> dict[str, object] | None:
    """What a run that has begun in a folder has declared; None where none has."""
    try:
        content = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {} if any(path.glob("step-*")) else None
    return content if isinstance(content, dict) else None


def _require_classes(path: Path, known: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    if known == wanted:
        return
    how = "in another order" if sorted(known) == sorted(wanted) else ""
    missing = [name for name in wanted if name not in known]
    if missing:
        how = f"not {missing[0]!r}"
    elif not how:
        how = f"more than {', '.join(wanted)}"
    raise ValueError(
        f"{path} knows the classes {', '.join(known)}, {how}; give these, or load another run"
    )


def _require_dtype(facts: Facts, dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise ValueError(f"a net cannot be {dtype}; give a floating point type such as bfloat16")
    if facts.net.head in _ROI_HEADS and dtype != torch.float32:
        raise ValueError(
            f"{facts.net.head} cannot be {dtype}, for RoIAlign takes features of the type of its "
            f"boxes; leave dtype out, and call it under torch.autocast"
        )
