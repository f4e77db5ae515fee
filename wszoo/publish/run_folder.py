"""What the card folder of a finished run publishes, and what it must be before anything is sent."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from wszoo.files import read_text
from wszoo.finetune.outputs import FOLDER, load_finetuned, read_facts
from wszoo.finetune.settings import TaskName
from wszoo.publish.files import (
    CARD,
    CONFIG,
    RESULTS,
    Files,
    check_pictures,
    measured,
    paths_in,
    read_json,
    require,
)
from wszoo.weights import WEIGHTS_FILE, check_file, record_of

_AGAIN = "write the folder again with `wszoo card RUN`"


@dataclass(frozen=True, kw_only=True)
class RunPublication(Files):
    """The files that publish the net of a run, all checked.

    Attributes:
        name: Of the net, as its card calls it.
        dtype: What its values are stored in.
        task: A classifier is loaded by timm, by its name on the Hub; detectors and segmenters by
            ``wszoo.load_finetuned``, from a copy of the repository.
    """

    name: str
    dtype: str
    task: TaskName

    def load(self) -> nn.Module:
        """The net, from its folder."""
        return _load(self.weights_path.parent, self.task)

    def loading(self, repository: str, commit: str) -> str:
        """How to get the net from the Hub, in one line."""
        if self.task == "classify":
            return (
                f'import wszoo, timm; timm.create_model("hf-hub:{repository}@{commit}", '
                f"pretrained=True)"
            )
        return (
            f"hf download {repository} --revision {commit} --local-dir FOLDER, then "
            f'wszoo.load_finetuned("FOLDER")'
        )


def is_run_folder(folder: Path) -> bool:
    """Whether ``folder`` is to be taken for that of a run, whatever is wrong with it.

    A record's is named as the record is.
    """
    name = folder.resolve().name
    record = record_of(name)
    if record is not None and record.name == name:
        return False
    return (folder / CONFIG).is_file() or (folder / FOLDER / CONFIG).is_file()


def check_run_folder(folder: Path) -> RunPublication:
    """Everything that the folder of a run publishes; no request is made.

    Args:
        folder: As ``wszoo card RUN`` writes it: card, ``config.json``, ``results.json``, pictures
            and weights.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files do not agree, one does not belong there, or nobody may pass the
            weights on.
    """
    if not (folder / CONFIG).exists():
        raise ValueError(
            f"{folder} is a run; write the card of its net with `wszoo card {folder}`, then push "
            f"{folder / FOLDER}"
        )
    paths = paths_in(folder)
    require(folder, paths, _AGAIN)
    config, results = (read_json(paths[name], _AGAIN) for name in (CONFIG, RESULTS))
    ours = _ours(paths[CONFIG], config)
    check_file(paths[WEIGHTS_FILE], sha256=ours["sha256"], dtype=ours["dtype"])
    if results.get("sha256") != ours["sha256"]:
        raise ValueError(
            f"{paths[RESULTS]} says sha256 {results.get('sha256')!r}, {CONFIG} beside it "
            f"{ours['sha256']!r}; {_AGAIN}"
        )
    name = _check_card(paths[CARD], ours["sha256"])
    check_pictures(paths, _AGAIN)
    task = _task(folder, config)
    _check_net(folder, task)
    return RunPublication(
        files=measured(paths),
        name=name,
        dtype=ours["dtype"],
        task=task,
    )


def _task(folder: Path, config: dict[str, Any]) -> TaskName:
    """What the net does: one that timm loads by its ``config.json`` classifies."""
    return "classify" if "architecture" in config else read_facts(folder).net.task


def _load(folder: Path, task: TaskName) -> nn.Module:
    if task != "classify":
        return load_finetuned(folder)[0]
    net: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return net


def _check_net(folder: Path, task: TaskName) -> None:
    try:
        net = _load(folder, task)
    except RuntimeError as error:  # of torch: tensors that do not fit
        line = str(error).strip().partition("\n")[0]
        raise ValueError(f"{folder} does not load: {line}; {_AGAIN}") from error
    for key, value in net.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{folder} holds {key} that is not finite; train it again")


def _ours(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What we say of the net in its ``config.json``."""
    ours = config.get("wszoo")
    if not isinstance(ours, dict) or not (ours.get("sha256") and ours.get("dtype")):
        raise ValueError(
            f"{path} has no key 'wszoo' that names sha256 and dtype, so it is none of a run of "
            f"this package; other nets go with `hf upload NAMESPACE/NAME {path.parent}`"
        )
    return ours


def _check_card(path: Path, sha256: str) -> str:
    """The name of the net, if its card is that of these weights and lets them be passed on."""
    text = read_text(path, _AGAIN)
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    if front is None or title is None or f"`{sha256}`" not in text:
        raise ValueError(f"{path} is no card of the {WEIGHTS_FILE} beside it; {_AGAIN}")
    if not re.search(r"^license: ", front[1], re.MULTILINE):
        raise ValueError(
            f"{path} states no licence of the weights, and without one nobody may pass them on; "
            f"write it again with `wszoo card RUN --license SPDX`"
        )
    return title[1]
