"""Pretrain a net on a classification set: ``python -m train.pretrain --help``.

Alone or under torchrun. However a run ends, repeating its command goes on with it.
"""

import copy
import os
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.recipes import RECIPES
from wszoo.terminal import OneLineErrors, check_name
from wszoo.training.batches import BatchPlan, plan_batches
from wszoo.training.checkpoint import refuse_checkpoints
from wszoo.training.classify import Classification
from wszoo.training.declaration import declare, hardware, note_start
from wszoo.training.distributed import Ranks, core_count, join_ranks
from wszoo.training.engine import DTYPES, Learner
from wszoo.training.lock import only_writer
from wszoo.training.recipe import Recipe, make_optimizer
from wszoo.training.run import Limits, Run
from wszoo.training.runlog import RunLog
from wszoo.training.sources import open_source


def make_model(name: str, recipe: Recipe, num_classes: int) -> nn.Module:
    """The net with fresh weights that ``recipe.seed`` decides, or with those it starts from."""
    torch.manual_seed(recipe.seed)
    more: dict[str, Any] = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    if recipe.start_tag is not None:
        name = f"{name}.{recipe.start_tag}"
    # A probe is put on features that were learned before.
    trained = recipe.linear_probe or recipe.start_tag is not None
    model: nn.Module = timm.create_model(name, pretrained=trained, num_classes=num_classes, **more)
    if recipe.linear_probe:
        model.requires_grad_(False)
        classifier_of(model).requires_grad_(True)
    return model.train()


def classifier_of(model: nn.Module) -> nn.Module:
    """The last layer of a timm model."""
    classifier = model.get_classifier()  # type: ignore[operator]
    assert isinstance(classifier, nn.Module)
    return classifier


def prefers_channels_last(model: nn.Module, recipe: Recipe, plan: BatchPlan, ranks: Ranks) -> bool:
    """Whether a forward and backward pass is faster in that layout, here and now."""
    model = copy.deepcopy(model)  # BatchNorm would learn from what is shown here
    pixels, device = recipe.size_at(0), ranks.device
    images = torch.randn((plan.micro_batch_size, 3, pixels, pixels), device=device)
    half = recipe.precision != "fp32"
    seconds: dict[bool, float] = {}
    for last in (False, True, False, True):  # the first of each warms up
        layout = torch.channels_last if last else torch.contiguous_format
        model.to(memory_format=layout)
        given = images.contiguous(memory_format=layout)
        started = time.perf_counter()
        with torch.autocast(device.type, DTYPES[recipe.precision], enabled=half):
            loss = model(given).float().square().mean()
        loss.backward()
        for parameter in classifier_of(model).parameters():
            assert parameter.grad is not None
            parameter.grad.sum().item()  # waits for a GPU
        seconds[last] = time.perf_counter() - started
    return ranks.share(seconds[True] < 0.98 * seconds[False])


def plan_rows(
    name: str, recipe: Recipe, task: Classification, model: nn.Module, more: dict[str, str]
) -> dict[str, str]:
    """What is about to be done, for people."""
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    steps = task.steps_per_epoch * recipe.epochs
    phases = ", ".join(f"{epochs} at {size} px" for epochs, size in recipe.phases)
    classes = task.source.num_classes
    return {
        "model": f"{name}, {count / 1e6:.1f} M parameters to train",
        "photos": f"{len(task.source):,} of {classes} classes; "
        f"{task.source.held_out_count:,} kept to choose by",
        "batch": str(task.plan),
        "steps": f"{steps:,} = {recipe.epochs} epochs x {task.steps_per_epoch:,}",
        "images": f"epochs: {phases}; evaluated at {recipe.test_size} px",
        "optimizer": f"{recipe.optimizer}, peak rate {recipe.lr:g}, {recipe.schedule}",
        "precision": recipe.precision + (f", EMA {recipe.ema}" if recipe.ema else ""),
        **more,
    }


