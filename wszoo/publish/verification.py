"""Whether what lies on the Hub is what was sent, and gives the same logits."""

from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from torch import Tensor, nn

from wszoo.files import sha256_of
from wszoo.publish.failures import VerificationError
from wszoo.publish.folder import Publication
from wszoo.weights import WEIGHTS_FILE, check_file

INPUTS = 8


def verify_published(api: HfApi, repository: str, commit: str, publication: Publication) -> None:
    """Fetch every file of a commit past all caches, and compare it with the one that was sent.

    Digests first, then the weights' header and storage type, then the logits of eight fixed inputs,
    bit for bit, of the net that ``timm.create_model("hf-hub:...")`` makes.

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
                check_file(path, dtype=publication.weights.dtype)
        try:
            # By now every file of this commit is in the fresh cache: no request is made.
            there = timm.create_model(f"hf-hub:{whole}", pretrained=True, cache_dir=fresh)
        except (ValueError, RuntimeError) as error:
            line = str(error).strip().partition("\n")[0]
            raise VerificationError(f"hf-hub:{whole} does not load: {line}") from error
    here = timm.create_model(
        publication.weights.model,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(publication.weights_path)},
    )
    inputs = fixed_inputs(publication.weights.input_size)
    if not torch.equal(logits(there, inputs), logits(here, inputs)):
        raise VerificationError(
            f"hf-hub:{whole} gives other logits than {publication.weights_path}"
        )


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
def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    """Of a net in eval mode, ``(N, num_classes)``."""
    found: Tensor = model.eval()(inputs)
    return found
