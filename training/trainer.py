"""The trainer: one loop for all objectives, alone or sharded over processes, resumable to the last bit.

Between two lines of the log nothing is copied from the device: losses, norms and counts stay there, a bad step is skipped
there, and what the processes agree on otherwise (an interruption) goes over the hosts.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..catalog.fingerprint import canonical_json, plain
from ..catalog.recipes import NOT_IDENTITY
from .batches import Plan
from .checkpoint import Checkpoints
from .heads import LogProbabilities
from .interruption import Interrupted, Interruption
from .loader import StepData, step_data
from .meters import Meter
from .objectives import Objective, objective_of
from .optimizer import clipped_norm, step_if_finite
from .processes import Processes
from .recipe import TrainRecipe
from .schedule import learning_rate, phase_steps

MEASURED = ("heldout", "heldout_steps", "export_dtype")
SAVED = ("checkpoint_steps", "permanent_steps", "keeps_decay_start")
FREE = (*NOT_IDENTITY, "model", *MEASURED, *SAVED)
"""Keys of a recipe that may change between a run and its continuation; the model is known by its fingerprint."""
BY_PLAN = ("mixture", "conversations", "skip_steps", "drop", "epochs", "template", "batch_sequences", "sequence_length")
"""Keys whose effect on each step the plan's digest holds."""

COLLECTED = 100
"""Steps between two collections of garbage, on all processes at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is trained, with what and where it is saved."""

    recipe: TrainRecipe
    plan: Plan
    module: LogProbabilities
    """The model, sharded."""
    processes: Processes
    optimizer: torch.optim.AdamW
    meter: Meter
    checkpoints: Checkpoints
    heldout_rows: list[dict[str, Any]]
    """Rows of `language_losses` on held-out text."""
    measure: Callable[[int], None]
    """Adds to them after a step."""


def run_digest(recipe: TrainRecipe, model: str, plan: Plan, step: int) -> str:
    """What a checkpoint of step `step` must have been made with to be resumed from; `model`: fingerprint of the start."""
    content = {key: value for key, value in plain(recipe).items() if key not in (*FREE, *BY_PLAN)}
    schedule = canonical_json([content, model, plan.steps])
    return hashlib.sha256(f"{schedule} {plan.digest(step)}".encode()).hexdigest()


def train(run: Run, done: int) -> None:
    """Train the steps after `done` to the end of the plan.

    Every process of a launch calls it with the same run. Raises Interrupted after a signal, when all is saved, and SeaLionError
    when ten steps in a row are not finite or the tokens that the loss saw are not those that the plan gave.
    """
    recipe, meter, steps, objective = run.recipe, run.meter, run.plan.steps, objective_of(run.recipe)
    data = step_data(run.plan, range(done + 1, steps + 1), run.processes, recipe.micro_batch)
    with closing(meter), closing(data), Interruption(run.processes) as interruption, _collecting_by_hand():
        for batches in data:
            step = batches.step
            meter.begin_step(step, batches.waited)
            lr = learning_rate(step, steps, recipe.lr, recipe.schedule)
            loss = gradients(run, objective, batches)
            norm = clipped_norm(run.module, recipe.optimizer.clip)
            skipped = step_if_finite(run.optimizer, lr, loss, norm)
            meter.end_step(lr, torch.stack([loss, norm, skipped]))
            if step % COLLECTED == 0:
                gc.collect(1)
            if step < steps:
                _between(run, step, interruption.agreed())
        run.checkpoints.wait()
        meter.check_ledger()


def _between(run: Run, step: int, is_stopped: bool) -> None:
    """Measure and save where it is time to; raises Interrupted when the run was told to stop."""
    recipe, steps = run.recipe, run.plan.steps
    if recipe.heldout_steps and step % recipe.heldout_steps == 0:
        run.measure(step)
    stays = is_permanent(recipe, step, steps)
    if is_stopped or stays or step % recipe.checkpoint_steps == 0:
        state = run.meter.state() | {"heldout": list(run.heldout_rows)}
        run.checkpoints.save(step, state, run.module, run.optimizer, permanent=stays)
    if is_stopped:
        run.checkpoints.wait()
        raise Interrupted(f"{recipe.ref} was stopped after step {step} of {steps}; the same command goes on from there")


def gradients(run: Run, objective: Objective, batches: StepData) -> torch.Tensor:
    """Accumulate the gradients of a step's mean loss; returns that loss, a scalar, the same on every process.

    The divisor is the number of units (tokens, pairs) of the whole step, over all micro-batches and processes.
    """
    total = torch.zeros((), device=run.processes.device)
    for batch in batches.micro:
        logp_RT = run.module(batch)
        loss = objective(logp_RT, batch, run.recipe) / batches.units
        torch.autograd.backward(loss * run.processes.world)
        run.meter.add_batch(batch, logp_RT)
        total += loss.detach()
    return run.processes.total(total)


def is_permanent(recipe: TrainRecipe, step: int, steps: int) -> bool:
    """Whether the checkpoint of a step stays: every `permanent_steps`, and the last before the decay."""
    _, decay = phase_steps(steps, recipe.schedule)
    if recipe.keeps_decay_start and recipe.schedule.form == "wsd" and step == steps - decay:
        return True
    return bool(recipe.permanent_steps) and step % recipe.permanent_steps == 0


@contextmanager
def _collecting_by_hand() -> Iterator[None]:
    """Without garbage collection at times of its own: it would stop one process while the others wait."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
