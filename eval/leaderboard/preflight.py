"""Everything a leaderboard run will need, looked at before anything is generated.

lm-eval finds out late: a package that is missing when its task is loaded, the sentence splitter when answers are scored, a file
that changed never. Here all of it is looked at first, and all problems are told at once, for whoever mends one after the other
pays for each try with a queue for a GPU. Scoring is tried too, on answers that need no model. What cannot be mended, a right
answer that is not among the choices, is a warning: such rows are in the public data, and every model on the leaderboard has
lost the same points on them.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa
from packaging.requirements import Requirement

from ...catalog.errors import CorruptInput
from .definition import HARD_LEVEL, TaskSource, families, sources
from .mirror import PUNKT, PUNKT_FILES, PUNKT_TASK, Mirror, checked_bytes, split_table

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What can be asked, after everything was looked at."""

    tasks: tuple[str, ...]
    """lm-eval's names, in the leaderboard's order."""
    items: Mapping[str, int]
    """Task to the number of its items."""
    missing: tuple[str, ...]
    """Tasks that the mirror has no data for, each with the reason."""
    warnings: tuple[str, ...]
    """What is odd in the data, one sentence each."""


def preflight(mirror: Mirror) -> Readiness:
    """Look at every package, file, column and row that the mirror's tasks need.

    Raises CorruptInput with all problems in one line. Makes the mirror's sentence splitter the one that NLTK finds.
    """
    missing = list(mirror.missing)
    gone = {line.partition(":")[0] for line in missing}
    missing += [f"{task}: the mirror does not list it" for task in sources() if task not in mirror.splits and task not in gone]
    tasks = [task for task in sources() if task not in {line.partition(":")[0] for line in missing}]
    problems = list(_package_problems(tasks))
    warnings: list[str] = []
    items: dict[str, int] = {}
    if PUNKT_TASK in tasks:
        problems += _splitter_problems(mirror)
    can_score = not problems
    for task in tasks:
        try:
            rows = asked_rows(mirror, sources()[task])
            items[task] = len(rows)
            warnings += _oddities(mirror, sources()[task], rows)
            if can_score:
                _try_scoring(mirror, sources()[task], rows)
        except CorruptInput as error:
            problems.append(str(error))
    if not tasks:
        problems.append("no task can be asked")
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)} before anything was generated"
        raise CorruptInput(mirror.folder, count, "; ".join(dict.fromkeys(problems)))
    return Readiness(tasks=tuple(tasks), items=items, missing=tuple(missing), warnings=tuple(warnings))


def _package_problems(tasks: list[str]) -> Iterator[str]:
    for family in families():
        if not set(family.tasks) & set(tasks):
            continue
        for requirement in map(Requirement, family.requires):
            remedy = f"{family.title} needs it: pip install '{requirement}'"
            try:
                found = version(requirement.name)
            except PackageNotFoundError:
                yield f"{requirement.name} is not installed, {remedy}"
                continue
            if not requirement.specifier.contains(found, prereleases=True):
                yield f"{requirement.name} {found} is installed, {remedy}"
        if family.name == "math_hard" and threading.current_thread() is not threading.main_thread():
            yield "MATH must be scored in the main thread of a process: math-verify stops long comparisons by a signal"


def _splitter_problems(mirror: Mirror) -> Iterator[str]:
    """Check NLTK's sentence splitter in the mirror, and let NLTK find it."""
    intact = True
    for path in PUNKT_FILES:
        try:
            checked_bytes(mirror, path)
        except CorruptInput as error:
            intact = False
            yield str(error)
    if not intact:
        return
    try:
        offer_splitter(mirror)
        from nltk.tokenize.punkt import PunktTokenizer

        PunktTokenizer("english").tokenize("One. Two.")
    except ImportError:
        return  # told already, among the packages
    except Exception as error:
        yield f"{mirror.folder / PUNKT}: NLTK cannot read it: {error}"


def offer_splitter(mirror: Mirror) -> None:
    """Let NLTK look into the mirror first: lm-eval then finds the splitter on import and does not turn to the network."""
    import nltk

    place = str((mirror.folder / PUNKT).parents[1].resolve())
    if place not in nltk.data.path:
        nltk.data.path.insert(0, place)


