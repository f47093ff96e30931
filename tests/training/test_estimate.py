"""What a run will need: the tables of the measured facts, a real backward pass, refusals, and the command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, LlamaForCausalLM

from sea_lion import cli
from sea_lion.catalog.errors import SeaLionError
from sea_lion.training.commands import other_command
from sea_lion.training.estimate import (
    GB,
    ModelShape,
    Workload,
    check_fits,
    layer_bytes,
    memory,
    model_shape,
    whole_logits,
)
from sea_lion.training.system import System


def sized(kind: Any, vocabulary: int, width: int, layers: int, heads: int, head_dim: int, tied: bool) -> Any:
    """A configuration of 8B or 9B."""
    return kind(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=14336, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=8, head_dim=head_dim, tie_word_embeddings=tied,
    )  # fmt: skip


LLAMA = sized(LlamaConfig, vocabulary=128256, width=4096, layers=32, heads=32, head_dim=128, tied=False)
GEMMA = sized(Gemma2Config, vocabulary=256000, width=3584, layers=42, heads=16, head_dim=256, tied=True)
MODES = ((4096, "plain"), (4096, "lean"), (8192, "plain"), (8192, "lean"), (8192, "recomputed"))
# GB a device: devices, states, then the modes above; None where the facts give no figure. Computed there from measured layers.
TABLE: list[tuple[str, int, float, tuple[float | None, ...]]] = [
    ("llama", 1, 128.5, (165, 153, 197, 168, 141)),
    ("llama", 8, 16.1, (53, 41, 85, 55, 29)),
    ("llama", 64, 2.0, (39, 27, 71, 41, 15)),
    ("gemma", 1, 147.9, (None, None, None, None, 165)),
    ("gemma", 8, 18.5, (81, 55, 139, 79, 35)),
    ("gemma", 64, 2.3, (65, 39, 123, 63, 19)),
]


@pytest.fixture(scope="module")
def shapes() -> dict[str, ModelShape]:
    return {"llama": model_shape(LLAMA), "gemma": model_shape(GEMMA)}


def test_sizes_of_8b_and_9b(shapes: dict[str, ModelShape]) -> None:
    llama, gemma = shapes["llama"], shapes["gemma"]
    assert (round(llama.parameters / 1e9, 3), round(llama.matrix_parameters / 1e9, 3)) == (8.030, 7.505)
    assert round(gemma.parameters / 1e9, 3) == 9.242
    assert llama.layer_bytes["bf16"] == 201_352, "measured on a real layer of this width"
    assert gemma.layer_bytes["bf16"] == pytest.approx(252_144, rel=0.08), "measured with another attention"


@pytest.mark.parametrize(("family", "devices", "states", "row"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE])
def test_memory_is_that_of_the_facts(
    shapes: dict[str, ModelShape], family: str, devices: int, states: float, row: tuple[float | None, ...]
) -> None:
    shape = shapes[family]
    for (length, mode), expected in zip(MODES, row, strict=True):
        work = Workload(rows=1, length=length, devices=devices, precision="bf16")
        system = System(liger=mode == "lean", recompute="layers" if mode == "recomputed" else "none")
        needed = memory(shape, work, system)
        total = needed.total if mode != "plain" else needed.total - needed.head + whole_logits(shape, length)
        assert needed.states / GB == pytest.approx(states, abs=0.06)
        if expected is not None:
            assert total / GB == pytest.approx(expected, rel=0.06), (length, mode)


def test_replicas_hold_all_weights(shapes: dict[str, ModelShape]) -> None:
    work = Workload(rows=1, length=128, devices=16, precision="bf16")
    shared, held = (memory(shapes["llama"], work, System(replicas=replicas)).states for replicas in (1, 2))
    assert held == 2 * shared
    with pytest.raises(SeaLionError, match="does not divide 16 devices"):
        memory(shapes["llama"], work, System(replicas=3))


def test_a_layer_keeps_what_a_real_one_keeps() -> None:
    """On the CPU in fp32 with flash attention's formula: the same as counted on a real layer that runs."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=192, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2
    )
    model: Any = LlamaForCausalLM(config).model
    tokens, inside = 32, [False]
    kept: dict[int, torch.Tensor] = {}
    owned = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if inside[0] and place not in owned:
            kept[place] = tensor
        return tensor

    model.layers[0].register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
    model.layers[0].register_forward_hook(lambda *_: inside.__setitem__(0, False))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.zeros((1, tokens), dtype=torch.long), use_cache=False)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / tokens
    assert layer_bytes(config, "fp32") == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize(
    ("limit", "rows", "hint"),
    [
        (80, 1, "--set recompute=layers"),
        (80, 8, "micro_batch = 1 and --set recompute=layers"),
        (20, 1, "--devices 64 and --set recompute=layers"),
        (5, 1, "no setting makes it fit"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: dict[str, ModelShape], limit: float, rows: int, hint: str) -> None:
    work = Workload(rows=rows, length=8192, devices=8, precision="bf16")
    with pytest.raises(SeaLionError, match="alone") as error:
        check_fits(shapes["gemma"], work, System(), limit * GB)
    assert hint in str(error.value) and "\n" not in str(error.value)
    check_fits(shapes["gemma"], work, System(), 1e13)


def flags(*given: str) -> argparse.Namespace:
    return cli._parser().parse_args(["train", *given])


def planned(capsys: pytest.CaptureFixture[str], *given: str) -> dict[str, Any]:
    assert other_command(flags("--plan", "--format", "json", *given)) == 0
    return {row["quantity"]: row["value"] for row in json.loads(capsys.readouterr().out)}


def test_plan_of_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LLAMA.save_pretrained(tmp_path)
    file = ("--model-config", str(tmp_path / "config.json"), "--sequence-length", "8192", "--devices", "8")
    found = planned(capsys, *file)
    assert found["parameters"] == 8_030_261_248 and found["device hours"] is None, "no speed is invented"
    found = planned(capsys, *file, "--mfu", "0.35", "--set", "peak_tflops=989")
    assert found["tokens a second and device"] == pytest.approx(6_028, rel=0.02), "the paper's, at 57.9 GF a token"
    assert planned(capsys, *file, "--tokens-per-second", "100")["tokens a second and device"] == 100
    with pytest.raises(SeaLionError, match="peak_tflops"):
        planned(capsys, *file, "--mfu", "0.35")
    with pytest.raises(SeaLionError, match=r"config.json: does not fit: .* it would fit with --set recompute=layers"):
        planned(capsys, *file, "--memory", "40")
    with pytest.raises(SeaLionError, match="needs --sequence-length"):
        planned(capsys, *file[:2])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SeaLionError, match="not a configuration"):
        planned(capsys, *file)


def test_one_thing_at_a_time() -> None:
    assert other_command(flags("recipe.toml")) is None
    with pytest.raises(SeaLionError, match="one at a time"):
        other_command(flags("--plan", "--launch", "slurm"))
    with pytest.raises(SeaLionError, match="name a recipe, or a configuration"):
        other_command(flags("--plan"))


def recipe_file(place: Any, recipe: Any, path: Path) -> Path:
    """TOML has no null: what is left open is left out."""
    lines = place.file(recipe, path).read_text("utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if not line.endswith("= null")), "utf-8")
    return path


def test_plan_of_a_recipe(place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps and tokens of the plan are those that the run then takes; afterwards the run's own speed is known."""
    recipe = place.cpt("planned", permanent_steps=5, keeps_decay_start=True)
    file, catalog = recipe_file(place, recipe, tmp_path / "planned.toml"), ("--catalog", str(place.store.root))
    found = planned(capsys, str(file), *catalog)
    body = place.train(recipe).body
    assert (found["steps"], found["parameters"]) == (body.step, body.parameters)
    assert found["warm-up to step"] == 2 and found["decay from step"] == 19
    assert found["tokens trained"] >= body.tokens_seen > 0.9 * found["tokens trained"]
    assert found["tokens without BPE-dropout"] <= found["tokens trained"]
    checkpoint = found["disk: a checkpoint"]
    assert found["disk: at most"] == pytest.approx(checkpoint * (3 + 4 + 1) + found["disk: trained model"])
    with pytest.raises(SeaLionError, match="does not fit"):
        planned(capsys, str(file), *catalog, "--memory", "0.001")
    talk = place.talk("talk", "simpo", batch_sequences=5)
    found = planned(capsys, str(recipe_file(place, talk, tmp_path / "talk.toml")), *catalog, "--devices", "2")
    assert found["sequences of a forward pass"] == 6, "two a pair, three pairs on one of two devices"
    assert found["steps"] == 4 and found["tokens trained"] is None
