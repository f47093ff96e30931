"""LoRA adapters as parents: peft writes them and merges them, and the chunks read here must be what it makes."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from sea_lion.catalog.errors import CorruptInput
from sea_lion.merging.adapter import AdaptedWeights
from sea_lion.merging.contract import Source
from sea_lion.merging.recipe import MergeRecipe, Parent
from sea_lion.merging.streaming import merge_weights
from sea_lion.merging.weights import Weights

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32,
}  # fmt: skip
SETTINGS, FILE = "adapter_config.json", "adapter_model.safetensors"
EMBEDDING = "model.embed_tokens.weight"
Q_PROJ = "model.layers.0.self_attn.q_proj"


def model_of(architecture: str) -> Any:
    torch.manual_seed(1)
    if architecture == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=16))
    if architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=architecture == "tied"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the base of an architecture, saved once."""
    root = tmp_path_factory.mktemp("bases")

    def base(architecture: str) -> Path:
        if not (root / architecture).is_dir():
            model_of(architecture).save_pretrained(root / architecture)
        return root / architecture

    return base


def adapter_on(base: Path, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """An adapter as peft saves it, all of its tensors random, those in place of the model's too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        configuration: Any = LoraConfig
        given = configuration(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | settings)
        tuned: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), given)
        torch.manual_seed(seed + 100)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.3)
        tuned.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
        return dict(loaded.merge_and_unload().state_dict())


def whole(source: Source, name: str, chunk: int = 10**9) -> torch.Tensor:
    """A tensor, read in chunks of so many elements."""
    stored = source.tensors[name]
    out = torch.full((stored.elements,), torch.nan)
    for start in range(0, stored.elements, chunk):
        source.read(name, start, out[start : start + chunk])
    return out.view(stored.shape)


LINEAR = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear layers": ("llama", {"target_modules": LINEAR}),
    "rslora": ("llama", {"target_modules": LINEAR, "use_rslora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": LINEAR,
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.(up|down)_proj": 5},
            "alpha_pattern": {"o_proj": 11, r"layers.0.*_proj": 3.5},
        },
    ),
    "some layers": ("llama", {"target_modules": LINEAR, "layers_to_transform": [1]}),
    "whole modules": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "lm_head", "k_proj"]}),
    "gemma, tied": ("gemma2", {"target_modules": LINEAR, "modules_to_save": ["norm"]}),
    "gpt2, turned": ("gpt2", {"target_modules": ["c_attn", "attn.c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gaussian": ("llama", {"target_modules": "all-linear", "init_lora_weights": "gaussian", "bias": "all"}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_it_reads_what_peft_merges(bases: Callable[[str], Path], tmp_path: Path, case: str) -> None:
    architecture, settings = CASES[case]
    base = bases(architecture)
    adapter = adapter_on(base, tmp_path / "adapter", **settings)
    source, plain = AdaptedWeights(Weights(base), adapter), Weights(base)
    expected = merged_by_peft(base, adapter)
    changed = set()
    assert source.tensors.keys() == plain.tensors.keys()
    for name in source.tensors:
        found = whole(source, name, chunk=37)
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-6)
        assert torch.equal(found, whole(source, name)), "the same bits, whatever the chunks"
        if not torch.equal(found, whole(plain, name)):
            changed.add(name)
    assert changed == set(source.adapter.changes), "and what the adapter does not name is the base's, bit by bit"
    source.close()


def test_blocks_of_rows_do_not_show(tmp_path: Path) -> None:
    """A matrix of several blocks: chunks that begin and end anywhere, read by several threads, give the same bits."""
    torch.manual_seed(0)
    rows, columns, rank = 700, 300, 8
    save_file({"w.weight": torch.randn(rows, columns).bfloat16()}, tmp_path / "model.safetensors")
    a, b = torch.randn(rank, columns), torch.randn(rows, rank)
    save_file(
        {"base_model.model.w.lora_A.weight": a.bfloat16(), "base_model.model.w.lora_B.weight": b.bfloat16()}, tmp_path / FILE
    )
    (tmp_path / SETTINGS).write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 4}))
    source = AdaptedWeights(Weights(tmp_path), tmp_path)
    under = load_file(tmp_path / "model.safetensors")["w.weight"].double()
    expected = under + 0.5 * b.bfloat16().double() @ a.bfloat16().double()
    once = whole(source, "w.weight")
    torch.testing.assert_close(once, expected.float(), rtol=1e-5, atol=1e-4)
    with ThreadPoolExecutor(4) as pool:
        for other in pool.map(lambda chunk: whole(source, "w.weight", chunk), (1 << 15, 65_536, 65_537, 99_999)):
            assert torch.equal(once, other)


def test_an_adapter_on_an_adapter(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = bases("llama")
    first = adapter_on(base, tmp_path / "first", target_modules=LINEAR)
    second = adapter_on(base, tmp_path / "second", seed=1, target_modules=["q_proj", "gate_proj"], r=2)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.load_state_dict(merged_by_peft(base, first))
    model.save_pretrained(tmp_path / "between")
    expected = merged_by_peft(tmp_path / "between", second)
    source = AdaptedWeights(AdaptedWeights(Weights(base), first), second)
    for name in source.tensors:
        torch.testing.assert_close(whole(source, name, 50), expected[name], rtol=1e-6, atol=1e-6)


def test_an_embedding_that_was_saved_with_its_pair_stands_under_it(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """peft saves a targeted embedding whole beside its pair, and loads it in the base's place."""
    base, adapter = bases("llama"), tmp_path / "adapter"
    adapter_on(base, adapter, target_modules=["embed_tokens"])
    changed = load_file(adapter / FILE)
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    changed[key] = changed[key] + 1
    save_file(changed, adapter / FILE)
    expected = merged_by_peft(base, adapter)[EMBEDDING]
    found = whole(AdaptedWeights(Weights(base), adapter), EMBEDDING, 100)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert (found - whole(Weights(base), EMBEDDING)).mean() > 0.5


def settings(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / SETTINGS).read_text())
        (folder / SETTINGS).write_text(json.dumps(content | changes))

    return change


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = load_file(folder / FILE)
        edit(content)
        save_file({name: tensor.clone().contiguous() for name, tensor in content.items()}, folder / FILE)

    return change


