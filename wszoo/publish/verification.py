"""Whether what lies on the Hub is what was sent, and gives the same logits."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from torch import Tensor, nn

from wszoo.files import sha256_of
from wszoo.finetune.outputs import load_finetuned
from wszoo.publish.failures import VerificationError
from wszoo.publish.folder import Publication
from wszoo.publish.run_folder import RunPublication
from wszoo.weights import WEIGHTS_FILE, check_file

INPUTS = 8
_PHOTO = (3, 128, 128)  # in 0..1; a detector brings it to its own size


def verify_published(
    api: HfApi, repository: str, commit: str, publication: Publication | RunPublication
) -> None:
    """Fetch every file of a commit past all caches, and compare it with the one that was sent.

    Digests first, then the weights' header and storage type, then the answers to eight fixed
    inputs, bit for bit, of the net that a user gets: by ``timm.create_model("hf-hub:...")``, or of
    a detector or segmenter by ``wszoo.load_finetuned``.

    Raises:
        VerificationError: Something differs.
        OSError: It could not be fetched; as the client says it.
    """
    whole = f"{repository}@{commit}"
    with TemporaryDirectory(prefix="wszoo-push-") as fresh:
        for file in publication.files:
            path = _fetch(api, repository, commit, file.name, fresh)
            if (found := sha256_of(path)) != file.sha256:
                raise VerificationError(
                    f"{file.name} of {whole} has sha256 {found[:12]}…, {file.sha256[:12]}… was sent"
                )
            if file.name == WEIGHTS_FILE:
                check_file(path, dtype=publication.dtype)
        try:
            there = _there(publication, whole, path.parent, fresh)
        except (ValueError, RuntimeError) as error:
            line = str(error).strip().partition("\n")[0]
            raise VerificationError(f"hf-hub:{whole} does not load: {line}") from error
    here, inputs = _here(publication)
    if not _equal(logits(there, inputs), logits(here, inputs)):
        raise VerificationError(
            f"hf-hub:{whole} gives other logits than {publication.weights_path}"
        )


def _there(
    publication: Publication | RunPublication, whole: str, fetched: Path, cache: str
) -> nn.Module:
    """The net as the Hub has it; every file is in the fresh cache by now: no request is made."""
    if isinstance(publication, RunPublication) and publication.task != "classify":
        return load_finetuned(fetched)[0]
    made: nn.Module = timm.create_model(f"hf-hub:{whole}", pretrained=True, cache_dir=cache)
    return made


def _here(publication: Publication | RunPublication) -> tuple[nn.Module, Tensor | list[Tensor]]:
    """The net as it was sent, and inputs for it: of a detector a list."""
    if isinstance(publication, Publication):
        path = str(publication.weights_path)
        made: nn.Module = timm.create_model(
            publication.weights.model, pretrained=True, pretrained_cfg_overlay={"file": path}
        )
        return made, fixed_inputs(publication.weights.input_size)
    net: Any = publication.load()
    if publication.task == "classify":
        return net, fixed_inputs(net.pretrained_cfg["input_size"])
    photos = (fixed_inputs(_PHOTO) + 1) / 2
    return net, [*photos] if publication.task == "detect" else photos


def _equal(one: Any, other: Any) -> bool:
    """Whether two answers, tensors or lists and tables of them, are the same bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return len(one) == len(other) and all(map(_equal, one, other))


def _fetch(api: HfApi, repository: str, commit: str, name: str, cache: str) -> Path:
    """A file as the Hub has it now; one that is missing or ends early is no fault of the network.

    Raises:
        VerificationError: It did not come whole.
        OSError: It did not come; as the client says it.
    """
    what = f"{name} of {repository}@{commit}"
    try:
        return Path(api.hf_hub_download(repository, name, revision=commit, cache_dir=cache))
    except RemoteEntryNotFoundError as error:
        raise VerificationError(f"{what} is not there") from error
    except OSError as error:
        by_client = isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError))
        if by_client or error.errno is not None:  # the latter of this machine, e.g. a full disk
            raise
        line = str(error).strip().partition("\n")[0]
        raise VerificationError(f"{what} does not come whole: {line}") from error


def fixed_inputs(size: tuple[int, int, int]) -> Tensor:
    """Eight images of waves, ``(8, C, H, W)``, the same on every machine and in every version."""
    channels, height, width = size
    ramp = torch.linspace(-1, 1, channels * height * width, dtype=torch.float64)
    waves = [torch.sin(50 * (number + 1) * ramp) for number in range(INPUTS)]
    return torch.stack(waves).view(INPUTS, channels, height, width).float()


@torch.inference_mode()
def logits(model: nn.Module, inputs: Tensor | list[Tensor]) -> Any:
    """Of a net in eval mode, ``(N, num_classes)``; of a detector, what it finds in each photo."""
    return model.eval()(inputs)
