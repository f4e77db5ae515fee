"""The three systems of the document behind this zoo: ``python -m train.study_seed --help``.

Two are Weight Standardization, in PyTorch and in TensorFlow; the third is the document's author's
own attempt, which did not work out. Each is trained in the same small net, at several rates, and
the attempt is asked on the way why.
"""

import copy
import hashlib
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from train.studies import seed_probes, seed_systems
from train.studies.idx import TEST, TRAIN, Images, read_images
from train.studies.results import declare, provenance
from train.studies.seed_page import OUT, RESULTS, write_page
from train.studies.seed_probes import (
    BATCH,
    FORMS,
    MOMENTUM,
    PUSHES,
    Scale,
    agreement,
    fit,
    gradients,
    own_kernels,
    pushed,
    spread,
    top1,
)
from train.studies.seed_systems import SYSTEMS, Attempt, make_system
from wszoo import standardize_weight
from wszoo.terminal import OneLineErrors
from wszoo.training.rows import Row, append_row, read_rows

MODULE = "train.study_seed"
IMAGES = 24_000  # the first of the training file
RATES = (0.001, 0.004, 0.016, 0.064, 0.256)
SEEDS = (0, 1, 2)
PROBE_EVERY = 100  # steps
CURVE = 25  # steps that make a point of the curve of losses


def run(name: str, rate: float, seed: int, parts: tuple[Images, Images], scale: Scale) -> Row:
    """Train and test one system; the attempt is probed, too."""
    train, test = parts
    net = make_system(name, seed)
    row: Row = {"what": "run", "system": name, "rate": rate, "seed": seed}
    probes: list[dict[str, Any]] = []

    def probe(step: int, images: Tensor, labels: Tensor) -> None:
        if isinstance(net, Attempt) and step % PROBE_EVERY == PROBE_EVERY // 2:
            probes.append({"step": step, **gradients(net, images, labels, rate)})

    if isinstance(net, Attempt):
        row["spread_before"] = [spread(conv.weight) for conv in (net.conv1, net.conv2)]
    fitted = fit(net, train, scale, rate=rate, seed=seed, before_step=probe)
    if isinstance(net, Attempt):
        row |= {"gradients": probes, "spread": [spread(kernel) for kernel in own_kernels(net)]}
        row["pushed"] = pushed(copy.deepcopy(net), test, scale)
    if name == "gn_ws":
        kernels = [standardize_weight(net.get_parameter(f"conv{at}.weight")) for at in (1, 2)]
        row["spread"] = [spread(kernel) for kernel in kernels]
    row["top1"] = top1(net, test, scale)
    row["losses"] = [
        sum(fitted.losses[at : at + CURVE]) / CURVE
        for at in range(0, len(fitted.losses) - CURVE + 1, CURVE)
    ]
    return row | {"cpu_seconds": round(fitted.cpu_seconds, 1)}


def _digest() -> str:
    """Of the code that makes the figures, beside that which the studies share."""
    files = (Path(str(module.__file__)) for module in (seed_systems, seed_probes))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _plan() -> dict[str, Any]:
    return {
        "images": IMAGES,
        "batch": BATCH,
        "momentum": MOMENTUM,
        "rates": RATES,
        "seeds": SEEDS,
        "passes_in_evaluation": PUSHES,
        "probe_every": PROBE_EVERY,
    }


def _todo(out: Path) -> list[Row]:
    """The keys of the rows that are missing."""
    keys: list[Row] = [
        {"what": "agreement", "form": form, "formula": formula, "dtype": dtype}
        for form in FORMS
        for formula in FORMS.values()
        for dtype in ("float64", "float32")
    ]
    keys += [
        {"what": "run", "system": name, "rate": rate, "seed": seed}
        for seed in SEEDS
        for rate in RATES
        for name in SYSTEMS
    ]
    rows, _ = read_rows(out / RESULTS)
    return [key for key in keys if not any(key.items() <= row.items() for row in rows)]


def _told(row: Row) -> str:
    if row["what"] == "run":
        return f"{row['system']}, rate {row['rate']:g}, seed {row['seed']}: {row['top1']:.1f} %"
    return f"{row['form']} and {row['formula']}, {row['dtype']}: {row['kernels']:.1e}"


@click.command(cls=OneLineErrors)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the four IDX files of Fashion-MNIST, gzipped or plain.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=OUT,
    show_default=True,
    help="Folder of the results.",
)
@click.option("--render", is_flag=True, help="Only draw the figure and write the page again.")
def main(data: Path | None, out: Path, render: bool) -> None:
    """Train what was not trained yet of the three systems, and write the page about them."""
    if not render:
        if data is None:
            raise click.UsageError("give --data, the folder of the IDX files, or --render alone")
        torch.set_num_threads(1)
        facts = {**provenance(MODULE), "systems": _digest()}
        whole, test = (read_images(data, part) for part in (TRAIN, TEST))
        train = Images(*(part[:IMAGES] for part in whole))
        scale = Scale.of(train.pixels)
        declare(out, {"photos": {"train": train.facts(), "test": test.facts()}, "plan": _plan()})
        for key in _todo(out):
            if key["what"] == "run":
                row = run(key["system"], key["rate"], key["seed"], (train, test), scale)
            else:
                named = (key["form"], key["formula"], key["dtype"])
                row = key | agreement(*named, train, scale)
            append_row(out / RESULTS, row | facts)
            click.echo(_told(row))
    write_page(out)


if __name__ == "__main__":
    main()
