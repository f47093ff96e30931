"""mergekit as an engine: its settings against its own tables, every method on tiny models, one tokenizer of all."""

from __future__ import annotations

import ast
import json
import random
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sea_lion.catalog.errors import CorruptInput, RecipeError, SeaLionError
from sea_lion.catalog.recipes import read_table
from sea_lion.merging.mergekit_engine import (
    check_settings,
    configuration,
    mergekit_version,
    out_dtype,
    run_mergekit,
)
from sea_lion.merging.methods import METHODS
from sea_lion.merging.recipe import MergekitMethod, MergeRecipe

SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 8, "max_position_embeddings": 32,
}  # fmt: skip
SETTINGS: dict[str, dict[str, float]] = {"slerp": {"t": 0.25}, "nearswap": {"t": 0.01}}
ALONE: tuple[str, ...] = MergekitMethod.__args__  # type: ignore[attr-defined]
KINDS: dict[str, Any] = {"llama": (LlamaForCausalLM, LlamaConfig), "gemma2": (Gemma2ForCausalLM, Gemma2Config)}


def recipe_of(method: str, parents: int | list[dict[str, Any]] = 2, **changes: object) -> MergeRecipe:
    named = parents if isinstance(parents, list) else [{} for _ in range(parents)]
    table: dict[str, Any] = {"kind": "merge", "name": "checkpoint/m", "version": "1", "base": "checkpoint/b@1"}
    table |= {"method": method, "engine": "mergekit"}
    table |= {"parents": [{"model": f"checkpoint/p{i}@1"} | parent for i, parent in enumerate(named)]}
    return read_table(table | changes, MergeRecipe, "test.toml")


