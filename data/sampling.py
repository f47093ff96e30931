"""How a generator draws its text; apart from `generators.py`, so that recipes are read without an HTTP client."""

from __future__ import annotations

from dataclasses import dataclass

from ..catalog.records import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a text is drawn."""

    __pydantic_config__ = STRICT

    temperature: float = 1.0
    """0: the most probable token always."""
    top_p: float = 1.0
    """Nucleus: the most probable tokens that together have this probability."""
    max_tokens: int = 1024
    """Length at which a text is cut, and then left out."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise ValueError("temperature must be at least 0, top_p above 0 and at most 1, max_tokens at least 1")
