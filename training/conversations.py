"""The plan of `sft` and `simpo` runs: conversations rendered by a chat template, packed whole into windows, or taken in pairs.

The loss falls on the assistant's tokens only, which the template marks with `{% generation %}`. Conversations are never cut: to
cut the last one of a window, as for plain text, would train answers to questions that are not there, and to give each a row of
its own wastes most of a batch. So a few thousand at a time, in the order of a shuffled pass, are put together into windows that
they fill (99.9% of SFT-like lengths, where taking them as they come fills 88% of 4,096 tokens); each is a document of its own.

An example is a window of `sequence_length` tokens, or a pair, whose rows are chosen and then rejected. Shapes: R rows, T tokens
a row.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..catalog.errors import RecipeError
from ..catalog.fingerprint import file_digest, fingerprint
from ..catalog.records import Conversations
from ..catalog.store import SCRATCH, Job, verify_files
from ..data.encoder import seed_of
from .batches import BLANK, IGNORED, Batch, Integers, Part, batch_of
from .processes import Processes
from .recipe import TrainRecipe
from .rendering import Rendering, template_text
from .rows import Rows, first_alone, write_rows_files

log = logging.getLogger(__name__)

FILE = "conversations.parquet"
FOLDER = f"{SCRATCH}/rows"
"""Of the rendered rows, in the work folder."""
FORM = 1
"""Raised when the same rows would be packed otherwise, so that no checkpoint is resumed from with other batches."""
FORMS = {"sft": "messages", "simpo": "preference"}
"""Objective to the form that it takes; one of somebody else's takes both."""
TOGETHER = 4096
"""Conversations that are packed together: more fill windows no better, and take longer."""


class Pass(NamedTuple):
    """One pass over the conversations or pairs."""

    order: npt.NDArray[np.uint32]
    """Which of them, in order."""
    starts: Integers
    """Place in `order` where each example begins, and the end of the last."""


