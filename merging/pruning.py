"""Which elements of a parent's difference from the base stay at a density below 1, in memory that does not grow with a tensor.

Three forms: at random (DARE, https://arxiv.org/abs/2311.03099); at random, the likelier the higher a magnitude ranks in its row
(DELLA, https://arxiv.org/abs/2406.11617); the largest (TIES, https://arxiv.org/abs/2306.01708). The masks are mergekit 0.1.5's,
bit for bit (TIES: where no magnitudes are equal at the edge). The factor on what is kept has its sums in float64 here and in
float32 there, so scaled values may differ in their last bits, by less than 5e-7 of the value; in small tensors they are equal.
(Where a sum of them is as near to 0 as that, the sign that is elected may be the other one.)

Random numbers come from one generator a tensor, sown with the recipe's seed, parent after parent. So a tensor's result does not
depend on the others: any thread may make it, and verification makes it again alone. The price: under DARE equally large tensors
get equal masks. One generator for the whole model, as in a run of mergekit, would bind each tensor to all before it.

`rand() < p` takes the same numbers from the generator as `torch.bernoulli(p)`, in a quarter of the time. A mask that was drawn
while looking is kept, a bit an element, as long as all of them fit into `MASK_BYTES`; else it is drawn again from where the
generator stood.

Shape suffixes: C the elements of a chunk, R its rows, K a row's elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from ..catalog.errors import SeaLionError
from .contract import Pruner, Pruning
from .recipe import PRUNING, MergeRecipe

MASK_BYTES = 64 << 20
"""All masks that wait for the last pass take at most so much, whatever the number of threads."""
SUMMED_WHOLE = 1 << 15
"""Tensors of fewer elements are summed at once in float32, as in mergekit: torch does it in one thread up to this size."""
TINY_NORM = 1e-7
"""No factor where a sum of magnitudes is below, as in mergekit."""

Kept = NDArray[np.bool_]
Chances = Callable[[torch.Tensor], np.float32 | NDArray[np.float32]]
"""Probability of each element of a chunk to be kept."""


def prunings(recipe: MergeRecipe, *, mask_bytes: int = MASK_BYTES) -> Pruning:
    """The pruners of a recipe's tensors; `mask_bytes` bounds the masks kept between passes and changes no result."""
    form = PRUNING.get(recipe.method)
    rescale = bool(recipe.rescale)
    pruned = [number for number, parent in enumerate(recipe.parents) if parent.density < 1 and form]
    room = _Room(mask_bytes)

    def of_tensor(shape: Sequence[int]) -> list[Pruner | None]:
        pruners: list[Pruner | None] = [None] * len(recipe.parents)
        scratch, draws = _Scratch(), torch.Generator().manual_seed(recipe.seed)
        elements = torch.Size(shape).numel()
        for number in pruned:
            density = recipe.parents[number].density
            if form == "magnitude":
                pruners[number] = MagnitudePruner(elements, density, rescale=rescale, scratch=scratch)
                continue
            chances = RowRanks(shape, density, recipe.epsilon or 0.0) if form == "rank" else _always(density)
            needs_look = rescale or number != pruned[-1]
            pruners[number] = DrawnPruner(
                elements, chances, draws, passes=int(needs_look), rescale=rescale, scratch=scratch, room=room
            )
        return pruners

    return of_tensor


class _Scratch:
    """Buffers shared by the pruners of one tensor, which is one thread's: fresh ones for each chunk would cost page faults."""

    def __init__(self) -> None:
        self._floats_C, self._magnitudes_C = torch.empty(0), torch.empty(0)
        self._kept_C = np.empty(0, dtype=np.bool_)

    def _fit(self, count: int) -> None:
        if len(self._kept_C) < count:
            self._floats_C, self._magnitudes_C = torch.empty(count), torch.empty(count)
            self._kept_C = np.empty(count, dtype=np.bool_)

    def floats(self, count: int) -> torch.Tensor:
        self._fit(count)
        return self._floats_C[:count]

    def magnitudes(self, delta_C: torch.Tensor) -> torch.Tensor:
        self._fit(len(delta_C))
        return torch.abs(delta_C, out=self._magnitudes_C[: len(delta_C)])

    def kept(self, count: int) -> Kept:
        self._fit(count)
        return self._kept_C[:count]