A, B = (f"base_model.model.{Q_PROJ}.lora_{half}.weight" for half in "AB")


def moved(content: dict[str, torch.Tensor]) -> None:
    for name in (A, B):
        content[name.replace("layers.0", "layers.7")] = content.pop(name)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / FILE), folder / "adapter_model.bin")
    (folder / FILE).unlink()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "DoRA": (settings(use_dora=True), "use_dora: is used \\(DoRA\\)"),
    "another kind": (settings(peft_type="IA3"), "peft_type: is IA3; only LORA"),
    "no kind": (settings(peft_type=None), "is no adapter of peft's"),
    "trained tokens": (settings(trainable_token_indices=[1, 2]), "trainable_token_indices: is used"),
    "lora_bias": (settings(lora_bias=True), "lora_bias: is used"),
    "unknown setting": (settings(use_xlora={"depth": 3}), "use_xlora: is .*merge it with peft"),
    "PiSSA": (settings(init_lora_weights="pissa_niter_4"), "init_lora_weights: 'pissa_niter_4' changes the model under"),
    "more layers": (settings(layer_replication=[[0, 2], [1, 2]]), "layer_replication: is"),
    "rank": (settings(r=3), "have ranks 4 and 4, adapter_config.json says 3"),
    "no rank": (settings(r=0), "r: a rank is a whole number"),
    "alpha": (settings(lora_alpha=float("nan")), "lora_alpha: must be a finite number, not nan"),
    "slow pattern": (settings(rank_pattern={"(a+)+b": 4}), r"rank_pattern: '\(a\+\)\+b' is no pattern"),
    "broken pattern": (settings(alpha_pattern={"q_proj(": 4}), "alpha_pattern: .* is no pattern"),
    "turned linear layers": (settings(fan_in_fan_out=True), "is of a linear layer; fan_in_fan_out"),
    "no settings": (lambda folder: (folder / SETTINGS).write_text("{"), "cannot be read as JSON"),
    "pickle": (pickled, r"adapter_model\.bin: a pickle can run code"),
    "no file": (lambda folder: (folder / FILE).unlink(), r"adapter_model\.safetensors: is missing"),
    "cut": (lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-5]), "not a whole safetensors file"),
    "empty": (tensors(lambda content: content.clear()), "holds no tensors"),
    "shape": (tensors(lambda content: content.update({A: content[A][:, :15]})), r"makes a tensor of shape \(16, 15\)"),
    "three dimensions": (tensors(lambda content: content.update({A: content[A][None]})), "only matrices of linear layers"),
    "half": (tensors(lambda content: content.pop(B)), "lora_A.weight: has no .*lora_B.weight beside it"),
    "no such layer": (tensors(moved), "belongs to nothing: the model has no tensor model.layers.7"),
    "no prefix": (tensors(lambda content: content.update({Q_PROJ: content[A]})), "belongs to nothing: peft's names begin"),
    "magnitudes": (
        tensors(lambda content: content.update({f"base_model.model.{Q_PROJ}.lora_magnitude_vector": torch.ones(16)})),
        "lora_magnitude_vector: belongs to nothing that is known of LoRA",
    ),
    "integers": (tensors(lambda content: content.update({A: content[A].to(torch.int8)})), "is of type I8"),
    "NaN": (tensors(lambda content: content[A][0].fill_(torch.nan)), "16 of 64 elements are NaN or infinite"),
    "overflow": (
        tensors(lambda content: (content[A].fill_(1e30), content[B].fill_(1e30))),
        "so large .* that they may overflow",
    ),
    "twice": (
        tensors(lambda content: content.update({f"base_model.model.{Q_PROJ}.weight": torch.ones(16, 16)})),
        "another tensor of this file changes too",
    ),
    "new rows": (
        tensors(lambda content: content.update({f"base_model.model.{EMBEDDING}": torch.ones(70, 16)})),
        "new rows of a vocabulary are not merged",
    ),
    "trained bias": (
        lambda folder: (
            settings(bias="all")(folder),
            tensors(lambda content: content.update({f"base_model.model.{Q_PROJ}.base_layer.bias": torch.ones(16)}))(folder),
        ),
        r"is a bias that was trained \(bias = 'all'\)",
    ),
}