class ConversationPlan:
    """Implements `batches.Plan` for rendered conversations and pairs."""

    def __init__(self, rows: Rows, recipe: TrainRecipe, *, filler: int, is_static: bool = False) -> None:
        """`filler` is the token that fills up rows; `is_static` makes the rows of pairs `sequence_length` long as well."""
        self._rows, self._recipe, self._filler, self._is_static = rows, recipe, filler, is_static
        self._is_pairs = rows.form == "preference"
        self._sizes = rows.sizes()
        self._count = len(rows) // 2 if self._is_pairs else len(rows)
        self._passes = [self._shuffled(*numbered) for numbered in enumerate(_passes(self._count, recipe.epochs))]
        self._first = np.cumsum([0, *(len(starts) - 1 for _, starts in self._passes)])

    @property
    def steps(self) -> int:
        """Optimizer steps; the last may be smaller."""
        return -(-int(self._first[-1]) // self._recipe.batch_sequences)

    @property
    def parts(self) -> tuple[Part, ...]:
        """One part a language."""
        return tuple(Part("", self._recipe.conversations, language, "") for language in self._rows.languages)

    @property
    def settings(self) -> dict[str, str]:
        """What to record: conversations or pairs of a whole pass, examples of the run, what was dropped for which reason."""
        dropped = {f"dropped.{reason}": str(count) for reason, count in self._rows.dropped.items()}
        return {"conversations": str(self._count), "examples": str(int(self._first[-1])), **dropped}

    def examples(self, step: int) -> Integers:
        """The examples of a step over all processes, empty where the recipe skips it; raises ValueError for another step."""
        if not 1 <= step <= self.steps:
            raise ValueError(f"step {step} is not one of 1 to {self.steps}")
        if any(first <= step <= last for first, last in self._recipe.skip_steps):
            return np.empty(0, np.int64)
        size = self._recipe.batch_sequences
        return np.arange((step - 1) * size, min(step * size, int(self._first[-1])), dtype=np.int64)

    def units(self, examples: Integers) -> int:
        """Labels in the loss, or pairs."""
        if self._is_pairs:
            return len(examples)
        return sum(int(self._rows.trained[self._rows_of(int(example))].sum(dtype=np.int64)) for example in examples)

    def collate(self, examples: Sequence[int]) -> Batch:
        """The rows of some examples, `BLANK` allowed: a row a window, two a pair."""
        filled: list[list[int]] = []
        for example in examples:
            rows = [] if example == BLANK else self._rows_of(example).tolist()
            filled += [[row] for row in rows or (-1, -1)] if self._is_pairs else [rows]
        return self._batch([[row for row in rows if row >= 0] for rows in filled])

    def digest(self, step: int) -> str:
        """Hex digest of rows, order and skipped steps up to a step."""
        recipe, end = self._recipe, step * self._recipe.batch_sequences
        begun = int((self._first[:-1] < end).sum())
        skipped = sorted((first, min(last, step)) for first, last in recipe.skip_steps if first <= step)
        sizes = [len(order) for order, _ in self._passes[:begun]]
        shape = [recipe.sequence_length, recipe.batch_sequences, recipe.seed, sizes]
        return fingerprint([FORM, self._rows.digest, *shape, skipped])

    def _shuffled(self, number: int, conversations: int) -> Pass:
        """Pass `number` over the set, in its own order; a broken one takes the first of it."""
        draw = np.random.Generator(np.random.PCG64(seed_of(self._recipe.seed, "conversations", number)))
        order = np.arange(self._count, dtype=np.uint32)
        draw.shuffle(order)
        order = order[:conversations]
        if self._is_pairs:
            return Pass(order, np.arange(len(order) + 1))
        items, starts = packed(self._sizes[order] - 1, self._recipe.sequence_length, draw)
        return Pass(order[items], starts)

    def _rows_of(self, example: int) -> Integers:
        """The numbers of an example's rows."""
        number = int(np.searchsorted(self._first, example, side="right")) - 1
        order, starts = self._passes[number]
        place = example - int(self._first[number])
        chosen = order[starts[place] : starts[place + 1]].astype(np.int64)
        return np.stack([2 * chosen, 2 * chosen + 1], 1).reshape(-1) if self._is_pairs else chosen

    def _batch(self, filled: list[list[int]]) -> Batch:
        """A batch whose rows hold these rows of the set, end to end; a row's last token is a label only."""
        length = self._recipe.sequence_length
        if self._is_pairs and not self._is_static:
            length = max((int(self._sizes[row]) - 1 for rows in filled for row in rows), default=1)
        shape = (len(filled), length)
        input_ids, labels = np.full(shape, self._filler, np.int64), np.full(shape, IGNORED, np.int64)
        parts, starts = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        for r, rows in enumerate(filled):
            begin = 0
            for row in rows:
                tokens, is_trained = self._rows.row(row)
                span = slice(begin, begin + len(tokens) - 1)
                input_ids[r, span] = tokens[:-1]
                labels[r, span] = np.where(is_trained[1:], tokens[1:], IGNORED)
                parts[r, span] = self._rows.language[row]
                starts[r, begin] = True
                begin = span.stop
            starts[r, begin : begin + 1] = True
        return batch_of(input_ids, labels, parts, starts)


def conversation_plan(
    job: Job[TrainRecipe], tokenizer: Any, processes: Processes, *, is_static: bool = False
) -> ConversationPlan:
    """Render the recipe's conversations into the work folder, unless they are there, and plan the run; every process calls it.

    Raises RecipeError for a set of another form, a template without marks and one whose special tokens the tokenizer lacks,
    CorruptInput for a set that was changed and when no row is left.
    """
    recipe = job.recipe
    artifact, wanted = job.inputs[recipe.conversations], FORMS.get(recipe.objective)
    if not isinstance(artifact.body, Conversations) or artifact.body.form != (wanted or artifact.body.form):
        problem = f"{recipe.conversations} is not of form {wanted or 'messages or preference'}, which {recipe.objective} needs"
        raise RecipeError(str(recipe.ref), "conversations", problem)
    template = template_text(recipe.template, tokenizer, str(recipe.ref))
    path, model = job.folder_of(recipe.conversations) / FILE, job.folder_of(recipe.model)
    first_alone(processes, lambda: verify_files(path.parent, artifact, [FILE]))
    rendering = Rendering(
        form=artifact.body.form, template=template, model_folder=model, longest=recipe.sequence_length,
        tokenizer_sha256=file_digest(model / "tokenizer.json"),
    )  # fmt: skip
    rows = write_rows_files(path, artifact.fingerprint, rendering, job.folder / FOLDER, job.options, processes)
    filler = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    plan = ConversationPlan(rows, recipe, filler=filler, is_static=is_static)
    log.info(
        "%s: %d rows, %d tokens, %d in the loss; dropped %s", recipe.conversations, len(rows), len(rows.tokens),
        int(rows.trained.sum(dtype=np.int64)), rows.dropped or "none",
    )  # fmt: skip
    return plan


def packed(sizes: npt.NDArray[np.uint32], length: int, draw: np.random.Generator) -> tuple[npt.NDArray[np.uint32], Integers]:
    """Whole items put together into windows of at most `length`: the items window after window, and where windows begin.

    A window takes the largest item that is left, then the largest that still fits, and so on. The windows of `TOGETHER` items
    are shuffled, since the later ones hold more and smaller items. No size may be above `length`.
    """
    items, starts, done = np.empty(len(sizes), np.uint32), array("q"), 0
    for first in range(0, len(sizes), TOGETHER):
        part = sizes[first : first + TOGETHER]
        by_size = np.argsort(part, kind="stable")
        left, names, windows = part[by_size].tolist(), (by_size + first).tolist(), list[list[int]]()
        while left:
            space, window = length, list[int]()
            while left and left[0] <= space:
                place = bisect_right(left, space) - 1
                space -= left.pop(place)
                window.append(names.pop(place))
            windows.append(window)
        for number in draw.permutation(len(windows)).tolist():
            starts.append(done)
            items[done : done + len(windows[number])] = windows[number]
            done += len(windows[number])
    starts.append(done)
    return items, np.array(starts, np.int64)


def _passes(conversations: int, epochs: float) -> list[int]:
    """Conversations of each pass: all of them but in a broken last one."""
    total = max(1, round(conversations * epochs))
    whole, rest = divmod(total, conversations)
    return [conversations] * whole + [rest] * (rest > 0)
