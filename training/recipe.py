"""Recipes of the training area: a tokenizer, an initial model, a training stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..catalog.recipes import Recipe, Reference
from ..catalog.records import STRICT


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
    """Warmup-stable-decay, linear at both ends: a pure function of the step."""

    __pydantic_config__ = STRICT

    warmup: float = 0.1
    """Share of the steps that rise to the peak."""
    decay: float = 0.1
    """Share of the steps that fall to the floor."""
    floor: float = 0.01
    """Last learning rate as a share of the peak."""

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
    clip: float = 1.0
    """Largest global gradient norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe(Recipe):
    """One training stage: continued pre-training on a mixture, supervised or preference tuning on conversations."""

    kind: Literal["train"]
    objective: Literal["cpt", "sft", "simpo"]
    model: Reference
    """The checkpoint to start from."""
    mixture: Reference = ""
    """Objective `cpt`: what to train on."""
    conversations: Reference = ""
    """Objectives `sft` (form `messages`) and `simpo` (form `preference`)."""
    lr: float
    """Peak learning rate."""
    batch_sequences: int
    """Sequences (SimPO: pairs) of an optimizer step, over all processes."""
    micro_batch: int = 0
    """Sequences of one forward pass and process; 0: the whole share of the process."""
    epochs: float = 1.0
    """Passes over the conversations; a mixture holds its own."""
    sequence_length: int = 0
    """`sft`, `simpo`: longest sequence, tokens; longer rows are dropped and counted. A mixture holds its own."""
    bpe_dropout: float = 0.0
    """Probability with which a merge is skipped (`cpt` only)."""
    beta: float = 2.0
    """SimPO: scale of the reward."""
    gamma: float = 1.0
    """SimPO: target margin, in the form `beta * (mean logp chosen - mean logp rejected) - gamma`."""
    seed: int = 0
    """Of every random choice: order, dropout, sampling."""
    checkpoint_steps: int = 50
    """Steps between two resumable checkpoints."""
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        super(TrainRecipe, self).__post_init__()
        if (self.objective == "cpt") != bool(self.mixture) or (self.objective != "cpt") != bool(self.conversations):
            raise ValueError("objective 'cpt' takes a mixture, 'sft' and 'simpo' take conversations")
        if (self.objective == "cpt") != (self.sequence_length == 0) or self.sequence_length == 1:
            raise ValueError("objectives 'sft' and 'simpo' take a sequence_length of at least 2; a mixture has its own")
        if self.bpe_dropout and self.objective != "cpt":
            raise ValueError("bpe_dropout is for objective 'cpt' only")
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, not {self.lr:g}")
        if self.batch_sequences < 1 or self.micro_batch < 0 or self.checkpoint_steps < 1 or self.epochs <= 0:
            raise ValueError("batch_sequences, checkpoint_steps and epochs must be above 0, micro_batch at least 0")
        if not 0 <= self.bpe_dropout < 1:
            raise ValueError(f"bpe_dropout must be at least 0 and below 1, not {self.bpe_dropout:g}")