class _Sum:
    """Of the magnitudes in a tensor, from its chunks: in float64, then rounded; in a small tensor as torch sums it whole."""

    def __init__(self, elements: int) -> None:
        self._value, self._seen = 0.0, 0
        self.values_C = torch.zeros(elements) if elements < SUMMED_WHOLE else None
        """All of them, in a small tensor."""

    def add(self, values_C: torch.Tensor) -> None:
        if self.values_C is None:
            self._value += float(values_C.sum(dtype=torch.float64))
        else:
            self.values_C[self._seen : self._seen + len(values_C)] = values_C
            self._seen += len(values_C)

    def add_counted(self, values: torch.Tensor, counts: torch.Tensor) -> None:
        """Each value so often; for large tensors."""
        self._value += float(values.double() @ counts.double())

    def total(self) -> np.float32:
        return np.float32(self._value if self.values_C is None else self.values_C.sum().item())


class _Norms:
    """The sums of magnitudes before and after pruning."""

    def __init__(self, elements: int) -> None:
        self.whole, self.kept = _Sum(elements), _Sum(elements)

    def factor(self) -> float:
        """What brings the second to the first."""
        whole, kept = self.whole.total(), self.kept.total()
        return 1.0 if min(whole, kept) < TINY_NORM else float(whole / kept)


def _apply(kept_C: Kept, factor: float, delta_C: torch.Tensor) -> None:
    """Multiplies (as mergekit does) rather than fills: a negative element that goes leaves -0."""
    delta_C.mul_(torch.from_numpy(kept_C.view(np.uint8)))
    if factor != 1:
        delta_C.mul_(factor)


class _Room:
    """The bytes that all waiting masks may take together."""

    def __init__(self, size: int) -> None:
        self._free, self._lock = size, Lock()

    def claim(self, size: int) -> bool:
        with self._lock:
            fits = size <= self._free
            self._free -= size if fits else 0
        return fits

    def release(self, size: int) -> None:
        with self._lock:
            self._free += size


