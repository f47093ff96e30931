"""The plan of a `cpt` run: windows of a mixture's token files, each part exactly as many as the mixture says.

Tokens are what BPE-dropout made of the text when the files were written, so the shares of a mixture are shares of what is
trained on. What a run read, and what its loss saw, is worked out from places in the files: to count along was refused, as each
process sees a part of it only and a run that was killed would have to keep the counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.fingerprint import fingerprint
from ..catalog.records import Artifact, Mixture, MixturePart, TokenFiles
from ..catalog.store import Job, verify_files
from .batches import BLANK, IGNORED, Batch, Integers, Part, batch_of
from .plan import IndexPlan
from .recipe import TrainRecipe
from .streams import TokenFile, TokenStream

Key = tuple[str, str, str]
"""Corpus, language and source."""


class MixturePlan:
    """A mixture as a `Plan`: an example is a sample of the index plan, a window of one part."""

    def __init__(
        self,
        *,
        parts: Sequence[Part],
        streams: Sequence[TokenStream],
        index: IndexPlan,
        length: int,
        vocabulary: int,
        content: str,
    ) -> None:
        """Each part has a stream and a number in `index`; `content` is a digest of the files' tokens."""
        self._parts, self._streams, self._index = tuple(parts), tuple(streams), index
        self._length, self._vocabulary, self._content = length, vocabulary, content

    @property
    def steps(self) -> int:
        """Optimizer steps, 1 to `steps`."""
        return self._index.steps

    @property
    def parts(self) -> tuple[Part, ...]:
        """What `Batch.parts_RT` numbers."""
        return self._parts

    def examples(self, step: int) -> Integers:
        """The samples of a step over all processes; empty where the recipe skips the step."""
        return self._index.step_samples(step)

    def units(self, examples: Integers) -> int:
        """Labels in the loss: all but the first tokens of documents."""
        parts, windows = self._index.located(examples)
        starts = 0
        for part in np.unique(parts).tolist():
            begins = windows[parts == part] * self._length + 1
            before = self._streams[part].starts_before(np.concatenate([begins, begins + self._length]))
            starts += int(before[len(begins) :].sum() - before[: len(begins)].sum())
        return len(examples) * self._length - starts

    def collate(self, examples: Sequence[int]) -> Batch:
        """The rows of some samples, `BLANK` allowed, on the host; raises CorruptInput for a token that no vocabulary has."""
        rows, length = len(examples), self._length
        tokens, starts = np.zeros((rows, length + 1), np.int64), np.zeros((rows, length + 1), np.bool_)
        numbers = np.array(examples, np.int64)
        real = np.flatnonzero(numbers != BLANK)
        parts = np.zeros(rows, np.int64)
        parts[real], windows = self._index.located(numbers[real])
        for row, window in zip(real.tolist(), windows.tolist(), strict=True):
            self._streams[parts[row]].read(window * length, tokens[row], starts[row])
        if rows and tokens.max() >= self._vocabulary:
            row = int(tokens.max(1).argmax())
            self._refuse(self._streams[parts[row]], int(windows[real == row][0]) * length, tokens[row])
        labels = np.where(starts[:, 1:], IGNORED, tokens[:, 1:])
        labels[numbers == BLANK] = IGNORED
        return batch_of(tokens[:, :-1], labels, np.broadcast_to(parts[:, None], labels.shape), starts[:, :-1])

    def digest(self, step: int) -> str:
        """Hex digest of all that decides the batches of steps 1 to `step`."""
        return fingerprint([self._length, self._content, self._index.identity(step)])

    def labels(self, first: int, last: int) -> list[int]:
        """Labels in the loss of each part, in steps `first` to `last`."""
        counts = [0] * len(self._parts)
        for part, low, high in self._spans(first, last):
            before = self._streams[part].starts_before(np.array([low + 1, high + 1]))
            counts[part] += high - low - int(before[1] - before[0])
        return counts

    def read(self, first: int, last: int) -> list[dict[str, Any]]:
        """Rows of the table `training_parts`: what steps `first` to `last` read of each part, and the documents begun."""
        rows: list[dict[str, Any]] = [
            {"part": part.part, "language": part.language, "source": part.source, "sequences": 0, "tokens": 0, "documents": 0}
            for part in self._parts
        ]  # fmt: skip
        for part, low, high in self._spans(first, last):
            before = self._streams[part].starts_before(np.array([low, high]))
            rows[part]["sequences"] += (high - low) // self._length
            rows[part]["tokens"] += high - low
            rows[part]["documents"] += int(before[1] - before[0])
        return rows

    def consumed(self, first: int, last: int) -> list[dict[str, Any]]:
        """Rows of the table `consumed`: what steps `first` to `last` read of each part, by crawl.

        `tokens` are inputs, so that they add up to the sequences; a document counts where its first token was read.
        """
        spans: dict[int, list[tuple[int, int]]] = {}
        for part, low, high in self._spans(first, last):
            spans.setdefault(part, []).append((low, high))
        return [
            {**self._parts[part]._asdict(), "crawl": crawl, "documents": read.documents, "tokens": read.tokens,
             "tokens_plain": read.plain}
            for part in sorted(spans)
            for crawl, read in sorted(self._streams[part].ledger(spans[part]).items())
        ]  # fmt: skip

    def _spans(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Part, and the places in its stream that steps read from and up to."""
        for lows, highs in self._index.spans(first, last):
            for part in np.flatnonzero(highs > lows).tolist():
                yield part, int(lows[part]) * self._length, int(highs[part]) * self._length

    def _refuse(self, stream: TokenStream, place: int, tokens: npt.NDArray[np.int64]) -> None:
        where = place + int(np.argmax(tokens >= self._vocabulary))
        problem = f"holds token {int(tokens[where - place])}, the tokenizer has {self._vocabulary}; remake the token files"
        raise CorruptInput(stream.file_at(where), "", problem)


def mixture_plan(job: Job[TrainRecipe], rank: int = 0, world: int = 1) -> MixturePlan:
    """The plan of the recipe's mixture over its token files; of these, process `rank` of `world` verifies its share.

    Raises RecipeError for a mixture that was planned without token files, for another tokenizer or a vocabulary larger than the
    model's, and for a `drop` that names nothing, leaves nothing or needs text more often than it was encoded; CorruptInput for
    files that are not what was written.
    """
    recipe = job.recipe
    mixture, artifact, body = _inputs(job)
    folder = job.store.folder(artifact.ref)
    table = artifact.tables["token_files"]
    verify_files(folder, artifact, [table])
    files: dict[Key, list[dict[str, Any]]] = {}
    for row in pq.ParquetFile(folder / table).read().sort_by([("variant", "ascending"), ("shard", "ascending")]).to_pylist():
        files.setdefault((row["corpus"], row["language"], row["source"]), []).append(row)
    planned = [part for part in mixture.parts if part.sequences]
    used = [files.get((part.corpus, part.language, part.source), []) for part in planned]
    for part, rows in zip(planned, used, strict=True):
        if not rows:
            raise CorruptInput(folder / table, "", f"has no tokens of {_name(part)}, which {recipe.mixture} plans")
    paths = [f"{row['path']}{end}" for rows in used for row in rows for end in ("", ".index", ".documents")]
    verify_files(folder, artifact, paths[rank::world])
    streams = [
        TokenStream(
            [TokenFile(path=folder / row["path"], tokens=row["tokens"], documents=row["documents"]) for row in rows],
            body.token_bytes,
        )
        for rows in used
    ]
    digests = {file.path: file.sha256 for file in artifact.files}
    return MixturePlan(
        parts=[Part(part=part.part, corpus=part.corpus, language=part.language, source=part.source) for part in planned],
        streams=streams,
        index=_index(recipe, planned, streams, body, mixture.sequence_length),
        length=mixture.sequence_length,
        vocabulary=body.vocabulary,
        content=fingerprint([digests[path] for path in paths if not path.endswith(".documents")]),
    )


def _inputs(job: Job[TrainRecipe]) -> tuple[Mixture, Artifact, TokenFiles]:
    """The mixture, and the token files that it was planned with and the model can read."""
    recipe = job.recipe
    mixture, model = job.inputs[recipe.mixture].body, job.inputs[recipe.model]
    if not isinstance(mixture, Mixture):
        raise RecipeError(str(recipe.ref), "mixture", f"{recipe.mixture} is a {job.inputs[recipe.mixture].kind}, not a mixture")
    if not mixture.token_files:
        problem = f"{recipe.mixture} was planned with token counts only; plan it with token files (kind 'token-files')"
        raise RecipeError(str(recipe.ref), "mixture", problem)
    artifact = job.store.require(mixture.token_files)
    body = artifact.body
    assert isinstance(body, TokenFiles)
    if body.tokenizer_sha256 not in [file.sha256 for file in model.files if file.path == "tokenizer.json"]:
        problem = f"{artifact.ref} was made with {body.tokenizer}, which is not the tokenizer of {recipe.model}"
        raise RecipeError(str(recipe.ref), "mixture", problem)
    size = json.loads((job.folder_of(recipe.model) / "config.json").read_bytes())["vocab_size"]
    if body.vocabulary > size:
        problem = f"{artifact.ref} has tokens up to {body.vocabulary - 1}, {recipe.model} a vocabulary of {size}"
        raise RecipeError(str(recipe.ref), "mixture", problem)
    return mixture, artifact, body


def _index(
    recipe: TrainRecipe, parts: Sequence[MixturePart], streams: Sequence[TokenStream], body: TokenFiles, length: int
) -> IndexPlan:
    """The index plan with the recipe's edits."""
    drops: dict[int, set[int]] = {}
    for number, drop in enumerate(recipe.drop):
        named = {
            i for i, part in enumerate(parts) if part.source == drop.source and drop.language in ("", part.language)
        }  # fmt: skip
        if not named:
            known = ", ".join(sorted({f"{part.source}/{part.language}" for part in parts}))
            wanted = f"{drop.source}/{drop.language}" if drop.language else drop.source
            problem = f"{recipe.mixture} reads nothing from {wanted}; it reads {known}"
            raise RecipeError(str(recipe.ref), f"drop.{number}", problem)
        drops.setdefault(drop.from_step, set()).update(named)
    counts = [part.sequences for part in parts]
    try:
        index = IndexPlan(counts, recipe.batch_sequences, recipe.seed, skips=recipe.skip_steps, drops=drops)
    except ValueError as error:
        raise RecipeError(str(recipe.ref), "drop", f"leaves nothing of {recipe.mixture} to train on") from error
    if body.dropout and recipe.drop:
        _refuse_repeats(recipe, parts, streams, index.windows_before(index.samples) * length)
    return index


def _refuse_repeats(
    recipe: TrainRecipe, parts: Sequence[MixturePart], streams: Sequence[TokenStream], tokens_P: Integers
) -> None:
    """Raise RecipeError when parts would be read more often than they were encoded, with the same merges skipped again."""
    told = [
        f"{_name(part)} for {tokens:,} tokens of {stream.tokens:,}"
        for part, stream, tokens in zip(parts, streams, tokens_P.tolist(), strict=True)
        if tokens > stream.tokens
    ]
    if told:
        problem = f"makes up for what is left out with {'; '.join(told)}; make token files with more variants, or drop later"
        raise RecipeError(str(recipe.ref), "drop", problem)


def _name(part: MixturePart) -> str:
    return f"{part.language} from {part.source} of {part.corpus}"
