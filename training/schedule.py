"""The learning rate of a step: warmup-stable-decay, cosine or constant.

A closed form instead of a scheduler object: nothing to checkpoint, nothing that a launcher could step twice, and the last step
has exactly the floor. Warmup-stable-decay is that of MiniCPM (https://arxiv.org/abs/2404.06395) with a linear decay; the cosine
is that of SGDR (https://arxiv.org/abs/1608.03983) without restarts.
"""

from __future__ import annotations

import math

from .recipe import Schedule


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """Learning rate of optimizer step `step` (1 to `steps`).

    The peak is reached at the last warmup step; a share above 0 means at least one step. `wsd` and `cosine` have
    `floor * peak` at step `steps`. Raises ValueError for a step outside of the run.
    """
    if not 1 <= step <= steps:
        raise ValueError(f"step {step} is not one of 1 to {steps}")
    warmup, decay = phase_steps(steps, schedule)
    if decay and step > steps - decay:
        share = (step - (steps - decay)) / decay
        if schedule.form == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return peak * (1 - share) + peak * schedule.floor * share
    return peak * (step / warmup) if step <= warmup else peak


def phase_steps(steps: int, schedule: Schedule) -> tuple[int, int]:
    """Steps of warmup and of decay (a cosine's takes all that follow the warmup); where rounding makes them overlap, the decay
    goes first."""
    warmup = max(1, round(schedule.warmup * steps)) if schedule.warmup else 0
    if schedule.form == "cosine":
        warmup = min(warmup, steps - 1)
        return warmup, steps - warmup
    decay = max(1, round(schedule.decay * steps)) if schedule.form == "wsd" and schedule.decay else 0
    return min(warmup, steps - decay), decay
