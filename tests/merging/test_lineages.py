"""The five merges of the SEA-LION v3 models, as their recipes stand, on tiny models that bear the real ones' names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sea_lion import cli
from sea_lion.catalog.errors import SeaLionError
from sea_lion.catalog.recipes import identity, read_recipe
from sea_lion.catalog.records import Artifact, Checkpoint
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.merging.merge import merge_models
from sea_lion.merging.recipe import MergeRecipe
from sea_lion.training.recipe import InitRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
LLAMA, GEMMA = RECIPES / "llama-sea-lion-v3-8b-it", RECIPES / "gemma-sea-lion-v3-9b-it"
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
ROPE_31 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LLAMA_31 = "<|start_header_id|>{{ messages[0].role }}<|end_header_id|>{{ messages[0].content }}"
LLAMA_30 = "{{ messages[0].role }}: {{ messages[0].content }}"
GEMMA_IT = "<start_of_turn>{{ messages[0].role }} {{ messages[0].content }}"


def merge_recipes(folder: Path) -> list[MergeRecipe]:
    """The merges of a lineage in the order of their files."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        if 'kind = "merge"' in path.read_text("utf-8"):
            recipe = read_recipe(path, {"merge": MergeRecipe})
            assert isinstance(recipe, MergeRecipe)
            found.append(recipe)
    return found