def model(folder: Path, seed: int, kind: str = "llama", dtype: torch.dtype = torch.float32, text: str = "satu dua") -> Path:
    """A random model with its tokenizer."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    inner.train_from_iterator([text], trainers.BpeTrainer(vocab_size=64, special_tokens=["<unk>", "</s>"]))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", chat_template=f"{{{{ messages[0].content }}}}{seed}"
    )
    torch.manual_seed(seed)
    maker, config = KINDS[kind]
    made = maker(config(vocab_size=len(tokenizer.get_vocab()), **SIZES))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    made.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """A base and two parents of each architecture."""
    root = tmp_path_factory.mktemp("models")
    return {kind: [model(root / f"{kind}{seed}", seed, kind) for seed in range(3)] for kind in KINDS}


def test_the_table_is_mergekits_own() -> None:
    from mergekit.merge_methods import registered_methods

    from sea_lion.merging.plugin import register_methods

    register_methods()
    register_methods()
    specs = [method.spec for method in registered_methods()]
    for name, method in METHODS.items():
        (spec,) = [spec for spec in specs if spec.name == method.mergekit]
        assert name == method.mergekit
        assert method.takes_base == (spec.contract.base.value in ("required", "optional"))
        assert method.base_optional == (spec.contract.base.value == "optional")
        non_base = [spec.contract.min_non_base or 1, spec.contract.max_non_base]
        if method.takes_base and not method.base_optional:
            most = spec.contract.max_inputs
            non_base = [max(spec.contract.min_inputs - 1, non_base[0]), most - 1 if most else None]
        assert [method.fewest, method.most] == non_base
        table = configuration(
            recipe_of(name, method.fewest, settings=SETTINGS.get(name, {})), range(9)[: method.fewest + 1], dtype="float32"
        )
        parameters = table["parameters"].keys() | table["models"][0]["parameters"].keys()
        assert parameters == {parameter.name for parameter in spec.parameters}
        shared = {parameter.name for parameter in spec.parameters if parameter.scope.value == "shared"}
        assert table["parameters"].keys() == shared


@pytest.mark.parametrize(
    ("method", "kind"), [*((method, "llama") for method in ALONE), ("slerp", "gemma2"), ("model_stock", "gemma2")]
)
def test_every_method_makes_a_model_that_loads(three: dict[str, list[Path]], tmp_path: Path, method: str, kind: str) -> None:
    count = METHODS[method].most or 2
    folders = three[kind][: count + 1]
    recipe = recipe_of(method, count, settings=SETTINGS.get(method, {}))
    table = configuration(recipe, ["base", "p", "q"][: count + 1], dtype="float32")
    assert ("base_model" in table) == (method != "karcher")
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    output = run_mergekit(recipe, folders, tmp_path / "scratch", show_progress=False)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    loading: Any = AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    loaded, notes = loading
    assert not notes["missing_keys"] and not notes["unexpected_keys"] and not notes["mismatched_keys"]
    merged, base = _weights(output), _weights(folders[0])
    assert {name: tensor.shape for name, tensor in merged.items()} == {name: tensor.shape for name, tensor in base.items()}
    assert ("lm_head.weight" in merged) == (kind == "llama")
    assert all(torch.isfinite(tensor).all() for tensor in merged.values())
    name = "model.layers.1.mlp.down_proj.weight"
    assert all(not torch.equal(merged[name], _weights(folder)[name]) for folder in folders)
    assert torch.isfinite(loaded(torch.tensor([[1, 2, 3]])).logits).all()


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def test_slerp_by_hand_goes_from_the_base_to_the_parent(tmp_path: Path, three: dict[str, list[Path]]) -> None:
    base, parent = three["llama"][:2]
    output = run_mergekit(recipe_of("slerp", 1, settings={"t": 0.25}), [base, parent], tmp_path / "s", show_progress=False)
    name = "model.layers.0.self_attn.q_proj.weight"
    a, b = _weights(base)[name].double(), _weights(parent)[name].double()
    angle = torch.arccos((a * b).sum() / a.norm() / b.norm())
    expected = (torch.sin(0.75 * angle) * a + torch.sin(0.25 * angle) * b) / torch.sin(angle)
    torch.testing.assert_close(_weights(output)[name].double(), expected, rtol=1e-5, atol=1e-7)


def test_the_base_may_be_left_out_where_mergekit_can_do_without(tmp_path: Path, three: dict[str, list[Path]]) -> None:
    results = []
    for i, given in enumerate(({}, {"base_model": True}, {"base_model": False})):
        recipe = recipe_of("nuslerp", 2, settings=given)
        results.append(_weights(run_mergekit(recipe, three["llama"], tmp_path / str(i), show_progress=False)))
    name = "lm_head.weight"
    assert torch.equal(results[0][name], results[1][name])
    assert not torch.equal(results[0][name], results[2][name])
    assert "base_model" not in configuration(recipe_of("nuslerp", 2, settings={"base_model": False}), "bpq", dtype="float32")


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (recipe_of("slerp", 1), "settings.t: is required"),
        (recipe_of("slerp", 2, settings={"t": 0.5}), "parents: slerp takes exactly 1 besides the base, not 2"),
        (recipe_of("nuslerp", 3), "takes exactly 2"),
        (recipe_of("model_stock", 1), "model_stock takes at least 2 besides the base, not 1"),
        (recipe_of("sce", settings={"select_topc": 0.5}), "settings.select_topc: .* did you mean 'select_topk'"),
        (recipe_of("arcee_fusion", 1, settings={"t": 0.5}), "settings.t: .* no such setting; it has none"),
        (recipe_of("sce", settings={"base_model": False}), "settings.base_model: .* no such setting"),
        (recipe_of("breadcrumbs", settings={"weight": 0.5}), "settings.weight: is a field of the recipe itself: weight"),
        (recipe_of("breadcrumbs", settings={"lambda": 0.5}), "settings.lambda: is a field of the recipe itself: scale"),
        (recipe_of("breadcrumbs", [{"settings": {"int8_mask": True}}]), "settings.int8_mask: is a setting of the whole"),
        (recipe_of("breadcrumbs", [{"settings": {"gama": 0.1}}]), "parents.0.settings.gama: .* did you mean 'gamma'"),
        (recipe_of("karcher", settings={"max_iter": 2.5}), "settings.max_iter: must be a whole number, not 2.5"),
        (recipe_of("karcher", settings={"max_iter": 0}), "settings.max_iter: must be at least 1, not 0"),
        (recipe_of("slerp", 1, settings={"t": 9.0}), "settings.t: must be between 0 and 1, not 9"),
        (recipe_of("breadcrumbs", [{"settings": {"density": 2.0}}]), "parents.0.settings.density: must be between 0 and 1"),
        (recipe_of("karcher", settings={"tol": True}), "settings.tol: must be a finite number, not true"),
        (recipe_of("model_stock", settings={"filter_wise": 1}), "settings.filter_wise: must be true or false, not 1"),
        (recipe_of("karcher", [{"weight": 0.5}]), "parents.0.weight: karcher has no such setting and would ignore 0.5"),
        (recipe_of("ram", normalize=True), "normalize: ram has no such setting and would ignore true"),
        (recipe_of("ram", scale=0.5), "scale: ram has no such setting and would ignore 0.5"),
        (recipe_of("dare_ties", agreement=2), "agreement: dare_ties has no such setting"),
        (recipe_of("ties", tall_lambda=0.4, engine="streaming"), "tall_lambda: ties has no such setting"),
        (recipe_of("linear", tokenizer="union"), "tokenizer: a union begins with the base's tokenizer, and linear leaves"),
        (recipe_of("multislerp", tokenizer="union", settings={"base_model": False}), "tokenizer: a union begins with"),
    ],
    ids=lambda value: value.method if isinstance(value, MergeRecipe) else None,
)  # fmt: skip
def test_settings_that_the_method_does_not_have_are_refused(recipe: MergeRecipe, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        check_settings(recipe)


def test_every_default_is_resolved() -> None:
    recipe = recipe_of("breadcrumbs", [{"weight": 0.5}, {"settings": {"density": 0.8}}], settings={"gamma": 0.02}, scale=2)
    check_settings(recipe)
    assert configuration(recipe, ["b", "p", "q"], dtype="bfloat16") == {
        "merge_method": "breadcrumbs",
        "base_model": "b",
        "models": [
            {"model": "p", "parameters": {"weight": 0.5, "density": 1.0, "gamma": 0.02}},
            {"model": "q", "parameters": {"weight": 1.0, "density": 0.8, "gamma": 0.02}},
        ],
        "parameters": {"normalize": False, "rescale": False, "lambda": 2.0, "int8_mask": False},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }


def test_layer_weights_are_told_by_the_names_of_the_tensors() -> None:
    recipe = recipe_of("ties", [{"weight": 0.5, "layer_weights": [1.0, 2.0]}], engine="streaming")
    (entry,) = configuration(recipe, ["b", "p"], dtype="float32", layers=3)["models"]
    assert entry["parameters"]["weight"] == [
        {"filter": "layers.0.", "value": 1.0},
        {"filter": "layers.1.", "value": 1.0},
        {"filter": "layers.2.", "value": 2.0},
        {"value": 0.5},
    ]
    with pytest.raises(ValueError, match="number of layers"):
        configuration(recipe, ["b", "p"], dtype="float32")


def test_the_dtype_of_the_base(tmp_path: Path, three: dict[str, list[Path]]) -> None:
    base = model(tmp_path / "b", 0, dtype=torch.bfloat16)
    recipe = recipe_of("karcher", 1)
    assert out_dtype(recipe, base) == "bfloat16"
    output = run_mergekit(recipe_of("multislerp", 2), [base, *three["llama"][1:]], tmp_path / "s", show_progress=False)
    assert {tensor.dtype for tensor in _weights(output).values()} == {torch.bfloat16}
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    weights = load_file(base / "model.safetensors")
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"].float()}, base / "model.safetensors")
    with pytest.raises(SeaLionError, match="checkpoint/b@1 holds bfloat16 and float32, but mergekit writes one dtype"):
        out_dtype(recipe, base)
    assert out_dtype(recipe_of("ties", 1, engine="streaming"), base) == "bfloat16"
    assert out_dtype(recipe_of("karcher", 1, dtype="float16"), base) == "float16"
    (base / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CorruptInput, match="is not a safetensors file"):
        out_dtype(recipe, base)


def test_what_mergekit_gives_up_on_is_one_line(tmp_path: Path, three: dict[str, list[Path]]) -> None:
    opposite = []
    for i, factor in enumerate((1, 1, -2)):
        folder = model(tmp_path / str(i), 5)
        weights = {name: factor * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        opposite.append(folder)
    recipe = recipe_of("multislerp", [{"weight": 0.25}, {"weight": 0.25}, {"weight": 0.5}], settings={"base_model": False})
    with pytest.raises(SeaLionError, match=rf"mergekit {mergekit_version()} cannot merge these models: .*sum of the input"):
        run_mergekit(recipe, [three["llama"][0], *opposite], tmp_path / "s", show_progress=False)


def test_a_union_of_tokenizers_has_the_base_as_it_is_and_the_rest_in_order(tmp_path: Path) -> None:
    texts = ("satu dua", "tiga empat lima", "xyz jq vvv")
    folders = [model(tmp_path / f"m{i}", i, text=text) for i, text in enumerate(texts)]
    output = run_mergekit(recipe_of("dare_ties", 2, tokenizer="union"), folders, tmp_path / "s", show_progress=False)
    tokenizer = AutoTokenizer.from_pretrained(output)
    vocabulary = tokenizer.get_vocab()
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in folders]
    order = list(dict.fromkeys(token for one in vocabularies for token in sorted(one, key=lambda token: int(one[token]))))
    assert sorted(vocabulary, key=lambda token: int(vocabulary[token])) == order
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(folders[0]).chat_template
    loaded: Any = AutoModelForCausalLM.from_pretrained(output)
    rows = loaded.get_input_embeddings().weight
    assert rows.shape == (len(vocabulary), 16)
    # A token that one parent alone has: every model is given its row there, so their merge is that row.
    token = next(iter(vocabularies[2].keys() - vocabularies[0].keys() - vocabularies[1].keys()))
    parent: Any = AutoModelForCausalLM.from_pretrained(folders[2])
    row = parent.get_input_embeddings().weight[vocabularies[2][token]]
    torch.testing.assert_close(rows[vocabulary[token]], row)


def test_only_the_plugin_imports_mergekit_and_nothing_imports_the_plugin_at_once() -> None:
    for path in (Path(__file__).parents[2] / "merging").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                named = {node.module or "", *(alias.name for alias in node.names)}
                assert "plugin" not in named, path
                assert path.name == "plugin.py" or not (node.module or "").startswith("mergekit."), path
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != "mergekit" for alias in node.names), path


def test_a_union_needs_a_row_for_each_token(tmp_path: Path, three: dict[str, list[Path]]) -> None:
    from sea_lion.merging.union import write_union

    folder = model(tmp_path / "m", 1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] - 1}))
    with pytest.raises(SeaLionError, match=r"checkpoint/q@1: its tokenizer numbers .* has only"):
        write_union([three["llama"][0], folder], ["checkpoint/p@1", "checkpoint/q@1"], tmp_path / "union")


PAGE = (Path(__file__).parents[2] / "docs" / "merging.md").read_text("utf-8")


def test_the_recipes_of_the_page_are_recipes() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    recipes = [read_table(tomllib.loads(block), MergeRecipe, "merging.md") for block in blocks]
    assert [recipe.method for recipe in recipes] == ["dare_ties", "slerp"]
    for recipe in recipes:
        check_settings(recipe)


def test_the_page_lists_every_method_with_its_paper_or_its_settings() -> None:
    from mergekit.merge_methods import get

    streamed = dict(re.findall(r"^\| `(\w+)` \| `.*\((https://arxiv.org/abs/[\d.]+)\) \|$", PAGE, re.MULTILINE))
    assert streamed == {name: method.reference for name, method in METHODS.items() if name not in ALONE}
    rows: dict[str, tuple[str, str, str]] = {}
    for names, *cells in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\d.*?) \| (yes)? ?\| (.*?) ?\|$", PAGE, re.MULTILINE):
        rows |= dict.fromkeys(re.findall(r"\w+", names), tuple(cells))
    assert rows.keys() == set(ALONE)
    for name, (parents, weight, settings) in rows.items():
        method, spec = METHODS[name], get(name).spec
        ours = {*method.shared_fields, *method.parent_fields}
        theirs = {entry.name for entry in spec.parameters} - ours
        written = set(re.findall(r"`(\w+)`", settings.partition("; `normalize`")[0]))
        assert written == theirs | ({"base_model"} if method.base_optional else set()), name
        assert {entry.name for entry in spec.parameters if entry.required} - ours == (
            {"t"} if "required" in settings else set()
        )
        own = {entry.name for entry in spec.parameters if entry.scope.value != "shared"} - ours
        assert set(re.findall(r"\*`(\w+)`\*", settings)) == own
        assert (weight == "yes") == ("weight" in ours)
        most = "" if method.most == method.fewest else " or more"
        assert parents.startswith(f"{method.fewest}{most}") and ("take no part" in parents) == (not method.takes_base)
