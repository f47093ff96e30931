"""Plans of merges: settings with their origins, and the sizes of the full models from their published configurations."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sea_lion import cli
from sea_lion.catalog.errors import CorruptInput, MissingArtifact, RecipeError, SeaLionError
from sea_lion.catalog.recipes import read_table
from sea_lion.catalog.records import Checkpoint, Corpus
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.catalog.tables import render
from sea_lion.merging import plan as plans
from sea_lion.merging.chunks import CHUNK
from sea_lion.merging.plan import MergePlan, described, plan_merge, plan_rows, plan_unseen
from sea_lion.merging.recipe import MergeRecipe
from sea_lion.merging.settings import settings_of
from sea_lion.training.recipe import InitRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 500000.0,
    "max_position_embeddings": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                     "rope_type": "llama3"},
}  # fmt: skip
"""Llama 3.1 8B, as published."""
GEMMA: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336,
    "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000,
    "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096,
    "max_position_embeddings": 8192, "torch_dtype": "float32",
}  # fmt: skip
"""Gemma 2 9B, as published; that its embeddings are tied is a default of its class."""
RECIPE = """
kind = "merge"
name = "checkpoint/merged"
version = "1"
method = "{method}"
base = "checkpoint/base@1"
{settings}
[[parents]]
model = "checkpoint/p@1"
{parent}
[[parents]]
model = "checkpoint/q@1"
"""


def read(method: str, settings: str = "", parent: str = "") -> tuple[MergeRecipe, dict[str, Any]]:
    """A recipe and its table."""
    table = tomllib.loads(RECIPE.format(method=method, settings=settings, parent=parent))
    return read_table(table, MergeRecipe, "merge.toml"), table


def origins(method: str, settings: str = "", parent: str = "") -> dict[str, tuple[Any, str]]:
    """Setting to value and origin."""
    return {each.name: (each.value, each.origin) for each in settings_of(*read(method, settings, parent))}


def test_every_setting_has_a_value_and_an_origin() -> None:
    found = origins(
        "dare_ties", 'normalize = true\nassumed = { normalize = "the paper is silent", "parents.1.weight" = "so too" }'
    )
    assert found == {
        "method": ("dare_ties", "recipe"),
        "engine": ("streaming", "default"),
        "normalize": (True, "assumed: the paper is silent"),
        "scale": (1.0, "default; mergekit's lambda"),
        "rescale": (True, "default of dare_ties; says nothing at density 1"),
        "dtype": ("base", "default"),
        "tokenizer": ("base", "default"),
        "may_differ": ((), "default"),
        "seed": (0, "default; says nothing, as nothing is random"),
        "parents.0.weight": (1.0, "default"),
        "parents.0.density": (1.0, "default"),
        "parents.1.weight": (1.0, "assumed: so too"),
        "parents.1.density": (1.0, "default"),
    }


def test_defaults_differ_by_method_and_say_so() -> None:
    assert origins("ties")["normalize"] == (True, "default of ties")
    assert origins("dare_ties")["normalize"] == (False, "default of dare_ties")
    consensus = origins("consensus_ta", "agreement = 2\nscale = 0.5")
    assert consensus["agreement"] == (2, "recipe; mergekit's k")
    assert consensus["scale"] == (0.5, "recipe; mergekit's alpha")
    assert consensus["tall_lambda"] == (1.0, "default")
    assert not {"rescale", "epsilon", "parents.0.density"} & consensus.keys()
    pruned = origins("della", "seed = 3", "density = 0.6\nlayer_weights = [0.5, 1.0]")
    assert pruned["epsilon"] == (0.15, "default of della")
    assert pruned["rescale"] == (True, "default of della")
    assert pruned["seed"] == (3, "recipe")
    assert pruned["parents.0.density"] == (0.6, "recipe")
    assert pruned["parents.0.layer_weights"] == ((0.5, 1.0), "recipe")
    assert "parents.1.layer_weights" not in pruned
    assert origins("ties", "", "density = 0.6")["seed"][1] == "default; says nothing, as nothing is random"


def test_what_mergekit_would_take_as_its_default_is_shown_too() -> None:
    found = origins("breadcrumbs", 'engine = "mergekit"\n[settings]\ngamma = 0.02')
    assert {name: found[name] for name in found if "settings." in name} == {
        "settings.int8_mask": (False, "mergekit's default"),
        "parents.0.settings.density": (1.0, "mergekit's default"),
        "parents.0.settings.gamma": (0.02, "recipe"),
        "parents.1.settings.density": (1.0, "mergekit's default"),
        "parents.1.settings.gamma": (0.02, "recipe"),
    }
    assert found["normalize"] == (False, "default of breadcrumbs")


def test_a_setting_that_would_be_ignored_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"checkpoint/merged@1: agreement: dare_ties has no such setting"):
        origins("dare_ties", "agreement = 2")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both published configurations."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "llama.json").write_text(json.dumps(LLAMA), "utf-8")
    (folder / "gemma.json").write_text(json.dumps(GEMMA), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("file", "tensors", "parameters", "shards"), [("llama", 291, 8_030_261_248, 4), ("gemma", 464, 9_241_705_984, 4)]
)
def test_the_full_models_are_planned_from_their_configurations(
    published: Path, file: str, tensors: int, parameters: int, shards: int
) -> None:
    recipe, table = read("della_linear", "normalize = false")
    plan = plan_unseen(recipe, table, published / f"{file}.json")
    assert (len(plan.shapes), plan.parameters, plan.costs.shards) == (tensors, parameters, shards)
    assert ("lm_head.weight" in plan.shapes) == (file == "llama")
    assert plan.costs.written == 2 * parameters
    assert plan.costs.audited == plan.costs.read == 3 * 2 * parameters
    assert plan.costs.memory < 0.5e9
    assert plan.costs.seconds == pytest.approx(6 * parameters / 2.4e9 + 8 * parameters / 2.2e9)
    rows = {name: (value, remark) for name, value, remark in plan_rows(plan)[1]}
    assert rows["parameters"][0] == parameters
    assert rows["note"][1].startswith("the models were not looked at")


def test_costs_follow_engine_dtype_and_density(published: Path) -> None:
    shape = described(published / "llama.json")
    with pytest.MonkeyPatch.context() as patch:  # one model, built once
        patch.setattr(plans, "described", lambda _: shape)

        def costs(method: str, settings: str = "", parent: str = "", **others: Any) -> Any:
            return plan_unseen(*read(method, settings, parent), published / "llama.json", **others).costs

        plain = costs("dare_ties")
        assert costs("dare_ties", 'dtype = "float32"').written == 2 * plain.written
        assert costs("dare_ties", shard_bytes=2_000_000_000).shards == 9
        pruned = costs("dare_ties", "", "density = 0.5")
        assert pruned.read == plain.read + 2 * plain.written  # one look at the first parent and the base
        assert plain.memory < pruned.memory < plain.memory + 0.11e9
        assert "of masks" in pruned.memory_formula
        assert costs("dare_ties", threads=8).memory == pytest.approx(plain.memory + 6 * 8 * CHUNK * 4)
        other = costs("dare_ties", 'engine = "mergekit"')
        assert other.memory == pytest.approx(12 * 128256 * 4096 * 4 + 0.44e9)
        assert other.seconds > 4 * plain.seconds


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds no JSON object"),
        ('{"model_type": "nonesuch"}', "model_type 'nonesuch' is not known"),
        ('{"model_type": "t5"}', "is not of a causal language model: "),
        ('{"model_type": "llama", "vocab_size": -5, "pad_token_id": 3}', "is not of a causal language model: "),
        ('{"model_type": "llama", "hidden_size": "wide"}', "is no configuration of transformers: "),
        ('{"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}}', "asks for code of its own"),
    ],
)
def test_a_configuration_that_describes_no_model_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CorruptInput, match=re.escape(said)) as caught:
        plan_unseen(*read("dare_ties"), tmp_path / "config.json")
    assert "\n" not in str(caught.value)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a base and two parents."""
    store, folder = Store(tmp_path / "store"), tmp_path / "model"
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1)).save_pretrained(folder)
    tokenizer = Tokenizer.from_str(
        '{"version":"1.0","model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]},"added_tokens":[]}'
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template="{{ x }}").save_pretrained(folder)  # type: ignore[no-untyped-call]
    for seed, name in enumerate(("base", "p", "q")):

        def copy(job: Job[InitRecipe]) -> Made:
            shutil.copytree(folder, job.folder, dirs_exist_ok=True)
            return Made(body=Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1))

        recipe = InitRecipe(
            kind="init", name=f"checkpoint/{name}", version="1", tokenizer="", architecture="llama", hidden_size=8, seed=seed,
            intermediate_size=8, layers=1, heads=1, key_value_heads=1, head_dim=8, max_length=32, licence="llama3.1",
        )  # fmt: skip
        store.make(recipe, tmp_path, copy, Options())
    return store


