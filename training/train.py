"""The verb: one training stage, from its recipe to a recorded checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ..catalog.adapters import check_whole
from ..catalog.errors import RecipeError
from ..catalog.fingerprint import file_digest
from ..catalog.records import Checkpoint, Mixture
from ..catalog.store import SCRATCH, Job, Made, verify_files, write_rows
from .checkpoint import Checkpoints, Progress
from .conversations import ConversationPlan, conversation_plan
from .flops import flops_per_token
from .heads import LogProbabilities
from .heldout import Heldout, heldout_losses, heldout_text
from .meters import LOG_SCHEMA, Meter, last_loss
from .mixture import MixturePlan, mixture_plan
from .model import export
from .optimizer import adamw
from .pace import PACE_SCHEMA
from .part_losses import LOSS_SCHEMA
from .processes import Processes, fixed_arithmetic, join_processes
from .recipe import TrainRecipe
from .rendering import template_text
from .schedule import phase_steps
from .sharding import load_trainable
from .sinks import JSON_LINES, TENSORBOARD
from .system import System, system_of
from .token_bytes import byte_lengths
from .trainer import Run, run_digest, train

PARTS_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("sequences", pa.int64()),
        ("tokens", pa.int64()),
        ("documents", pa.int64()),
    ]
)
CONSUMED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("part", "corpus", "language", "source", "crawl")]
    + [(name, pa.int64()) for name in ("documents", "tokens", "tokens_plain")]
)
SETTINGS_SCHEMA = pa.schema([("key", pa.string()), ("value", pa.string())])
KEPT = "checkpoints"
"""Folder beside the trained model for the checkpoints that stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage being trained: its job and what was opened for it."""

    job: Job[TrainRecipe]
    processes: Processes
    system: System
    tokenizer: Any
    """transformers' tokenizer of the model."""
    plan: MixturePlan | ConversationPlan
    byte_length_V: torch.Tensor
    """UTF-8 bytes of each token."""
    heldout: Heldout | None
    length: int
    """Tokens of a sequence."""


def train_model(job: Job[TrainRecipe]) -> Made:
    """Train a checkpoint by the recipe's objective; a run that was killed goes on from its last checkpoint.

    The same recipe and inputs give the same bytes; over several processes the last bits depend on their number, as sums are
    taken in another order. Where a launcher started several, each calls this with the same job; rank 0 writes. Raises
    RecipeError for inputs that do not fit together, CorruptInput for files that changed, Interrupted after a signal.
    """
    recipe, system = job.recipe, system_of(job.options.executor_settings)
    parent = job.inputs[recipe.model]
    if not isinstance(parent.body, Checkpoint):
        raise RecipeError(str(recipe.ref), "model", f"{recipe.model} is not a checkpoint")
    check_whole(parent)
    verify_files(job.folder_of(recipe.model), parent)
    processes = join_processes(job.options.device)
    if processes.rank == 0:
        _clear(job.folder)
    processes.barrier()
    stage = _opened(job, processes, system)
    with fixed_arithmetic(processes):
        return _trained(stage)


def _opened(job: Job[TrainRecipe], processes: Processes, system: System) -> Stage:
    """Check that the inputs fit together, and open them."""
    from transformers import AutoConfig, AutoTokenizer

    recipe, folder = job.recipe, job.folder_of(job.recipe.model)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token_id is None:
        raise RecipeError(str(recipe.ref), "model", f"the tokenizer of {recipe.model} has no end token")
    length, key = recipe.sequence_length, "sequence_length"
    if recipe.mixture:
        body = job.inputs[recipe.mixture].body
        length, key = (body.sequence_length if isinstance(body, Mixture) else 0), "mixture"
    longest = AutoConfig.from_pretrained(folder).max_position_embeddings
    if length > longest:
        raise RecipeError(str(recipe.ref), key, f"has sequences of {length} tokens, {recipe.model} can take {longest}")
    lengths = byte_lengths(tokenizer.backend_tokenizer)
    plan: MixturePlan | ConversationPlan
    if recipe.mixture:
        plan = processes.together(lambda: mixture_plan(job, processes.rank, processes.world))
    else:
        plan = conversation_plan(job, tokenizer, processes, is_static=system.compile)
    if recipe.start_step >= plan.steps:
        raise RecipeError(str(recipe.ref), "start_step", f"must be below the run's {plan.steps} steps")
    heldout = None
    if recipe.heldout:
        heldout = heldout_text(
            recipe, job.inputs[recipe.heldout], job.folder_of(recipe.heldout),
            tokenizer_sha256=file_digest(folder / "tokenizer.json"), length=length, byte_length_V=lengths,
        )  # fmt: skip
    return Stage(
        job=job, processes=processes, system=system, tokenizer=tokenizer, plan=plan, byte_length_V=lengths,
        heldout=heldout, length=length,
    )  # fmt: skip


def _trained(stage: Stage) -> Made:
    """Load, train, measure and export."""
    job, processes, recipe, plan = stage.job, stage.processes, stage.job.recipe, stage.plan
    folder = job.folder_of(recipe.model)
    module = load_trainable(folder, recipe.precision, stage.system, processes)
    optimizer = adamw(module, recipe.optimizer, recipe.lr)
    resume = job.store.resume_folder(recipe.ref)
    start = job.inputs[recipe.model].fingerprint
    checkpoints = Checkpoints(
        resume / "latest", resume / KEPT, lambda step: run_digest(recipe, start, plan, step), processes
    )  # fmt: skip
    progress, first = checkpoints.restore(module, optimizer), recipe.start_step + 1
    done = progress.step if progress else _branched(stage, checkpoints, module, optimizer)
    meter = _meter(stage, module, progress)
    heldout_rows: list[dict[str, Any]] = list(progress.state["heldout"]) if progress else []

    def measure(step: int) -> None:
        if stage.heldout is not None:
            heldout_rows.extend(heldout_losses(module, stage.heldout, processes, step, recipe.micro_batch or 1))

    run = Run(
        recipe=recipe, plan=plan, module=module, optimizer=optimizer, processes=processes, meter=meter,
        checkpoints=checkpoints, measure=measure, heldout_rows=heldout_rows,
    )  # fmt: skip
    train(run, done)
    measure(plan.steps)
    template = template_text(recipe.template, stage.tokenizer, str(recipe.ref)) if recipe.template else ""
    exported = export(
        module, folder, job.folder, dtype=recipe.export_dtype, template=template, processes=processes
    )  # fmt: skip
    kept = checkpoints.keep_permanent(job.folder / KEPT)
    body = Checkpoint(
        stage=recipe.objective,
        architecture=exported.architecture,
        parameters=exported.parameters,
        parents=(str(job.inputs[recipe.model].ref),),
        step=plan.steps,
        tokens_seen=sum(row["tokens"] for row in meter.rows if not row["skipped"]),
        loss=last_loss(meter.rows),
    )
    tables = _write_tables(stage, run, kept, first)
    if processes.rank == 0:
        for name in {JSON_LINES, TENSORBOARD} & {path.name for path in resume.iterdir()}:
            (shutil.copytree if (resume / name).is_dir() else shutil.copy)(resume / name, job.folder / name)
    return Made(body=body, tables=tables)


def _branched(stage: Stage, checkpoints: Checkpoints, module: LogProbabilities, optimizer: torch.optim.AdamW) -> int:
    """Load the checkpoint of the recipe's `start_step` that stayed beside its model; returns the step to go on from."""
    recipe, job = stage.job.recipe, stage.job
    if not recipe.start_step:
        return 0
    folder = job.folder_of(recipe.model) / KEPT
    kept = sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))
    if recipe.start_step not in kept:
        steps = ", ".join(map(str, kept)) or "none"
        problem = f"{recipe.model} has no checkpoint of step {recipe.start_step} (it has {steps})"
        raise RecipeError(str(recipe.ref), "start_step", problem)
    checkpoints.restore_from(folder / f"step-{recipe.start_step:09d}", module, optimizer)
    return recipe.start_step


def _meter(stage: Stage, module: LogProbabilities, progress: Progress | None) -> Meter:
    config, plan, first = module.model.config, stage.plan, stage.job.recipe.start_step + 1
    return Meter(
        steps=plan.steps,
        title=str(stage.job.recipe.ref),
        parts=plan.parts,
        processes=stage.processes,
        system=stage.system,
        folder=stage.job.store.resume_folder(stage.job.recipe.ref),
        byte_length_V=stage.byte_length_V,
        flops=(flops_per_token(config, stage.length, causal=False), flops_per_token(config, stage.length, causal=True)),
        planned_P=plan.labels(first, plan.steps) if isinstance(plan, MixturePlan) else None,
        state=progress.state if progress else None,
        show_progress=stage.job.options.show_progress,
    )


def _clear(folder: Path) -> None:
    """Delete what a killed attempt left half written."""
    for path in folder.iterdir():
        if path.name == SCRATCH:
            continue  # rendered conversations
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _settings(stage: Stage, kept: tuple[int, ...]) -> list[dict[str, str]]:
    """Rows of the table `training_settings`: what the recipe leaves open or can say in two ways."""
    recipe, plan = stage.job.recipe, stage.plan
    warmup, decay = phase_steps(plan.steps, recipe.schedule)
    settings: dict[str, object] = {"warmup_steps": warmup, "decay_steps": decay, "precision": recipe.precision}
    settings |= {"device": stage.processes.device, "sequence_length": stage.length}
    if isinstance(plan, ConversationPlan):
        settings |= {"template": recipe.template or "the model's own", **plan.settings}
    if recipe.objective == "simpo":
        settings |= {"beta": recipe.beta, "gamma": recipe.margin, "gamma_ratio": recipe.margin / recipe.beta}
    if kept:
        settings["checkpoints"] = " ".join(map(str, kept))
    return [{"key": key, "value": str(value)} for key, value in sorted(settings.items())]


def _write_tables(stage: Stage, run: Run, kept: tuple[int, ...], first: int) -> dict[str, str]:
    """Write the side tables (rank 0); returns table to file name."""
    plan, meter = stage.plan, run.meter
    written: dict[str, tuple[list[dict[str, Any]], pa.Schema]] = {
        "training_log": (meter.rows, LOG_SCHEMA),
        "training_pace": (meter.pace_rows, PACE_SCHEMA),
        "language_losses": ([*meter.loss_rows, *run.heldout_rows], LOSS_SCHEMA),
        "training_settings": (_settings(stage, kept), SETTINGS_SCHEMA),
    }
    if isinstance(plan, MixturePlan):
        written["training_parts"] = (plan.read(first, plan.steps), PARTS_SCHEMA)
        written["consumed"] = (plan.consumed(first, plan.steps), CONSUMED_SCHEMA)
    files = {table: f"{table}.parquet" for table in written}
    if stage.processes.rank == 0:
        for table, (content, schema) in written.items():
            write_rows(stage.job.folder / files[table], content, schema)
    stage.processes.barrier()
    return files
