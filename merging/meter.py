"""What a merge did to the models: how far each parent lies from the base, where parents agree, what was kept of them.

The engine shows each tensor once, chunk by chunk, and aims at the disk's speed, so a figure must cost next to nothing. The
norms are over all elements. Whatever compares parents is over a fixed eighth of each large tensor's elements: which ones is a
matter of their position alone, never of chunks, threads or random numbers, and so are the figures. All elements were refused:
that is five times as dear, for figures that change in their fourth digit.

Shape suffixes: C the elements of a chunk, S those of them in the sample, P parents.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pyarrow as pa
import torch

from .contract import MergedTensor
from .layers import layer_count, layer_of
from .recipe import MergeRecipe

PIECE, PIECES = 32_768, 8
"""Of every `PIECES` pieces of so many elements one is in the sample; tensors of no more than a piece are in it whole."""
Rows = list[dict[str, Any]]

_TEXT, _WHOLE, _NUMBER = pa.string(), pa.int64(), pa.float64()
_PLACE = [("tensor", _TEXT), ("layer", _WHOLE), ("part", _TEXT)]
SCHEMAS = {
    "merge_tensors": pa.schema(
        [
            *_PLACE, ("elements", _WHOLE), ("dtype", _TEXT), ("file", _TEXT), ("xxh3_128", _TEXT), ("base_norm", _NUMBER),
            ("merged_norm", _NUMBER), ("sign_conflict", _NUMBER),
        ]
    ),
    "merge_parents": pa.schema(
        [
            *_PLACE, ("parent", _WHOLE), ("model", _TEXT), ("weight", _NUMBER), ("norm", _NUMBER), ("changed", _NUMBER),
            ("kept", _NUMBER),
        ]
    ),
    "merge_pairs": pa.schema([*_PLACE, ("one", _WHOLE), ("other", _WHOLE), ("cosine", _NUMBER), ("overlap", _NUMBER)]),
}  # fmt: skip
"""Side tables of a merge and their columns: a row a tensor, one a tensor and parent, one a tensor and two parents.