def test_a_plan_of_the_catalogs_models_says_what_is_taken_from_where(store: Store) -> None:
    plan = plan_merge(*read("dare_ties", 'tokenizer = "checkpoint/q@1"'), store)
    columns, rows = plan_rows(plan)
    table = {name: (value, remark) for name, value, remark in rows}
    assert table["base"] == ("checkpoint/base@1", "")
    assert table["parents.1.model"] == ("checkpoint/q@1", "")
    assert table["architecture"] == ("LlamaForCausalLM", "of all models")
    assert table["config.json"][0] == "checkpoint/base@1"
    assert table["tokenizer"][0] == "checkpoint/q@1"
    assert table["chat template"] == ("checkpoint/q@1", "7 characters")
    assert table["generation_config.json"][0] == "checkpoint/q@1"
    assert table["licence"][0] == "llama3.1"
    assert table["tensors"] == (12, "")
    weights = store.root / "checkpoint/base/1/model.safetensors"
    assert plan.costs.written == plan.parameters * 4 < weights.stat().st_size
    assert plan.costs.audited == 3 * plan.costs.written
    assert "GB are free" in table["disk"][1]
    notes = [remark for name, _, remark in rows if name == "note"]
    assert "parents.0 (checkpoint/p@1) has the weights of the base: its difference is zero" in notes
    for form in ("table", "csv", "json", "markdown"):
        assert "dare_ties" in render(columns, rows, form)


