"""Slots under fire: writers killed at random and started again, zombies, empty shards, retries that write other bytes.

    python tests/catalog/crash_slots.py --minutes 10 --writers 20

Sets of slots are planned one after the other. Each attempt at a slot is a process; a third is killed with SIGKILL at a random
moment and requeued, a tenth of the tasks runs twice from the start. An ingester refreshes the index all the while and is killed
too. In the end the index must say exactly what the first manifests say, read here one by one and compared with their shards.
Prints one JSON line; exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sea_lion.catalog import index
from sea_lion.catalog.places import Place
from sea_lion.catalog.slots import Count, Flow, Manifest, SlotSet, unsealed
from sea_lion.catalog.store import Store

SLOTS_PER_SET = 120
KILLED, TWICE, EMPTY, OTHER_BYTES, INGEST_KILLED = 0.35, 0.10, 0.03, 0.35, 0.4
LANGUAGES = ("khm", "lao")


@dataclass
class Task:
    """One slot to be done."""

    slots: SlotSet
    number: int
    is_zombie: bool = False
    attempts: int = 0
    started: float = 0.0

    @property
    def slot(self) -> str:
        return f"task-{self.number:05}"


@dataclass
class Tally:
    """What happened."""

    counts: Counter[str] = field(default_factory=Counter)
    sets: list[SlotSet] = field(default_factory=list)
    pace: float = 0.05
    """Seconds of an attempt, lately: a kill that comes later hits nothing."""


def attempt(task: Task, seed: int, acks: Path) -> None:
    """Write a shard and report it, slowly enough to be killed anywhere in between."""
    draw, fixed = random.Random(seed), random.Random(f"{task.slots.ref} {task.number}")
    documents = 0 if fixed.random() < EMPTY else fixed.randrange(1, 500)
    if (task.attempts or task.is_zombie) and fixed.random() < OTHER_BYTES:
        documents += draw.randrange(1, 50)
    shard = b"".join(b"%d-%d\n" % (task.number, i) for i in range(documents))  # a line a document: the protocol takes any bytes
    time.sleep(draw.uniform(0, 0.05))
    first = documents // 3
    counts = tuple(
        Count(language=language, source="web", documents=n, characters=n * 10, bytes=n * 30, tokens={"tokenizer/t@1": n * 7})
        for language, n in zip(LANGUAGES, (first, documents - first), strict=True)
    )
    flow = (Flow(step=1, step_name="read", outcome="out", documents=documents),)
    manifest = Manifest(slot=task.slot, documents=documents, counts=counts, flow=flow, seconds=draw.random())
    said = task.slots.report(manifest, shard)
    digest = sha256(shard).hexdigest()
    line = {"ref": task.slots.ref, "slot": task.slot, "attempt": manifest.attempt, "said": said, "sha256": digest}
    ack = acks / f"{os.getpid()}-{seed}"
    ack.write_text(json.dumps(line))
    ack.rename(ack.with_suffix(".json"))  # not before it is whole: a kill may come here too


def started(work: Callable[[], None]) -> int:
    """The process id of a child that does the work and nothing else."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        if code:
            import traceback

            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


def plan_set(place: Place, number: int) -> tuple[SlotSet, list[Task]]:
    slots = SlotSet(place=place, ref=f"corpus/crash-{number}@1", stage="clean")
    slots = slots.plan([(f"task-{i:05}", f"file {i}") for i in range(SLOTS_PER_SET)], f"plan {number}")
    tasks = [Task(slots=slots, number=i) for i in range(SLOTS_PER_SET)]
    twice = [Task(slots=slots, number=task.number, is_zombie=True) for task in tasks if random.random() < TWICE]
    tasks += twice
    random.shuffle(tasks)
    return slots, tasks


def bombard(root: Path, seconds: float, writers: int, acks: Path) -> Tally:
    """Run writers and ingesters until the time is over and every planned slot is in."""
    place, tally, end = Place.at(root), Tally(), time.monotonic() + seconds
    queue: deque[Task] = deque()
    running: dict[int, tuple[Task | None, float]] = {}
    while True:
        now = time.monotonic()
        if not queue and now < end:
            slots, tasks = plan_set(place, len(tally.sets))
            tally.sets.append(slots)
            queue.extend(tasks)
        if not queue and not running:
            return tally
        if queue and not any(task is None for task, _ in running.values()):
            pid = started(lambda: ingest(root))
            running[pid] = (None, now + random.uniform(0, 1) if random.random() < INGEST_KILLED else float("inf"))
        while queue and sum(task is not None for task, _ in running.values()) < writers:
            task, seed = queue.popleft(), random.getrandbits(48)
            pid = started(lambda task=task, seed=seed: attempt(task, seed, acks))  # type: ignore[misc]
            # Later attempts are spared in the end, so that a run ends.
            is_victim = random.random() < KILLED and task.attempts < 6
            task.started = now
            running[pid] = (task, now + random.uniform(0, tally.pace) if is_victim else float("inf"))
            tally.counts["attempts"] += 1
        collect(running, queue, tally, now)
        time.sleep(0.005)


