"""A fine-tuning run from the check of its data to its report."""

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from wszoo.datasets import LabelledImages
from wszoo.datasets.detection import DetectionImages
from wszoo.datasets.segmentation import SegmentationImages
from wszoo.finetune.beginning import run_folder
from wszoo.finetune.classify import classification
from wszoo.finetune.conclusion import conclude
from wszoo.finetune.data import (
    DataSource,
    Splits,
    counts_of,
    read_splits,
    require_sound,
    warnings_of,
)
from wszoo.finetune.detect import Detection
from wszoo.finetune.memory import choose, job_for, levels_for, peak_memory
from wszoo.finetune.models import (
    TRAINABLE_STAGES,
    build,
    describe_net,
    rebuild,
    set_trainable_stages,
)
from wszoo.finetune.optimizer import make_adamw
from wszoo.finetune.origin import RANDOM, chain_of, origin_of, origin_text
from wszoo.finetune.outputs import read_facts, read_weights
from wszoo.finetune.plan import plan_rows
from wszoo.finetune.segment import Segmentation
from wszoo.finetune.settings import FineTuning
from wszoo.finetune.transplant import transplant
from wszoo.memory import Memory, save_memory
from wszoo.training.batches import BatchPlan, plan_batches
from wszoo.training.checkpoint import refuse_checkpoints
from wszoo.training.declaration import declare, hardware, note_start
from wszoo.training.distributed import Ranks, core_count
from wszoo.training.engine import Learner
from wszoo.training.run import Limits, Run, Task
from wszoo.training.runlog import RunLog

Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How a run is carried out; what may be otherwise at each of its starts.

    Attributes:
        micro_batch_size: Photos per pass of one rank.
        memory_budget: Bytes per process, which decide that instead.
        memory: Level of the backbone's blocks, see ``wszoo.memory.save_memory``; None leaves it to
            the budget, and is ``"fast"`` without one. Gradients are the same.
        workers: Processes that read photos to learn from, and as many those to judge by; None for
            one per core of a rank.
        check: Look at every file before the first step.
        resume: Go on with the newest checkpoint; else a folder with any is refused.
        save_minutes: Between checkpoints.
        log_every: Steps per line of progress.
        tensorboard: Write event files too.
        progress: Wraps what takes long, as ``tqdm`` does.
    """

    micro_batch_size: int | None = None
    memory_budget: int | None = None
    memory: Memory | None = None
    workers: int | None = None
    check: bool = True
    resume: bool = True
    save_minutes: float = 5.0
    log_every: int = 50
    tensorboard: bool = False
    progress: Progress = iter


def fine_tune(
    settings: FineTuning,
    source: DataSource,
    output: Path,
    *,
    ranks: Ranks | None = None,
    start: Path | None = None,
    conditions: Conditions | None = None,
) -> Path:
    """Fine-tune a net, and leave it with pictures and figures in the folder of the run.

    A run that was stopped goes on where it stood; one that has ended writes its report again; one
    that fails before its first step leaves nothing behind.

    Args:
        settings: What decides the outcome.
        source: The photos: a split ``train``, and ``val`` or ``test`` to judge by.
        output: Folder of the run, for this run alone.
        ranks: This process among those that train together.
        start: Folder of an earlier run whose net is gone on with.
        conditions: How it is carried out.

    Returns:
        The report.

    Raises:
        FileNotFoundError: Data, weights or ``start`` are not there.
        ValueError: Data, settings or folder are not right; the message says which and how.
        SystemExit: With code 4: a signal came; the current step is saved.
    """
    ranks, conditions = ranks or Ranks(), conditions or Conditions()
    with run_folder(output) if ranks.is_main else nullcontext(lambda: None) as begin:
        if not conditions.resume:
            refuse_checkpoints(output)
        log = RunLog(
            output,
            title=f"{settings.head} over {settings.model}, to {settings.task}, in {output}",
            main=ranks.is_main,
            every=conditions.log_every,
            tensorboard=conditions.tensorboard,
        )
        splits = _checked_splits(source, output, ranks, conditions, log)
        run = _assemble(settings, splits, output, ranks, start, conditions, log)
        begin()
        try:
            run.fit()
        finally:
            run.task.close()
        report = output / "report.md"
        if ranks.is_main:
            if isinstance(splits.train, SegmentationImages):  # which may come from shards
                source = replace(source, ignore=tuple(sorted(splits.train.ignored)))
            report = conclude(run, settings, source, splits, origin_of(settings, start))
    return report


def _checked_splits(
    source: DataSource, output: Path, ranks: Ranks, conditions: Conditions, log: RunLog
) -> Splits:
    """The photos, after a look at all of them where the run has not begun."""
    report = None
    begun = any(output.glob("step-*"))
    if ranks.is_main and conditions.check and not begun:
        report = require_sound(source, conditions.progress)
        for warning in warnings_of(report):
            log.event(warning)
    ranks.wait()
    splits = read_splits(source)
    return replace(splits, counts=counts_of(splits.train, report))


def _assemble(
    settings: FineTuning,
    splits: Splits,
    output: Path,
    ranks: Ranks,
    start: Path | None,
    conditions: Conditions,
    log: RunLog,
) -> Run:
    """Everything a run is made of, resumed where it stood, its plan printed."""
    more: dict[str, str] = {}
    if start is None:
        model = build(settings, len(splits.classes))
        more["from"] = f"published {settings.model}" if settings.pretrained else RANDOM
    else:
        model, more["from"] = _go_on_from(start, settings, splits.classes)
    declared = {
        "settings": asdict(settings),
        "data": splits.declaration(),
        "start": None if start is None else read_facts(start).sha256,
    }
    if ranks.is_main:
        declare(output, declared)
    micro, level = conditions.micro_batch_size, conditions.memory or "fast"
    if conditions.memory_budget is not None:
        micro, level, more["memory"] = _fit(
            model, settings, splits, output, ranks, conditions, declared
        )
    elif level != "fast":
        more["memory"] = f"{level}, as asked for"
    save_memory(model, level)
    plan = plan_batches(settings.batch_size, ranks.size, micro)
    task = make_task(settings, splits, plan, ranks, model, _workers(conditions, ranks), log)
    model.to(ranks.device)
    learner = Learner(
        model,
        make_adamw(model, settings),
        ranks=ranks,
        accumulation_steps=plan.accumulation_steps,
        precision=settings.precision,
        clip_grad=settings.clip_grad,
        ema_decay=settings.ema,
    )
    steps = task.steps_per_epoch * settings.epochs
    run = Run(
        task,
        learner,
        output,
        Limits(
            epochs=settings.epochs,
            save_minutes=conditions.save_minutes,
            patience=settings.patience,
        ),
        rate_at=lambda step: settings.rate_at(step, steps),
        log=log,
        seed=settings.seed,
    )
    run.resume()
    more["computed on"] = hardware()
    if learner.step_count:
        more["resumed at"] = f"step {learner.step_count:,}"
    log.plan(plan_rows(settings, splits, plan, model, task.steps_per_epoch) | more)
    if ranks.is_main:
        how = {"ranks": ranks.size, "micro_batch_size": plan.micro_batch_size}
        for change in note_start(output, step=learner.step_count, **how):
            log.event(f"{change}: the run goes on, its bits may differ from one left alone")
    return run


def _go_on_from(
    start: Path, settings: FineTuning, classes: tuple[str, ...]
) -> tuple[nn.Module, str]:
    """The net of an earlier run with other classes, and what became of these."""
    facts = read_facts(start)
    net = facts.net
    if (net.task, net.head) != (settings.task, settings.head):
        raise ValueError(
            f"{start} holds a {net.head} that was made to {net.task}; give --head {net.head}, or "
            f"start from published weights"
        )
    model = rebuild(net, settings, len(classes))
    moved = transplant(
        model,
        read_weights(start, facts),
        task=net.task,
        head=net.head,
        before=facts.classes,
        now=classes,
    )
    stages = settings.trainable_stages
    if stages is None and settings.task != "classify":
        stages = TRAINABLE_STAGES
    if stages is not None:
        set_trainable_stages(model, stages)
    told = f"{start}, a {net.head} over {net.architecture}, which began with "
    return model.train(), f"{told}{origin_text(chain_of(facts))}; classes: {moved}"


def _fit(
    model: nn.Module,
    settings: FineTuning,
    splits: Splits,
    output: Path,
    ranks: Ranks,
    conditions: Conditions,
    declared: dict[str, Any],
) -> tuple[int, Memory, str]:
    """Photos per pass, level and why: measured at the first start with this budget, then kept."""
    budget = conditions.memory_budget
    assert budget is not None
    key = f"memory budget of {budget / 1e9:g} GB"
    if conditions.memory is not None:
        key += f", {conditions.memory}"
    chosen: dict[str, Any] = {}
    if ranks.is_main:
        chosen = declare(output, declared).get(key, {})
        if not chosen:
            job = job_for(model, describe_net(model, settings), settings, splits.train)
            fit = choose(
                plan_batches(settings.batch_size, ranks.size).micro_batch_size,
                budget,
                job.load,
                lambda way: peak_memory(replace(job, memory=way.memory), way.photos, ranks.device),
                levels_for(model, conditions.memory),
            )
            memory, photos = fit.choice
            chosen = {"micro_batch_size": photos, "memory": memory, "measured": str(fit)}
            declare(output, declared | {key: chosen})
    chosen = ranks.share(chosen)
    # Runs that began before there were levels name none.
    return chosen["micro_batch_size"], chosen.get("memory", "fast"), chosen["measured"]


def _workers(conditions: Conditions, ranks: Ranks) -> int:
    if conditions.workers is not None:
        return conditions.workers
    if ranks.device.type == "cpu":
        return core_count()  # each rank has cores of its own
    return max(1, core_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def make_task(
    settings: FineTuning,
    splits: Splits,
    plan: BatchPlan,
    ranks: Ranks,
    model: nn.Module,
    workers: int,
    log: RunLog,
) -> Task:
    """What a run learns and is judged by."""
    train, held_out = splits.train, splits.held_out
    if isinstance(train, LabelledImages) and isinstance(held_out, LabelledImages):
        net = describe_net(model, settings)
        return classification(
            train,
            held_out,
            settings,
            plan,
            ranks,
            mean=net.mean,
            std=net.std,
            workers=workers,
            log=log,
        )
    if isinstance(train, DetectionImages) and isinstance(held_out, DetectionImages):
        return Detection(train, held_out, settings, plan, ranks, workers=workers, log=log)
    assert isinstance(train, SegmentationImages) and isinstance(held_out, SegmentationImages)
    return Segmentation(train, held_out, settings, plan, ranks, workers=workers, log=log)
