"""Models that fit together, and every way in which they do not: each refused in one line, with nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sea_lion.catalog.errors import MissingArtifact, SeaLionError
from sea_lion.catalog.records import Checkpoint
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.merging.fit import Fit, Part, compare
from sea_lion.merging.parents import models_of, subjects_of
from sea_lion.merging.recipe import MergeRecipe, Parent
from sea_lion.training.recipe import InitRecipe

Edit = Callable[[Path], object]
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32,
}  # fmt: skip
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Shelf:
    """A store of tiny models, each a changed copy of one of two."""

    def __init__(self, root: Path, originals: Path) -> None:
        self.store, self.originals = Store(root), originals

    def put(
        self, name: str, *edits: Edit, original: str = "llama", licence: str = "Apache-2.0", adapter_of: str = ""
    ) -> str:  # fmt: skip
        """Store a copy, or an adapter with the weights that `edits` write; returns its reference."""

        def copy(job: Job[InitRecipe]) -> Made:
            if not adapter_of:
                shutil.copytree(self.originals / original, job.folder, dirs_exist_ok=True)
            for edit in edits:
                edit(job.folder)
            return Made(body=Checkpoint(stage="init", architecture=original, parameters=1, adapter_of=adapter_of))

        recipe = InitRecipe(
            kind="init", name=f"checkpoint/{name}", version="1", tokenizer="", architecture="llama", hidden_size=16,
            intermediate_size=32, layers=2, heads=2, key_value_heads=1, head_dim=8, max_length=32, licence=licence,
        )  # fmt: skip
        return str(self.store.make(recipe, self.store.root, copy, Options()).ref)

    def fit(self, *refs: str, **changes: Any) -> Fit:
        """Compare models, the first the base."""
        recipe = merge_of(*refs, **changes)
        return compare(recipe, models_of(recipe, self.store))

    def refusal(self, *refs: str, **changes: Any) -> str:
        """What is said of models that do not fit: one line, and no file has come or gone."""
        before = sorted(self.store.root.rglob("*"))
        with pytest.raises(SeaLionError) as caught:
            self.fit(*refs, **changes)
        assert sorted(self.store.root.rglob("*")) == before
        text = str(caught.value)
        assert "\n" not in text
        assert len(text) < 500
        return text


def merge_of(base: str, *parents: str, **changes: Any) -> MergeRecipe:
    """A recipe over these models."""
    fields: dict[str, Any] = {"kind": "merge", "name": "checkpoint/merged", "version": "1", "method": "dare_ties", "base": base}
    fields["parents"] = tuple(Parent(model=ref) for ref in parents)
    return MergeRecipe(**fields | changes)


def config(**changes: Any) -> Edit:
    """Change keys of `config.json`; None takes one away."""

    def edit(folder: Path) -> None:
        table = json.loads((folder / "config.json").read_text("utf-8")) | changes
        table = {key: value for key, value in table.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(table), "utf-8")

    return edit


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    """Change the weights."""

    def edit(folder: Path) -> None:
        table = load_file(folder / "model.safetensors")
        change(table)
        save_file(table, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Edit:
    """Change `tokenizer.json`."""

    def edit(folder: Path) -> None:
        table = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        change(table)
        (folder / "tokenizer.json").write_text(json.dumps(table), "utf-8")

    return edit


def seeded(folder: Path) -> None:
    """Other weights, of the same shapes."""
    generator = torch.Generator().manual_seed(1)
    tensors(lambda table: table.update({n: torch.randn(t.shape, generator=generator) for n, t in table.items()}))(folder)


def resized(rows: int) -> Edit:
    """Embedding and head with so many rows."""
    return tensors(lambda table: table.update({name: torch.zeros(rows, 16) for name in (EMBEDDING, HEAD)}))


def swapped(table: dict[str, Any]) -> None:
    """Two tokens change places."""
    vocab = table["model"]["vocab"]
    vocab["a"], vocab["d"] = vocab["d"], vocab["a"]


def template(text: str) -> Edit:
    """Another chat template, or none."""

    def edit(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        if text:
            (folder / "chat_template.jinja").write_text(text, "utf-8")

    return edit


def removed(name: str) -> Edit:
    """A file is missing from the start."""
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    """Weights as a pickle."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(folder: Path) -> None:
    """Two shards named by an index, one of them there."""
    table = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({HEAD: table.pop(HEAD)}, folder / "model-00001-of-00002.safetensors")
    weight_map = dict.fromkeys(table, "model-00002-of-00002.safetensors") | {HEAD: "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama and a tiny Gemma 2 with tied embeddings, each with a tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("originals")
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    bpe.train_from_iterator(["satu dua tiga empat lima"], trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"]))
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, unk_token="<unk>", eos_token="</s>", chat_template="{{ messages[0].content }}"
    )
    torch.manual_seed(0)
    for name, model in (
        ("llama", LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1))),
        ("gemma2", Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=16))),
    ):
        model.save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    return folder


@pytest.fixture
def shelf(tmp_path: Path, originals: Path) -> Shelf:
    """An empty shelf."""
    return Shelf(tmp_path / "store", originals)


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
def test_a_parent_that_does_not_fit_is_refused_in_one_line(shelf: Shelf, case: str) -> None:
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
def test_what_gemma_alone_has_is_compared(shelf: Shelf, changes: dict[str, Any], said: str) -> None:
    base, parent = shelf.put("base", original="gemma2"), shelf.put("x", config(**changes), original="gemma2")
    if said:  # None takes the key away, which means the default
        assert said in shelf.refusal(base, parent)
    else:
        assert shelf.fit(base, parent).names


def test_a_base_or_a_parent_that_is_not_whole_is_refused(shelf: Shelf) -> None:
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


def test_a_stored_head_counts_only_if_it_is_the_embedding(shelf: Shelf) -> None:
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


def test_what_transformers_computes_is_left_out(shelf: Shelf) -> None:
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


@pytest.mark.parametrize("original", ["llama", "gemma2"])
def test_models_that_fit_say_nothing_of_what_does_not_matter(shelf: Shelf, original: str) -> None:
    """Spellings of older releases, dropout and the order of keys are no differences."""
    base = shelf.put("base", original=original)

    def older(folder: Path) -> None:
        table = json.loads((folder / "config.json").read_text("utf-8"))
        table["torch_dtype"] = table.pop("dtype")
        table["rope_theta"] = table.pop("rope_parameters")["rope_theta"]
        table |= {"transformers_version": "4.44.0", "_name_or_path": "/somewhere"}
        table.pop("layer_types", None)
        (folder / "config.json").write_text(json.dumps(dict(sorted(table.items(), reverse=True))), "utf-8")

    def old_tokenizer(table: dict[str, Any]) -> None:
        table["model"]["merges"] = [" ".join(pair) for pair in table["model"]["merges"]]
        table["model"]["dropout"] = 0.1
        del table["model"]["ignore_merges"]

    parent = shelf.put("x", seeded, older, tokenizer(old_tokenizer), original=original)
    fit = shelf.fit(base, parent)
    assert fit.notes == ()
    assert fit.warnings == ()
    assert (fit.licence, fit.tokenizer_from, fit.token_ids) == ("Apache-2.0", base, {})
    assert fit.template == "25 characters"
    assert fit.parameters == sum(torch.Size(shape).numel() for shape in fit.shapes.values()) > 1000


def test_differences_that_change_nothing_are_notes(shelf: Shelf) -> None:
    base = shelf.put("base")
    parent = shelf.put("x", seeded, config(eos_token_id=5, max_position_embeddings=128, unsloth_fixed=True))
    (note,) = shelf.fit(base, parent).notes
    assert note == (
        f"{parent}: config.json differs, the base's is kept: eos_token_id: 1 -> 5; max_position_embeddings: 32 -> 128; "
        "unsloth_fixed: null -> true"
    )


def test_what_the_recipe_allows_is_a_note(shelf: Shelf) -> None:
    base = shelf.put("base")
    parent = shelf.put("x", seeded, config(rms_norm_eps=1e-5), tokenizer(swapped))
    assert "config.json differs" in shelf.refusal(base, parent, may_differ=("tokenizer",))
    assert "tokenizer.json differs" in shelf.refusal(base, parent, may_differ=("config",))
    notes = shelf.fit(base, parent, may_differ=("config", "tokenizer")).notes
    assert [note.partition(",")[0] for note in notes] == [f"{parent}: config.json differs", f"{parent}: tokenizer.json differs"]
    assert "is 'a' in the base, 'd' in" in notes[1]


def test_a_union_of_tokenizers_may_have_other_rows(shelf: Shelf) -> None:
    base, parent = shelf.put("base"), shelf.put("x", resized(72), config(vocab_size=72), tokenizer(swapped))
    fit = shelf.fit(base, parent, engine="mergekit", tokenizer="union", may_differ=("config",))
    assert fit.tokenizer_from == "union"


