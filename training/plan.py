"""The index plan: which part of a mixture, and which window of it, each sample of a run is. Nothing is stored for a sample.

Part k, which has c_k of the N samples, has its first round(c_k * b / M) windows in the first b of M blocks. A block is small
enough to be worked out when it is asked for: the windows of each part, in order, at random times of equal intervals (stratified
sampling). So at every single sample a part of share s, of P parts, is within 1.5 + 1.5 * s * P samples of its share. Shuffling
a list of all samples was refused: 24 million of them are 200 MB and seconds for each process, and batches vary more.

A sample's place is the only state. Edits are segments: from some step on, the samples that are left are planned anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from ..data.encoder import seed_of
from ..data.mixture import rounded
from .batches import Integers

BLOCK = 1024
"""Samples of a block, about."""
FORM = 1
"""Raised when the same plan would become other samples, so that no checkpoint of an older form is resumed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Samples that are planned together."""

    first: int
    """Its first sample."""
    counts_P: Integers
    """Windows of each part in it."""
    begins_P: Integers
    """The first window of each part in it."""
    offsets: Integers
    """(blocks + 1,): samples of the segment before each block."""

    def before(self, block: int) -> Integers:
        """Windows of each part in the segment before a block."""
        return _before(self.counts_P, block, len(self.offsets) - 1)


class IndexPlan:
    """The samples of a run, from 0, in steps of `batch`, from 1."""

    def __init__(
        self,
        counts: Sequence[int],
        batch: int,
        seed: int,
        *,
        skips: Sequence[tuple[int, int]] = (),
        drops: Mapping[int, Collection[int]] | None = None,
    ) -> None:
        """Plan `counts` windows of each part.

        `skips` are first and last steps of ranges without samples; `drops` says, by step, which parts are not read from it on:
        the others share what is left as they share the whole, each going on from its next window. Raises ValueError when no
        part is left to read.
        """
        self.samples, self.batch = sum(counts), batch
        self._seed, self._skips = seed, _merged(skips)
        self._block = lru_cache(maxsize=8)(self._expanded)
        planned = np.array(counts, np.int64)
        self._segments = [_segment(0, planned, np.zeros_like(planned))]
        self._firsts = np.zeros(1, np.int64)
        is_read = np.ones(len(counts), np.bool_)
        for step, parts in sorted((drops or {}).items()):
            new = [part for part in parts if is_read[part]]
            if not new or step > self.steps:
                continue
            is_read[new] = False
            first = (step - 1) * batch
            begins_P = self.windows_before(first)
            self._segments.append(_segment(first, divided(self.samples - first, planned * is_read), begins_P))
            self._firsts = np.append(self._firsts, first)

    @property
    def steps(self) -> int:
        """Optimizer steps; the last may be smaller."""
        return -(-self.samples // self.batch)

    def step_samples(self, step: int) -> Integers:
        """The samples of a step; none where it is skipped."""
        if any(first <= step <= last for first, last in self._skips):
            return np.empty(0, np.int64)
        return np.arange((step - 1) * self.batch, min(step * self.batch, self.samples))

    def located(self, samples: Integers) -> tuple[Integers, Integers]:
        """Part and window of each sample."""
        parts, windows = np.empty_like(samples), np.empty_like(samples)
        left = np.arange(len(samples))
        while len(left):
            number, block, _ = self._place(int(samples[left[0]]))
            segment = self._segments[number]
            begin, end = (segment.first + int(offset) for offset in segment.offsets[block : block + 2])
            end = min([end, *self._firsts[number + 1 : number + 2].tolist()])  # a later segment cuts the block short
            is_here = (samples[left] >= begin) & (samples[left] < end)
            here = left[is_here]
            block_parts, block_windows = self._block(number, block)
            parts[here], windows[here] = block_parts[samples[here] - begin], block_windows[samples[here] - begin]
            left = left[~is_here]
        return parts, windows

    def windows_before(self, sample: int) -> Integers:
        """Windows of each part among the samples before one, skipped ones too."""
        number, block, place = self._place(sample)
        segment = self._segments[number]
        if block == len(segment.offsets) - 1:
            return segment.begins_P + segment.counts_P
        parts, _ = self._block(number, block)
        return segment.begins_P + segment.before(block) + np.bincount(parts[:place], minlength=len(segment.counts_P))

    def spans(self, first: int, last: int) -> list[tuple[Integers, Integers]]:
        """The windows of each part in steps `first` to `last`, skipped ones left out: from the first ones up to the others."""
        at, found = first, []
        for low, high in [*self._skips, (last + 1, last + 1)]:
            end = min(low, last + 1)
            if at < end:
                places = ((step - 1) * self.batch for step in (at, end))
                found.append(tuple(self.windows_before(min(place, self.samples)) for place in places))
            at = max(at, high + 1)
        return [(low, high) for low, high in found]

    def identity(self, step: int) -> list[object]:
        """All that decides the samples of steps 1 to `step`, as plain values: two plans that agree on it agree on these."""
        segments = [(each.first, each.counts_P.tolist()) for each in self._segments if each.first < step * self.batch]
        skips = [(first, min(last, step)) for first, last in self._skips if first <= step]
        return [FORM, BLOCK, self.batch, self._seed, segments, skips]

    def _place(self, sample: int) -> tuple[int, int, int]:
        """Segment, block and place in the block of a sample; of the end of the samples, the block after the last."""
        number = int(self._firsts.searchsorted(sample, "right")) - 1
        segment = self._segments[number]
        block = int(segment.offsets.searchsorted(sample - segment.first, "right")) - 1
        return number, block, sample - segment.first - int(segment.offsets[block])

    def _expanded(self, number: int, block: int) -> tuple[Integers, Integers]:
        """Part and window of each sample of a block."""
        segment = self._segments[number]
        begins_P = segment.before(block)
        counts_P = segment.before(block + 1) - begins_P
        parts = np.repeat(np.arange(len(counts_P)), counts_P)
        ranks = np.arange(len(parts)) - np.repeat(np.cumsum(counts_P) - counts_P, counts_P)
        draw = np.random.Generator(np.random.PCG64(seed_of(self._seed, "samples", segment.first, block)))
        order = np.argsort((ranks + draw.random(len(parts))) / counts_P[parts], kind="stable")
        windows = ranks + (segment.begins_P + begins_P)[parts]
        return parts[order], windows[order]


def divided(total: int, weights: Integers) -> Integers:
    """Whole numbers that sum to `total`, by weight and largest remainder; raises ValueError when all weights are 0."""
    whole = [int(weight) for weight in weights]
    if not any(whole):
        raise ValueError("no part is left to read")
    shares = rounded({part: Fraction(total * weight, sum(whole)) for part, weight in enumerate(whole)}, total)
    return np.array(list(shares.values()), np.int64)


def _segment(first: int, counts_P: Integers, begins_P: Integers) -> Segment:
    blocks = max(1, -(-int(counts_P.sum()) // BLOCK))
    offsets = np.zeros(blocks + 1, np.int64)
    for count in counts_P:
        offsets += _before(count, np.arange(blocks + 1), blocks)
    return Segment(first=first, counts_P=counts_P, begins_P=begins_P, offsets=offsets)


def _before(counts: Integers, block: Integers | int, blocks: int) -> Integers:
    """round(counts * block / blocks), half up, in whole numbers: below 2**63 up to 5 * 10**10 samples."""
    return (2 * counts * block + blocks) // (2 * blocks)


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same steps as disjoint ranges in order."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged
