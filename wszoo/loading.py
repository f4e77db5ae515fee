"""What timm is told to load, and the checks that it leaves out.

timm loads leniently as soon as the number of classes differs or features are asked for: a file
without its last stage then loads without a word. Here only the classifier may be missing. And timm
reads a config.json with the patience of the Hub's client, and as if none were ever damaged.
"""

import dataclasses
import functools
import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg, resolve_pretrained_cfg
from torch import Tensor, nn

from wszoo.hub import CONFIG_FILE, fetch_config, fetch_weights, place_of, read_config
from wszoo.hub_client import Place
from wszoo.layers import FORMULAS, WSFormula, formula_name, standardize_weight, to_formula
from wszoo.weights import WEIGHTS_FILE, check_file, locate, read_header, read_metadata, record_of

_logger = logging.getLogger(__name__)

_SOURCES = ("file", "url", "hf_hub_id", "state_dict")  # of timm's configuration
_GUARDED = "is_guarded_by_wszoo"
_FACTORY = "timm.models._factory"
_read: dict[tuple[str, str], Place] = {}  # the commit that timm read last, by name and cache


def guard_timm() -> None:
    """Have ``timm.create_model`` fail as this zoo does where a config.json cannot be read.

    For names of ``hf-hub:`` and ``local-dir:``, of this zoo or not: in one line, within seconds.
    And have it refuse, as ``checkpoint_path`` of a net of this zoo, a file of folded kernels or of
    another formula; ``timm.models.load_checkpoint`` likewise. What can be read is what timm reads,
    as before. A timm that is built otherwise stays as it is.
    """
    for module, name, arguments, guard in (
        (_FACTORY, "load_model_config_from_hf", ["model_id", "cache_dir"], _read_from_hub),
        (_FACTORY, "load_model_config_from_path", ["model_path"], _read_from_folder),
        (_FACTORY, "load_checkpoint", ["model", "checkpoint_path", "..."], _load_checkpoint),
        ("timm.models", "load_checkpoint", ["model", "checkpoint_path", "..."], _load_checkpoint),
    ):
        original = getattr(sys.modules.get(module), name, None)
        if original is None or hasattr(original, _GUARDED):
            continue
        known = [*inspect.signature(original).parameters]
        if "..." in arguments:  # the guard passes on whatever else there is
            known[len(arguments) - 1 :] = ["..."]
        if known == arguments:
            setattr(sys.modules[module], name, _guarded(original, guard))


def _guarded(original: Callable[..., Any], guard: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def read(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs)
        return guard(original, **given.arguments)

    setattr(read, _GUARDED, True)
    return read


def _read_from_hub(
    original: Callable[..., Any], model_id: str, cache_dir: str | Path | None = None
) -> Any:
    """What timm makes of a repository's config.json; it asks the Hub for nothing, we have."""
    place, published = fetch_config(place_of(model_id, cache_dir=cache_dir))
    _require_architecture(published, f"{place.repository}, at {place.page},")
    at_commit = f"{place.repository}@{place.revision}"
    cfg, *rest = original(model_id=at_commit, cache_dir=place.cache)
    _read[model_id, str(cache_dir)] = place
    return ({**cfg, "hf_hub_id": model_id}, *rest)


def _read_from_folder(original: Callable[..., Any], model_path: str | Path) -> Any:
    """What timm makes of a folder's config.json."""
    path = Path(model_path) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}; name a folder that `hf download`, `wszoo card` or timm's "
            f"save_for_hf wrote"
        )
    _require_architecture(read_config(path), str(path.parent))
    return original(model_path=model_path)


def _load_checkpoint(
    original: Callable[..., Any], model: nn.Module, checkpoint_path: str | Path, **more: Any
) -> Any:
    """What timm makes of a file, if it is of the formula of the net, where that is of this zoo."""
    found = (getattr(module, "formula", None) for module in model.modules())
    formula = next((each for each in found if isinstance(each, WSFormula)), None)
    if formula is not None and Path(checkpoint_path).is_file():
        declared = _declared_by_file(str(checkpoint_path))
        if declared is not None and to_formula(declared) != formula:
            raise ValueError(
                f"{checkpoint_path} says it was trained with the WS formula {declared!r}, the net "
                f"has {formula_name(formula)!r}; make it with formula={declared!r}"
            )
    return original(model=model, checkpoint_path=checkpoint_path, **more)


