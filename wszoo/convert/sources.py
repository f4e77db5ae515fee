"""Foreign state dicts into ours and back: whose they are, which net they hold, what moves where."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from wszoo.convert.attribution import Attribution
from wszoo.convert.layouts import Entry, fit
from wszoo.convert.mmdet import fit_detector
from wszoo.convert.records import SOURCES, Card, Source

__all__ = [
    "SOURCES",
    "Card",
    "Converted",
    "Source",
    "convert_state",
    "recognise",
    "restore_state",
]

_DATA_PARALLEL = "module."
_STATISTICS = (".running_mean", ".running_var", "_bn_rm", "_bn_riv", "_bn_s")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Foreign weights under our names.

    Attributes:
        source: Whose they are, or are taken for.
        license: Of the weights; where the source was guessed, that it is not known.
        notes: What a user has to know, of the source first and then of how it was chosen.
        architecture: The net, as timm or this zoo registers it (``"resnet101_gn"`` and other plain
            nets that nobody registers are named alike), or ``"faster_rcnn"``, ``"mask_rcnn"``.
        state_dict: Tensors in our order. Those without a change are the ones given, not copies.
        mapped: Key of theirs to ours, for every tensor taken over, in their order.
        kept: Those of ``mapped`` that have one name on both sides.
        changed: Key of theirs to what was done to the values, where anything was.
        dropped: Key of theirs to the reason why it was left out.
        missing: Our keys that nothing is there for, such as those of a classifier.
        backbone: The net below a detector.
    """

    source: Source
    license: str
    notes: tuple[str, ...]
    architecture: str
    state_dict: dict[str, Tensor]
    mapped: dict[str, str]
    kept: tuple[str, ...]
    changed: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    backbone: str | None = None


def recognise(state: Mapping[str, Tensor]) -> str:
    """Whose weights these are, by the names of their tensors.

    Sources with the same names (see ``Source.lookalikes``) cannot be told apart. Norms called gn1
    are taken for OpenMMLab's GN+WS mirrors, or with ``module.`` before them for
    GroupNorm-reproduce; norms called bn1 for timm's GN net, or with it for the authors' GN+WS.
    Blobs are taken for Detectron's GN nets.

    Returns:
        A key of ``SOURCES``.

    Raises:
        ValueError: They are none of these; the message says what they look like.
    """
    _refuse_batch_norm(state)
    bare = _without_prefix(state)
    is_parallel = len(state) > 0 and all(key.startswith(_DATA_PARALLEL) for key in state)
    signs = {
        "backbone.conv1.weight": "mmdet",
        "bn1.pbn.weight": "bcn",
        "gn1.weight": "groupnorm_reproduce" if is_parallel else "openmmlab",
        "bn1.weight": "jhu" if is_parallel else "timm",
        "conv1_gn_s": "detectron",
        "resnet/root_block/standardized_conv2d/kernel": "bit",
        "stem.conv.weight": "timm_bit",
        "conv1/kernel": "tf",
    }
    for key, source in signs.items():
        if key in bare:
            return source
    shown = ", ".join(list(state)[:3]) or "none"
    raise ValueError(
        f"these tensors ({shown}, …) are of no known source; the sources: {', '.join(SOURCES)}"
    )


def convert_state(
    state: Mapping[str, Tensor],
    source: str | None = None,
    *,
    known_as: str | None = None,
    architecture: str | None = None,
) -> Converted:
    """Bring foreign weights under our names, each tensor or none.

    Two things no tensor shows and nothing here can check: whether kernels were trained with WS
    (``source`` decides, see ``Source.lookalikes``), and whether stride 2 is in the 3x3 or in the
    1x1 convolutions of a bottleneck. Detectron's and Caffe's nets with stride in the 1x1 have
    BatchNorm, by which they are refused.

    Args:
        state: Tensors under the keys of the source, with or without ``module.`` before them.
        source: Key of ``SOURCES``; None to go by ``known_as`` or by the names of the tensors.
        known_as: What ``source_of_file`` says of the file they come from and its sha256.
        architecture: The net that they have to be; another one is refused.

    Raises:
        ValueError: There is no such source, or the tensors are not exactly those of a net of it:
            BatchNorm weights, another layout, an unknown depth or width, tensors missing, left
            over or of another shape.
    """
    attribution = _attribution(state, source, known_as)
    record = attribution.source
    _refuse_batch_norm(state)
    extra = {key: reason for key in state if (reason := _reason_to_drop(key, state[key], record))}
    wanted = {key: tensor for key, tensor in state.items() if key not in extra}
    bare = _without_prefix(wanted)
    theirs = dict(zip(bare, wanted, strict=True))  # the keys as they are in the file
    try:
        name, entries, missing, dropped, backbone = _sorted(bare, record)
    except ValueError as error:
        raise ValueError(f"not weights of {record.name!r} ({record.title}): {error}") from error
    if architecture not in (None, name):
        raise ValueError(_other_net(record, name, str(architecture)))
    _refuse_integers(bare, entries)
    ours = {entry.theirs: entry.ours for entry in entries}
    state_dict = {e.ours: e.change.to_ours(bare[e.theirs]).contiguous() for e in entries}
    return Converted(
        source=record,
        license=attribution.license,
        notes=attribution.notes(state_dict),
        architecture=name,
        state_dict=state_dict,
        mapped={theirs[key]: ours[key] for key in bare if key in ours},
        kept=tuple(theirs[e.theirs] for e in entries if theirs[e.theirs] == e.ours),
        changed={theirs[e.theirs]: e.change.name for e in entries if e.change.name != "as it is"},
        dropped=extra | {theirs[key]: reason for key, reason in dropped.items()},
        missing=missing,
        backbone=backbone,
    )


