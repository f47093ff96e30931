"""What a merge did to the weights, layer by layer: a few bands over one row of layers, and the parts in a table.

Each band has a scale of its own and all share the layers below them, so that one sees in one look where the parents moved,
where they pull against each other, and what was let through of them. A heat map of tensors was refused: it shows more and says
less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..markup import Child, Html, inside, tag
from .bands import Band, Series, Value, cosine, place_name, ruler, share
from .parts import figure, folded, left_out, table
from .plots import SERIES, key
from .source import Row, Source

PARENTS = SERIES - 1
"""Parents that are drawn; the first colour is the merge's."""
PAIRS = 3
"""Pairs that have a line each, by its dashes; of more there is a band from the lowest to the highest, with their mean."""
PARTS = ("embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "norms", "lm_head")
"""The parts of a Llama or a Gemma in the order of their use; others come after them."""
NOTE = (
    "Distances are from the base, norm over norm; the numbers are the parents’. What compares parents is of a fixed sample of "
    "large tensors."
)
QUERIES = ("merge-changes", "merge-parents", "merge-pairs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The figures of one merge: of each layer, of each part, or of the whole model."""

    places: tuple[str, ...]
    """In order: `embeddings`, `0` and so on, `head`; or parts."""
    changes: dict[str, Row]
    """Place to its row."""
    parents: dict[tuple[str, int], Row] = field(default_factory=dict)
    """Place and parent, from 1, to its row."""
    pairs: dict[tuple[str, int, int], Row] = field(default_factory=dict)
    """Place and two parents to their row."""

    @property
    def numbers(self) -> list[int]:
        """The parents that there are figures for."""
        return sorted({number for _, number in self.parents})

    @property
    def couples(self) -> list[tuple[int, int]]:
        """The pairs of parents that there are figures for."""
        return sorted({(one, other) for _, one, other in self.pairs})

    def of_parent(self, number: int, column: str) -> list[Value]:
        """A figure of a parent at each place."""
        return [self.parents.get((place, number), {}).get(column) for place in self.places]

    def of_pair(self, couple: tuple[int, int], column: str) -> list[Value]:
        """A figure of two parents at each place."""
        return [self.pairs.get((place, *couple), {}).get(column) for place in self.places]

    def of_all(self, column: str) -> list[Value]:
        """A figure of the merge at each place."""
        return [self.changes[place][column] for place in self.places]


def changes_of(source: Source, ref: str, scope: str) -> Changes:
    """The figures of a merge by `layer`, by `part`, or of the whole `model`; without places where there are none."""

    def own(question: str) -> Iterator[Row]:
        return (row for row in source.ask(question) if row["ref"] == ref and row["scope"] == scope)

    changes = {row["place"]: row for row in own("merge-changes")}
    known = [part for part in PARTS if part in changes]
    return Changes(
        places=(*known, *(place for place in changes if place not in known)),
        changes=changes,
        parents={(row["place"], row["parent"]): row for row in own("merge-parents")},
        pairs={(row["place"], row["one"], row["other"]): row for row in own("merge-pairs")},
    )


def layer_parts(source: Source, ref: str, names: Sequence[str]) -> list[Html] | None:
    """Picture and tables of what a merge did; None without figures. `names` are what its parents are called, in order."""
    layers, parts, whole = (changes_of(source, ref, scope) for scope in ("layer", "part", "model"))
    if not layers.parents and all(value is None for value in layers.of_all("relative")):
        return None
    bands = list(_bands(layers, whole))
    shown = [number for number in layers.numbers if number <= PARENTS]
    entries: list[tuple[int, Child]] = [(0, "the merged model")] if _has(layers.of_all("relative")) else []
    entries += [(n, inside(f"parent {n}, ", names[n - 1]) if n <= len(names) else f"parent {n}") for n in shown]
    picture = [
        tag("div", [band.drawn(layers.places) for band in bands], ruler(layers.places), class_="layers", role="group",
            aria_label=f"What the merge did to each layer of {ref}"),
        key(entries, hollow=frozenset(range(1, SERIES))),
        _dashes(layers.couples),
        left_out(len(layers.numbers), len(shown)),
    ]  # fmt: skip
    sentence = _sentence(whole)
    return [
        figure("What did it do?", inside(tag("p", sentence, class_="said") if sentence else None, picture),
            "Point at a layer for its figures.", queries=QUERIES),
        tag("div", tag("h3", "By part"), tag("p", NOTE, class_="small quiet"), _table("Part", parts),
            folded("The same by layer", _table("Layer", layers)), class_="card tight"),
    ]  # fmt: skip


def _bands(layers: Changes, whole: Changes) -> Iterator[Band]:
    numbers = [number for number in layers.numbers if number <= PARENTS]
    merged = layers.of_all("relative")
    moved = [_of_parent(layers, number, "relative") for number in numbers]
    moved += [Series(name="merged", look="sk1 strong", values=merged, mark=0)] if _has(merged) else []
    if any(_has(line.values) for line in moved):
        total = [tag("small", name, " ", tag("b", share(value))) for name, value in _totals(whole, numbers)]
        note = "norm of the difference, over the base’s norm"
        yield Band(heading="Distance from the base", note=note, series=moved, total=inside(total), height=104)
    conflicts = layers.of_all("sign_conflict")
    if len(layers.numbers) > 1 and _has(conflicts):
        note = "elements that parents pull both ways"
        yield Band(heading="Sign conflicts", note=note, series=[], bars=conflicts, total=_total(whole.of_all("sign_conflict")))
    if any(_has(layers.of_pair(couple, "cosine")) for couple in layers.couples):
        note = "cosine between the parents’ differences"
        yield _of_pairs(layers, whole, "cosine", "Same direction", note, cosine)
    kept = [_of_parent(layers, number, "kept") for number in numbers]
    if any(_has(line.values) for line in kept):
        total = [tag("small", f"parent {n} ", tag("b", share(v))) for n in numbers for v in whole.of_parent(n, "kept")]
        note = "elements that the method kept of a parent"
        yield Band(heading="Let through", note=note, series=kept, total=inside(total), high=1.0)
    if any(_has(layers.of_pair(couple, "overlap")) for couple in layers.couples):
        yield _of_pairs(layers, whole, "overlap", "Mask overlap", "let through of both, over let through of either", share)


def _of_parent(layers: Changes, number: int, column: str) -> Series:
    return Series(name=f"parent {number}", look=f"sk{number + 1}", values=layers.of_parent(number, column), mark=number)


def _of_pairs(layers: Changes, whole: Changes, column: str, heading: str, note: str, form: Callable[[float], str]) -> Band:
    values = {couple: layers.of_pair(couple, column) for couple in layers.couples}
    all_of = [number for couple in whole.couples for number in whole.of_pair(couple, column) if number is not None]
    ends = dict.fromkeys(form(value) for value in (min(all_of, default=0.0), max(all_of, default=0.0)))
    total = tag("b", " – ".join(ends)) if all_of else ""
    if len(values) <= PAIRS:
        series = [
            Series(name=f"{one} and {other}", look=f"pair dash{i + 1}", values=values[one, other])
            for i, (one, other) in enumerate(values)
        ]
        return Band(heading=heading, note=note, series=series, total=total, form=form, high=1.0)
    columns = [[value for value in column if value is not None] for column in zip(*values.values(), strict=True)]
    mean: list[Value] = [sum(known) / len(known) if known else None for known in columns]
    series = [Series(name="mean of all pairs", look="pair dash1", values=mean)]
    return Band(
        heading=heading, note=note, series=series, total=total, form=form, high=1.0, between=_ends(list(values.values()))
    )


def _totals(whole: Changes, numbers: Sequence[int]) -> Iterator[tuple[str, Value]]:
    for number in numbers:
        yield f"parent {number}", whole.of_parent(number, "relative")[0]
    yield "merged", whole.of_all("relative")[0]


def _total(values: Sequence[Value]) -> Html:
    return tag("b", share(values[0] if values else None))


def _sentence(whole: Changes) -> str:
    """What the merge did, in words."""
    if not whole.places:
        return ""
    (merged,), (conflict,) = whole.of_all("relative"), whole.of_all("sign_conflict")
    moved, kept = (
        [v for n in whole.numbers for v in whole.of_parent(n, name) if v is not None] for name in ("relative", "kept")
    )
    cosines = [value for couple in whole.couples for value in whole.of_pair(couple, "cosine") if value is not None]
    said = []
    if moved and merged is not None:
        who = "The parent lies" if len(moved) == 1 else "The parents lie"
        said.append(f"{who} {_listed(moved)} of the base’s norm away from it, the merged model {share(merged)}.")
    if conflict is not None and cosines:
        ends = dict.fromkeys(cosine(value) for value in (min(cosines), max(cosines)))
        said.append(
            f"The parents pull {share(conflict)} of the elements both ways; the cosine between their differences is "
            f"{' to '.join(ends)}."
        )
    if kept:
        said.append(f"Of each parent’s elements {_listed(kept)} were let through.")
    return " ".join(said)


def _listed(values: Sequence[float]) -> str:
    words = [share(value) for value in values]
    if len(words) > PAIRS:
        return f"{share(min(values))} to {share(max(values))}"
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _dashes(couples: Sequence[tuple[int, int]]) -> Html | None:
    """Which line is which pair's."""
    if len(couples) < 2:
        return None
    named = (
        [f"parents {one} and {other}" for one, other in couples]
        if len(couples) <= PAIRS
        else ["mean of all pairs, between the lowest and the highest"]
    )
    samples = [
        tag("li", tag("svg", tag("line", class_=f"trend pair dash{i + 1}", x1=0, x2=26, y1=7, y2=7), width=26, height=14,
            aria_hidden="true"), name)
        for i, name in enumerate(named)
    ]  # fmt: skip
    return tag("ul", samples, class_="legend")


def _table(first: str, places: Changes) -> Html:
    """All figures of each place."""
    columns: list[Column] = [(f"Distance {n}", places.of_parent(n, "relative"), share) for n in places.numbers]
    columns.append(("Merged", places.of_all("relative"), share))
    columns.append(("Sign conflicts", places.of_all("sign_conflict") if len(places.numbers) > 1 else [], share))
    columns += _couples(places, "Cosine", "cosine", cosine)
    columns += [(f"Kept of {n}", places.of_parent(n, "kept"), share) for n in places.numbers]
    columns += _couples(places, "Overlap", "overlap", share)
    shown = [(heading, values, form) for heading, values, form in columns if _has(values)]
    body: list[list[Child]] = []
    for i, place in enumerate(places.places):
        cells = ["–" if values[i] is None else form(values[i]) for _, values, form in shown]  # type: ignore[arg-type]
        body.append([place_name(place), *cells])
    return table([first, *(heading for heading, _, _ in shown)], body, listed=400)


Column = tuple[str, Sequence[Value], Callable[[float], str]]


def _couples(places: Changes, heading: str, column: str, form: Callable[[float], str]) -> list[Column]:
    """A column for the only pair of parents, else one for the lowest and one for the highest of all pairs."""
    values = [places.of_pair(couple, column) for couple in places.couples]
    if len(values) < 2:
        return [(heading, one, form) for one in values]
    low, high = _ends(values)
    return [(f"{heading}, lowest", low, form), ("highest", high, form)]


def _ends(values: Sequence[Sequence[Value]]) -> tuple[list[Value], list[Value]]:
    """The lowest and the highest value at each place."""
    known = [[value for value in column if value is not None] for column in zip(*values, strict=True)]
    return [min(column, default=None) for column in known], [max(column, default=None) for column in known]


def _has(values: Sequence[Value]) -> bool:
    return any(value is not None for value in values)