def test_a_full_disk_is_said_beforehand(store: Store) -> None:
    plan = plan_merge(*read("dare_ties"), store)
    full = MergePlan(**{name: getattr(plan, name) for name in plan.__slots__ if name != "free"}, free=10)
    assert "too few" in next(remark for name, _, remark in plan_rows(full)[1] if name == "disk")
    assert "too few" not in next(remark for name, _, remark in plan_rows(plan)[1] if name == "disk")


def test_only_checkpoints_of_the_catalog_are_planned(store: Store) -> None:
    recipe, table = read("dare_ties")
    shutil.rmtree(store.root / "checkpoint/q")
    with pytest.raises(MissingArtifact, match="checkpoint/q@1: no such artifact"):
        plan_merge(recipe, table, store)
    made = InitRecipe(
        kind="init", name="checkpoint/q", version="1", tokenizer="", architecture="llama", hidden_size=8, intermediate_size=8,
        layers=1, heads=1, key_value_heads=1, head_dim=8, max_length=32,
    )  # fmt: skip
    store.make(made, store.root, lambda job: Made(body=Corpus(shards=(), documents_in=0, documents_out=0)), Options())
    with pytest.raises(SeaLionError, match=r"checkpoint/q@1 is a corpus, only checkpoints can be merged"):
        plan_merge(recipe, table, store)


def test_the_command_writes_parquet_and_refuses_an_output_that_a_merge_would_not_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RECIPES / "llama-sea-lion-v3-8b-it/model-config.json"
    path, written = RECIPES / "llama-sea-lion-v3-8b-it/15-merge-1.toml", tmp_path / "plan.parquet"
    planned = ["merge", "--plan", str(path), "--model-config", str(config), "--format", "parquet", "--output", str(written)]
    assert cli.main(planned) == 0
    rows = {row["quantity"]: row["value"] for row in pq.read_table(written).to_pylist()}
    assert rows["parameters"] == "8030261248"
    assert cli.main(["merge", str(path), "--output", str(written)]) == 2
    assert "--output is for --plan and --convert" in capsys.readouterr().err
