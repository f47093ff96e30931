"""The two SEA-HELM profiles, and the benchmark's own codes.

`sea_helm_2025` is release v1.0.0 (March 2025, the paper's: data in the repository, one greedy run), `sea_helm_2026` is v1.2.1
(today's leaderboard: data on the hub, other prompts, lenient extraction). Their numbers are never mixed: refused is one suite
with switches, because a scorecard would then not say which of the two it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...catalog.errors import SeaLionError

SHORT: dict[str, str] = {
    "ind": "id", "vie": "vi", "tha": "th", "tam": "ta", "fil": "tl", "jav": "jv", "sun": "su",
    "eng": "en", "mya": "my", "zsm": "ms", "khm": "km", "lao": "lo", "cmn": "zh",
}  # fmt: skip
"""ISO 639-3 to SEA-HELM's code."""
LONG: dict[str, str] = {short: code for code, short in SHORT.items()}
"""SEA-HELM's code to ISO 639-3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One release of the benchmark, as far as it is not read from the benchmark itself."""

    name: str
    tag: str
    """Of the public repository."""
    revision: str
    """The tag's commit."""
    suites: tuple[str, ...]
    """Suites of its `task_config.yaml`, in the order in which a language is looked for."""
    languages: tuple[str, ...]
    """ISO 639-3: asked unless others are named."""
    skipped_by_base: tuple[str, ...]
    """Tasks that are not asked of base models."""
    base_examples: int
    """Few-shot examples of a base model where the task does not say."""
    reads_temperature: bool
    """Whether the release sets temperature and top-k itself; v1.2.1 leaves them to the model."""


PROFILES: dict[str, Profile] = {
    "sea_helm_2025": Profile(
        name="sea_helm_2025",
        tag="v1.0.0",
        revision="ec25490ec35c95d5db3363a9b403d63ded0ae778",
        suites=("seahelm", "seahelm_plus"),
        languages=("ind", "vie", "tha", "tam", "fil"),
        skipped_by_base=("mt-bench", "kalahi-mc"),
        base_examples=5,
        reads_temperature=True,
    ),
    "sea_helm_2026": Profile(
        name="sea_helm_2026",
        tag="v1.2.1",
        revision="6844e6c5cae439a413281df31271d388fcbad12f",
        suites=("seahelm",),
        languages=("ind", "vie", "tha", "tam", "fil", "zsm", "mya"),
        skipped_by_base=("mt-bench", "mt-bench-judge", "kalahi-mc", "kalahi-judge", "if-eval"),
        base_examples=5,
        reads_temperature=False,
    ),
}

REASONING_TOKENS = 20_000
"""Longer answers of a model that reasons before it answers."""


def profile_of(name: str) -> Profile:
    """The profile of a name; raises SeaLionError with the names there are."""
    if name not in PROFILES:
        raise SeaLionError(f"{name!r} is no profile of SEA-HELM; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def short_code(language: str) -> str:
    """SEA-HELM's code of an ISO 639-3 language; raises SeaLionError for one it has not."""
    if language not in SHORT:
        raise SeaLionError(f"SEA-HELM has no language {language!r}; it has {', '.join(SHORT)}")
    return SHORT[language]
