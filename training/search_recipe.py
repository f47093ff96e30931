"""The recipe of a mixture search, and the recipes of its runs: each an ordinary mixture and an ordinary training stage.

So every run is an artifact of its own, with a past, and one that exists is taken up. A trainer for searches alone, which would
keep the corpus in memory over all runs, was refused: its runs would not be the runs that the suggestion is for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..catalog.recipes import Recipe, Reference
from ..catalog.records import STRICT
from ..data.recipe import MixtureRecipe, Part
from .recipe import Optimizer, Schedule, TrainRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPart:
    """One part of the mixtures that are tried; as in a mixture, with bounds in place of a weight."""

    __pydantic_config__ = STRICT

    name: str
    """`sea`, `english`, `code`."""
    languages: tuple[str, ...]
    """ISO 639-3 codes, or `code`."""
    sources: tuple[str, ...] = ()
    """Sources of the corpora to draw on; empty: all."""
    smoothing: float = 1.0
    """Exponent on the available tokens when the share is divided among languages: 1 proportional, 0 equal."""
    min_weight: float = 0.0
    """Least share of the token budget."""
    max_weight: float = 1.0
    """Largest share of the token budget; what is available within `max_epochs` bounds it too."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_weight <= self.max_weight <= 1:
            raise ValueError("min_weight and max_weight must be between 0 and 1, in this order")
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing must be between 0 and 1, not {self.smoothing}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSearchRecipe(Recipe):
    """Many short runs over sampled mixtures of the same token files, and the mixture that they suggest."""

    kind: Literal["mixture-search"]
    tokens: Reference
    """Token files to mix."""
    model: Reference
    """The checkpoint that every run starts from."""
    heldout: Reference
    """Token files of split `heldout`: the runs are compared by their bits per byte on these."""
    part: tuple[SearchPart, ...]
    trials: int
    """Runs. More can be added later: the first ones stay the same, see `trial_version`."""
    trial_version: str = ""
    """Version of the runs' mixtures and checkpoints, empty: this recipe's. Who raises `trials`, and with it `version`, names
    the version before here and keeps the runs made then."""
    token_budget: int
    """Tokens of a run."""
    sequence_length: int
    """Tokens of a packed sequence."""
    max_epochs: float = 4.0
    """No document is planned more often than this in a run."""
    goal: dict[str, float] = field(default_factory=dict)
    """Language to its weight in the figure to make small, the mean of bits per byte; empty: all held-out languages alike."""
    seed: int = 0
    """Of the sampled mixtures, and of every run."""
    lr: float
    """Peak learning rate of a run."""
    batch_sequences: int
    """Sequences of an optimizer step of a run."""
    micro_batch: int = 0
    """Sequences of one forward pass; 0: all of the step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the computation."""
    export_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the runs' checkpoints, which stay in the catalog."""
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        super(MixtureSearchRecipe, self).__post_init__()
        names = [part.name for part in self.part]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError("a search needs two parts or more, of different names")
        if sum(part.min_weight for part in self.part) > 1 or sum(part.max_weight for part in self.part) < 1:
            raise ValueError("no mixture lies within the bounds: min_weight must sum to at most 1, max_weight to at least 1")
        if self.trials < 2 * len(names):
            raise ValueError(f"trials must be at least twice the parts ({2 * len(names)}), not {self.trials}")
        if any(not weight > 0 or math.isinf(weight) for weight in self.goal.values()):
            raise ValueError("the weights of the goal must be above 0")
        self.mixture([1 / len(names)] * len(names), 0)  # a run's own rules hold here already
        self.train(0)

    @property
    def stem(self) -> str:
        """What the names of the runs begin with: `tiny` of `search/tiny`."""
        return self.name.partition("/")[2]

    def mixture(self, weights_P: Sequence[float], trial: int | None) -> MixtureRecipe:
        """The mixture of a run, or with None the suggested one; a part of weight 0 is not in it."""
        parts = [
            Part(name=part.name, weight=float(weight), languages=part.languages, sources=part.sources, smoothing=part.smoothing)
            for part, weight in zip(self.part, weights_P, strict=True)
            if weight > 0
        ]
        return MixtureRecipe(
            kind="mixture",
            name=f"mixture/{self.stem}" + ("-suggested" if trial is None else f"-{trial}"),
            version=self.version if trial is None else self.trial_version or self.version,
            licence=self.licence,
            tokens=self.tokens,
            token_budget=self.token_budget,
            sequence_length=self.sequence_length,
            max_epochs=self.max_epochs,
            part=tuple(parts),
        )

    def train(self, trial: int) -> TrainRecipe:
        """The training stage of a run."""
        version = self.trial_version or self.version
        return TrainRecipe(
            kind="train",
            name=f"checkpoint/{self.stem}-{trial}",
            version=version,
            description=f"Run {trial} of {self.name}.",
            licence=self.licence,
            objective="cpt",
            model=self.model,
            mixture=f"mixture/{self.stem}-{trial}@{version}",
            heldout=self.heldout,
            lr=self.lr,
            batch_sequences=self.batch_sequences,
            micro_batch=self.micro_batch,
            precision=self.precision,
            export_dtype=self.export_dtype,
            seed=self.seed,
            schedule=self.schedule,
            optimizer=self.optimizer,
        )


def mixture_toml(recipe: MixtureRecipe, comment: str) -> str:
    """A mixture as a recipe file; the standard library reads TOML only, and JSON's strings and lists are TOML's."""
    keys = ("kind", "name", "version", "licence", "tokens", "token_budget", "sequence_length", "max_epochs")
    lines = [f"# {comment}", *(f"{key} = {json.dumps(getattr(recipe, key))}" for key in keys if getattr(recipe, key) != "")]
    for part in recipe.part:
        lines += ["", "[[part]]", *(f"{key} = {json.dumps(getattr(part, key))}" for key in Part.__slots__)]
    return "\n".join(lines) + "\n"