def asked_rows(mirror: Mirror, source: TaskSource) -> list[Row]:
    """The rows that a task asks; raises CorruptInput for a split, column or row that is not there."""
    asked: list[Row] = []
    for split in source.splits:
        if split not in mirror.splits[source.task]:
            raise CorruptInput(mirror.folder, source.task, f"has no files of the split {split!r}; make the mirror again")
        table = split_table(mirror, source.task, split)
        _check_columns(mirror, source, split, table)
        rows = table.select(list(source.family.columns)).to_pylist()
        if split == source.splits[0]:
            asked = [row for row in rows if row.get("level", HARD_LEVEL) == HARD_LEVEL]
            rows = asked
        if not rows:
            where = f" of {HARD_LEVEL}" if "level" in source.family.columns else ""
            raise CorruptInput(mirror.folder, f"{source.task}, split {split!r}", f"has no row{where}")
    return asked


def _check_columns(mirror: Mirror, source: TaskSource, split: str, table: pa.Table) -> None:
    lacking = [column for column in source.family.columns if column not in table.column_names]
    if lacking:
        paths = ", ".join(mirror.splits[source.task][split])
        problem = f"lacks the column{'s' * (len(lacking) > 1)} {', '.join(map(repr, lacking))} that {source.task} reads"
        raise CorruptInput(mirror.folder, paths, f"{problem}; it has {', '.join(map(repr, table.column_names))}")


def _oddities(mirror: Mirror, source: TaskSource, rows: list[Row]) -> Iterator[str]:
    reasons = []
    for number, row in enumerate(rows):
        try:
            reasons.append(unanswerable(source, row))
        except Exception as error:  # a row of a shape that nobody foresaw: lm-eval would stumble over it, and later
            raise _unreadable(mirror, source, number, error) from error
    for reason in sorted({reason for reason in reasons if reason}):
        count = reasons.count(reason)
        yield f"{source.task}: {count} of {len(rows)} items cannot be answered rightly for sure: {reason}"


def _unreadable(mirror: Mirror, source: TaskSource, number: int, error: Exception) -> CorruptInput:
    where = f"{source.task}, asked row {number}"
    return CorruptInput(mirror.folder, where, f"is not as lm-eval needs it ({type(error).__name__}: {error})")


def unanswerable(source: TaskSource, row: Row) -> str:
    """Why no answer to this row is sure to be counted as right, empty when one is."""
    return _CHECKS[source.family.name](source, row)


def _try_scoring(mirror: Mirror, source: TaskSource, rows: list[Row]) -> None:
    """Score what needs no model: any answer to every prompt of IFEval, and two forms of one number in MATH."""
    if source.family.name == "ifeval":
        from lm_eval.tasks.ifeval.utils import process_results

        for number, row in enumerate(rows):
            try:
                process_results(row, ["One sentence. And two."])
            except Exception as error:
                raise _unreadable(mirror, source, number, error) from error
    if source.family.name == "math_hard":
        from lm_eval.tasks.leaderboard.math.utils import is_equiv
        from sympy.parsing.latex import parse_latex

        try:
            parse_latex("1")  # loads the parser: lm-eval gives a comparison one second, this import included
            can_compare = is_equiv(r"\frac{1}{2}", "0.5")
        except ImportError:
            can_compare = False
        if not can_compare:  # what it cannot parse, lm-eval counts as wrong without a word
            problem = "lm-eval cannot compare formulas in a second: do sympy and antlr4-python3-runtime fit each other?"
            raise CorruptInput(mirror.folder, source.family.title, problem)


def _ifeval(source: TaskSource, row: Row) -> str:
    return "" if row["instruction_id_list"] else "it has no instruction"


def _bbh(source: TaskSource, row: Row) -> str:
    return "" if row["target"] in source.answers else "the right answer is not among the choices"


def _math(source: TaskSource, row: Row) -> str:
    return "" if "\\boxed" in row["solution"] or "\\fbox" in row["solution"] else "its solution marks no final answer"


def _gpqa(source: TaskSource, row: Row) -> str:
    wrong = [str(row[f"Incorrect Answer {number}"]).strip() for number in (1, 2, 3)]
    if not row["Correct Answer"]:
        return "it has no right answer"
    return "the right answer is also a wrong one" if str(row["Correct Answer"]).strip() in wrong else ""


def _musr(source: TaskSource, row: Row) -> str:
    return "" if row["answer_choice"] in ast.literal_eval(row["choices"]) else "the right answer is not among the choices"


def _mmlu_pro(source: TaskSource, row: Row) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(row["options"])]
    return "" if len(row["answer"]) == 1 and row["answer"] in letters else "the right answer is not among the choices"


_CHECKS: dict[str, Callable[[TaskSource, Row], str]] = {
    "ifeval": _ifeval,
    "bbh": _bbh,
    "math_hard": _math,
    "gpqa": _gpqa,
    "musr": _musr,
    "mmlu_pro": _mmlu_pro,
}
