"""One exception class per kind of human mistake; the command prints a `SeaLionError` as one line, without a traceback.

A caller's bug is a `ValueError`, our own broken invariant an `assert`: neither is found here.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .records import GateDecision


class SeaLionError(Exception):
    """What a person can mend: says what, where, the offending value and what to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross from worker processes; the classes' own arguments are not the message that `args` holds."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[SeaLionError], arguments: tuple[Any, ...], state: dict[str, Any]) -> SeaLionError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class Unfinished(SeaLionError):
    """Something outside the input stopped the work (a full disk, a killed worker): what is done is kept for the next try."""


class RecipeError(SeaLionError):
    """A recipe that cannot be read: an unknown key, a wrong type or an impossible value."""

    def __init__(self, file: Path | str, key: str, problem: str) -> None:
        self.file, self.key, self.problem = str(file), key, problem
        super().__init__(f"{file}: {key}: {problem}" if key else f"{file}: {problem}")


class MissingArtifact(SeaLionError):
    """A reference to something that is not in the catalog."""

    def __init__(self, ref: str, known: list[str]) -> None:
        self.ref = ref
        self.nearest = get_close_matches(ref, known, n=3, cutoff=0.4)
        hint = f"; the nearest are {', '.join(self.nearest)}" if self.nearest else "; make it first"
        super().__init__(f"{ref}: no such artifact in the catalog{hint}")


class DriftError(SeaLionError):
    """A recipe that changed while its version did not."""

    def __init__(self, ref: str, difference: list[str]) -> None:
        self.ref, self.difference = ref, difference
        super().__init__(f"{ref}: made before from another recipe: {'; '.join(difference)}; raise the version")


class MissingDependency(SeaLionError):
    """An optional package that is needed now."""

    def __init__(self, package: str, purpose: str) -> None:
        super().__init__(f"{package} is needed {purpose}: pip install {package}")


class CorruptInput(SeaLionError):
    """Input that is not what it says it is: cut short, empty, of another type or changed since it was written."""

    def __init__(self, source: Path | str, where: str, problem: str) -> None:
        self.source = str(source)
        super().__init__(f"{source}: {where}: {problem}" if where else f"{source}: {problem}")


class GateRefused(SeaLionError):
    """A promotion that its gate decision does not carry."""

    def __init__(self, decision: GateDecision) -> None:
        self.decision = decision
        super().__init__(
            f"{decision.model} is not promoted to {decision.stage}: the gate says {decision.verdict} ({decision.reason}); "
            "only a pass or a signed waiver promotes"
        )
