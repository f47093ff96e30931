"""The runner: families of tasks, one after the other, asked of one loaded model.

After each family its items, answers and scores are written to the job's work folder, whole or not at all; a run that was killed
reads them again and asks the next family. Within a family the response cache takes over (`response_cache`). lm-eval builds the
requests and hands them to the model; scores are worked out here from the answers, with clustered errors.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.evaluator import evaluate

from ..catalog.fingerprint import file_digest, fingerprint, plain
from ..catalog.recipes import adapter
from ..catalog.records import Score
from ..catalog.store import write_atomically
from .answers import (
    ANSWERS_SCHEMA,
    ITEMS_SCHEMA,
    Row,
    generation_rows,
    harness_rows,
    likelihood_rows,
    likelihood_scores,
    paired,
    prompt_hash,
    with_truncated,
)
from .family import (
    Family,
    GenerationFamily,
    GenerationTask,
    HarnessFamily,
    LikelihoodFamily,
    Message,
    Question,
    TaskScores,
)
from .pace import Pace
from .rendering import Render
from .suite import LanguageTask
from .tasks import PromptTask, harness_name, harness_tasks
from .transformers_model import cut_at

log = logging.getLogger(__name__)

KINDS = {LikelihoodFamily: "likelihood", GenerationFamily: "generation", HarnessFamily: "harness"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked, and how."""

    lm: Any
    """The model (lm-eval's `LM`)."""
    model: str
    """Its reference, for messages."""
    render: Render
    """Conversations to prompts."""
    is_chat: bool = False
    """Whether lm-eval's own tasks go through the chat template."""
    built: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Family to lm-eval's tasks, where they are lm-eval's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyResult:
    """What the answers to one family come to."""

    items: pa.Table
    answers: pa.Table
    scores: tuple[Score, ...]
    warnings: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    """Tasks without a score, each with the reason."""
    open: tuple[str, ...] = ()
    """Of them, those that may get one when the same is run again."""


@dataclass(slots=True)
class Found:
    """The same while it comes together."""

    items: list[Row] = field(default_factory=list)
    answers: list[Row] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def take(self, place: str, rows: tuple[list[Row], list[Row]], scored: TaskScores) -> None:
        """Add a task; `place` is its name and language, which its warnings begin with."""
        self.items += rows[0]
        self.answers += rows[1]
        self.scores += scored.scores
        task = place.partition("/")[0]
        self.warnings += [line if line.startswith(task) else f"{place}: {line}" for line in scored.warnings]
        if scored.incomplete:
            self.incomplete.append(f"{place}: {scored.incomplete}")
            self.open += [self.incomplete[-1]] if scored.is_open else []