def collect(running: dict[int, tuple[Task | None, float]], queue: deque[Task], tally: Tally, now: float) -> None:
    """Kill those whose time has come; requeue what died."""
    for pid, (task, killed_at) in list(running.items()):
        if now >= killed_at:
            os.kill(pid, signal.SIGKILL)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            continue
        del running[pid]
        kind = "attempts" if task else "ingests"
        if os.WIFSIGNALED(status):
            tally.counts[f"{kind} killed"] += 1
            if task:
                task.attempts += 1
                queue.append(task)
        elif status:
            tally.counts[f"{kind} failed"] += 1
        elif task:
            tally.pace += 0.05 * (now - task.started - tally.pace)


def ingest(root: Path) -> None:
    """Refresh the index, and note that it was done."""
    index.refresh(Store(root))
    with (root.parent / "ingests").open("a") as file:
        file.write(".")


def truth(root: Path, tally: Tally) -> tuple[Counter[str], dict[tuple[str, str], dict[str, Any]], list[str]]:
    """What the first manifests say, read one by one, compared with their shards; and what is wrong with them."""
    totals: Counter[str] = Counter()
    kept: dict[tuple[str, str], dict[str, Any]] = {}
    wrong = []
    for slots in tally.sets:
        home = root / slots.folder / slots.generation
        for path in home.glob("*.json"):
            value = json.loads(unsealed(path.read_bytes()))
            kept[slots.ref, path.stem] = value
            rows = (root / value["path"]).read_bytes().count(b"\n")
            if rows != value["documents"] or rows != sum(value["counts"]["documents"]):
                wrong.append(f"{path}: its shard has other documents")
            totals["slots"] += 1
            totals["documents"] += rows
            totals["tokens"] += sum(value["tokens"]["tokens"])
            for language, n in zip(value["counts"]["language"], value["counts"]["documents"], strict=True):
                totals[language] += n
        totals["conflicts"] += len(list(home.glob("conflicts/*.json")))
        totals["planned"] += SLOTS_PER_SET
        shards = {path.name for path in home.glob("shards/*.parquet")}
        named = {value["path"].rpartition("/")[2] for (ref, _), value in kept.items() if ref == slots.ref}
        totals["orphan shards"] += len(shards - named)
    return totals, kept, wrong


def answers(root: Path) -> Counter[str]:
    """What the index says."""
    said: Counter[str] = Counter()
    questions = {
        "slots": "SELECT count(*) FROM slots", "documents": "SELECT sum(documents) FROM slots",
        "tokens": "SELECT sum(tokens) FROM slot_tokens", "conflicts": "SELECT count(*) FROM slot_conflicts",
        "planned": "SELECT sum(planned) FROM slot_sets",
        **{name: f"SELECT sum(documents) FROM slot_counts WHERE language = '{name}'" for name in LANGUAGES},
    }  # fmt: skip
    for name, sql in questions.items():
        said[name] = int(index.query(Store(root), sql)[1][0][0] or 0)
    return said


def check(root: Path, tally: Tally, acks: Path) -> list[str]:
    """What differs from the truth; fills in the tally."""
    totals, kept, wrong = truth(root, tally)
    for path in acks.glob("*.json"):
        ack = json.loads(path.read_text())
        tally.counts[f"told {ack['said']}"] += 1
        if ack["said"] == "first" and kept[ack["ref"], ack["slot"]]["attempt"] != ack["attempt"]:
            wrong.append(f"{ack}: was told first, and is not")
        if ack["said"] == "conflict" and not list(root.glob(f"slots/**/conflicts/{ack['slot']}-{ack['sha256'][:12]}.json")):
            wrong.append(f"{ack}: its conflict is not listed")
    if totals["slots"] != totals["planned"]:
        wrong.append(f"{totals['planned'] - totals['slots']} slots are missing")
    wrong += [f"{tally.counts[kind]} {kind}" for kind in ("attempts failed", "ingests failed") if tally.counts[kind]]
    for name, make in (("refreshed", index.refresh), ("rebuilt", index.rebuild)):
        make(Store(root))
        said = answers(root)
        wrong += [f"{name}: {key} is {said[key]}, should be {totals[key]}" for key in said if said[key] != totals[key]]
    tally.counts += totals
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--writers", type=int, default=20)
    given = parser.parse_args()
    start = time.monotonic()
    gc.freeze()  # children do not touch, and so copy, what is here already
    with tempfile.TemporaryDirectory(prefix="crash-slots-") as scratch:
        root, acks = Path(scratch) / "catalog", Path(scratch) / "acks"
        acks.mkdir()
        tally = bombard(root, given.minutes * 60, given.writers, acks)
        tally.counts["ingests"] = len((root.parent / "ingests").read_bytes())
        wrong = check(root, tally, acks)
    print(json.dumps({"seconds": round(time.monotonic() - start), **tally.counts, "sets": len(tally.sets), "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
