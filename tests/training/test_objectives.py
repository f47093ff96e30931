"""Losses against their formulas, accumulation, bad steps, objectives of somebody else's."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from sea_lion.catalog.errors import RecipeError, SeaLionError
from sea_lion.training.batches import IGNORED, Batch, Documents
from sea_lion.training.conversations import ConversationPlan, conversation_plan
from sea_lion.training.heads import LogProbabilities
from sea_lion.training.loader import StepData
from sea_lion.training.objectives import next_token, objective_of, simpo
from sea_lion.training.optimizer import adamw, clipped_norm, decayed, step_if_finite
from sea_lion.training.processes import Processes
from sea_lion.training.recipe import Optimizer, TrainRecipe
from sea_lion.training.sharding import load_trainable
from sea_lion.training.system import System
from sea_lion.training.trainer import gradients

ALONE = Processes(rank=0, world=1, device="cpu")


class Deaf:
    """A meter that is not asked for anything."""

    def add_batch(self, batch: Batch, logp_RT: torch.Tensor) -> None:
        pass


@dataclass
class Small:
    """What `gradients` needs of a run."""

    recipe: TrainRecipe
    module: LogProbabilities
    processes: Processes = ALONE
    meter: Any = None

    def step(self, plan: ConversationPlan) -> torch.Tensor:
        self.meter = Deaf()
        examples = plan.examples(1)
        size = self.recipe.micro_batch or len(examples)
        micro = [plan.collate(examples[i : i + size].tolist()) for i in range(0, len(examples), size)]
        run: Any = self
        data = StepData(step=1, units=plan.units(examples), micro=tuple(micro), waited=0.0)
        return gradients(run, objective_of(self.recipe), data)


def model_of(place: Any, architecture: str) -> LogProbabilities:
    return load_trainable(place.folder(f"model/{architecture}@1"), "fp32", System(), ALONE)


def plan_of(place: Any, recipe: TrainRecipe, folder: Path) -> ConversationPlan:
    tokenizer: Any = AutoTokenizer.from_pretrained(place.folder(recipe.model))
    return conversation_plan(place.job(recipe, folder), tokenizer, ALONE)


def test_simpo_is_its_formula(place: Any) -> None:
    recipe = place.talk("x", "simpo", beta=2.5, gamma=0.7)
    labels = torch.tensor([[1, 1, IGNORED], [1, IGNORED, IGNORED], [1, 1, 1], [IGNORED, 1, 1], [IGNORED] * 3, [IGNORED] * 3])
    logp = -torch.rand(6, 3) * (labels != IGNORED)
    batch = Batch(
        input_ids_RT=labels, position_ids_RT=labels, labels_RT=labels, parts_RT=labels, trained_N=torch.zeros(0),
        documents=Documents(ends=(), offsets=torch.zeros(1), longest=3),
    )  # fmt: skip
    expected = 0.0
    for chosen, rejected, n_chosen, n_rejected in ((0, 1, 2, 1), (2, 3, 3, 2)):
        margin = logp[chosen].sum().item() / n_chosen - logp[rejected].sum().item() / n_rejected
        expected += math.log1p(math.exp(-(2.5 * margin - 0.7)))
    assert simpo(logp, batch, recipe).item() == pytest.approx(expected, rel=1e-6)
    assert simpo(logp, batch, replace(recipe, gamma=None, gamma_ratio=0.28)).item() == pytest.approx(expected, rel=1e-6)
    assert next_token(logp, batch, recipe).item() == pytest.approx(-logp.sum().item())


@pytest.mark.parametrize("objective", ["sft", "simpo"])
def test_accumulation_changes_neither_loss_nor_gradients(place: Any, tmp_path: Path, objective: str) -> None:
    results = []
    for micro in (0, 1, 2, 3):
        recipe = place.talk("x", objective, batch_sequences=7, micro_batch=micro)
        module = model_of(place, "llama")
        loss = Small(recipe, module).step(plan_of(place, recipe, tmp_path))
        results.append((loss.item(), [parameter.grad for parameter in module.parameters()]))
    for loss_item, grads in results[1:]:
        assert loss_item == pytest.approx(results[0][0], rel=1e-6)
        for found, expected in zip(grads, results[0][1], strict=True):
            assert found is not None and expected is not None
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_step_that_is_not_finite_changes_nothing(place: Any, tmp_path: Path) -> None:
    recipe, module = place.talk("x", "sft", batch_sequences=3), model_of(place, "llama")
    optimizer, plan = adamw(module, Optimizer(weight_decay=0.1), 1e-2), plan_of(place, recipe, tmp_path)

    def step(poison: bool) -> float:
        loss = Small(recipe, module).step(plan)
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


def test_a_few_bad_steps_are_skipped_and_counted(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An objective that is no number where a token occurs: steps that meet it are skipped, the others train."""
    recipe = replace(place.talk("bad-token", "sft", batch_sequences=1), objective="poison:loss")
    plan = plan_of(place, recipe, tmp_path / "plan")
    batches = [plan.collate(plan.examples(step).tolist()) for step in range(1, plan.steps + 1)]
    seen = [set(batch.input_ids_RT.flatten().tolist()) for batch in batches]
    bad = next(token for token in range(5, 400) if 1 <= sum(token in each for each in seen) < min(10, plan.steps))
    (tmp_path / "poison.py").write_text(
        "import torch\n\ndef loss(logp, batch, recipe):\n"
        f"    return torch.where((batch.input_ids_RT == {bad}).any(), torch.nan, -logp.sum())\n"
    )
    monkeypatch.chdir(tmp_path)
    artifact = place.train(recipe)
    rows = place.log(artifact)
    assert [row["skipped"] for row in rows] == [bad in each for each in seen]
    assert artifact.body.tokens_seen == sum(row["tokens"] for row in rows if not row["skipped"])