def _require_architecture(published: dict[str, Any], where: str) -> None:
    if not isinstance(published.get("architecture"), str):
        raise ValueError(
            f"{where} is no net of timm: its {CONFIG_FILE} names no architecture; "
            f"load it with the library that wrote it"
        )


def resolve_source(
    variant: str,
    *,
    pretrained: bool,
    formula: str | WSFormula | None,
    pretrained_cfg: Any,
    overlay: dict[str, Any] | None,
    cache_dir: str | Path | None,
) -> tuple[PretrainedCfg, WSFormula]:
    """Decide where the weights come from and which formula the model standardizes with.

    Args:
        variant: Registered name without a tag.
        pretrained: Whether weights will be loaded; only then files are looked for.
        formula: What the caller asked for, if anything.
        pretrained_cfg: As timm hands it to an entry function: a tag, a configuration or None.
        overlay: timm's ``pretrained_cfg_overlay``.
        cache_dir: Where the Hub's client keeps files.

    Raises:
        FileNotFoundError: The weights are nowhere to be found.
        ConnectionError, TimeoutError, PermissionError: They could not be fetched.
        ValueError: They are damaged, folded, or were trained with another formula.
    """
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, overlay)
    declared: str | None = None
    is_named = pretrained_cfg is None or isinstance(pretrained_cfg, str)
    # Not the file of the variant's own tag, which timm would prefer.
    is_hub_overlay = bool((overlay or {}).get("hf_hub_id")) and not (overlay or {}).get("file")
    if cfg.source in ("hf-hub", "local-dir") or is_hub_overlay:
        cfg, declared = _from_published_folder(cfg, pretrained, cache_dir)
    elif not is_named or any((overlay or {}).get(key) for key in _SOURCES):
        if pretrained:
            _refuse_pickle(cfg)
            declared = _declared_by_file(cfg.file)
            if "num_classes" not in (overlay or {}):
                cfg = _with_classes_of_file(cfg)
    elif record := record_of(f"{variant}.{cfg.tag}"):
        declared = record.formula
        if pretrained:
            path = locate(record, cache_dir=cache_dir)
            _require_formula(path, declared)
            cfg = dataclasses.replace(cfg, file=str(path))
    elif pretrained:
        raise RuntimeError(f"no weights exist for {variant!r} yet; use pretrained=False")
    return cfg, _agree(formula, declared, cfg, pretrained)


def _with_classes_of_file(cfg: PretrainedCfg) -> PretrainedCfg:
    """A file laid over a variant has its own number of classes, not that of the variant's tag."""
    classifier = read_header(Path(cfg.file)).get(f"{cfg.classifier}.weight") if cfg.file else None
    return dataclasses.replace(cfg, num_classes=classifier["shape"][0]) if classifier else cfg


def _refuse_pickle(cfg: PretrainedCfg) -> None:
    """Stop before timm unpickles whatever does not end in ``.safetensors``."""
    source = None if cfg.state_dict else cfg.file or cfg.url  # in timm's order
    if source and not str(source).endswith(".safetensors"):
        raise ValueError(
            f"{source} is not safetensors, and other files may hold code; "
            f"turn it into safetensors with `wszoo convert`"
        )


def _agree(
    asked: str | WSFormula | None, declared: str | None, cfg: PretrainedCfg, pretrained: bool
) -> WSFormula:
    if declared is None:
        if pretrained and asked is None:
            _logger.warning(
                "the weights of %s do not say which WS formula they were trained with; "
                "'jhu' is assumed, pass formula= if it was another (%s)",
                cfg.architecture,
                ", ".join(FORMULAS),
            )
        return to_formula("jhu" if asked is None else asked)
    if asked is None:
        return to_formula(declared)
    if pretrained and to_formula(asked) != to_formula(declared):
        raise ValueError(
            f"these weights of {cfg.architecture!r} were trained with the WS formula "
            f"{declared!r}, not {formula_name(to_formula(asked))!r}; leave formula out"
        )
    return to_formula(asked)