class Lineage:
    """A store of tiny models under the names that recipes give them, and the merges made of them."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.store, self.folder, self.merged = Store(root), folder, dict[str, Artifact]()

    def model(self, ref: str, model: Any, *, seed: int, tokenizer: Any, dtype: torch.dtype = torch.bfloat16) -> None:
        """Store a model near those of other seeds, with its tokenizer."""

        def save(job: Job[InitRecipe]) -> Made:
            torch.manual_seed(seed)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
            model.to(dtype).save_pretrained(job.folder)
            tokenizer.save_pretrained(job.folder)
            count = sum(parameter.numel() for parameter in model.parameters())
            return Made(body=Checkpoint(stage="init", architecture=type(model).__name__, parameters=count))

        recipe = InitRecipe(
            kind="init", name=ref.partition("@")[0], version="1", tokenizer="", architecture="llama", hidden_size=16,
            intermediate_size=32, layers=2, heads=2, key_value_heads=1, head_dim=8, max_length=32, seed=seed,
        )  # fmt: skip
        self.store.make(recipe, self.folder, save, Options())

    def merge(self) -> None:
        """Make every merge of the lineage, as it stands in its recipe."""
        for recipe in merge_recipes(self.folder):
            self.merged[str(recipe.ref)] = self.store.make(recipe, self.folder, merge_models, Options())

    def at(self, ref: str) -> Path:
        """The folder of a model."""
        return self.store.folder(self.store.require(ref).ref)

    def weights(self, ref: str) -> dict[str, torch.Tensor]:
        """What its files hold, in float32."""
        found: dict[str, torch.Tensor] = {}
        for path in self.at(ref).glob("*.safetensors"):
            found |= {name: tensor.float() for name, tensor in load_file(path).items()}
        return found


def _tokenizer(template: str | None, special: tuple[str, ...] = ("<|eom_id|>",)) -> Any:
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    inner.train_from_iterator(["satu dua tiga"], trainers.BpeTrainer(vocab_size=40, special_tokens=["<unk>", "</s>", *special]))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", chat_template=template
    )


def _llama(rope: dict[str, Any] | None = ROPE_31) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope or {"rope_type": "default", "rope_theta": 500_000.0}))


def _gemma() -> Any:
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=16))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    """The Llama lineage; v2.1 is of Llama 3, without RoPE scaling and with a reserved token where 3.1 has a special one."""
    lineage = Lineage(tmp_path_factory.mktemp("llama"), LLAMA)
    family = ("llama-3.1-8b-instruct", "llama-sea-lion-v3-8b", "llama-3.1-supernova-lite")
    stages = ("llama-sea-lion-v3-8b-instruct-1", "llama-sea-lion-v3-8b-instruct-2", "llama-sea-lion-v3-8b-align")
    for seed, name in enumerate((*family, *stages), 1):
        lineage.model(f"checkpoint/{name}@1", _llama(), seed=seed, tokenizer=_tokenizer(LLAMA_31))
    older = _tokenizer(LLAMA_30, ("<|reserved_special_token_2|>",))
    lineage.model("checkpoint/llama3-8b-sea-lion-v2.1-instruct@1", _llama(None), seed=9, tokenizer=older)
    lineage.merge()
    return lineage


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    """The Gemma lineage; the base and the CPT model have no chat template, the base is in float32."""
    lineage = Lineage(tmp_path_factory.mktemp("gemma"), GEMMA)
    lineage.model("checkpoint/gemma-2-9b@1", _gemma(), seed=1, tokenizer=_tokenizer(None), dtype=torch.float32)
    lineage.model("checkpoint/gemma-sea-lion-v3-9b@1", _gemma(), seed=2, tokenizer=_tokenizer(None))
    names = (
        "gemma-2-9b-it", "gemma-sea-lion-v3-9b-instruct-2", "fusechat-gemma-2-9b-instruct", "gemma-sea-lion-v3-9b-align",
    )  # fmt: skip
    for seed, name in enumerate(names, 3):
        lineage.model(f"checkpoint/{name}@1", _gemma(), seed=seed, tokenizer=_tokenizer(GEMMA_IT))
    lineage.merge()
    return lineage


def test_the_lineages_have_the_papers_merges() -> None:
    assert [(r.method, len(r.parents), r.dtype) for r in merge_recipes(LLAMA)] == [
        ("dare_ties", 2, "bfloat16"),
        ("consensus_ta", 3, "bfloat16"),
        ("della_linear", 2, "bfloat16"),
    ]
    assert [(r.method, len(r.parents), r.dtype) for r in merge_recipes(GEMMA)] == [
        ("della_linear", 2, "bfloat16"),
        ("della_linear", 4, "bfloat16"),
    ]
    for recipe in (*merge_recipes(LLAMA), *merge_recipes(GEMMA)):
        assert all((parent.weight, parent.density) == (1, 1) for parent in recipe.parents)  # stated, so not assumed
        unstated = {"normalize", "scale", "dtype", "tokenizer"}
        unstated |= {"agreement", "tall_lambda", "may_differ"} if recipe.method == "consensus_ta" else set()
        unstated |= {"method"} if recipe.name == "checkpoint/gemma-sea-lion-v3-9b-it" else set()
        assert recipe.assumed.keys() == unstated
        assert all(reason.startswith("not published; ") for key, reason in recipe.assumed.items() if key != "may_differ")


def test_a_reason_is_no_part_of_the_identity() -> None:
    recipe = merge_recipes(LLAMA)[0]
    fake: Any = {ref: type("Known", (), {"fingerprint": ref}) for ref in (recipe.base, *(p.model for p in recipe.parents))}
    assert identity(recipe, fake, {}) == identity(replace(recipe, assumed={}), fake, {})


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_each_merge_loads_and_generates(family: str, request: pytest.FixtureRequest) -> None:
    lineage: Lineage = request.getfixturevalue(family)
    recipes = {str(recipe.ref): recipe for recipe in merge_recipes(lineage.folder)}
    assert lineage.merged.keys() == recipes.keys()
    for ref, artifact in lineage.merged.items():
        recipe, folder = recipes[ref], lineage.at(ref)
        loading: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
        model, notes = loading
        assert not notes["missing_keys"] and not notes["unexpected_keys"]
        assert model.dtype == torch.bfloat16
        source = lineage.at(recipe.base if recipe.tokenizer == "base" else recipe.tokenizer)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (folder / name).read_bytes() == (source / name).read_bytes()
        text = tokenizer.apply_chat_template([{"role": "user", "content": "satu dua"}], tokenize=False)
        assert text == (
            "<|start_header_id|>user<|end_header_id|>satu dua" if family == "llama" else "<start_of_turn>user satu dua"
        )
        ids = tokenizer(text, return_tensors="pt").input_ids
        written = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=1)
        assert written.shape == (1, ids.shape[1] + 4)
        body = artifact.body
        assert isinstance(body, Checkpoint)
        assert (body.method, body.architecture) == (recipe.method, type(model).__name__)
        assert body.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_llama_merges_are_their_formulas(llama: Lineage) -> None:
    for recipe, result in _results(llama):
        base, *parents = (llama.weights(ref) for ref in (recipe.base, *(parent.model for parent in recipe.parents)))
        for name, found in result.items():
            deltas = [parent[name] - base[name] for parent in parents]
            total = torch.stack(deltas).sum(0)
            if recipe.method == "dare_ties":
                agree = torch.stack([delta.sign() == torch.where(total >= 0, 1.0, -1.0) for delta in deltas])
                step = (torch.stack(deltas) * agree).sum(0) / agree.sum(0).clamp(min=1)
            elif recipe.method == "consensus_ta":
                mean = total / 3
                step = mean * torch.stack([delta.abs() > (mean - delta).abs() for delta in deltas]).any(0)
            else:
                step = total / 2
            torch.testing.assert_close(found, (base[name] + step).bfloat16().float(), rtol=0.008, atol=1e-6)


def test_the_gemma_merges_are_averages_of_tied_models(gemma: Lineage) -> None:
    for recipe, result in _results(gemma):
        base, *parents = (gemma.weights(ref) for ref in (recipe.base, *(parent.model for parent in recipe.parents)))
        assert "lm_head.weight" not in result
        for name, found in result.items():
            step = torch.stack([parent[name] - base[name] for parent in parents]).mean(0)
            torch.testing.assert_close(found, (base[name] + step).bfloat16().float(), rtol=0.008, atol=1e-6)
        model: Any = AutoModelForCausalLM.from_pretrained(gemma.at(str(recipe.ref)))
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _results(lineage: Lineage) -> Iterator[tuple[MergeRecipe, dict[str, torch.Tensor]]]:
    for recipe in merge_recipes(lineage.folder):
        yield recipe, lineage.weights(str(recipe.ref))


def test_the_result_has_the_bases_rope_and_not_that_of_the_older_llama(llama: Lineage) -> None:
    for ref in llama.merged:
        rope = AutoConfig.from_pretrained(llama.at(ref)).rope_parameters
        assert (rope["rope_type"], rope["factor"]) == ("llama3", 8.0)


def test_an_older_llama_is_refused_without_the_recipes_word(llama: Lineage) -> None:
    recipe = replace(merge_recipes(LLAMA)[1], name="checkpoint/strict", assumed={}, may_differ=("config",))
    with pytest.raises(SeaLionError, match=r"v2\.1-instruct.*tokenizer\.json differs"):
        llama.store.make(recipe, LLAMA, merge_models, Options())
    with pytest.raises(SeaLionError, match=r"v2\.1-instruct.*rope"):
        llama.store.make(replace(recipe, may_differ=("tokenizer",)), LLAMA, merge_models, Options())


@pytest.mark.parametrize(
    ("folder", "maker", "parameters"),
    [(LLAMA, LlamaForCausalLM, 8_030_261_248), (GEMMA, Gemma2ForCausalLM, 9_241_705_984)],
    ids=["llama", "gemma"],
)
def test_the_published_configurations_are_of_models_of_the_published_sizes(folder: Path, maker: Any, parameters: int) -> None:
    table = json.loads((folder / "model-config.json").read_text("utf-8"))
    with torch.device("meta"):
        model = maker(maker.config_class.from_dict(table))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert table["architectures"] == [maker.__name__]


@pytest.mark.parametrize(
    ("folder", "parameters", "written"),
    [(LLAMA, "8,030,261,248", "16.06"), (GEMMA, "9,241,705,984", "18.48")],
    ids=["llama", "gemma"],
)
def test_every_merge_is_planned_from_the_published_configuration(
    folder: Path, parameters: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe, path in zip(merge_recipes(folder), sorted(folder.glob("*.toml")), strict=True):
        assert cli.main(["merge", "--plan", str(path), "--model-config", str(folder / "model-config.json")]) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert f"parameters {parameters}" in lines
        assert any(line.startswith(f"written {written} GB in 4 files") for line in lines)
        assert any(line.startswith(f"base {recipe.base}") for line in lines)
        for key, reason in recipe.assumed.items():
            assert any(line.startswith(f"{key} ") and f"assumed: {reason}" in line for line in lines), key


def test_the_page_shows_lines_of_the_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = (RECIPES.parent / "docs" / "merging.md").read_text("utf-8")
    found = re.search(r"^sea-lion (merge --plan recipes/[^\n]*)\n```\n\n```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    monkeypatch.chdir(RECIPES.parent)
    assert cli.main(found[1].split()) == 0
    printed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    shown = [" ".join(line.split()) for line in found[2].splitlines()]
    assert shown and not [line for line in shown if line not in printed]
