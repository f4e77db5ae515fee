"""What a finished run leaves for use: weights with all that is needed to load them.

``RUN/model`` holds ``model.safetensors`` and ``config.json``. That of a classifier is timm's, and
``timm.create_model("local-dir:RUN/model", pretrained=True)`` loads it; that of a detector or
segmenter has the key ``wszoo`` alone. ``load_finetuned`` loads either, strictly.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from wszoo.datasets.annotations import ClassId
from wszoo.files import sha256_of
from wszoo.finetune.models import Net, describe_net, net_from_json, rebuild
from wszoo.finetune.settings import FineTuning
from wszoo.training.declaration import code_version
from wszoo.weights_file import (
    WEIGHTS_FILE,
    check_file,
    file_metadata,
    named_code,
    weights_bytes,
    write_whole,
)

FOLDER = "model"  # in the folder of a run
_CONFIG = "config.json"
_KEY = "wszoo"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a fine-tuned net is, apart from its weights.

    Attributes:
        net: What it was made of.
        settings: Of the run.
        classes: Names: of a detector, label k is ``classes[k - 1]``; else of label k.
        class_ids: What the data calls them: COCO's category ids, values of masks, or the names.
        ignored: Values of masks that had no class (segmenters).
        metrics: On the photos it was judged by, of the epoch that is kept.
        epoch: That epoch, from 1.
        min_score: Below which what a detector finds is better left out, by F1 on those photos.
        sha256: Of the weights file.
        origin: What it began with: the name of published weights or ``"random weights"``, then the
            sha256 of the nets of all runs in between, the latest last.
    """

    net: Net
    settings: FineTuning
    classes: tuple[str, ...]
    class_ids: tuple[ClassId, ...]
    ignored: tuple[int, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    epoch: int
    min_score: float | None = None
    sha256: str = ""
    origin: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data; what timm's loader looks for stands at the top."""
        return {"formula": self.net.formula, "dtype": "F32", **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Facts":
        """The reverse.

        Raises:
            ValueError: A part is missing or of another type.
        """
        try:
            settings = dict(data["settings"])
            settings["scale"] = tuple(settings["scale"])
            rest = {key: value for key, value in data.items() if key in _FIELDS}
            rest |= {
                key: tuple(rest[key])
                for key in ("classes", "class_ids", "ignored", "origin")
                if key in rest
            }
            net = net_from_json(data["net"])
            return cls(**rest | {"net": net, "settings": FineTuning(**settings)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"it tells nothing of a fine-tuned net: {error}") from error


_FIELDS = Facts.__dataclass_fields__.keys()


def output_folder(path: Path) -> Path | None:
    """The folder of a fine-tuned net in that of a run, or itself; None where there is none."""
    for folder in (path / FOLDER, path):
        try:
            if _KEY in json.loads((folder / _CONFIG).read_text(encoding="utf-8")):
                return folder if "settings" in read_config(folder) else None
        except (OSError, ValueError, TypeError):
            continue
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """The key ``wszoo`` of config.json."""
    content: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    return content[_KEY]


def require_output(path: Path) -> Path:
    """The folder of the fine-tuned net that is meant.

    Raises:
        FileNotFoundError: There is no such folder, or no finished run in it.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no such run: {path}")
    folder = output_folder(path)
    if folder is None:
        unfinished = any(path.glob("step-*"))
        way_out = "repeat its command to finish it" if unfinished else "name that of a finished run"
        raise FileNotFoundError(f"{path} holds no fine-tuned net; {way_out}")
    return folder


def best_state(run: Path, step: int) -> dict[str, Tensor]:
    """Weights of the checkpoint of ``step``: their moving average, where one was kept.

    Raises:
        ValueError: It is damaged.
    """
    folder = run / f"step-{step:08d}"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if sha256_of(folder / "state.pt") != manifest["sha256"]["state.pt"]:
        raise ValueError(f"{folder} is damaged; remove it and repeat the command")
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)["learner"]
    weights: dict[str, Tensor] = state["model"] if state["ema"] is None else state["ema"]
    return weights


def save_output(
    run: Path,
    model: nn.Module,
    settings: FineTuning,
    *,
    classes: tuple[str, ...],
    class_ids: tuple[ClassId, ...],
    epoch: int,
    metrics: dict[str, float],
    ignored: tuple[int, ...] = (),
    min_score: float | None = None,
    origin: tuple[str, ...] = (),
) -> Facts:
    """Write ``RUN/model``; an earlier one is replaced.

    Args:
        run: Folder of the run.
        model: With the weights to keep.
        settings, classes, class_ids, epoch, metrics, ignored, min_score, origin: See ``Facts``.

    Raises:
        OSError: It cannot be written.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    net = describe_net(model, settings)
    metadata = file_metadata(
        settings=asdict(settings),
        code=_code_of(run),
        task=net.task,
        head=net.head,
        model=net.architecture,
        formula=net.formula if isinstance(net.formula, str) else None,
    )
    tensors = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    # The configuration goes first and comes back last: between the two, digests do not agree.
    (folder / _CONFIG).unlink(missing_ok=True)
    write_whole(folder / WEIGHTS_FILE, weights_bytes(tensors, metadata))
    facts = Facts(
        net=net,
        settings=settings,
        classes=classes,
        class_ids=class_ids,
        ignored=ignored,
        metrics=metrics,
        epoch=epoch,
        min_score=min_score,
        sha256=sha256_of(folder / WEIGHTS_FILE),
        origin=origin,
    )
    write_facts(folder, facts, model)
    return facts


def _code_of(run: Path) -> str:
    """What trained the net: what the run declared when it began, or the code that runs now."""
    declared = run / "run.json"
    facts = json.loads(declared.read_text(encoding="utf-8")) if declared.exists() else {}
    return named_code(facts.get("code") or code_version())


def write_facts(folder: Path, facts: Facts, model: nn.Module) -> None:
    """Write config.json, timm's own with ours in it for a classifier."""
    ours = {_KEY: facts.to_json()}
    aside = folder / f".{_CONFIG}.partial"
    if facts.net.task == "classify":
        side = facts.settings.image_size
        save_config_for_hf(
            model,
            str(aside),
            model_config={"label_names": list(facts.classes), **ours},
            data_config={
                "input_size": (3, side, side),
                "crop_pct": 1.0,
                "interpolation": "bicubic",
            },
        )
        content = aside.read_bytes()
        aside.unlink()
    else:
        content = (json.dumps(ours, indent=2) + "\n").encode()
    write_whole(folder / _CONFIG, content)


def read_facts(path: Path) -> Facts:
    """What the net in the folder of a run is.

    Raises:
        FileNotFoundError: There is no finished run.
        ValueError: Its configuration is damaged.
    """
    folder = require_output(path)
    try:
        return Facts.from_json(read_config(folder))
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot read {folder / _CONFIG}: {error}; finish the run again") from None


def read_weights(path: Path, facts: Facts) -> dict[str, Tensor]:
    """The tensors of the net in the folder of a run.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are damaged, or not those that ``facts`` tell of.
    """
    from safetensors.torch import load_file

    file = require_output(path) / WEIGHTS_FILE
    check_file(file, sha256=facts.sha256)
    return load_file(file)


def load_finetuned(path: str | Path) -> tuple[nn.Module, Facts]:
    """A fine-tuned net in eval mode, and what it is.

    A detector takes a list of images ``(3, H, W)`` in 0..1, a segmenter a batch of them, a
    classifier normalised ones, as timm's do.

    Args:
        path: Folder of the run, or its ``model``.

    Raises:
        FileNotFoundError: There is no finished run.
        ValueError: Weights or configuration are damaged.
    """
    path = Path(path)
    facts = read_facts(path)
    weights = read_weights(path, facts)
    if facts.net.task == "classify":
        name = f"local-dir:{require_output(path)}"
        model: nn.Module = timm.create_model(name, pretrained=True)
        return model.eval(), facts
    model = rebuild(facts.net, facts.settings, len(facts.classes))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # torch's word for what differs, a line for each tensor
        reason = str(error).partition("\n")[2].strip().partition("\n")[0]
        raise ValueError(
            f"the weights of {path} do not fit its configuration: {reason}; finish the run again"
        ) from error
    return model.eval(), facts
