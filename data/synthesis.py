"""Writes conversations with a model in Magpie's way (https://arxiv.org/abs/2406.08464) and keeps the good ones.

The model is given its chat template up to the header of the user's turn and writes the user's message itself; then it answers
it. A system text in the wanted language steers it (`steering.py`). Seed instructions, which the usual self-instruct needs, were
refused: in most of our languages there are none that are not translated.

Attempts are made in blocks. Each is appended to its block's file as soon as it is there, under a key that is the digest of all
that it depends on; a run that was killed reads the file and makes what is missing. A finished block is renamed. What is kept is
decided afterwards, from the blocks in order: the result depends neither on what came back first nor on interruptions.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ..catalog.adapters import check_whole
from ..catalog.errors import CorruptInput, Unfinished
from ..catalog.fingerprint import fingerprint
from ..catalog.records import Synthesis as Synthetic
from ..catalog.store import Job, Made
from .chat_recipe import SynthesisRecipe
from .conversations import is_tellable, turn_language
from .generators import TEMPLATES, Endpoint, Generator, LocalModel, NoAnswer
from .sampling import Sampling
from .steering import STEERING

log = logging.getLogger(__name__)

BLOCK = 256
"""Attempts of a block, which are in memory together."""
MAX_FAILURES = 20
"""Attempts in a row without an answer after which the generator is taken to be down."""
LEDGER = "ledger.parquet"
LEDGER_SCHEMA = pa.schema([("language", pa.string()), ("outcome", pa.string()), ("reason", pa.string()), ("rows", pa.int64())])
QUESTION_CHARACTERS, ANSWER_CHARACTERS = (8, 4_000), (2, 16_000)
"""Least and most of a user's message and of an answer."""
MIN_DISTINCT = 0.6
"""Share of different 12-character sequences below which a text repeats itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """What to write: everything that the texts depend on, and nothing of where they are made."""

    model: str
    """The generator, by its public name: `Qwen/Qwen2.5-32B-Instruct`."""
    template: str = "chatml"
    """Its chat template, of `TEMPLATES`."""
    interface: Literal["completions", "chat"] = "completions"
    """`completions`: Magpie; `chat`: whole messages only, the user's message is asked for."""
    languages: tuple[str, ...]
    """ISO 639-3."""
    attempts: int
    """Attempts a language; some are left out afterwards."""
    seed: int = 0
    question: Sampling = field(default_factory=Sampling)
    """How the user's message is drawn."""
    answer: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, max_tokens=4096))
    """How the answer is drawn."""

    def __post_init__(self) -> None:
        unknown = [language for language in self.languages if language not in STEERING]
        if unknown or not self.languages or self.attempts < 1 or self.template not in TEMPLATES:
            raise ValueError(
                f"languages must be of {', '.join(STEERING)}, template of {', '.join(TEMPLATES)}, attempts at least 1"
            )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One conversation to write."""

    language: str
    number: int
    """Counted from 0 in its language."""
    seed: int
    system: str
    """What the assistant is told."""
    opening: str
    """First words of the user's message; empty where the template has a system text."""
    key: str
    """Digest of all that the text depends on."""


def synthesize(work: Synthesis, generator: Generator, folder: Path, concurrency: int = 32) -> dict[str, int]:
    """Write `<language>-synthetic.jsonl` files into a folder; language to the conversations kept.

    Takes up what an earlier, killed run left there. Raises Unfinished when the generator is down, and CorruptInput when nothing
    that it wrote is kept.
    """
    asyncio.run(_generate(work, generator, folder / "attempts", concurrency))
    kept = collect(work, folder)
    log.info("%s wrote %d attempts a language; kept %s", work.model, work.attempts, kept or "none")
    return kept


def attempts(work: Synthesis, language: str, block: int) -> list[Attempt]:
    """The attempts of a block."""
    steering, found = STEERING[language], []
    for number in range(block * BLOCK, min((block + 1) * BLOCK, work.attempts)):
        draw = random.Random(f"{work.seed} {language} {number}")
        system = steering.system.format(topic=draw.choice(steering.topics))
        opening = draw.choice(steering.openings)
        seed = draw.randrange(1 << 31)
        has_system = work.interface == "chat" or bool(TEMPLATES[work.template].system)
        opening = "" if has_system else opening
        depends_on = {name: value for name, value in asdict(work).items() if name not in ("languages", "attempts", "seed")}
        template = asdict(TEMPLATES[work.template])
        key = fingerprint([depends_on, template, steering.request, language, number, seed, system, opening])[:32]
        found.append(Attempt(language, number, seed, system, opening, key))
    return found


