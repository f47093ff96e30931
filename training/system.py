"""Where and how a run trains: settings that change speed and memory, and never what is trained.

They come from `--set NAME=VALUE`, are no part of a recipe's identity, and may differ between a run and its continuation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..catalog.errors import SeaLionError

LAX = ConfigDict(extra="forbid")
"""Values come as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Settings of a training run on this machine."""

    __pydantic_config__ = LAX

    recompute: Literal["none", "layers"] = "none"
    """Activation checkpointing: `layers` keeps each layer's input only and computes the rest again."""
    compile: bool = False
    """Compile each layer with torch."""
    liger: bool = False
    """Liger's kernels; on CUDA only."""
    replicas: int = 1
    """Groups of processes that each hold all weights (HSDP); the weights are divided within a group."""
    chunk: int = 1024
    """Positions whose logits exist at the same time."""
    log_steps: int = 10
    """Steps between two lines of the log, and two copies from the device."""
    tensorboard: bool = False
    """Whether the log goes to TensorBoard as well."""
    peak_tflops: float = 0.0
    """Peak of one device in bf16, 1e12 operations a second, for the MFU; 0: known for the device, or not reported."""

    def __post_init__(self) -> None:
        if min(self.replicas, self.chunk, self.log_steps) < 1 or self.peak_tflops < 0:
            raise ValueError("replicas, chunk and log_steps must be at least 1, peak_tflops at least 0")


def system_of(settings: Mapping[str, str]) -> System:
    """The settings of `--set`; raises SeaLionError for an unknown name or an impossible value."""
    try:
        return TypeAdapter(System).validate_python(dict(settings))
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(place) for place in problem["loc"]) or "--set"
        raise SeaLionError(f"--set {name}: {problem['msg']} (settings of training: {', '.join(System.__slots__)})") from error