def build(
    name: str, recipe_name: str, data: str, output: Path, ranks: Ranks, options: dict[str, Any]
) -> Run:
    """Everything a run is made of, resumed where it stood, its plan printed.

    Raises:
        ValueError: Batch, data or folder do not fit the recipe or the run.
    """
    recipe = RECIPES[recipe_name]
    plan = plan_batches(recipe.batch_size, ranks.size, options["micro_batch_size"])
    log = RunLog(
        output,
        title=f"{name} by {recipe_name}, in {output}",
        main=ranks.is_main,
        every=options["log_every"],
        tensorboard=options["tensorboard"],
    )
    workers = readers(ranks) if options["workers"] is None else options["workers"]
    source = open_source(data, recipe, output.parent / "cache", ranks, workers=workers, log=log)
    model = make_model(name, recipe, source.num_classes).to(ranks.device)
    if ranks.size > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ValueError(
            f"{name} has BatchNorm, whose statistics would differ from rank to rank; train it with "
            f"one rank"
        )
    settings = {
        "model": name,
        "recipe": recipe_name,
        "settings": asdict(recipe),
        "data": {"classes": source.num_classes, "photos": len(source), "digest": source.digest},
    }
    last = settle_layout(model, recipe, plan, ranks, settings, output, options["channels_last"])
    cfg = resolve_model_data_config(model)
    task = Classification(
        source, recipe, plan, ranks, mean=cfg["mean"], std=cfg["std"], channels_last=last
    )
    learner = Learner(
        model,
        make_optimizer(model, recipe),
        ranks=ranks,
        accumulation_steps=plan.accumulation_steps,
        precision=recipe.precision,
        clip_grad=recipe.clip_grad,
        clip_mode=recipe.clip_mode,
        ema_decay=recipe.ema,
        compiled=options["compile"],
    )
    steps = task.steps_per_epoch * recipe.epochs
    run = Run(
        task,
        learner,
        output,
        Limits(
            epochs=min(recipe.epochs, options["epochs"] or recipe.epochs),
            save_every_steps=options["save_every_steps"],
            save_minutes=options["save_minutes"],
            patience=recipe.patience,
        ),
        rate_at=lambda step: recipe.rate_at(step, steps),
        log=log,
        seed=recipe.seed,
    )
    run.resume()
    layout = "channels_last" if last else "contiguous"
    more = {"computed on": f"{hardware()}, {layout}", "resumed at": f"step {learner.step_count:,}"}
    log.plan(plan_rows(name, recipe, task, model, more))
    if ranks.is_main:
        how = {key: options[key] for key in ("micro_batch_size", "compile", "deterministic")}
        for change in note_start(output, ranks=ranks.size, step=learner.step_count, **how):
            log.event(f"{change}: the run goes on, its bits may differ from one left alone")
    return run


def readers(ranks: Ranks) -> int:
    """Processes that read files: one for each core of this rank."""
    if ranks.device.type == "cpu":
        return core_count()  # each rank has cores of its own
    return max(1, core_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def settle_layout(
    model: nn.Module,
    recipe: Recipe,
    plan: BatchPlan,
    ranks: Ranks,
    settings: dict[str, Any],
    output: Path,
    wanted: str,
) -> bool:
    """Whether to train in channels_last: measured at the first start, then kept.

    The layout decides how sums round, so a resumed run must not choose anew.
    """
    known = ranks.share(declare(output, settings) if ranks.is_main else {})
    if "channels_last" in known:
        last = bool(known["channels_last"])
    elif wanted == "auto":
        last = prefers_channels_last(model, recipe, plan, ranks)
    else:
        last = wanted == "on"
    if ranks.is_main:
        declare(output, {**settings, "channels_last": last})
    model.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    return last


@click.command(cls=OneLineErrors)
@click.argument("model", metavar="MODEL")
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), required=True)
@click.option("--data", required=True, help="Folder, archives, or folder or URL of shards.")
@click.option(
    "--out",
    "--output-dir",
    "output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the run; repeat the command with it to go on.",
)
@click.option("--micro-batch-size", type=click.IntRange(1), help="Images per pass of one rank.")
@click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="Go on with the newest checkpoint; or refuse a folder that holds any.",
)
@click.option("--workers", type=click.IntRange(0), help="That read files; one per core of a rank.")
@click.option(
    "--save-every-steps", type=click.IntRange(1), help="Checkpoint as well every N steps."
)
@click.option("--save-minutes", default=5.0, show_default=True, help="Between checkpoints.")
@click.option("--epochs", type=click.IntRange(1), help="Stop after so many; repeat to go on.")
@click.option(
    "--channels-last",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Layout; auto measures both at the first start.",
)
@click.option("--compile", is_flag=True, help="Through torch.compile.")
@click.option("--deterministic", is_flag=True, help="Only algorithms that repeat to the bit.")
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard too.")
@click.option("--log-every", default=50, show_default=True, help="Steps per line of progress.")
@click.option("--device", help="Such as cpu; by default this rank's GPU, if there is one.")
@click.option("--wait-minutes", default=10.0, show_default=True, help="For a rank that is late.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of this rank.")
def main(
    model: str,
    recipe: str,
    data: str,
    output: Path,
    device: str | None,
    wait_minutes: float,
    threads: int | None,
    deterministic: bool,
    **options: Any,
) -> None:
    """Train MODEL by a recipe on the train split under --data, resuming where it stood."""
    name = check_name(model)
    if not RECIPES[recipe].linear_probe:
        name = name.split(".")[0]  # weights are made anew
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which repeats to the bit
    torch.use_deterministic_algorithms(deterministic)
    options["deterministic"] = deterministic
    with join_ranks(device=device, wait_minutes=wait_minutes) as ranks:
        if threads:
            torch.set_num_threads(threads)
        with only_writer(output) if ranks.is_main else nullcontext():
            if options.pop("resume") == "never":
                refuse_checkpoints(output)
            run = build(name, recipe, data, output, ranks, options)
            try:
                last = run.fit()
            finally:
                run.task.close()
            report = run.log.finish({"model": name, "recipe": recipe, **last})
    if ranks.is_main:
        click.echo(f"done; {report}")


if __name__ == "__main__":
    main()
