"""Recipes of post-training data: a set of conversations or preference pairs, and one that a model writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..catalog.languages import LANGUAGES
from ..catalog.recipes import Files, Recipe, Reference
from .sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationsRecipe(Recipe):
    """A validated set of conversations, or of preference pairs, from files in the common formats."""

    kind: Literal["conversations"]
    form: Literal["messages", "preference"]
    files: Files = ()
    """JSON Lines, JSON arrays (plain or compressed) or Parquet; the name says the language unless `language` does."""
    synthesis: Reference = ""
    """A synthetic set, whose files come after `files`."""
    format: Literal["exact", "auto", "messages", "sharegpt", "alpaca", "pairs", "ultrafeedback"] = "exact"
    """How a row is written; docs/conversations.md has the table."""
    bad_rows: Literal["refuse", "count"] = "refuse"
    """A bad row, or one under a licence that is not allowed: `refuse` the set, or leave it out and `count` it."""
    language: str = "file"
    """`file`: the file's name says it; `identify`: the text does; else the ISO 639-3 code of all rows."""
    language_column: str = ""
    """Key of a row that says its language; where it is missing, `language` holds."""
    languages: tuple[str, ...] = ()
    """Wanted languages; empty: all."""
    licence_column: str = ""
    """Key of a row that says its licence; where it is missing, the recipe's `licence` holds."""
    licences: tuple[str, ...] = ()
    """Licences that are allowed; empty: all."""
    evaluation_ngrams: Reference = ""
    """The n-gram index of the evaluation suites, to leave out rows that hold their items."""
    deduplicate: bool = True
    """Leave out rows whose turns are those of an earlier one in the same language, but for case, width and spaces."""

    def __post_init__(self) -> None:
        super(ConversationsRecipe, self).__post_init__()
        if not (self.files or self.synthesis):
            raise ValueError("a set needs files or a synthesis")
        if self.language not in ("file", "identify", *LANGUAGES):
            raise ValueError(f"language must be 'file', 'identify' or one of {', '.join(LANGUAGES)}, not {self.language!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisRecipe(Recipe):
    """Conversations written by a model; its address and key are read from the environment, its licence is the recipe's."""

    kind: Literal["synthesis"]
    model: str
    """The generator's public name, `Qwen/Qwen2.5-32B-Instruct`."""
    checkpoint: Reference = ""
    """The generator, where it is a checkpoint of this catalog; else an endpoint writes, or `model_files`."""
    model_files: Files = ()
    """All files of a model's folder outside the catalog."""
    template: Literal["chatml", "llama3", "gemma"] = "chatml"
    """The generator's chat template."""
    interface: Literal["completions", "chat"] = "completions"
    """`completions`: the model writes the user's message itself (Magpie); `chat`: it is asked for one."""
    languages: tuple[str, ...]
    """ISO 639-3."""
    attempts: int
    """Attempts a language; some are left out afterwards."""
    seed: int = 0
    question: Sampling = field(default_factory=Sampling)
    """How the user's message is drawn."""
    answer: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, max_tokens=4096))
    """How the answer is drawn."""

    def __post_init__(self) -> None:
        super(SynthesisRecipe, self).__post_init__()
        if not self.licence:
            raise ValueError("licence is required: the terms of the generator for what it writes")
        unknown = [language for language in self.languages if language not in LANGUAGES]
        if unknown or not self.languages or self.attempts < 1 or (self.checkpoint and self.model_files):
            raise ValueError("languages must be ours, attempts at least 1, and a checkpoint excludes model_files")
