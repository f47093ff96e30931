"""Recipes of the training area: a tokenizer, an initial model, a training stage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from ..catalog.recipes import Files, Recipe, Reference
from ..catalog.records import STRICT

OUTSIDE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""Code of somebody else's: `module:function`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecipe(Recipe):
    """A byte-level BPE tokenizer with a chat template, trained on the training split of corpora."""

    kind: Literal["tokenizer"]
    corpora: tuple[Reference, ...]
    vocabulary: int
    """Entries, special tokens included."""

    def __post_init__(self) -> None:
        super(TokenizerRecipe, self).__post_init__()
        if self.vocabulary < 261:
            raise ValueError(f"vocabulary must be at least 261 (256 bytes and 5 special tokens), not {self.vocabulary}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRecipe(Recipe):
    """A randomly initialised model of one of transformers' own classes."""

    kind: Literal["init"]
    tokenizer: Reference
    architecture: Literal["llama", "gemma2"]
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    max_length: int
    """Longest sequence, tokens."""
    is_tied: bool = True
    """Whether the head is the embedding."""
    seed: int = 0
    """Of the random weights."""

    def __post_init__(self) -> None:
        super(InitRecipe, self).__post_init__()
        sizes = ("hidden_size", "intermediate_size", "layers", "heads", "key_value_heads", "head_dim", "max_length")
        for size in sizes:
            if getattr(self, size) < 1:
                raise ValueError(f"{size} must be at least 1, not {getattr(self, size)}")
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be a multiple of heads ({self.heads})")
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of key_value_heads ({self.key_value_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, not {self.head_dim}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate as a pure function of the step; see `schedule.learning_rate` for the formulas."""

    __pydantic_config__ = STRICT

    form: Literal["wsd", "cosine", "constant"] = "wsd"
    """Warmup-stable-decay, linear at both ends; warmup, then half a cosine; or warmup, then constant."""
    warmup: float = 0.1
    """Share of the steps that rise to the peak."""
    decay: float = 0.1
    """`wsd`: share of the steps that fall to the floor."""
    floor: float = 0.01
    """`wsd`, `cosine`: last learning rate as a share of the peak."""

    def __post_init__(self) -> None:
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1 and 0 <= self.floor <= 1):
            raise ValueError("warmup, decay and floor are shares, and warmup + decay at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """AdamW."""

    __pydantic_config__ = STRICT

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-15
    weight_decay: float = 0.0
    """On matrices only: norms, biases and embeddings are not decayed."""
    decay_form: Literal["lr", "decoupled"] = "lr"
    """A step scales the weights by `1 - lr * weight_decay` (torch, transformers), or by `1 - lr / peak * weight_decay`
    (Composer's decoupled AdamW)."""
    clip: float = 1.0
    """Largest global gradient norm."""

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError("beta1 and beta2 must be at least 0 and below 1")
        if self.eps <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise ValueError("eps and clip must be above 0, weight_decay at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A source that is not trained on any more; the others take its place in their proportions."""

    __pydantic_config__ = STRICT

    source: str
    """Source of the corpora."""
    language: str = ""
    """Only this language of it; empty: all."""
    from_step: int
    """First step without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe(Recipe):
    """One training stage: continued pre-training on a mixture, supervised or preference tuning on conversations."""

    kind: Literal["train"]
    objective: str
    """`cpt`, `sft`, `simpo`, or one of your own, `module:function` (see `objectives.Objective`)."""
    model: Reference
    """The checkpoint to start from."""
    mixture: Reference = ""
    """Objective `cpt`: what to train on, planned with token files."""
    conversations: Reference = ""
    """Objectives `sft` (form `messages`) and `simpo` (form `preference`)."""
    heldout: Reference = ""
    """Token files of split `heldout`, on which the loss of each language and source is measured at the end."""
    heldout_steps: int = 0
    """Steps between two such measurements; 0: at the end only."""
    lr: float
    """Peak learning rate."""
    batch_sequences: int
    """Sequences (`sft`: of packed conversations; `simpo`: pairs) of an optimizer step, over all processes."""
    micro_batch: int = 0
    """Sequences of one forward pass and process; 0: the whole share of the process."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the computation; master weights, moments and the reduction of gradients are always fp32."""
    epochs: float = 1.0
    """Passes over the conversations; a mixture holds its own."""
    sequence_length: int = 0
    """`sft`, `simpo`: longest sequence, tokens; longer rows are dropped and counted. A mixture holds its own."""
    template: Literal["", "llama-3.1", "gemma-2"] = ""
    """Chat template of `sft` and `simpo`; it marks the assistant's tokens and is exported with the model. Empty: its own."""
    beta: float = 2.0
    """SimPO: scale of the reward."""
    gamma: float | None = None
    """SimPO: target margin, `beta * (mean logp chosen - mean logp rejected) - gamma`; 1.0 unless a ratio is given."""
    gamma_ratio: float | None = None
    """SimPO: the same margin as a ratio, `gamma / beta`."""
    seed: int = 0
    """Of every random choice: order, sampling."""
    checkpoint_steps: int = 50
    """Steps between two checkpoints to resume from, of which the latest two are kept."""
    permanent_steps: int = 0
    """Steps between two checkpoints that stay beside the trained model; 0: none."""
    keeps_decay_start: bool = False
    """Whether a checkpoint stays from where the decay of `wsd` begins, so that another decay can start there."""
    start_step: int = 0
    """Step of a checkpoint that stayed beside `model`: weights, moments and step are taken from there."""
    skip_steps: tuple[tuple[int, int], ...] = ()
    """First and last steps of ranges that are left out; the others keep their data and learning rate."""
    drop: tuple[Drop, ...] = ()
    """Sources that are left out from some step on."""
    export_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the trained model's file."""
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: Optimizer = field(default_factory=Optimizer)

    @property
    def margin(self) -> float:
        """SimPO's gamma in the form of a margin."""
        return self.gamma_ratio * self.beta if self.gamma_ratio is not None else 1.0 if self.gamma is None else self.gamma

    def __post_init__(self) -> None:
        super(TrainRecipe, self).__post_init__()
        if self.objective not in ("cpt", "sft", "simpo") and not OUTSIDE.fullmatch(self.objective):
            raise ValueError(f"objective must be cpt, sft, simpo or module:function, not {self.objective!r}")
        if bool(self.mixture) == bool(self.conversations):
            raise ValueError("name either a mixture or conversations")
        if (self.objective == "cpt" and not self.mixture) or (self.objective in ("sft", "simpo") and not self.conversations):
            raise ValueError("objective 'cpt' takes a mixture, 'sft' and 'simpo' take conversations")
        if bool(self.mixture) != (self.sequence_length == 0) or self.sequence_length == 1:
            raise ValueError("conversations take a sequence_length of at least 2; a mixture has its own")
        if self.mixture and self.template:
            raise ValueError("template is for conversations")
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, not {self.lr:g}")
        if self.batch_sequences < 1 or self.micro_batch < 0 or self.checkpoint_steps < 1 or self.epochs <= 0:
            raise ValueError("batch_sequences, checkpoint_steps and epochs must be above 0, micro_batch at least 0")
        if min(self.permanent_steps, self.heldout_steps, self.start_step) < 0:
            raise ValueError("permanent_steps, heldout_steps and start_step must be at least 0")
        if self.gamma is not None and self.gamma_ratio is not None:
            raise ValueError("name either gamma or gamma_ratio")
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, not {self.beta:g}")
        if any(not 1 <= first <= last for first, last in self.skip_steps) or any(drop.from_step < 1 for drop in self.drop):
            raise ValueError("skip_steps are pairs of first and last step, and from_step at least 1")
        if self.drop and not self.mixture:
            raise ValueError("drop is for mixtures")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideRecipe(Recipe):
    """A checkpoint that was trained outside of this platform."""

    kind: Literal["outside"]
    model_files: Files
    """`config.json`, the safetensors and the tokenizer's files, all of one folder; or peft's two files of a LoRA adapter."""
    parents: tuple[Reference, ...] = ()
    """The checkpoints it was trained from; of an adapter the one it adapts."""
    stage: Literal["cpt", "sft", "simpo", "outside"] = "outside"
    """What was done to it."""
    steps: int = 0
    """Optimizer steps, if known."""
    tokens: int = 0
    """Tokens that were in the loss, if known."""

    def __post_init__(self) -> None:
        super(OutsideRecipe, self).__post_init__()
        if not self.model_files:
            raise ValueError("model_files must name the model's files")
        if not (self.parents or self.licence):
            raise ValueError("a model without parents inherits no licence: name its licence")
        if self.steps < 0 or self.tokens < 0:
            raise ValueError("steps and tokens must be at least 0")