`sign_conflict` is the share of elements that one parent at least makes larger and another one smaller; `changed` and `kept` are
the shares that a parent changes and that the method let through of it; `overlap` is what it let through of both parents over
what it let through of either. Norms are Euclidean, of differences from the base but for `base_norm`."""


def part_of(tensor: str) -> str:
    """Which part of its layer, or of the model, a tensor is.

    >>> part_of("model.layers.11.mlp.up_proj.weight"), part_of("model.layers.0.self_attn.q_proj.bias")
    ('up_proj', 'q_proj.bias')
    """
    return ".".join(tensor.removesuffix(".weight").split(".")[-2 if tensor.endswith(".bias") else -1 :])


@dataclass(slots=True, kw_only=True)
class TensorMeter:
    """The figures of one tensor (a `contract.Meter`), as sums that grow chunk by chunk."""

    parents: int
    """How many there are."""
    seen: int = 0
    """Elements of the differences so far."""
    seen_chosen: int = 0
    """Elements of the choice so far."""
    sampled: int = 0
    """Elements of the differences that were in the sample."""
    sampled_chosen: int = 0
    """Elements of the choice that were in the sample."""
    base: float | None = None
    """Sum of squares of the base."""
    merged: float | None = None
    """Sum of squares of the merged difference."""
    squares: list[float] = field(default_factory=list)
    """Sum of squares of each parent's difference."""
    products: list[list[float]] = field(default_factory=list)
    """Of the sample: the parents' differences multiplied with each other and added up."""
    changed: list[int] = field(default_factory=list)
    """Of the sample: elements that each parent changes."""
    conflicts: int = 0
    """Of the sample: elements that one parent makes larger and another one smaller."""
    chosen: list[list[int]] = field(default_factory=list)
    """Of the sample: elements that were let through of both parents, on the diagonal of one."""

    def __post_init__(self) -> None:
        several = range(self.parents)
        self.squares = self.squares or [0.0 for _ in several]
        self.products = self.products or [[0.0 for _ in several] for _ in several]
        self.changed = self.changed or [0 for _ in several]
        self.chosen = self.chosen or [[0 for _ in several] for _ in several]

    def see_base(self, base_C: torch.Tensor) -> None:
        """The base in a chunk."""
        self.base = (self.base or 0.0) + _product(base_C, base_C)

    def see_deltas(self, deltas_PC: torch.Tensor) -> None:
        """The parents' differences from the base in a chunk, before pruning and weighing."""
        for i, delta_C in enumerate(deltas_PC):
            self.squares[i] += _product(delta_C, delta_C)
        for piece in sample(self.seen, deltas_PC.shape[1]):
            self._compare(deltas_PC[:, piece])
        self.seen += deltas_PC.shape[1]

    def _compare(self, deltas_PS: torch.Tensor) -> None:
        self.sampled += deltas_PS.shape[1]
        for i in range(self.parents):
            for j in range(i + 1):
                self.products[i][j] += _product(deltas_PS[i], deltas_PS[j])
        high_S, low_S, *signs = _scratch(self.parents + 2)[:, : deltas_PS.shape[1]]
        for i, sign_S in enumerate(signs):  # -1, 0, 1: their sums are whole, and exact for as many as there are in a piece
            torch.sign(deltas_PS[i], out=sign_S)
            self.changed[i] += round(_product(sign_S, sign_S))
        if self.parents > 1:
            torch.maximum(signs[0], signs[1], out=high_S)
            torch.minimum(signs[0], signs[1], out=low_S)
            for sign_S in signs[2:]:
                torch.maximum(high_S, sign_S, out=high_S)
                torch.minimum(low_S, sign_S, out=low_S)
            self.conflicts -= round(_product(high_S.clamp_(min=0), low_S.clamp_(max=0)))

    def see_chosen(self, chosen_PC: torch.Tensor) -> None:
        """Which of them count in a chunk, or not."""
        for piece in sample(self.seen_chosen, chosen_PC.shape[1]):
            chosen_PS = chosen_PC[:, piece]
            self.sampled_chosen += chosen_PS.shape[1]
            for i in range(self.parents):
                for j in range(i + 1):
                    self.chosen[i][j] += round(_product(chosen_PS[i], chosen_PS[j]))
        self.seen_chosen += chosen_PC.shape[1]

    def see_merged(self, merged_C: torch.Tensor) -> None:
        """The difference from the base that the merged model has in that chunk."""
        self.merged = (self.merged or 0.0) + _product(merged_C, merged_C)

    def state(self) -> dict[str, Any]:
        """All sums, as JSON has them."""
        return dataclasses.asdict(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the sums of `state`; raises ValueError when they are not those of a tensor with as many parents."""
        names = {column.name for column in dataclasses.fields(self)}
        if set(state) != names or state["parents"] != self.parents:
            raise ValueError(f"not the figures of a tensor with {self.parents} parents: {str(dict(state))[:80]}")
        for name in names:
            value = state[name]
            setattr(
                self, name, [list(row) if isinstance(row, list) else row for row in value] if isinstance(value, list) else value
            )

    def cosine(self, one: int, other: int) -> float | None:
        """Between two parents' differences, numbered from 0; None where one of them has none."""
        high, low = max(one, other), min(one, other)
        return _ratio(self.products[high][low], math.sqrt(self.products[high][high] * self.products[low][low]))

    def overlap(self, one: int, other: int) -> float | None:
        """Elements let through of both parents over those of either; None where there are none."""
        both = self.chosen[max(one, other)][min(one, other)]
        return _ratio(both, self.chosen[one][one] + self.chosen[other][other] - both)


_LOCAL = threading.local()


def _scratch(rows: int) -> torch.Tensor:
    """A thread's own room for so many pieces, taken once: most of the cost of a sample was the memory that it took anew."""
    if getattr(_LOCAL, "room", None) is None or len(_LOCAL.room) < rows:
        _LOCAL.room = torch.empty(rows, PIECE)
    room: torch.Tensor = _LOCAL.room
    return room[:rows]


def _product(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.dot(one, other))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def sample(start: int, length: int) -> Iterator[slice]:
    """The pieces of the sample within a chunk of elements that starts at number `start` of its tensor.

    The piece moves on from one stretch of `PIECES` to the next, by a step that is not always the same: rows have lengths and
    heads have sizes that are powers of two, and a piece that stood still would see the same rows of every head.
    """
    stretch = PIECE * PIECES
    for number in range(start // stretch, (start + length - 1) // stretch + 1):
        first = number * stretch + (number + number // PIECES) % PIECES * PIECE - start
        piece = slice(max(0, first), min(length, first + PIECE))
        if piece.start < piece.stop:
            yield piece


class Figures:
    """The figures of a whole merge: a meter a tensor, any number of them at work at once."""

    def __init__(self, recipe: MergeRecipe) -> None:
        self._recipe = recipe
        self.meters: dict[str, TensorMeter] = {}
        """Tensor to its meter."""

    def meter(self, name: str) -> TensorMeter:
        """A new meter for a tensor, in the place of an earlier one."""
        self.meters[name] = TensorMeter(parents=len(self._recipe.parents))
        return self.meters[name]

    def restore(self, name: str, state: Mapping[str, Any]) -> None:
        """Take the figures of a tensor that was done before an interruption; raises ValueError as the meter does."""
        self.meter(name).restore(state)

    def rows(self, tensors: Sequence[MergedTensor], models: Sequence[str] = ()) -> dict[str, Rows]:
        """The rows of the tables in `SCHEMAS`, tensors in their order.

        `models` are the parents' references, where the recipe names them by stages. A tensor that no meter saw, as
        with mergekit, has a row of its own but no figures.
        """
        models = models or [parent.model for parent in self._recipe.parents]
        layers = layer_count({}, (tensor.name for tensor in tensors))
        rows: dict[str, Rows] = {table: [] for table in SCHEMAS}
        for tensor in tensors:
            place = {"tensor": tensor.name, "layer": layer_of(tensor.name), "part": part_of(tensor.name)}
            meter = self.meters.get(tensor.name) or TensorMeter(parents=len(self._recipe.parents))
            rows["merge_tensors"].append(
                place
                | {
                    "elements": math.prod(tensor.shape), "dtype": tensor.dtype, "file": tensor.file,
                    "xxh3_128": tensor.xxh3_128, "base_norm": _root(meter.base), "merged_norm": _root(meter.merged),
                    "sign_conflict": _ratio(meter.conflicts, meter.sampled),
                }
            )  # fmt: skip
            if meter.seen or meter.seen_chosen:
                rows["merge_parents"] += [place | row for row in self._parents(meter, models, layer_of(tensor.name), layers)]
                rows["merge_pairs"] += [place | row for row in _pairs(meter)]
        return rows

    def _parents(self, meter: TensorMeter, models: Sequence[str], layer: int | None, layers: int) -> Iterator[dict[str, Any]]:
        for i, parent in enumerate(self._recipe.parents):
            yield {
                "parent": i + 1, "model": models[i], "weight": parent.weight_at(layer, layers),
                "norm": _root(meter.squares[i]) if meter.seen else None, "changed": _ratio(meter.changed[i], meter.sampled),
                "kept": _ratio(meter.chosen[i][i], meter.sampled_chosen),
            }  # fmt: skip


def _pairs(meter: TensorMeter) -> Iterator[dict[str, Any]]:
    for one, other in combinations(range(meter.parents), 2):
        yield {"one": one + 1, "other": other + 1, "cosine": meter.cosine(one, other), "overlap": meter.overlap(one, other)}


def _root(squares: float | None) -> float | None:
    return None if squares is None else math.sqrt(squares)
