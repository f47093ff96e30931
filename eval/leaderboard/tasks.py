"""lm-eval's own tasks on a mirror's data.

lm-eval reads its own task files; a group file written for the occasion, in a temporary folder, names the family's tasks with
what is other here: where the rows come from, and the order of GPQA's answers. Prompts, examples, stop texts and scoring stay
lm-eval's. lm-eval's index of 13,000 tasks is never read, and neither the network nor a cache of data sets is touched.

GPQA's order of answers is lm-eval's one fault that must be mended: it shuffles with the global random generator inside
`dataset.map`, so that the order is that of whichever process filled the cache first, and another one each time the rows are
read when there is no cache: right answer and prompt then disagree, and a model that knows everything scores 30%. Here the order
follows from the question alone (and is the same in GPQA's three overlapping sets).
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets

from ...catalog.errors import CorruptInput
from .definition import HARD_LEVEL, FamilyDefinition, sources, stock_folder
from .mirror import open_mirror, split_table
from .preflight import offer_splitter

logging.getLogger("lm_eval.api.task").setLevel(logging.ERROR)  # a warning a task: that custom data sets can take arguments

GPQA_LETTERS = "ABCD"


def build_tasks(folder: Path, family: FamilyDefinition, limit: int = 0) -> Mapping[str, Any]:
    """lm-eval's task objects of one family by name, those that the mirror in `folder` has data for; main thread only.

    `limit`: so many items of each task, chosen by hash; 0: all. Raises CorruptInput when a file changed, or when lm-eval does
    not register or load a task.
    """
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()  # three a task, for what takes milliseconds
    mirror = open_mirror(folder)
    absent = {line.partition(":")[0] for line in mirror.missing}
    names = [task for task in family.tasks if task in mirror.splits and task not in absent]
    if family.name == "ifeval" and names:
        offer_splitter(mirror)
    with TemporaryDirectory(prefix="sea-lion-leaderboard-") as work:
        group = f"sea_lion_{family.name}"
        (Path(work) / f"{group}.yaml").write_text(_group_file(group, family, names, folder, limit), "utf-8")
        manager = TaskManager(include_path=[str(stock_folder()), work], include_defaults=False)
        unknown = [name for name in (group, *names) if name not in manager.task_index]
        if unknown:
            raise CorruptInput(stock_folder(), "", f"lm-eval does not register {', '.join(unknown)}")
        loaded: dict[str, Any] = dict(manager.load(group)["tasks"])
    if set(loaded) != set(names):
        raise CorruptInput(stock_folder(), family.title, f"lm-eval loads {sorted(loaded)}, asked were {sorted(names)}")
    if family.name == "ifeval":
        for task in loaded.values():
            task.config.process_results = partial(_repeatably, task.config.process_results)
    return {name: loaded[name] for name in names}


def _group_file(group: str, family: FamilyDefinition, names: list[str], folder: Path, limit: int) -> str:
    """The group as YAML; texts and tables in it are JSON, which YAML contains."""
    lines = [f"group: {group}", "task:" if names else "task: []"]
    for name in names:
        arguments = {"folder": str(folder.resolve()), "name": name, "limit": limit}
        lines += [
            f"  - task: {name}",
            f"    dataset_path: {json.dumps(str(folder.resolve() / sources()[name].dataset))}",
            f"    custom_dataset: !function {__name__}.mirrored_rows",
            f"    dataset_kwargs: {json.dumps(arguments)}",
        ]
        if family.name == "gpqa":
            lines.append(f"    process_docs: !function {__name__}.with_ordered_answers")
    return "\n".join(lines) + "\n"


def mirrored_rows(*, folder: str, name: str, limit: int, **_: Any) -> dict[str, datasets.Dataset]:
    """A task's splits as lm-eval wants them, in memory; called by lm-eval."""
    mirror, source = open_mirror(Path(folder)), sources()[name]
    splits = {split: datasets.Dataset(split_table(mirror, name, split)) for split in source.splits}
    if limit:
        asked = source.splits[0]
        splits[asked] = splits[asked].select(_chosen(splits[asked], limit), keep_in_memory=True)
    return splits


def _chosen(rows: datasets.Dataset, limit: int) -> list[int]:
    """Places of `limit` rows, in order: chosen by hash, since the first ones are all of one subject in some of the sets."""
    levels = rows["level"] if "level" in rows.column_names else [HARD_LEVEL] * len(rows)
    places = [place for place, level in enumerate(levels) if level == HARD_LEVEL]
    return sorted(sorted(places, key=lambda place: hashlib.sha256(f"limit/{place}".encode()).digest())[:limit])


def with_ordered_answers(rows: datasets.Dataset) -> datasets.Dataset:
    """GPQA's rows with the columns that lm-eval's prompt names; called by lm-eval."""
    return rows.map(_ordered, keep_in_memory=True, load_from_cache_file=False)


def _ordered(row: Mapping[str, Any]) -> dict[str, str]:
    from lm_eval.tasks.leaderboard.gpqa.utils import preprocess

    answers = [preprocess(row[f"Incorrect Answer {number}"]) for number in (1, 2, 3)] + [preprocess(row["Correct Answer"])]
    keys = [hashlib.sha256(f"{row['Question']}/{place}".encode()).digest() for place in range(4)]
    order = sorted(range(4), key=keys.__getitem__)
    choices = {f"choice{place + 1}": answers[which] for place, which in enumerate(order)}
    return {**choices, "answer": f"({GPQA_LETTERS[order.index(3)]})"}


def _repeatably(
    score: Callable[[Mapping[str, Any], list[str]], Mapping[str, Any]], doc: Mapping[str, Any], answers: list[str]
) -> Mapping[str, Any]:
    """IFEval's own scoring with both generators seeded that it draws from: langdetect's, and Python's for absent arguments."""
    import langdetect

    langdetect.DetectorFactory.seed = 0
    before = random.getstate()
    random.seed(hashlib.sha256(str(doc["prompt"]).encode()).digest())
    try:
        return score(doc, answers)
    finally:
        random.setstate(before)
