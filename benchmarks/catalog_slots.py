"""Slots as hundreds of workers report them, written without waiting for the disk: 100,000 manifests in a minute."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from catalog_rows import CRAWLS, LANGUAGES  # type: ignore[import-not-found]  # the folder of a script is on its path

from sea_lion.catalog.places import Folder
from sea_lion.catalog.slots import Count, Flow, Manifest, SlotSet

STAGE = "shards"
STEPS = ("quality", "contamination")
"""With three reasons each: ten rows of the ledger in a manifest."""


class Unsynced(Folder):
    """A folder that trusts the machine not to lose power."""

    def create(self, path: str, data: bytes) -> bool:
        """Write the file."""
        target = self.root / path
        try:
            file = target.open("xb")
        except FileExistsError:
            return False
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("xb")
        with file:
            file.write(data)
        return True


def manifest(number: int) -> Manifest:
    """What a slot reports: four crawls of one language, a tokenizer, ten rows of the ledger."""
    draw = random.Random(number)
    language = list(LANGUAGES)[number % len(LANGUAGES)]
    counts = []
    for i in range(4):
        documents = draw.randrange(100, 400)
        counts.append(Count(
            language=language, source="web", split="train", crawl=CRAWLS[(number + i) % len(CRAWLS)], documents=documents,
            characters=3_000 * documents, bytes=5_000 * documents, tokens={"tokenizer/sea-256k@1": 1_300 * documents},
        ))  # fmt: skip
    left = sum(count.documents for count in counts)
    flow = []
    for step in reversed(range(len(STEPS))):
        removed = [draw.randrange(1, 50) for _ in range(3)]
        shared = {"step_name": STEPS[step], "source": "web", "language": language}
        outcomes = [("in", "", left + sum(removed)), ("out", "", left)]
        outcomes += [("removed", f"{STEPS[step]}_{i}", lost) for i, lost in enumerate(removed)]
        for outcome, reason, documents in outcomes:
            flow.append(
                Flow(step=step + 7, outcome=outcome, reason=reason, documents=documents, bytes=5_000 * documents, **shared)
            )
        left += sum(removed)
    return Manifest(
        slot=f"{number:06}", sha256=f"{draw.getrandbits(256):064x}", bytes=draw.randrange(10**7), seconds=1.0,
        documents=sum(count.documents for count in counts), counts=tuple(counts), flow=tuple(flow),
        reported="2026-11-01T00:00:00.000000+00:00", attempt=f"{draw.getrandbits(64):016x}",
    )  # fmt: skip


def write_slots(root: Path, ref: str, planned: int, reported: Iterable[int] | None = None) -> None:
    """Plan the slots of an artifact, and report those given, or all."""
    place = Unsynced(str(root))
    root.mkdir(parents=True, exist_ok=True)
    slots = SlotSet(place=place, ref=ref, stage=STAGE).plan([(f"{i:06}", f"task {i}") for i in range(planned)], "made up")
    for number in range(planned) if reported is None else reported:
        slots.report(manifest(number))
