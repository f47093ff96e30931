"""Losses against their formulas, packed documents against separate ones, accumulation, bad steps."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sea_lion.catalog.errors import SeaLionError
from sea_lion.training.batches import IGNORED, Batch, Plan, Row, pack, packed_collate, padded_collate
from sea_lion.training.meters import Meter, last_loss
from sea_lion.training.model import export_model, load_model
from sea_lion.training.objectives import LogProbabilities, next_token, simpo
from sea_lion.training.optimizer import adamw, clipped_norm, decayed, step_if_finite
from sea_lion.training.processes import Processes
from sea_lion.training.recipe import Optimizer
from sea_lion.training.trainer import Run, gradients, run_training

ALONE = Processes(rank=0, world=1, device="cpu")
ARCHITECTURES = ("llama", "gemma2")


def model_of(place: Any, architecture: str) -> LogProbabilities:
    return LogProbabilities(load_model(place.folder(f"model/{architecture}@1")))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_documents_give_the_logits_of_separate_ones(place: Any, architecture: str) -> None:
    model = model_of(place, architecture).model.eval()
    draw = np.random.default_rng(0)
    documents = [draw.integers(5, 400, size).tolist() for size in (19, 40, 9, 27, 33, 10)]
    batch = packed_collate(pack(documents, 2, 64))([0, 1])
    with torch.no_grad():
        packed = model(
            input_ids=batch.input_ids_RT, position_ids=batch.position_ids_RT, attention_mask=None, use_cache=False
        ).logits
        for row in range(2):
            starts = [*torch.nonzero(batch.position_ids_RT[row] == 0).flatten().tolist(), 64]
            assert len(starts) > 2
            for a, b in pairwise(starts):
                alone = model(input_ids=batch.input_ids_RT[row : row + 1, a:b]).logits
                torch.testing.assert_close(packed[row : row + 1, a:b], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_the_models_own(place: Any, architecture: str) -> None:
    module = model_of(place, architecture)
    batch = packed_collate(pack([list(range(5, 80)), list(range(90, 140))], 2, 48))([0, 1])
    logits = module.model(input_ids=batch.input_ids_RT, position_ids=batch.position_ids_RT, use_cache=False).logits.double()
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels_RT.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(batch.labels_RT)
    torch.testing.assert_close(module(batch).double(), -expected, atol=1e-5, rtol=0)
    assert (batch.labels_RT == IGNORED).sum() == 1


def test_simpo_is_its_formula(place: Any) -> None:
    recipe = place.talk("x", "simpo", beta=2.5, gamma=0.7)
    labels = torch.tensor([[1, 1, IGNORED], [1, IGNORED, IGNORED], [1, 1, 1], [IGNORED, 1, 1], [IGNORED] * 3, [IGNORED] * 3])
    logp = -torch.rand(6, 3) * (labels != IGNORED)
    batch = Batch(input_ids_RT=labels, position_ids_RT=labels, labels_RT=labels)
    expected = 0.0
    for chosen, rejected, n_chosen, n_rejected in ((0, 1, 2, 1), (2, 3, 3, 2)):
        margin = logp[chosen].sum().item() / n_chosen - logp[rejected].sum().item() / n_rejected
        expected += math.log1p(math.exp(-(2.5 * margin - 0.7)))
    assert simpo(logp, batch, recipe).item() == pytest.approx(expected, rel=1e-6)
    assert next_token(logp, batch, recipe).item() == pytest.approx(-logp.sum().item())


def uneven_plan(objective: str) -> Plan:
    """Conversations of very different numbers of trained tokens."""
    draw = np.random.default_rng(1)

    def row(size: int, trained: int) -> Row:
        return Row(tokens=draw.integers(5, 400, size).tolist(), mask=[0] * (size - trained) + [1] * trained)

    sides = 2 if objective == "simpo" else 1
    examples = [tuple(row(size + side, 1 + size // 3) for side in range(sides)) for size in (5, 40, 9, 70, 6, 30, 12)]
    tokens = np.asarray([sum(row.trained for row in rows) for rows in examples])
    units = np.ones_like(tokens) if objective == "simpo" else tokens
    order = np.arange(len(examples))
    return Plan(order=order, tokens=tokens, units=units, collate=padded_collate(examples, 2), digest="")


@pytest.mark.parametrize("objective", ["sft", "simpo"])
def test_accumulation_changes_neither_loss_nor_gradients(place: Any, objective: str) -> None:
    results = []
    for micro in (0, 1, 2, 3):
        recipe = place.talk("x", objective, batch_sequences=7, micro_batch=micro)
        run = Run(recipe=recipe, plan=uneven_plan(objective), model_folder=Path(), folder=Path(), processes=ALONE)
        module = model_of(place, "llama")
        loss = gradients(run, module, 1)
        results.append((loss.item(), [parameter.grad for parameter in module.parameters()]))
    for loss_item, grads in results[1:]:
        assert loss_item == pytest.approx(results[0][0], rel=1e-6)
        for found, expected in zip(grads, results[0][1], strict=True):
            assert found is not None and expected is not None
            torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


def test_a_step_that_is_not_finite_changes_nothing(place: Any) -> None:
    module = model_of(place, "llama")
    optimizer = adamw(module, Optimizer(weight_decay=0.1))
    plan = uneven_plan("sft")
    run = Run(recipe=place.talk("x", "sft", batch_sequences=3), plan=plan, model_folder=Path(), folder=Path(), processes=ALONE)

    def step(poison: bool) -> float:
        loss = gradients(run, module, 1)
        if poison:
            parameter = next(module.parameters())
            assert parameter.grad is not None
            parameter.grad[0, 0] = math.nan
        return step_if_finite(optimizer, 1e-2, loss, clipped_norm(module, 1.0)).item()

    def state() -> list[torch.Tensor]:
        moments = [value.clone() for entry in optimizer.state.values() for value in entry.values()]
        return [parameter.detach().clone() for parameter in module.parameters()] + moments

    assert step(poison=False) == 0.0
    before = state()
    assert step(poison=True) == 1.0
    for kept, now in zip(before, state(), strict=True):
        assert torch.equal(kept, now)
    assert step(poison=False) == 0.0
    assert not torch.equal(before[0], state()[0])


def test_ten_bad_steps_in_a_row_end_the_run() -> None:
    meter = Meter([], 40, "model/bad@1", show_progress=False)
    with pytest.raises(SeaLionError, match="model/bad@1: loss or gradient was not finite in 10 steps in a row up to step 17"):
        for step in range(1, 41):
            is_bad = step >= 8
            meter.add(step, 1e-3, 5, torch.tensor([math.nan if is_bad else 1.0, 1.0, float(is_bad)]))
    assert last_loss(meter.rows[:10]) is None and last_loss(meter.rows[:7]) == 1.0


def test_a_few_bad_steps_are_counted_and_passed(place: Any, tmp_path: Path) -> None:
    """A model with one bad embedding row: steps that meet its token are skipped, and the record says so."""
    folder = tmp_path / "model"
    model = load_model(place.folder("model/llama@1"))
    plan = uneven_plan("sft")
    with torch.no_grad():
        bad = int(plan.collate([1]).input_ids_RT[0, 0])
        model.model.embed_tokens.weight[bad] = math.inf
    folder.mkdir()
    source = place.folder("model/llama@1")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.02)
    export_model(model, model.state_dict(), source, folder)
    recipe = place.talk("x", "sft", batch_sequences=1)
    run = Run(recipe=recipe, plan=plan, model_folder=folder, folder=tmp_path, processes=ALONE)
    rows = run_training(run).rows
    contains = [bool((plan.collate([i]).input_ids_RT == bad).any()) for i in range(7)]
    assert [row["skipped"] for row in rows] == contains
    assert 1 <= sum(contains) < 7


def test_only_matrices_are_decayed(place: Any) -> None:
    names = {name.rsplit(".", 2)[-2] for name, _ in decayed(model_of(place, "gemma2"))}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_preference_training_raises_the_margin(place: Any) -> None:
    recipe = place.talk("margin", "simpo", epochs=8.0, lr=3e-3)
    rows = place.log(place.train(recipe))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_rows_that_cannot_be_trained_on_are_counted(place: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sea_lion.training.conversations")
    recipe = place.talk("short", "sft", sequence_length=60)
    artifact = place.train(recipe)
    total = pq.read_metadata(place.folder("conversations/sft@1") / "conversations.parquet").num_rows
    found = next(record.getMessage() for record in caplog.records if "dropped" in record.getMessage())
    kept = int(found.split()[0])
    assert 0 < kept < total and f"{{'too_long': {total - kept}}}" in found
    assert artifact.body.step == math.ceil(kept * 2 / 5)
    with pytest.raises(SeaLionError, match="no row can be trained on"):
        place.train(replace(recipe, name="model/none", sequence_length=4))


def test_a_template_without_marks_is_refused(place: Any, tmp_path: Path) -> None:
    """Such a template would train on nothing, silently."""
    from transformers import AutoTokenizer

    from sea_lion.training.conversations import conversation_plan

    tokenizer: Any = AutoTokenizer.from_pretrained(place.folder("tokenizer/t@1"))
    tokenizer.chat_template = tokenizer.chat_template.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    with pytest.raises(SeaLionError, match="no_assistant_token"):
        conversation_plan(place.job(place.talk("marks", "sft"), tmp_path), tokenizer)
    assert json.dumps(tokenizer.chat_template).count("generation %}") == 0
