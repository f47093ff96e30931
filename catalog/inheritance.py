"""What licences an artifact inherits, from whom and by which way; and whether a claim about it gives no more than they do.

The lineage is walked on the records, so a promotion or an export decides on the truth and not on an index. Each artifact is
asked for what its own making brought in; what an input brought in is the input's, and passes on unless it was only looked up.
Comparing the combined expressions of the records alone was refused: they say that something is missing, but not whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import SeaLionError
from .licences import NOASSERTION, combined_licence, conjuncts, explained, keys, licence_of, missing_terms, normalised
from .records import Artifact, Checkpoint, Synthesis
from .store import LOOKED_UP, Store

MATERIAL = ("corpus", "conversations", "synthesis")
"""Kinds that bring in what others wrote: without a licence of theirs, none is known."""
SHOWN = 6
"""Problems that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """One licence that an artifact is under."""

    licence: str
    """The expression, with the table's keys."""
    given_by: str
    """Who or what has it: an artifact, its documents, or the model that wrote it."""
    path: tuple[str, ...]
    """References from the artifact that brought it in, down to the artifact that inherits it; one for its own."""
    role: str
    """The field of the inheriting artifact's recipe by which it came, `parents.0.model`; empty for its own."""


class LicenceRefused(SeaLionError):
    """A claim that gives more than the parents do."""

    def __init__(self, ref: str, claim: str, problems: list[str]) -> None:
        self.ref, self.claim, self.problems = ref, claim, problems
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        super().__init__(f"{ref} cannot be under {claim!r}: {'; '.join(problems[:SHOWN])}{more}")


def own_licences(artifact: Artifact, given: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """The licences that an artifact's own making brought in, each with who has it; `given` are its inputs' licences.

    What documents or rows come with is what the record's licence has beyond the recipe's and the inputs'; without `given`, of
    an artifact that has inputs, it stays unsaid.
    """
    ref, recipe = str(artifact.ref), artifact.recipe
    declared = "" if artifact.kind == "promotion" else str(recipe.get("licence", ""))  # of a promotion: a claim, checked
    author = artifact.body.generator if isinstance(artifact.body, Synthesis) else ref
    own = [(normalised(part), author) for part in conjuncts(declared)]
    if artifact.kind not in MATERIAL:
        return own
    is_known = given is not None or all(source.role == "evaluation_ngrams" for source in artifact.inputs)
    known = {part for text in (declared, *(given or ())) for part in conjuncts(text)}
    rest = [part for part in conjuncts(artifact.licence) if part not in known] if is_known else []
    own += [(normalised(part), f"{'rows' if artifact.kind == 'conversations' else 'documents'} of {ref}") for part in rest]
    is_bare = not own and (artifact.kind != "conversations" or bool(recipe.get("files")))
    return [(NOASSERTION, ref)] if is_bare else own


def inherited(store: Store, ref: str) -> list[Inherited]:
    """Every licence that an artifact is under, its own first, then by distance; each once for each that has it.

    Raises MissingArtifact when a part of its lineage is not in the catalog: what it says is then not known.
    """
    start = store.require(ref)
    waiting: list[tuple[Artifact, tuple[str, ...], str]] = [(start, (str(start.ref),), "")]
    seen, found = {str(start.ref)}, dict[tuple[str, str], Inherited]()
    for artifact, path, role in waiting:  # grows while it is read: nearest first
        inputs = [(given, store.require(given.ref)) for given in artifact.inputs]
        passing = [(given, source) for given, source in inputs if source.kind not in LOOKED_UP]
        for licence, given_by in own_licences(artifact, [source.licence for _, source in passing]):
            found.setdefault((licence, given_by), Inherited(licence=licence, given_by=given_by, path=path, role=role))
        for given, source in passing:
            name = str(source.ref)
            if name not in seen:
                seen.add(name)
                waiting.append((source, (name, *path), role or given.role))
    return list(found.values())


def inherited_rows(given: Iterable[Inherited]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The same as a table for people: columns and rows."""
    columns = ["licence", "given_by", "came_as", "asks_for", "path"]
    rows: list[tuple[str, ...]] = []
    for each in given:
        terms = [term for key in keys(each.licence) for term in licence_of(key).terms]
        rows.append((each.licence, each.given_by, each.role, ", ".join(dict.fromkeys(terms)), " > ".join(each.path)))
    return columns, rows


def inherited_licence(given: Iterable[Inherited]) -> str:
    """What they come to: the least that a card may claim without naming its reasons."""
    return combined_licence("", (each.licence if " OR " not in each.licence else f"({each.licence})" for each in given))


def claim_problems(claim: str, given: Iterable[Inherited]) -> list[str]:
    """What a claim leaves out, one line for each licence that is not covered; empty when it may be made."""
    problems = []
    for each in given:
        terms = missing_terms(claim, each.licence)
        if terms:
            whose = each.given_by if each.given_by == each.path[0] else f"{each.given_by} ({each.path[0]})"
            asked = ", ".join(f"{term} ({explained(term)})" for term in terms)
            problems.append(f"{whose} is under {each.licence}, which also asks for {asked}")
    return problems


def naming_problems(artifact: Artifact, given: Iterable[Inherited], name: str = "") -> list[str]:
    """What the licences of its parents ask of a model's name and is not so; `name` instead of the record's."""
    if not isinstance(artifact.body, Checkpoint):
        return []
    name = name or artifact.ref.name.removeprefix("checkpoint/")
    wanted = {
        term.partition(":")[2]: each
        for each in given
        for key in keys(each.licence)
        for term in licence_of(key).terms
        if term.startswith("naming:")
    }
    return [
        f"{each.given_by} is under {each.licence}: the name must begin with {word!r}, not {name!r}"
        for word, each in wanted.items()
        if not _spelled(name).startswith(_spelled(word))
    ]


def _spelled(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum() or character == ".")


def refuse_claim(artifact: Artifact, claim: str, given: Iterable[Inherited]) -> None:
    """Raises LicenceRefused when an artifact cannot be published under a licence, naming parents and terms."""
    given = list(given)
    problems = claim_problems(claim, given) + naming_problems(artifact, given)
    if problems:
        raise LicenceRefused(str(artifact.ref), claim, problems)


def check_claim(store: Store, ref: str, claim: str) -> None:
    """Raises LicenceRefused when what the catalog knows by this reference cannot be published under a licence."""
    refuse_claim(store.require(ref), claim, inherited(store, ref))
