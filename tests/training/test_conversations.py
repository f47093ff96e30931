"""The plan of conversations: every one once a pass, whole, in windows or pairs; packed losses are those of single rows."""

import runpy
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.records import Conversations
from sea_lion.catalog.store import Job, Made, Options, Store, write_rows
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.training import rows as rows_module
from sea_lion.training.attention import register
from sea_lion.training.batches import BLANK, IGNORED, Batch, Part, batch_of, shares
from sea_lion.training.conversations import ConversationPlan, conversation_plan, packed
from sea_lion.training.heads import LogProbabilities
from sea_lion.training.objectives import simpo
from sea_lion.training.processes import Processes
from sea_lion.training.recipe import TrainRecipe
from sea_lion.training.rendering import IN_LOSS
from sea_lion.training.rows import Rows, open_rows
from sea_lion.training.vocabulary import save_tokenizer, trained_bpe

ALONE = Processes(rank=0, world=1, device="cpu")
FILLER, LENGTH = 96, 40
SMALL: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_models.py"))))


def recipe_of(**changes: Any) -> TrainRecipe:
    content: dict[str, Any] = {
        "kind": "train", "name": "model/t", "version": "1", "objective": "sft", "model": "model/m@1",
        "conversations": "conversations/c@1", "lr": 1e-3, "batch_sequences": 3, "sequence_length": LENGTH, "seed": 5,
    }  # fmt: skip
    return TrainRecipe(**{**content, **changes})


