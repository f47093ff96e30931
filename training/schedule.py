"""The learning rate of a step: warmup, stable, decay, linear at both ends.

A closed form instead of a scheduler object: nothing to checkpoint, nothing that a launcher could step twice, and the last step
has exactly the floor. The form is that of MiniCPM (https://arxiv.org/abs/2404.06395) with a linear decay.
"""

from __future__ import annotations

from .recipe import Schedule


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """Learning rate of optimizer step `step` (1 to `steps`).

    The peak is reached at the last warmup step, `floor * peak` at step `steps`; a share above 0 means at least one step.
    Raises ValueError for a step outside of the run.
    """
    if not 1 <= step <= steps:
        raise ValueError(f"step {step} is not one of 1 to {steps}")
    warmup, decay = phase_steps(steps, schedule)
    if step > steps - decay:
        progress = (step - (steps - decay)) / decay
        return peak * (1 - progress) + peak * schedule.floor * progress
    if step <= warmup:
        return peak * (step / warmup)
    return peak


def phase_steps(steps: int, schedule: Schedule) -> tuple[int, int]:
    """Steps of warmup and of decay; where rounding makes them overlap, the decay goes first."""
    decay = max(1, round(schedule.decay * steps)) if schedule.decay else 0
    warmup = max(1, round(schedule.warmup * steps)) if schedule.warmup else 0
    return min(warmup, steps - decay), decay
