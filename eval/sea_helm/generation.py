"""How answers are generated, as each release of SEA-HELM sets it.

2025: greedy but for summaries, top-k and seed from the benchmark's own file. 2026: only seed and length; the rest is the
model's own generation configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import Generation
from .profile import REASONING_TOKENS, profile_of
from .templates import TaskSettings, TaskTexts

BASE_STOP = ("\n\n",)
"""Ends the answer of a base model, which would go on with a next item."""
REASONING_TEMPERATURE = 0.6
"""Of v1.0.0 for models that reason."""
SEED = 1234


def sampling(
    profile: str,
    task: TaskSettings,
    texts: TaskTexts,
    shared: Mapping[str, float],
    *,
    is_base: bool = False,
    is_reasoning: bool = False,
    seed: int = SEED,
) -> dict[str, Any]:
    """The settings under the names that vLLM gives them; `shared` is what `generation_config.yaml` sets for all tasks."""
    longest = texts.max_tokens + (REASONING_TOKENS if is_reasoning else 0)
    if profile_of(profile).reads_temperature:
        temperature = REASONING_TEMPERATURE if is_reasoning else task.temperature or 0
        made: dict[str, Any] = {"temperature": temperature, "max_tokens": longest, **shared}
    else:
        made = {"seed": seed, "max_tokens": longest}
    return made | ({"stop": list(BASE_STOP)} if is_base else {})


def generation(settings: Mapping[str, Any], temperature: float = 0.0) -> Generation:
    """The same for the runner; `temperature` where the release leaves it to the model."""
    return Generation(
        max_tokens=settings["max_tokens"],
        stop=tuple(settings.get("stop", ())),
        temperature=float(settings.get("temperature", temperature)),
        top_k=int(settings.get("top_k", 50)),
        seed=int(settings["seed"]),
    )


def examples_asked(profile: str, task: TaskSettings, *, is_base: bool) -> int:
    """Few-shot examples of a task: what its configuration says, else none for instructed models and the release's for base."""
    kind = "base" if is_base else "instruct"
    return task.examples.get(kind, profile_of(profile).base_examples if is_base else 0)