@pytest.mark.parametrize("form", ["lr", "decoupled"])
def test_decay_in_both_conventions(form: Any) -> None:
    """By hand: without a gradient, a step scales the weights by 1 - lr * decay, or by 1 - lr / peak * decay."""
    model = torch.nn.Linear(3, 2, bias=True)
    model.weight.data.fill_(1.0)
    model.bias.data.fill_(1.0)
    optimizer = adamw(model, Optimizer(weight_decay=0.1, decay_form=form), 1e-2)
    model.weight.grad, model.bias.grad = torch.zeros(2, 3), torch.zeros(2)
    step_if_finite(optimizer, 5e-3, torch.ones(()), torch.ones(()))
    expected = 1 - 5e-3 * 0.1 if form == "lr" else 1 - 0.5 * 0.1
    assert model.weight.tolist() == [[pytest.approx(expected, rel=1e-6)] * 3] * 2
    assert model.bias.tolist() == [1.0, 1.0]


def test_epsilon_of_the_paper_is_kept(place: Any) -> None:
    """A gradient of 1e-12 moves a weight by the learning rate with eps 1e-15, by a ten thousandth of it with 1e-8."""
    moved = []
    for eps in (1e-15, 1e-8):
        model = torch.nn.Linear(1, 1, bias=False)
        model.weight.data.zero_()
        model.weight.grad = torch.full((1, 1), 1e-12)
        step_if_finite(adamw(model, Optimizer(eps=eps), 1.0), 1e-3, torch.ones(()), torch.ones(()))
        moved.append(-model.weight.item())
    assert moved[0] == pytest.approx(1e-3, rel=2e-3) and moved[1] < 2e-7


def test_only_matrices_are_decayed(place: Any) -> None:
    names = {name.rsplit(".", 2)[-2] for name, _ in decayed(model_of(place, "gemma2"))}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_preference_training_raises_the_margin(place: Any) -> None:
    artifact = place.train(place.talk("margin", "simpo", epochs=8.0, lr=3e-3, beta=2.0, gamma_ratio=0.5))
    rows = place.log(artifact)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    settings = pq.read_table(place.store.folder(artifact.ref) / "training_settings.parquet").to_pylist()
    known = {row["key"]: row["value"] for row in settings}
    assert (known["beta"], known["gamma"], known["gamma_ratio"]) == ("2.0", "1.0", "0.5")


def test_rows_that_cannot_be_trained_on_are_counted(place: Any) -> None:
    recipe = place.talk("short", "sft", sequence_length=60)
    artifact = place.train(recipe)
    total = pq.read_metadata(place.folder("conversations/sft@1") / "conversations.parquet").num_rows
    table = pq.read_table(place.store.folder(artifact.ref) / "training_settings.parquet").to_pylist()
    known = {row["key"]: row["value"] for row in table}
    kept, dropped = int(known["conversations"]), int(known["dropped.too_long"])
    assert 0 < kept < total and kept + dropped == total
    with pytest.raises(SeaLionError, match="too_long"):
        place.train(replace(recipe, name="model/none", sequence_length=4))


def test_an_objective_of_somebody_else(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:function` beside the recipe: here half of the likelihood, so half of the loss."""
    (tmp_path / "theirs.py").write_text("def half(logp, batch, recipe):\n    return -logp.sum() / 2\n")
    monkeypatch.chdir(tmp_path)
    ours = place.train(place.talk("ours", "sft", epochs=1.0))
    theirs = place.train(replace(place.talk("theirs", "sft", epochs=1.0), objective="theirs:half"))
    assert theirs.body.stage == "theirs:half"
    assert place.log(theirs)[0]["loss"] == pytest.approx(place.log(ours)[0]["loss"] / 2, rel=1e-6)
    with pytest.raises(RecipeError, match="nothing:here cannot be imported"):
        place.train(replace(place.talk("nothing", "sft"), objective="nothing:here"))
