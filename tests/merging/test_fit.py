"""Every way in which models do not fit together: each refused in one line, with nothing written."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sea_lion.catalog.errors import MissingArtifact
from sea_lion.merging.fit import Part
from sea_lion.merging.parents import models_of

SHELF: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("shelf.py"))))
originals, shelf = SHELF.originals, SHELF.shelf
EMBEDDING = SHELF.EMBEDDING
HEAD = SHELF.HEAD
merge_of = SHELF.merge_of
config = SHELF.config
tensors = SHELF.tensors
tokenizer = SHELF.tokenizer
seeded = SHELF.seeded
resized = SHELF.resized
swapped = SHELF.swapped
template = SHELF.template
removed = SHELF.removed
pickled = SHELF.pickled
sharded = SHELF.sharded
Edit = Callable[[Path], object]


LLAMA_SCALING = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
NORM = "model.layers.0.input_layernorm.weight"
BROKEN: dict[str, tuple[Edit, str]] = {
    "missing tensor": (tensors(lambda t: t.pop(NORM)), f"tensor {NORM} differs: [16] in the base, missing in checkpoint/x@1:"),
    "extra tensor": (
        tensors(lambda t: t.update({"model.extra.weight": torch.zeros(3)})),
        "tensor model.extra.weight differs: missing in the base, [3] in checkpoint/x@1:",
    ),
    "shape": (tensors(lambda t: t.update({NORM: torch.zeros(8)})), f"tensor {NORM} differs: [16] in the base, [8] in check"),
    "vocabulary": (
        resized(72),
        f"vocabulary differs: embeddings of 64 rows in the base, 72 in checkpoint/x@1 ({HEAD}): resize one to the other",
    ),
    "tied": (
        lambda folder: (tensors(lambda t: t.pop(HEAD))(folder), config(tie_word_embeddings=True)(folder)),
        "tie_word_embeddings differs: false in the base, true in checkpoint/x@1:",
    ),
    "token": (tokenizer(swapped), "tokenizer.json differs: 2 of "),
    "merges": (
        tokenizer(lambda t: t["model"]["merges"].reverse()),
        "tokenizer.json differs: merges differ from number 0 on: (",
    ),
    "special": (
        tokenizer(lambda t: t["added_tokens"][1].update(special=False)),
        "1 added tokens are treated otherwise: '</s>' has special True in the base, special False in checkpoint/x@1",
    ),
    "pre-tokenizer": (
        tokenizer(lambda t: t["pre_tokenizer"].update(add_prefix_space=False)),
        'pre_tokenizer differs: {"type": "ByteLevel", "add_prefix_space": true',
    ),
    "normalizer": (
        tokenizer(lambda t: t.update(normalizer={"type": "NFC"})),
        'normalizer differs: null in the base, {"type": "NFC"} in checkpoint/x@1',
    ),
    "decoder": (tokenizer(lambda t: t.update(decoder=None)), "decoder differs: "),
    "byte fallback": (tokenizer(lambda t: t["model"].update(byte_fallback=True)), "model differs: "),
    "rope_theta": (
        config(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
        "config.json differs in the computation (rope_parameters.rope_theta: 10000.0 -> 500000.0, base -> checkpoint/x@1): if",
    ),
    "rope scaling": (config(rope_parameters=LLAMA_SCALING), "rope_parameters.factor: null -> 8.0"),
    "length under YaRN": (
        config(max_position_embeddings=64, rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0}),
        "max_position_embeddings: 32 -> 64",
    ),
    "rms_norm_eps": (config(rms_norm_eps=1e-5), "(rms_norm_eps: 1e-06 -> 1e-05, base"),
    "activation": (config(hidden_act="gelu"), '(hidden_act: "silu" -> "gelu", base'),
    "bias": (config(mlp_bias=True), "(mlp_bias: false -> true, base"),
    "heads": (config(num_attention_heads=1, head_dim=16, num_key_value_heads=1), "num_attention_heads: 2 -> 1"),
    "quantised": (config(quantization_config={"quant_method": "gptq"}), "checkpoint/x@1: config.json: is of a quantised"),
    "code": (config(auto_map={"AutoModel": "evil.Model"}), "checkpoint/x@1: config.json: asks for code of its own (auto_map)"),
    "unknown kind": (config(model_type="nonesuch"), "checkpoint/x@1: config.json: model_type 'nonesuch' is not known"),
    "wrong value": (config(num_hidden_layers="two"), "checkpoint/x@1: config.json: is no configuration of transformers:"),
    "a number for names": (config(architectures=5), "checkpoint/x@1: config.json: architectures is a list of names, not '5'"),
    "architecture": (
        config(architectures=["LlamaForSequenceClassification"]),
        "architecture differs: LlamaForCausalLM in the base, LlamaForSequenceClassification in checkpoint/x@1:",
    ),
    "whole numbers": (tensors(lambda t: t.update({NORM: torch.zeros(16, dtype=torch.int8)})), "is of type I8"),
    "pickle": (pickled, "pytorch_model.bin"),
    "shard": (sharded, "model-00002-of-00002.safetensors: the shard is not there"),
    "no tokenizer": (removed("tokenizer.json"), "tokenizer.json: no such file"),
    "no configuration": (removed("config.json"), "config.json: cannot be read as JSON"),
    "a list for a configuration": (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
    "no text for a template": (lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff"), "is no text"),
    "a deep configuration": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "cannot be read as JSON"),
    "no JSON for a tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "is no tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_parent_that_does_not_fit_is_refused_in_one_line(shelf: Any, case: str) -> None:
    edit, said = BROKEN[case]
    base, parent = shelf.put("base"), shelf.put("x", seeded, edit)
    text = shelf.refusal(base, parent)
    assert said in text
    assert "checkpoint/x" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query_pre_attn_scalar": 64}, "query_pre_attn_scalar: 256 -> 64"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping: 50.0 -> 30.0"),
        ({"final_logit_softcapping": None}, ""),
        ({"final_logit_softcapping": 20.0}, "final_logit_softcapping: 30.0 -> 20.0"),
        ({"sliding_window": 8}, "sliding_window: 16 -> 8"),
        ({"layer_types": ["full_attention", "full_attention"]}, "layer_types.0: "),
        ({"hidden_activation": "gelu"}, 'hidden_activation: "gelu_pytorch_tanh" -> "gelu"'),
    ],
)
def test_what_gemma_alone_has_is_compared(shelf: Any, changes: dict[str, Any], said: str) -> None:
    base, parent = shelf.put("base", original="gemma2"), shelf.put("x", config(**changes), original="gemma2")
    if said:  # None takes the key away, which means the default
        assert said in shelf.refusal(base, parent)
    else:
        assert shelf.fit(base, parent).names


def test_a_base_or_a_parent_that_is_not_whole_is_refused(shelf: Any) -> None:
    base, parent = shelf.put("base"), shelf.put("x", seeded)
    weights = shelf.store.folder(shelf.store.require(parent).ref) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    for refs in ((base, parent), (parent, base)):
        assert f"is not what {parent} wrote (it has {len(whole) - 100:,} bytes, not {len(whole):,}" in shelf.refusal(*refs)
    weights.unlink()
    assert f"is missing from {parent}" in shelf.refusal(base, parent)
    with pytest.raises(MissingArtifact, match=r"the nearest are checkpoint/x@1"):
        shelf.fit(base, "checkpoint/y@1")


def test_a_stored_head_counts_only_if_it_is_the_embedding(shelf: Any) -> None:
    base = shelf.put("base", original="gemma2")
    twice = shelf.put("twice", seeded, tensors(lambda t: t.update({HEAD: t[EMBEDDING].clone()})), original="gemma2")
    other = shelf.put("other", tensors(lambda t: t.update({HEAD: t[EMBEDDING] + 1})), original="gemma2")
    for refs in ((base, twice), (twice, base)):
        fit = shelf.fit(*refs)
        assert HEAD not in fit.names
        assert fit.is_tied
    assert fit.left_out == (HEAD,)
    assert fit.notes[-1] == f"{twice}: {HEAD} repeats the embedding, to which it is tied: the result does not store it"
    for refs in ((base, other), (other, base)):
        assert f"{other}: {HEAD}: differs from {EMBEDDING}, to which config.json ties it" in shelf.refusal(*refs)


def test_what_transformers_computes_is_left_out(shelf: Any) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    old = shelf.put("old", tensors(lambda t: t.update({name: torch.ones(4)})))
    new = shelf.put("new", seeded)
    assert name not in shelf.fit(new, old).names
    fit = shelf.fit(old, new)
    assert fit.left_out == (name,)
    assert "1 tensors rotary_emb.inv_freq are computed by transformers" in " ".join(fit.notes)
    model = models_of(merge_of(old, new), shelf.store)[0]

    class Whole:
        tensors = model.tensors

        def read(self, name: str, start: int, out_C: torch.Tensor) -> None:
            out_C.fill_(start)

    part = Part(Whole(), fit.names)
    assert list(part.tensors) == list(fit.names)
    out = torch.zeros(2)
    part.read(fit.names[0], 5, out)
    assert out.tolist() == [5, 5]