def _from_published_folder(
    cfg: PretrainedCfg, pretrained: bool, cache_dir: str | Path | None
) -> tuple[PretrainedCfg, str | None]:
    """Read the ``wszoo`` key of a published config.json, which timm drops, and check the file."""
    if cfg.source == "local-dir":
        folder = Path(cfg.file or "")
        published, config = read_config(folder / CONFIG_FILE), str(folder / CONFIG_FILE)
    else:
        name = cfg.hf_hub_id or ""
        read = _read.get((name, str(cache_dir))) if cfg.source == "hf-hub" else None
        place, published = fetch_config(read or place_of(name, cache_dir=cache_dir))
        config = f"{CONFIG_FILE} of {place}"
    ours: dict[str, str] = published.get("wszoo", {})
    formula = ours.get("formula") or published.get("model_args", {}).get("formula")
    _require_formula_exists(formula, config)
    if not pretrained:
        return cfg, formula
    sha256, dtype = ours.get("sha256"), ours.get("dtype")
    if cfg.source == "local-dir":
        weights = folder / WEIGHTS_FILE
        check_file(weights, sha256=sha256, dtype=dtype)
    else:  # of the commit that the configuration is from
        weights = fetch_weights(place, sha256=sha256, dtype=dtype)
    declared = _declared_by_file(str(weights)) or formula
    return dataclasses.replace(cfg, source=None, file=str(weights)), declared


def _declared_by_file(file: str | None) -> str | None:
    """The formula in a file's metadata; refuses a file of folded kernels."""
    if file is None or not file.endswith(".safetensors"):
        return None
    metadata = read_metadata(Path(file))
    if metadata.get("folded") == "true":
        raise ValueError(
            f"{file} holds folded kernels: standardizing them again would change the net; "
            f"load the unfolded weights, or these into a plain timm ResNet with GroupNorm"
        )
    _require_formula_exists(metadata.get("formula"), file)
    return metadata.get("formula")


def _require_formula_exists(formula: Any, where: str) -> None:
    """Here the message can name the file, which nobody knows later."""
    try:
        if formula is not None:
            to_formula(formula)
    except (TypeError, ValueError) as error:
        known = ", ".join(FORMULAS)
        raise ValueError(
            f"{where} names the WS formula {formula!r}, known are {known}; fetch it again, or "
            f"upgrade wszoo if it is a newer one"
        ) from error


def _require_formula(path: Path, declared: str) -> None:
    """A file may stand for a record only if it is not folded and names no other formula."""
    stated = _declared_by_file(str(path))
    if stated is not None and to_formula(stated) != to_formula(declared):
        raise ValueError(
            f"{path} says it was trained with the WS formula {stated!r}, its record says "
            f"{declared!r}; this is another file than was published"
        )


def adapt_state_dict(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Hold a file against a ``WSResNet``, and make its stem fit other input channels.

    Raises:
        ValueError: Tensors are missing, unknown or of another shape; the message names them.
    """
    stem = f"{model.first_conv}.weight"
    _require_match(state_dict, model, lenient=stem)
    in_chans = model.in_chans
    file_chans = state_dict[stem].shape[1]
    if in_chans == file_chans:
        return state_dict
    if file_chans != 3:
        raise ValueError(
            f"cannot adapt a stem over {file_chans} channels to in_chans={in_chans}; "
            f"only stems over 3 channels are standardized and can be adapted"
        )
    # The raw kernel means nothing without its standardization, which is over all three channels.
    kernel = standardize_weight(state_dict[stem].float(), model.formula)
    return {**state_dict, stem: kernel}


def _require_match(state_dict: dict[str, Tensor], model: Any, *, lenient: str) -> None:
    head = f"{model.pretrained_cfg['classifier']}."
    found = {k: v.shape for k, v in state_dict.items() if not k.startswith(head)}
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith(head)}
    architecture = model.pretrained_cfg["architecture"]
    for what, keys in (
        ("lack", wanted.keys() - found.keys()),
        ("have", found.keys() - wanted.keys()),
    ):
        if keys:
            named = ", ".join(sorted(keys)[:3]) + (", …" if len(keys) > 3 else "")
            extra = " that the model does not know" if what == "have" else ""
            noun = "tensor" if len(keys) == 1 else "tensors"
            raise ValueError(
                f"the weights {what} {len(keys)} {noun}{extra} ({named}); "
                f"are they of another architecture than {architecture!r}?"
            )
    for key, shape in wanted.items():
        if found[key] != shape and key != lenient:
            raise ValueError(
                f"the weights have {key} of shape {tuple(found[key])}, "
                f"{architecture!r} has {tuple(shape)}"
            )