def ask(lm: Any, tasks: Iterable[LanguageTask]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's record of every item, by `harness_name`: what was asked, and the model's answers."""
    return harness_samples(lm, harness_tasks(tasks))


def harness_samples(lm: Any, tasks: Mapping[str, Any], is_chat: bool = False) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples by task; with `is_chat` its prompts go through the chat template, examples as turns of their own."""
    task_dict: Any = {"tasks": dict(tasks), "groups": {}}
    found: Any = evaluate(
        lm=lm, task_dict=task_dict, bootstrap_iters=0, apply_chat_template=is_chat, fewshot_as_multiturn=is_chat
    )
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    for task in tasks.values():
        task._instances = None  # prompts, once for each choice: most of the memory
    return samples


def ask_family(asking: Asking, family: Family) -> FamilyResult:
    """Ask all of a family and score it."""
    if isinstance(family, LikelihoodFamily):
        found = _likelihood(asking, family)
    elif isinstance(family, GenerationFamily):
        found = _generation(asking, family)
    else:
        found = _harness(asking, family)
    cut = sum(getattr(asking.lm, "cut", {}).values())
    if cut:
        told = "1 prompt was" if cut == 1 else f"{cut} prompts were"
        length = f"the model's {asking.lm.max_length} tokens"
        found.warnings.append(f"{family.name}: {told} longer than {length} and lost the beginning")
        asking.lm.cut.clear()
    return FamilyResult(
        items=pa.Table.from_pylist(found.items, schema=ITEMS_SCHEMA),
        answers=pa.Table.from_pylist(found.answers, schema=ANSWERS_SCHEMA),
        scores=with_truncated(found.scores, found.answers),
        warnings=tuple(found.warnings),
        incomplete=tuple(found.incomplete),
        open=tuple(found.open),
    )


def _likelihood(asking: Asking, family: LikelihoodFamily) -> Found:
    samples = ask(asking.lm, family.tasks)
    found = Found()
    for task in family.tasks:
        rows, given = likelihood_rows(task, samples[harness_name(task)], asking.model)
        found.items += rows
        found.answers += given
        found.scores += likelihood_scores(task, rows)
    return found


def _generation(asking: Asking, family: GenerationFamily) -> Found:
    given = {harness_name(task): [[] for _ in task.questions] for task in family.tasks}  # type: dict[str, list[list[str]]]
    hashes: dict[str, list[str]] = {}
    turns = 1 + max((len(question.follow_ups) for task in family.tasks for question in task.questions), default=0)
    for turn in range(turns):
        tasks = {}
        for task in family.tasks:
            prompts = {
                question.id: asking.render(conversation(question, answers))
                for question, answers in zip(task.questions, given[harness_name(task)], strict=True)
                if len(question.follow_ups) >= turn
            }
            if prompts:
                tasks[harness_name(task)] = PromptTask(task, turn, prompts)
        samples = harness_samples(asking.lm, tasks) if tasks else {}
        for name, asked in tasks.items():
            _take_turn(asked.asked, turn, samples[name], given[name])
            if turn == 0:
                hashes[name] = [prompt_hash(sample) for sample in samples[name]]
    return _score_generated(family, given, hashes)


def conversation(question: Question, answers: Sequence[str]) -> tuple[Message, ...]:
    """The question's messages, and after them what was answered so far with the user's next turns."""
    messages = list(question.messages)
    for answer, follow_up in zip(answers, question.follow_ups, strict=False):
        messages += [Message(role="assistant", content=str(answer)), Message(role="user", content=follow_up)]
    return tuple(messages)


def _take_turn(task: GenerationTask, turn: int, samples: Sequence[Mapping[str, Any]], given: list[list[str]]) -> None:
    places = [place for place, question in enumerate(task.questions) if len(question.follow_ups) >= turn]
    for (_, sample), place in zip(paired([task.questions[place] for place in places], samples, task.name), places, strict=True):
        answer = sample["resps"][0][0]
        text = cut_at(answer, task.generation.stop)  # some endpoints take four stop texts only
        given[place].append(answer if text == answer else text)


def _score_generated(family: GenerationFamily, given: Mapping[str, list[list[str]]], hashes: Mapping[str, list[str]]) -> Found:
    found = Found()
    for task in family.tasks:
        texts = given[harness_name(task)]
        scored = task.scorer(task, texts)
        rows = generation_rows(task, texts, hashes.get(harness_name(task), []), scored)
        found.take(f"{task.name}/{task.language}", rows, scored)
    return found


def _harness(asking: Asking, family: HarnessFamily) -> Found:
    samples = harness_samples(asking.lm, asking.built[family.name], asking.is_chat)
    found = Found()
    for (task, language), scored in family.read(samples).items():
        found.take(f"{task}/{language}", harness_rows(task, language, samples[task], scored, asking.model), scored)
    return found


# -- families that are done ------------------------------------------------------------------------------------------------


class Done:
    """The results of families in a folder: two tables and, written last, a manifest with their digests."""

    def __init__(self, folder: Path, identity: Any) -> None:
        """`identity` is all that decides on the results, besides the family."""
        self.folder, self.identity = folder, identity
        folder.mkdir(parents=True, exist_ok=True)

    def _paths(self, family: str) -> tuple[Path, Path, Path]:
        name = family if family.replace("-", "").replace("_", "").isalnum() else fingerprint(family)[:16]
        return self.folder / f"{name}.parquet", self.folder / f"{name}.answers.parquet", self.folder / f"{name}.json"

    def keep(self, family: str, asked: str, result: FamilyResult) -> None:
        """Write a family's results; `asked` is the digest of what it asks."""
        items, answers, manifest = self._paths(family)
        manifest.unlink(missing_ok=True)
        for path, table in ((items, result.items), (answers, result.answers)):
            partial = path.with_name(f"{path.name}.partial")
            pq.write_table(table, partial, compression="zstd")
            partial.replace(path)
        body = {
            "fingerprint": fingerprint([self.identity, family, asked]),
            "files": {path.name: file_digest(path) for path in (items, answers)},
            "scores": plain(result.scores),
            "warnings": list(result.warnings),
            "incomplete": list(result.incomplete),
        }
        write_atomically(manifest, json.dumps(body, ensure_ascii=False))

    def find(self, family: str, asked: str) -> FamilyResult | None:
        """A family's results, when they are complete and of the same questions; a task without a score is tried again."""
        items, answers, manifest = self._paths(family)
        try:
            body = json.loads(manifest.read_text("utf-8"))
            if body["fingerprint"] != fingerprint([self.identity, family, asked]) or body["incomplete"]:
                return None
            if any(file_digest(path) != body["files"][path.name] for path in (items, answers)):
                return None
            return FamilyResult(
                items=pq.read_table(items),
                answers=pq.read_table(answers),
                scores=tuple(adapter(Score).validate_json(json.dumps(score)) for score in body["scores"]),
                warnings=tuple(body["warnings"]),
            )
        except (OSError, ValueError, LookupError, TypeError, pa.ArrowException):
            return None


def run_families(asking: Asking, families: Sequence[Family], done: Done, pace: Pace) -> list[FamilyResult]:
    """Ask every family that is not done, in order; the results, in the same order."""
    results = []
    for family in families:
        asked = family_digest(family)
        result = done.find(family.name, asked)
        pace.begin(family.name)
        if result is None:
            result = ask_family(asking, family)
            done.keep(family.name, asked, result)
        pace.end(family.name)
        results.append(result)
    return results


def family_digest(family: Family) -> str:
    """Digest of what a family asks, as far as it can be known before it is asked."""
    digest = hashlib.sha256(f"{KINDS[type(family)]}/{family.name}".encode())
    for line in _asked_lines(family):
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _asked_lines(family: Family) -> Iterator[str]:
    if isinstance(family, HarnessFamily):
        return
    for task in family.tasks:
        if isinstance(task, GenerationTask):
            yield fingerprint([task.name, task.language, task.version, task.generation])
            yield from (fingerprint([q.id, q.messages, q.follow_ups, q.target, dict(q.details)]) for q in task.questions)
        else:
            yield fingerprint([task.name, task.language, task.form])
            yield from (f"{item.id}/{item.digest}" for item in task.items)


def limited(family: Family, limit: int) -> Family:
    """The family with at most `limit` items a task and language, the same ones every time: by hash. lm-eval's own tasks are
    limited where they are built."""
    if not limit or isinstance(family, HarnessFamily):
        return family
    if isinstance(family, GenerationFamily):
        return replace(
            family, tasks=tuple(replace(task, questions=chosen(task.questions, limit, lambda q: q.id)) for task in family.tasks)
        )
    return replace(family, tasks=tuple(replace(task, items=chosen(task.items, limit, lambda i: i.id)) for task in family.tasks))


def chosen(items: Sequence[Any], limit: int, name: Callable[[Any], str]) -> tuple[Any, ...]:
    """`limit` of the items, in their order."""
    lowest = sorted(items, key=lambda item: hashlib.sha256(name(item).encode("utf-8", "surrogatepass")).digest())[:limit]
    kept = {name(item) for item in lowest}
    return tuple(item for item in items if name(item) in kept)


def merged(results: Sequence[FamilyResult], folder: Path, items: str, answers: str) -> pa.Table:
    """Write the tables of all families as one each; returns that of the items. Equal rows give equal bytes, whether they were
    asked just now or read from an interrupted run."""
    together = pa.concat_tables([result.items.cast(ITEMS_SCHEMA) for result in results]).combine_chunks()
    pq.write_table(together, folder / items, compression="zstd")
    given = pa.concat_tables([result.answers.cast(ANSWERS_SCHEMA) for result in results]).combine_chunks()
    pq.write_table(given, folder / answers, compression="zstd")
    return together