class _Bits:
    """A mask in an eighth of its size, written in order and read in order."""

    def __init__(self, elements: int) -> None:
        self.packed = np.zeros(-(-elements // 8), dtype=np.uint8)
        self.written = self.read = 0

    def append(self, kept_C: Kept) -> None:
        begun, stop = self.written % 8, self.written + len(kept_C)
        if begun:
            first = np.unpackbits(self.packed[self.written // 8 : self.written // 8 + 1])[:begun]
            kept_C = np.concatenate([first.view(np.bool_), kept_C])
        self.packed[self.written // 8 : -(-stop // 8)] = np.packbits(kept_C)
        self.written = stop

    def take(self, count: int) -> Kept:
        start, stop = self.read, self.read + count
        self.read = stop
        unpacked = np.unpackbits(self.packed[start // 8 : -(-stop // 8)])
        return unpacked[start % 8 : start % 8 + count].view(np.bool_)


def _always(density: float) -> Chances:
    """DARE: the same for every element, rounded to float32 as the draw that it is compared with."""
    chance = np.float32(density)
    return lambda delta_C: chance


class RowRanks:
    """DELLA's probabilities: from `density - epsilon` for a row's smallest magnitude to `density + epsilon` for its largest.

    A tensor of one dimension is one row. The order of equal magnitudes is that of `torch.argsort` on the row, which is not
    stable: another order would be as good, but not mergekit's. A row of one element is kept with probability `density`, where
    mergekit divides 0 by 0 and stops. More dimensions are refused: mergekit ranks along the second, across the rows read here.
    """

    def __init__(self, shape: Sequence[int], density: float, epsilon: float) -> None:
        if len(shape) > 2:
            raise SeaLionError(
                f"a tensor of shape {list(shape)} cannot be pruned by rank, which orders the elements of a matrix's rows: "
                'take a DARE method, density 1 or engine = "mergekit"'
            )
        self._columns = max(1, shape[-1]) if shape else 1
        ranks_K = torch.arange(self._columns).float() + 1
        steps_K = ((ranks_K - ranks_K[0]) / (ranks_K[-1:] - ranks_K[0])).nan_to_num(0.5)
        self._chances_K = (density - epsilon) + steps_K * 2 * epsilon

    def __call__(self, delta_C: torch.Tensor) -> NDArray[np.float32]:
        """For a chunk of whole rows. Magnitudes are compared by their bits, as whole numbers: the same order in less time."""
        if delta_C.numel() % self._columns:
            raise ValueError(f"a chunk of {delta_C.numel()} elements does not consist of whole rows of {self._columns}")
        order_RK = torch.argsort(delta_C.abs().view(torch.int32).view(-1, self._columns), dim=1)
        chances_RK = torch.empty(order_RK.shape).scatter_(1, order_RK, self._chances_K.expand_as(order_RK))
        chances_C: NDArray[np.float32] = chances_RK.view(-1).numpy()
        return chances_C


class DrawnPruner:
    """Keeps each element with a probability (DARE, DELLA)."""

    def __init__(
        self,
        elements: int,
        chances: Chances,
        draws: torch.Generator,
        *,
        passes: int,
        rescale: bool,
        scratch: _Scratch,
        room: _Room,
    ) -> None:
        """`draws` is common to a tensor's pruners: who looks takes its numbers, and the next one's begin behind them. Without a
        look (`passes` 0; for the last one only) the numbers are taken while pruning."""
        self.passes = passes
        self._elements, self._chances, self._draws = elements, chances, draws
        self._norms, self._factor = _Norms(elements) if rescale else None, 1.0
        self._scratch, self._room = scratch, room
        self._begin: torch.Tensor | None = None
        self._bits: _Bits | None = None

    def look(self, number: int, delta_C: torch.Tensor) -> None:
        """Draw; sum up what was there and what is left."""
        if self._begin is None:
            self._begin = self._draws.get_state()
            self._bits = _Bits(self._elements) if self._room.claim(-(-self._elements // 8)) else None
        kept_C = self._draw(delta_C)
        if self._bits:
            self._bits.append(kept_C)
        if self._norms:
            magnitudes_C = self._scratch.magnitudes(delta_C)
            self._norms.whole.add(magnitudes_C)
            self._norms.kept.add(magnitudes_C.mul_(torch.from_numpy(kept_C.view(np.uint8))))

    def prune(self, delta_C: torch.Tensor) -> None:
        """Take away what was drawn in `look`, or is drawn now."""
        if self._norms:
            self._factor, self._norms = self._norms.factor(), None
        if self._bits:
            kept_C = self._bits.take(delta_C.numel())
            if self._bits.read == self._elements:
                self._bits = None
                self._room.release(-(-self._elements // 8))
        else:
            if self._begin is not None:
                self._draws, self._begin = torch.Generator().set_state(self._begin), None
            kept_C = self._draw(delta_C)
        _apply(kept_C, self._factor, delta_C)

    def _draw(self, delta_C: torch.Tensor) -> Kept:
        count = delta_C.numel()
        drawn_C = self._scratch.floats(count).uniform_(generator=self._draws).numpy()
        kept_C = self._scratch.kept(count)
        np.less(drawn_C, self._chances(delta_C), out=kept_C)
        return kept_C


class MagnitudePruner:
    """Keeps the `density` share of the elements with the largest magnitudes, at least one (TIES).

    Of equal magnitudes at the edge the first are kept (in mergekit any). Two passes find the edge exactly: the bits of a
    magnitude, read as a whole number, have its order; the first pass counts by the upper 15 bits, the second by the lower 16
    among those whose upper bits are the edge's.
    """

    passes = 2

    def __init__(self, elements: int, density: float, *, rescale: bool, scratch: _Scratch) -> None:
        self._keep = max(1, int(density * elements))
        self._norms, self._factor = _Norms(elements) if rescale else None, 1.0
        self._scratch = scratch
        self._upper_counts = torch.zeros(1 << 15, dtype=torch.int64)
        self._lower_counts = torch.zeros(1 << 16, dtype=torch.int64)
        self._upper = -1
        self._edge = -1
        self._at_edge = 0

    def look(self, number: int, delta_C: torch.Tensor) -> None:
        """Count the upper halves, then the lower halves at the edge."""
        magnitudes_C = self._scratch.magnitudes(delta_C)
        bits_C = magnitudes_C.view(torch.int32)
        if number == 0:
            _count(self._upper_counts, bits_C >> 16)
            if self._norms:
                self._norms.whole.add(magnitudes_C)
            return
        if self._upper < 0:
            self._upper, self._keep = _edge(self._upper_counts, self._keep)
        if self._norms and self._norms.whole.values_C is None:
            above_C = torch.gt(bits_C, self._upper << 16 | 0xFFFF)
            self._norms.kept.add(self._scratch.floats(len(bits_C)).copy_(above_C).mul_(magnitudes_C))
        is_inside_C = (bits_C >> 16).eq_(self._upper).bool().numpy()
        _count(self._lower_counts, torch.from_numpy(bits_C.numpy()[is_inside_C] & 0xFFFF))

    def prune(self, delta_C: torch.Tensor) -> None:
        """Take away what lies below the edge, and what is at it once enough of that was kept."""
        if not delta_C.numel():
            return
        if self._edge < 0:
            self._settle()
        kept_C, self._at_edge = self._choose(self._scratch.magnitudes(delta_C), self._at_edge)
        _apply(kept_C, self._factor, delta_C)

    def _choose(self, magnitudes_C: torch.Tensor, at_edge: int) -> tuple[Kept, int]:
        """Which of the next elements are kept, and how many of the edge's magnitude still may be, of so many."""
        bits_C = magnitudes_C.view(torch.int32).numpy()
        kept_C = self._scratch.kept(len(bits_C))
        np.greater(bits_C, self._edge, out=kept_C)
        if at_edge:
            positions = np.flatnonzero(bits_C == self._edge)[:at_edge]
            kept_C[positions] = True
            at_edge -= len(positions)
        return kept_C, at_edge

    def _settle(self) -> None:
        lower, self._at_edge = _edge(self._lower_counts, self._keep)
        self._edge = self._upper << 16 | lower
        if self._norms:
            magnitudes_C = self._norms.whole.values_C
            if magnitudes_C is None:
                values = (torch.arange(lower, 1 << 16, dtype=torch.int32) | self._upper << 16).view(torch.float32)
                counts = self._lower_counts[lower:].clone()
                counts[0] = self._at_edge
                self._norms.kept.add_counted(values, counts)
            else:
                kept_C, _ = self._choose(magnitudes_C, self._at_edge)
                self._norms.kept.add(magnitudes_C * torch.from_numpy(kept_C))
            self._factor = self._norms.factor()


def _count(counts: torch.Tensor, classes_C: torch.Tensor) -> None:
    """Add each element to its class; without a table of all classes for every chunk, as `bincount` makes."""
    counts.index_add_(0, classes_C, torch.ones(1, dtype=torch.int64).expand(len(classes_C)))


def _edge(counts: torch.Tensor, keep: int) -> tuple[int, int]:
    """In which class, from the highest down, the `keep`-th element lies, and how many of it are wanted."""
    down = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(down, keep))
    above = int(down[position - 1]) if position else 0
    return len(counts) - 1 - position, keep - above