def rows_of(folder: Path, sizes: list[int], form: Any = "messages") -> Rows:
    """Rows of random tokens, of which the last third and some in the middle are in the loss, in three languages."""
    draw = np.random.default_rng(len(sizes))
    folder.mkdir(exist_ok=True)
    rows = []
    for size in sizes:
        is_in_loss = (np.arange(size) >= size - 1 - size // 3) | (draw.random(size) < 0.2)
        is_in_loss[0] = False
        rows.append(np.where(is_in_loss, draw.integers(0, 96, size) | IN_LOSS, draw.integers(0, 96, size)))
    np.concatenate(rows).astype("<u4").tofile(folder / rows_module.TOKENS)
    np.cumsum(sizes).astype("<u8").tofile(folder / rows_module.ENDS)
    np.array([(row >= IN_LOSS).sum() for row in rows], "<u4").tofile(folder / rows_module.TRAINED)
    np.array([i // 2 % 3 for i in range(len(sizes))], "<u2").tofile(folder / rows_module.LANGUAGES)
    rows_module.write_marker(folder, f"{sizes}", form, ["eng", "tha", "mya"], {"too_long": 4})
    return open_rows(folder)


def plan_of(rows: Rows, *, is_static: bool = False, **changes: Any) -> ConversationPlan:
    if rows.form == "preference":
        changes = {"objective": "simpo", **changes}
    return ConversationPlan(rows, recipe_of(**changes), filler=FILLER, is_static=is_static)


def documents(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    """Token ids, labels and parts of each document that has a label."""
    ids, labels, parts = (t.flatten().tolist() for t in (batch.input_ids_RT, batch.labels_RT, batch.parts_RT))
    found, begin = [], 0
    for end in batch.documents.ends:
        if any(label != IGNORED for label in labels[begin:end]):
            found.append((ids[begin:end], labels[begin:end], parts[begin:end]))
        begin = end
    return found


def expected(rows: Rows, number: int) -> tuple[list[int], list[int], list[int]]:
    tokens, is_in_loss = rows.row(number)
    labels = [int(token) if trained else IGNORED for token, trained in zip(tokens[1:], is_in_loss[1:], strict=True)]
    return tokens[:-1].tolist(), labels, [int(rows.language[number])] * (len(tokens) - 1)


def every_batch(plan: ConversationPlan) -> list[Batch]:
    return [plan.collate(plan.examples(step).tolist()) for step in range(1, plan.steps + 1)]


@given(sizes=st.lists(st.integers(1, 30), max_size=200), length=st.integers(30, 60), seed=st.integers(0, 9))
def test_packing_loses_nothing_and_overfills_nothing(sizes: list[int], length: int, seed: int) -> None:
    items, starts = packed(np.array(sizes, np.uint32), length, np.random.default_rng(seed))
    assert sorted(items.tolist()) == list(range(len(sizes)))
    windows = [items[a:b].tolist() for a, b in pairwise(starts.tolist())]
    assert all(windows) and all(sum(sizes[i] for i in window) <= length for window in windows)
    assert len(windows) <= 1 + 2 * sum(sizes) / length  # no two windows would fit into one


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(2, LENGTH), min_size=1, max_size=60), epochs=st.sampled_from([1.0, 2.0, 0.5, 1.5]))
def test_every_conversation_is_there_whole_once_a_pass(
    sizes: list[int], epochs: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = rows_of(tmp_path_factory.mktemp("rows"), sizes)
    plan = plan_of(rows, epochs=epochs)
    seen = Counter(str(document) for batch in every_batch(plan) for document in documents(batch))
    total = max(1, round(epochs * len(sizes)))
    assert sum(seen.values()) == total
    every = Counter(str(expected(rows, number)) for number in range(len(sizes)))
    for document, count in every.items():
        assert count * (total // len(sizes)) <= seen[document] <= count * -(-total // len(sizes))
    assert all(batch.input_ids_RT.shape[1] == LENGTH for batch in every_batch(plan))
    units = [plan.units(plan.examples(step)) for step in range(1, plan.steps + 1)]
    assert units == [len(batch.trained_N) for batch in every_batch(plan)]


def test_passes_have_their_own_order_and_a_seed_its_own(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [20] * 24)
    both = [batch.input_ids_RT.tolist() for batch in every_batch(plan_of(rows, epochs=2.0))]
    assert both[:4] != both[4:] and len(both) == 8
    assert [batch.input_ids_RT.tolist() for batch in every_batch(plan_of(rows))] == both[:4]
    assert [batch.input_ids_RT.tolist() for batch in every_batch(plan_of(rows, seed=6))] != both[:4]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_packed_loss_is_that_of_rows_by_themselves(name: str, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [5, 9, 13, 22, 8, 17, 31, 2, 12])
    plan = plan_of(rows, batch_sequences=9)
    module = LogProbabilities(SMALL.model_of(SMALL.config_of(name), attn_implementation=register()))
    batch = plan.collate(plan.examples(1).tolist())
    module(batch).sum().backward()
    gradients = {key: value.grad.clone() for key, value in module.named_parameters() if value.grad is not None}
    module.zero_grad()
    total = 0.0
    for number in range(len(rows)):
        ids, labels, parts = (np.array([values]) for values in expected(rows, number))
        logp = module(batch_of(ids, labels, parts, np.zeros(ids.shape, np.bool_)))
        logp.sum().backward()
        total += logp.sum().item()
    assert module(batch).sum().item() == pytest.approx(total, rel=1e-6)
    for key, value in module.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(gradients[key], value.grad, rtol=1e-5, atol=1e-5)


def test_any_number_of_processes_sees_the_same_examples(tmp_path: Path) -> None:
    plan = plan_of(rows_of(tmp_path, [11, 7, 24, 30, 15, 9, 38, 12, 5, 28, 19, 6]), batch_sequences=4)
    for step in range(1, plan.steps + 1):
        whole = sorted(str(document) for document in documents(plan.collate(plan.examples(step).tolist())))
        for world, micro_batch in ((1, 1), (2, 1), (3, 0)):
            parts = [shares(plan.examples(step), rank, world, micro_batch) for rank in range(world)]
            assert len({tuple(map(len, part)) for part in parts}) == 1
            said = [documents(plan.collate(micro)) for part in parts for micro in part]
            assert sorted(str(document) for found in said for document in found) == whole


@pytest.mark.parametrize("is_static", [False, True])
def test_pairs_are_two_rows_and_blank_ones_no_pair(is_static: bool, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [9, 12, 7, 7, 20, 5, 8, 8], "preference")
    plan = plan_of(rows, is_static=is_static, batch_sequences=3)
    assert plan.steps == 2 and plan.units(plan.examples(1)) == 3 and plan.units(plan.examples(2)) == 1
    seen = []
    for step in (1, 2):
        examples = plan.examples(step).tolist()
        batch = plan.collate([*examples, BLANK])
        assert batch.input_ids_RT.shape[0] == 2 * len(examples) + 2
        found = documents(batch)
        numbers = [next(n for n in range(8) if expected(rows, n) == document) for document in found]
        assert numbers[0::2] == [number - 1 for number in numbers[1::2]] and all(n % 2 == 0 for n in numbers[0::2])
        longest = LENGTH if is_static else max(int(rows.sizes()[number]) for number in numbers) - 1
        assert batch.input_ids_RT.shape[1] == longest
        seen += numbers
        logp = torch.zeros(batch.labels_RT.shape)
        alone = plan.collate(examples)
        loss, without = (
            float(simpo(t, b, plan._recipe)) for t, b in ((logp, batch), (torch.zeros(alone.labels_RT.shape), alone))
        )
        assert loss == pytest.approx(without) and loss > 0
    assert sorted(seen) == list(range(8))


def test_blank_windows_have_no_label(tmp_path: Path) -> None:
    plan = plan_of(rows_of(tmp_path, [9, 12, 7]))
    batch = plan.collate([BLANK])
    assert batch.input_ids_RT.tolist() == [[FILLER] * LENGTH] and len(batch.trained_N) == 0


def test_parts_are_languages(tmp_path: Path) -> None:
    plan = plan_of(rows_of(tmp_path, [9] * 6))
    assert plan.parts == tuple(Part("", "conversations/c@1", language, "") for language in ("eng", "tha", "mya"))
    batch = plan.collate(plan.examples(1).tolist())
    counts = np.bincount(batch.parts_RT.flatten()[batch.trained_N])
    assert counts.tolist() == [int(plan._rows.trained[i : i + 2].sum()) for i in (0, 2, 4)]
    assert plan.settings == {"conversations": "6", "examples": "2", "dropped.too_long": "4"}


def test_skipped_steps_are_empty_and_leave_the_others(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [30] * 12)
    whole, skipping = plan_of(rows), plan_of(rows, skip_steps=((2, 3),))
    assert [len(skipping.examples(step)) for step in (1, 2, 3, 4)] == [3, 0, 0, 3] and skipping.steps == whole.steps
    assert skipping.examples(4).tolist() == whole.examples(4).tolist()
    assert skipping.digest(1) == whole.digest(1) and skipping.digest(2) != whole.digest(2)
    for step in (0, 5):
        with pytest.raises(ValueError, match="not one of 1 to 4"):
            whole.examples(step)


def test_digest_is_of_what_was_seen(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a", [30] * 6)
    plan = plan_of(rows)
    assert plan.digest(1) == plan_of(rows).digest(1) == plan_of(rows, epochs=2.0).digest(2) == plan_of(rows, lr=0.5).digest(1)
    for other in (plan_of(rows, seed=1), plan_of(rows, batch_sequences=2), plan_of(rows_of(tmp_path / "b", [30] * 7))):
        assert other.digest(1) != plan.digest(1)
    assert plan_of(rows, epochs=1.5).digest(3) != plan_of(rows, epochs=2.0).digest(3)


# -- from an artifact ----------------------------------------------------------------------------------------------------------


def _made(job: Job[ConversationsRecipe]) -> Made:
    """Conversations or pairs, and in the same folder the tokenizer that stands for the model's."""
    text = pa.string()
    message = pa.struct([("role", text), ("content", text)])
    if job.recipe.form == "messages":
        schema = pa.schema([("language", text), ("messages", pa.list_(message))])
        turns = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "one, two"}]
        rows: list[dict[str, Any]] = [{"language": "eng", "messages": turns[: 1 + (i > 0)]} for i in range(7)]
    else:
        schema = pa.schema([(name, text) for name in ("language", "prompt", "chosen", "rejected")])
        rows = [{"language": "tha", "prompt": "say", "chosen": "one", "rejected": "two"} for _ in range(5)]
    write_rows(job.folder / "conversations.parquet", rows, schema)
    save_tokenizer(trained_bpe(iter(["say one, two and 3. " * 9]), 280), job.folder)
    return Made(body=Conversations(form=job.recipe.form, rows=len(rows), languages={"eng": len(rows)}))


def job_of(tmp_path: Path, form: Any, **changes: Any) -> Job[TrainRecipe]:
    store = Store(tmp_path / "artifacts")
    (tmp_path / "c.jsonl").write_text("{}\n")
    made = store.make(
        ConversationsRecipe(kind="conversations", name="conversations/c", version="1", form=form, files=("c.jsonl",)),
        tmp_path, _made, Options(),
    )  # fmt: skip
    recipe, work = recipe_of(**changes), tmp_path / "work"
    work.mkdir(exist_ok=True)
    return Job(recipe=recipe, inputs={recipe.conversations: made, recipe.model: made}, files={}, folder=work, store=store)


def planned(job: Job[TrainRecipe]) -> ConversationPlan:
    load: Any = AutoTokenizer.from_pretrained
    return conversation_plan(job, load(job.folder_of(job.recipe.model)), ALONE)


@pytest.mark.parametrize(
    ("form", "objective", "count", "dropped"),
    [
        ("messages", "sft", 6, 1),
        ("preference", "simpo", 5, 0),
        ("messages", "own:loss", 6, 1),
        ("preference", "own:loss", 5, 0),
    ],
)
def test_a_set_becomes_a_plan_by_its_form(form: str, objective: str, count: int, dropped: int, tmp_path: Path) -> None:
    plan = planned(job_of(tmp_path, form, objective=objective))
    assert plan.settings["conversations"] == str(count)
    assert plan.settings.get("dropped.no_assistant_turn", "0") == str(dropped)
    assert plan.units(plan.examples(1)) > 0
    assert plan.digest(1) == planned(job_of(tmp_path, form, objective=objective)).digest(1)


def test_a_set_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not of form preference, which simpo needs"):
        planned(job_of(tmp_path, "messages", objective="simpo"))


def test_a_set_that_was_changed_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, "messages")
    with (job.folder_of(job.recipe.conversations) / "conversations.parquet").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CorruptInput, match="sha256 differs"):
        planned(job)


def test_a_template_that_the_tokenizer_cannot_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"template: gemma-2 needs special tokens .* <start_of_turn>"):
        planned(job_of(tmp_path, "messages", template="gemma-2"))


def test_a_set_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match=r"dropped: \{'no_assistant_turn': 1, 'too_long': 6\}"):
        planned(job_of(tmp_path, "messages", sequence_length=4))