# -- writing -------------------------------------------------------------------------------------------------------------------


async def _generate(work: Synthesis, generator: Generator, folder: Path, concurrency: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    failures = _Failures()
    async with generator:
        for language, block, path in _blocks(work, folder):
            if not path.exists():
                await _write_block(work, attempts(work, language, block), generator, path, concurrency, failures)
                log.info("%s: block %d of %d written", language, block + 1, -(-work.attempts // BLOCK))


async def _write_block(
    work: Synthesis, wanted: list[Attempt], generator: Generator, path: Path, concurrency: int, failures: _Failures
) -> None:
    """Make the attempts of a block that are not made yet, several at a time."""
    partial = path.with_suffix(".partial")
    done = _done(partial, wanted)
    waiting = iter([attempt for attempt in wanted if attempt.key not in done])
    with partial.open("ab") as file:

        async def worker() -> None:
            for attempt in waiting:  # all workers share one iterator
                done[attempt.key] = await _written(work, attempt, generator, failures)
                file.write(json.dumps(done[attempt.key], ensure_ascii=False).encode() + b"\n")
                file.flush()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(worker())
        except BaseExceptionGroup as group_error:  # one is enough to say why
            raise group_error.exceptions[0] from None
    _finish(path, [done[attempt.key] for attempt in wanted])
    partial.unlink()


def _blocks(work: Synthesis, folder: Path) -> Iterator[tuple[str, int, Path]]:
    for language in work.languages:
        for block in range(-(-work.attempts // BLOCK)):
            yield language, block, folder / f"{language}-{block:06}.jsonl"


def _done(partial: Path, wanted: list[Attempt]) -> dict[str, dict[str, Any]]:
    """The wanted attempts that an interrupted run has made, but for failed ones; a line that it was writing is cut off."""
    if not partial.exists():
        return {}
    content = partial.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(partial, len(whole))
    keys, rows = {attempt.key for attempt in wanted}, [json.loads(line) for line in whole.splitlines()]
    return {row["key"]: row for row in rows if row["key"] in keys and not row["problem"].startswith("failed_")}


def _finish(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a block so that it is there whole or not at all."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class _Failures:
    """Counts failures in a row: single ones are the prompt's, many are the generator's."""

    def __init__(self) -> None:
        self.in_a_row = 0

    def add(self, problem: str) -> None:
        self.in_a_row += 1
        if self.in_a_row >= MAX_FAILURES:
            raise Unfinished(f"the generator gave no answer {MAX_FAILURES} times in a row ({problem}); run again to go on")


async def _written(work: Synthesis, attempt: Attempt, generator: Generator, failures: _Failures) -> dict[str, Any]:
    """An attempt with what the generator wrote, or why it wrote nothing."""
    row: dict[str, Any] = asdict(attempt)
    try:
        if work.interface == "completions":
            template = TEMPLATES[work.template]
            prompt = template.question_prompt(attempt.system, attempt.opening)
            question = await generator.complete(prompt, work.question, attempt.seed, template.stop)
            row["question"] = attempt.opening + question.text
            prompt = template.answer_prompt(attempt.system, row["question"].strip())
            answer = await generator.complete(prompt, work.answer, attempt.seed, template.stop) if question.is_whole else None
        else:
            system = {"role": "system", "content": attempt.system}
            request = {"role": "user", "content": STEERING[attempt.language].request}
            question = await generator.reply([system, request], work.question, attempt.seed)
            row["question"] = question.text
            asked = {"role": "user", "content": question.text.strip()}
            answer = await generator.reply([system, asked], work.answer, attempt.seed) if question.is_whole else None
    except NoAnswer as error:
        failures.add(str(error))
        return row | {"problem": f"failed_{error}"}
    failures.in_a_row = 0
    if answer is None or not answer.is_whole:
        return row | {"answer": answer.text if answer else "", "problem": "cut_short"}
    return row | {"answer": answer.text, "problem": ""}


# -- choosing ------------------------------------------------------------------------------------------------------------------


def collect(work: Synthesis, folder: Path) -> dict[str, int]:
    """Filter the finished blocks into one JSON Lines file a language and the ledger; language to the conversations kept."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for language in work.languages:
        seen: set[int] = set()
        with (folder / f"{language}-synthetic.jsonl").open("wb") as out:
            for row in _rows(work, folder / "attempts", language):
                question, answer = (_normal(row.get(name, "")) for name in ("question", "answer"))
                reason = row["problem"] or fault(question, answer, language)
                digest = xxhash.xxh3_64_intdigest(" ".join(question.casefold().split()).encode())
                reason = reason or ("duplicate" if digest in seen else "")
                counts[language, "removed" if reason else "out", reason] += 1
                if not reason:
                    seen.add(digest)
                    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                    out.write(json.dumps({"messages": said}, ensure_ascii=False).encode() + b"\n")
    rows = [dict(zip(LEDGER_SCHEMA.names, (*key, counts[key]), strict=True)) for key in sorted(counts)]
    pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA), folder / LEDGER, compression="zstd")
    kept = {language: counts[language, "out", ""] for language in work.languages if counts[language, "out", ""]}
    if not kept:
        reasons = {f"{language} {reason}": count for (language, _, reason), count in sorted(counts.items())}
        raise CorruptInput(work.model, "", f"nothing that it wrote is kept: {reasons}")
    for language in set(work.languages) - set(kept):
        (folder / f"{language}-synthetic.jsonl").unlink()
    return kept


def _rows(work: Synthesis, folder: Path, language: str) -> Iterator[dict[str, Any]]:
    for spoken, _, path in _blocks(work, folder):
        if spoken == language:
            with path.open("rb") as lines:
                yield from map(json.loads, lines)


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def fault(question: str, answer: str, language: str) -> str:
    """Why a conversation is left out, empty when it is kept."""
    marks = [mark for template in TEMPLATES.values() for mark in (template.user.strip(), *template.stop)]
    checks = (
        ("special_token", any(mark in text for mark in marks for text in (question, answer))),
        ("question_length", not QUESTION_CHARACTERS[0] <= len(question) <= QUESTION_CHARACTERS[1]),
        ("answer_length", not ANSWER_CHARACTERS[0] <= len(answer) <= ANSWER_CHARACTERS[1]),
        ("echo", question.casefold() == answer.casefold()),
        ("repetition", repeats_itself(question) or repeats_itself(answer)),
        ("refusal", answer.casefold().startswith((*STEERING[language].refusals, *STEERING["eng"].refusals))),
        ("question_language", _is_foreign(question, language)),
        ("answer_language", _is_foreign(answer, language)),
    )
    return next((name for name, is_so in checks if is_so), "")


def _is_foreign(text: str, language: str) -> bool:
    """Whether a text is in another language, or long enough to tell and in none."""
    found = turn_language(text)
    return found != language and (bool(found) or is_tellable(text))


def repeats_itself(text: str) -> bool:
    """Whether a text of 120 characters or more has too few different sequences of 12 characters."""
    places = len(text) - 11
    return places > 108 and len({text[place : place + 12] for place in range(places)}) < MIN_DISTINCT * places


ADDRESS, KEY = "SEA_LION_ENDPOINT", "SEA_LION_API_KEY"
"""Environment variables: the generator's address, `http://…/v1`, and the key it asks for."""


def make_synthesis(job: Job[SynthesisRecipe]) -> Made:
    """Write the recipe's conversations; raises SeaLionError when no generator is named."""
    recipe = job.recipe
    work = Synthesis(
        model=recipe.model, template=recipe.template, interface=recipe.interface, languages=recipe.languages,
        attempts=recipe.attempts, seed=recipe.seed, question=recipe.question, answer=recipe.answer,
    )  # fmt: skip
    kept = synthesize(work, _generator(job), job.folder)
    return Made(body=Synthetic(generator=recipe.model, attempts=recipe.attempts * len(recipe.languages), languages=kept))


def _generator(job: Job[SynthesisRecipe]) -> Generator:
    recipe = job.recipe
    if recipe.checkpoint:
        check_whole(job.inputs[recipe.checkpoint])
        return LocalModel(job.folder_of(recipe.checkpoint), job.options.device)
    if recipe.model_files:
        return LocalModel(job.files["model_files"][0].parent, job.options.device)
    if not os.environ.get(ADDRESS):
        raise Unfinished(f"{recipe.ref}: set {ADDRESS} to the address of an endpoint that serves {recipe.model}, http://…/v1")
    return Endpoint(os.environ[ADDRESS], recipe.model, os.environ.get(KEY, ""))