@pytest.fixture(scope="module")
def sound(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_on(bases("llama"), tmp_path_factory.mktemp("sound"), target_modules=["q_proj"])


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_what_peft_would_read_otherwise_is_refused(
    bases: Callable[[str], Path], sound: Path, tmp_path: Path, damage: str
) -> None:
    change, message = DAMAGE[damage]
    shutil.copytree(sound, tmp_path / "adapter")
    change(tmp_path / "adapter")
    with pytest.raises(CorruptInput, match=message) as error:
        AdaptedWeights(Weights(bases("llama")), tmp_path / "adapter")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", ["gemma2", "tied"])
@pytest.mark.parametrize(
    "settings", [{"target_modules": ["embed_tokens"]}, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}]
)
def test_an_embedding_that_is_the_head_is_refused(
    bases: Callable[[str], Path], tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    base = bases(architecture)
    adapter = adapter_on(base, tmp_path / "adapter", **settings)
    with pytest.raises(CorruptInput, match="changes an embedding that is the head as well"):
        AdaptedWeights(Weights(base), adapter)
    with pytest.raises(CorruptInput, match="changes an embedding that is the head as well"):
        AdaptedWeights(Weights(bases("llama")), adapter, is_tied=True)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_a_merge_of_one_adapter_is_the_adapted_model(
    bases: Callable[[str], Path], tmp_path: Path, method: Literal["linear", "task_arithmetic", "ties"]
) -> None:
    base = bases("gemma2")
    adapter = adapter_on(base, tmp_path / "adapter", target_modules=LINEAR)
    expected = merged_by_peft(base, adapter)
    under, adapted = Weights(base), AdaptedWeights(Weights(base), adapter)
    recipe = MergeRecipe(
        kind="merge", name="checkpoint/m", version="1", method=method, base="checkpoint/b@1",
        parents=(Parent(model="checkpoint/a@1"),),
    )  # fmt: skip
    (tmp_path / "merged").mkdir()
    merge_weights(recipe, under, [adapted], tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == under.tensors.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)
