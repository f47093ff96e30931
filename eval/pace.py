"""How far an evaluation is and when it will be done: a bar on a terminal, a line each half minute elsewhere.

The time left is the rest of each family at its own pace, or, before it has begun, at that of the families of its kind: a
generated answer takes a hundred times as long as a text that is scored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ..catalog import progress

log = logging.getLogger(__name__)

LINE_SECONDS = 30.0


@dataclass(slots=True)
class Leg:
    """One family on the way."""

    kind: str
    total: int
    """Answers it will need, 0 where nobody knows."""
    done: int = 0
    seconds: float = 0.0
    is_over: bool = False


class Pace:
    """Counts answers; `legs` is family to its kind and the number of its answers."""

    def __init__(self, title: str, legs: Mapping[str, tuple[str, int]], show: bool) -> None:
        self.title, self.legs = title, {name: Leg(kind, total) for name, (kind, total) in legs.items()}
        self.bar: tqdm[Any] = tqdm(desc=title, total=sum(leg.total for leg in self.legs.values()), unit="ans", disable=not show)
        self.show = show
        self.current = ""
        self._since = self._told = time.monotonic()

    def begin(self, name: str) -> None:
        """A family begins."""
        self.current, self._since = name, time.monotonic()
        self.bar.set_postfix_str(name)

    def answered(self, count: int) -> None:
        """So many answers came."""
        leg, now = self.legs[self.current], time.monotonic()
        leg.done += count
        leg.seconds += now - self._since
        self._since = now
        self.bar.update(count)
        total = max(leg.total, leg.done)
        progress.update(stage=self.current, done=leg.done, total=total, unit="answers")
        if not self.show and now - self._told >= LINE_SECONDS:
            self._told = now
            log.info("%s: %s, %d of %d answers, %s left in all", self.title, self.current, leg.done, total, _clock(self.left()))

    def end(self, name: str) -> None:
        """A family is done, asked or read from an earlier run."""
        leg = self.legs[name]
        leg.is_over = True
        self.bar.update(max(0, leg.total - leg.done))

    def left(self) -> float:
        """Seconds to go, at the pace so far."""
        return sum(
            (leg.total - leg.done) * self._pace(leg) for leg in self.legs.values() if not leg.is_over and leg.total > leg.done
        )

    def _pace(self, leg: Leg) -> float:
        for alike in ([leg], [other for other in self.legs.values() if other.kind == leg.kind], list(self.legs.values())):
            done, seconds = sum(other.done for other in alike), sum(other.seconds for other in alike)
            if done:
                return seconds / done
        return 0.0

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
