"""The trainer: one loop for all objectives, alone or sharded over processes, resumable to the last bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ..catalog.fingerprint import canonical_json, plain
from ..catalog.recipes import NOT_IDENTITY
from .batches import Plan, shares
from .checkpoint import Checkpoints
from .meters import Meter
from .model import export_model, load_model, parameters_of
from .objectives import OBJECTIVES, LogProbabilities
from .optimizer import adamw, clipped_norm, step_if_finite
from .processes import Processes, fixed_arithmetic, shard
from .recipe import TrainRecipe
from .schedule import learning_rate

RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is trained: recipe, plan and places."""

    recipe: TrainRecipe
    plan: Plan
    model_folder: Path
    """Weights and tokenizer to start from."""
    folder: Path
    """Where the trained model goes; checkpoints to resume from are in `resume` below it."""
    processes: Processes
    show_progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a run came to."""

    rows: list[dict[str, Any]]
    """Rows of the table `training_log`."""
    architecture: str
    """Transformers' class name."""
    parameters: int
    """Distinct parameters."""


def run_training(run: Run) -> Trained:
    """Train to the end of the plan, resuming where an earlier attempt was stopped, and export the model (rank 0).

    Every process of a launch calls it with the same run. Raises SeaLionError when ten steps in a row are not finite.
    """
    with fixed_arithmetic(run.processes):
        model = load_model(run.model_folder, run.processes.device)
        architecture, parameters = type(model).__name__, parameters_of(model)
        module = LogProbabilities(model)
        shard(module, model.model.layers, run.processes)
        rows = _train(run, module)
        state: dict[str, Any] = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if run.processes.rank == 0:
            weights = {name.removeprefix("model."): tensor for name, tensor in state.items()}
            export_model(model, weights, run.model_folder, run.folder)
    return Trained(rows=rows, architecture=architecture, parameters=parameters)


def _train(run: Run, module: LogProbabilities) -> list[dict[str, Any]]:
    recipe, plan, processes = run.recipe, run.plan, run.processes
    steps = plan.steps(recipe.batch_sequences)
    optimizer = adamw(module, recipe.optimizer)
    checkpoints = Checkpoints(run.folder / RESUME, _digest(recipe, plan), processes)
    done, rows = checkpoints.restore(module, optimizer)
    meter = Meter(rows, steps, str(recipe.ref), run.show_progress and processes.rank == 0)
    try:
        for step in range(done + 1, steps + 1):
            examples = plan.step_examples(step, recipe.batch_sequences)
            loss = gradients(run, module, step)
            norm = clipped_norm(module, recipe.optimizer.clip)
            lr = learning_rate(step, steps, recipe.lr, recipe.schedule)
            skipped = step_if_finite(optimizer, lr, loss, norm)
            meter.add(step, lr, int(plan.tokens[examples].sum()), torch.stack([loss, norm, skipped]))
            if step % recipe.checkpoint_steps == 0 and step < steps:
                meter.drain()
                checkpoints.save(step, meter.rows, module, optimizer)
    finally:
        meter.close()
    return meter.rows


def gradients(run: Run, module: LogProbabilities, step: int) -> torch.Tensor:
    """Accumulate the gradients of a step's mean loss; returns that loss, a scalar, the same on every process.

    The divisor is the number of units (tokens, pairs) of the whole step, over all micro-batches and processes.
    """
    recipe, processes = run.recipe, run.processes
    objective = OBJECTIVES[recipe.objective]
    examples = run.plan.step_examples(step, recipe.batch_sequences)
    units = max(1, int(run.plan.units[examples].sum()))
    total = torch.zeros((), device=processes.device)
    for micro in shares(examples, processes.rank, processes.world, recipe.micro_batch):
        batch = run.plan.collate(micro).to(processes.device)
        loss = objective(module(batch), batch, recipe) / units
        torch.autograd.backward(loss * processes.world)
        total += loss.detach()
    return processes.total(total)


def _digest(recipe: TrainRecipe, plan: Plan) -> str:
    """What a checkpoint must have been made with to be resumed from: the recipe, as far as it matters, and the plan."""
    ignored = (*NOT_IDENTITY, "checkpoint_steps")
    content = {key: value for key, value in plain(recipe).items() if key not in ignored}
    return hashlib.sha256(f"{canonical_json(content)} {plan.digest}".encode()).hexdigest()