def test_a_parents_tokenizer_comes_with_its_template_and_its_ids(shelf: Shelf) -> None:
    base = shelf.put("base", template(""))
    parent = shelf.put("x", seeded, template("{{ messages }}"), config(eos_token_id=7))
    fit = shelf.fit(base, parent)
    assert fit.template == ""
    assert fit.warnings == (
        f"the result will have no chat template, as {base} has none ({parent}: 14 characters): to take one with its tokenizer, "
        f'say tokenizer = "{parent}"',
    )
    fit = shelf.fit(base, parent, tokenizer=parent)
    folder = shelf.store.folder(shelf.store.require(parent).ref)
    assert (fit.tokenizer_from, fit.template, fit.tokenizer_folder) == (parent, "14 characters", folder)
    assert fit.generation_folder == folder
    assert fit.token_ids["eos_token_id"] == 7
    assert not fit.warnings
    assert f"chat templates differ, that of {parent} is taken (14 characters; {base}: none)" in fit.notes


def test_a_tokenizer_without_rows_for_its_tokens_is_refused(shelf: Shelf) -> None:
    base = shelf.put("base")
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    last = Tokenizer.from_file(str(shelf.originals / "llama" / "tokenizer.json")).get_vocab_size()
    more = [{"id": i, "content": f"<{i}>"} | flags for i in range(last, 70)]
    parent = shelf.put("x", seeded, tokenizer(lambda t: t["added_tokens"].extend(more)))
    text = shelf.refusal(base, parent, tokenizer=parent, may_differ=("tokenizer",))
    assert f"{parent}: its tokenizer has a token with number 69, {EMBEDDING} of {base} only 64 rows" in text
    assert f"{70 - last} of 70 tokens differ: id {last} is no token in the base, '<{last}>' in" in shelf.refusal(base, parent)


def test_equal_models_mixed_dtypes_and_licences_are_told(shelf: Shelf) -> None:
    base = shelf.put("base", licence="llama3.1")
    same = shelf.put("same")
    first = shelf.put("first", seeded, licence="Nobody-1.0")
    half = shelf.put("half", seeded, tensors(lambda t: t.update({n: w.half() for n, w in t.items()})), licence="")
    fit = shelf.fit(base, same, first, first, half, dtype="float16")
    assert f"parents.0 ({same}) has the weights of the base: its difference is zero" in fit.notes
    assert f"parents.2 ({first}) has the weights of parents.1 ({first}): they count twice" in fit.notes
    assert f"dtypes are mixed: {base}: float32, {same}: float32, {first}: float32, {half}: float16" in fit.notes
    assert "LicenseRef-Nobody-1.0 is not in the table of licences: what it asks for is not known" in fit.notes
    assert "a model states no licence: what the result may be used for is not known" in fit.notes
    assert fit.licence == "Apache-2.0 AND NOASSERTION AND Nobody-1.0 AND llama3.1"
    assert "the result is float16, which ends at 65,504" in fit.warnings[0]
    assert [subject.name for subject in subjects_of(merge_of(base, same, first, first), shelf.store)] == [base, same, first]


def adapter(module: str) -> Edit:
    """A LoRA adapter of one module."""

    def write(folder: Path) -> None:
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [module.rpartition(".")[2]]}
        (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
        pair = {f"base_model.model.{module}.lora_A.weight": torch.ones(2, 16)}
        pair |= {f"base_model.model.{module}.lora_B.weight": torch.ones(16, 2)}
        save_file(pair, folder / "adapter_model.safetensors")

    return write


def test_an_adapter_fits_as_the_model_that_it_makes(shelf: Shelf) -> None:
    base, q_proj = shelf.put("base"), "model.layers.0.self_attn.q_proj"
    lora = shelf.put("lora", adapter(q_proj), adapter_of=base)
    again = shelf.put("again", adapter(q_proj), adapter_of=lora)
    wrong = shelf.put("wrong", adapter(q_proj.replace("layers.0", "layers.7")), adapter_of=base)
    fit = shelf.fit(base, lora, again)
    assert fit.names
    assert fit.notes == ()
    recipe = merge_of(base, lora, again)
    held = [model.held for model in models_of(recipe, shelf.store)]
    assert held[0] == 0 < held[1] < held[2]
    assert [subject.name for subject in subjects_of(recipe, shelf.store)] == [base, lora, again]
    assert f"the model has no tensor {q_proj.replace('layers.0', 'layers.7')}" in shelf.refusal(base, wrong)
    assert f"{lora} is a LoRA adapter, which engine" in shelf.refusal(base, lora, engine="mergekit")
