"""What a conversion did, for people and for programs."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from wszoo.conversion.folder import MADE_BY
from wszoo.conversion.proof import Proof
from wszoo.convert import Card

UNCHANGED = "as it is"


@dataclass(frozen=True, kw_only=True)
class MappedTensor:
    """One tensor of the source and what became of it.

    Attributes:
        source: Its key in the source.
        ours: Its key in the file written.
        shape: In the file written.
        dtype: In the source.
        change: What was done to the values, but for the rounding to the type of the file.
    """

    source: str
    ours: str
    shape: tuple[int, ...]
    dtype: str
    change: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What went in, what came out, and the proof that both are the same net.

    Attributes:
        file: What was converted.
        output: The folder written.
        sha256_in: Digest of ``file``.
        sha256_out: Digest of ``model.safetensors``; None where the proof failed.
        source: Key of ``wszoo.convert.SOURCES``, and its title.
        architecture: The net that the file holds.
        model: What is built for it, with ``model_args``.
        call: Python that builds it.
        published_formula: How the source standardizes kernels; None where it does not.
        formula: How ``model`` does.
        dtype: Type stored: fp64, fp32 or fp16.
        num_classes: Rows of the classifier; 0 where there is none.
        license: As the source states it.
        published_card: Photos as the source wants them.
        card: Photos as the written net wants them.
        mapped: Every tensor taken over.
        kept: Keys that both name alike.
        dropped: Key of the source to the reason why it was left out.
        missing: Keys of the net that the source has nothing for.
        notes: What was done to values.
        proof: Errors against an independent forward of the source.
    """

    file: str
    output: str
    sha256_in: str
    source: str
    title: str
    architecture: str
    model: str
    model_args: dict[str, Any]
    call: str
    published_formula: str | None
    formula: str | None
    dtype: str
    num_classes: int
    license: str
    published_card: Card
    card: Card
    mapped: tuple[MappedTensor, ...]
    kept: tuple[str, ...]
    dropped: dict[str, str]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    versions: dict[str, str]
    proof: Proof
    sha256_out: str | None = None

    @property
    def passed(self) -> bool:
        return self.proof.passed

    def to_json(self) -> dict[str, Any]:
        """All of it, as ``report.json`` holds it."""
        return {
            "made_by": MADE_BY,
            "passed": self.passed,
            **asdict(self),
            "proof": self.proof.to_json(),
        }

    def __str__(self) -> str:
        unchanged = sum(tensor.change == UNCHANGED for tensor in self.mapped)
        facts = {
            "file": self.file,
            "sha256": self.sha256_in,
            "source": f"{self.source}: {self.title}",
            "holds": f"{self.architecture}, WS formula {self.published_formula or 'none (plain)'}",
            "licence": self.license,
            "photos": _card_text(self.published_card),
            "written": f"{self.output}, {self.dtype}" if self.passed else "nothing but this report",
            "sha256 out": self.sha256_out or "-",
            "built by": f"{self.call}, WS formula {self.formula or 'none (plain)'}, "
            f"{self.num_classes} classes",
            "photos out": "as above" if self.card == self.published_card else _card_text(self.card),
            "tensors": f"{len(self.mapped)} mapped ({unchanged} unchanged), {len(self.kept)} under "
            f"their own name, {len(self.dropped)} dropped, {len(self.missing)} missing",
        }
        lines = [f"{key:<10}  {fact}" for key, fact in facts.items()]
        lines += [f"  dropped {key}: {reason}" for key, reason in self.dropped.items()]
        lines += [f"  missing {key}" for key in self.missing]
        lines += [f"note        {note}" for note in self.notes]
        return "\n".join([*lines, *self._proof_lines()])

    def _proof_lines(self) -> list[str]:
        proof = self.proof
        columns = [
            (kind, pixels, stages)
            for kind in proof.tolerance
            for pixels, stages in getattr(proof, kind).items()
        ]
        lines = ["proof       relative errors against an independent forward of the source"]
        lines += [f"  {'':<14}" + "".join(f"{kind:>12}" for kind, _, _ in columns)]
        lines += [f"  {'':<14}" + "".join(f"{pixels + ' px':>12}" for _, pixels, _ in columns)]
        for stage in columns[0][2]:
            cells = "".join(f"{stages[stage]:>12.1e}" for _, _, stages in columns)
            lines.append(f"  {stage:<14}{cells}")
        for kind, worst in proof.worst.items():
            where = "any stage" if kind == "float64" else "what comes out"
            lines.append(f"  {kind:<8} {worst:.1e} in {where}, {_verdict(proof, kind, worst)}")
        lines.append(f"  {'':<8} {proof.own:.1e} is what the source itself loses in float32")
        if proof.not_finite:
            shown = ", ".join(proof.not_finite[:3]) + ", …" * (len(proof.not_finite) > 3)
            lines.append(f"  FAILED: {len(proof.not_finite)} infinite or NaN: {shown}")
        return lines


def _verdict(proof: Proof, kind: str, worst: float) -> str:
    allowed = proof.tolerance[kind]
    if not math.isfinite(worst):
        return "which is no number: FAILED"
    if kind in proof.undecided:
        return f"{allowed:.1e} wanted; the source itself loses {proof.own:.1e}: for information"
    return f"{allowed:.1e} allowed: {'ok' if worst <= allowed else 'FAILED'}"


def _card_text(card: Card) -> str:
    numbers = ", ".join(
        f"{name} ({', '.join(f'{value:.4g}' for value in values)})"
        for name, values in (("mean", card.mean), ("std", card.std))
    )
    cropped = f"resized to {card.resize}, cropped to {card.size}"
    if card.crop_mode == "squash":
        cropped = f"squeezed to {card.size} x {card.size}"
    resized = f"{cropped}, {card.interpolation}"
    return f"{card.channels}, {numbers}, {resized}"
