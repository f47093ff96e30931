"""`open_suite`: the Open LLM Leaderboard v2 on an offline mirror, one family a time.

A mirror may lack a data set (GPQA asks for a licence): the other families are asked, the averages say what they lack. A package
or a file that is missing or altered is an error, told before the first item is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..family import HarnessFamily, Suite, TaskScores
from .definition import LANGUAGE, FamilyDefinition, families
from .mirror import open_mirror
from .normalise import aggregates, task_scores
from .preflight import preflight
from .tasks import build_tasks

NAME = "leaderboard"


def open_suite(mirror_folder: Path, limit: int = 0) -> Suite:
    """The leaderboard's families on the mirror's data; `limit` items a task, 0: all.

    Reads and checks every file. Raises CorruptInput with all problems in one line: files that changed, columns that are not
    there, packages that are not installed.
    """
    ready = preflight(open_mirror(mirror_folder))
    present = set(ready.tasks)
    return Suite(
        name=NAME,
        profile=NAME,
        families=tuple(
            HarnessFamily(
                name=family.name,
                build=partial(build_tasks, mirror_folder, family, limit),
                read=partial(read_samples, family),
            )
            for family in families()
            if present & set(family.tasks)
        ),
        aggregate=aggregates,
        warnings=ready.warnings,
        missing=ready.missing,
    )


def read_samples(
    family: FamilyDefinition, samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Mapping[tuple[str, str], TaskScores]:
    """Scores of a family's tasks from lm-eval's samples, or from samples that were stored."""
    return {(task, LANGUAGE): task_scores(family, task, samples[task]) for task in family.tasks if task in samples}