def restore_state(state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Bring weights under our names back into the layout of their source.

    Of what ``convert_state`` made, everything but what it dropped comes back, byte for byte, under
    the keys that the source publishes and in the order in which its net lists them.

    Args:
        state_dict: Tensors under our keys, in any order.
        source: Key of ``SOURCES``.

    Raises:
        ValueError: There is no such source, or these are not the tensors of a net of it.
    """
    record = _record(source)
    if record.layout == "mmdet":
        detector = fit_detector(state_dict, by="ours")
        entries, left = detector.entries, detector.reasons
    else:
        entries, left = fit(state_dict, record.layout, by="ours").entries, {}
    if left:
        key, reason = next(iter(left.items()))
        raise ValueError(f"{len(left)} tensors have no place in {source!r}: {key} ({reason})")
    return {
        f"{record.prefix}{e.theirs}": e.change.to_theirs(state_dict[e.ours]).contiguous()
        for e in entries
    }


def _attribution(
    state: Mapping[str, Tensor], source: str | None, known_as: str | None
) -> Attribution:
    if source is not None:
        return Attribution(_record(source), "user")
    if known_as is not None:
        return Attribution(_record(known_as), "file")
    record = SOURCES[recognise(state)]
    return Attribution(record, "guess" if record.lookalikes else "names")


def _record(source: str) -> Source:
    if source not in SOURCES:
        raise ValueError(f"no source {source!r}; the sources: {', '.join(SOURCES)}")
    return SOURCES[source]


def _other_net(source: Source, found: str, wanted: str) -> str:
    others = f", or another source with --from ({', '.join(source.lookalikes)})"
    return (
        f"it holds a {found!r} (taken for {source.name!r}), not a {wanted!r}; "
        f"name the weights of that net{others if source.lookalikes else ''}"
    )


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if all(key.startswith(_DATA_PARALLEL) for key in state):
        return {key.removeprefix(_DATA_PARALLEL): tensor for key, tensor in state.items()}
    return dict(state)


def _refuse_batch_norm(state: Mapping[str, Tensor]) -> None:
    """BatchNorm's statistics have no place in GN; inside BCN they are its first step."""
    found = [k for k in state if k.endswith(_STATISTICS) and ".pbn." not in k]
    if found:
        raise ValueError(
            f"these are weights of a net with BatchNorm ({found[0]}, {len(found)} such tensors), "
            f"not with GN: its statistics cannot be kept; convert weights trained with GN or BCN"
        )


def _reason_to_drop(key: str, tensor: Tensor, source: Source) -> str | None:
    if source.layout == "detectron" and key.endswith("_momentum"):
        return "momentum of the optimizer"
    if tensor.ndim == 0 and not tensor.is_floating_point() and not key.endswith(_COUNTER):
        return "a counter, no weight"
    return None


def _sorted(
    state: Mapping[str, Tensor], source: Source
) -> tuple[str, list[Entry], tuple[str, ...], dict[str, str], str | None]:
    """Name of the net, what is taken over, missing and dropped, and the net below a detector."""
    if source.layout == "mmdet":
        detector = fit_detector(state)
        name = "mask_rcnn" if detector.has_masks else "faster_rcnn"
        backbone = f"{detector.backbone}{source.suffix}"
        return name, detector.entries, detector.missing, detector.reasons, backbone
    net = fit(state, source.layout)
    return f"{net.name}{source.suffix}", net.entries, net.missing, {}, None


def _refuse_integers(state: Mapping[str, Tensor], entries: list[Entry]) -> None:
    for entry in entries:
        tensor = state[entry.theirs]
        if not tensor.is_floating_point() and not entry.theirs.endswith(_COUNTER):
            raise ValueError(
                f"{entry.theirs} holds {tensor.dtype}, where weights are floating point"
            )
