"""Differences between models that do not stand in the way of a merge, and what is said of them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from sea_lion.merging.parents import models_of, subjects_of

SHELF: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("shelf.py"))))
originals, shelf = SHELF.originals, SHELF.shelf
EMBEDDING = SHELF.EMBEDDING
merge_of = SHELF.merge_of
config = SHELF.config
tensors = SHELF.tensors
tokenizer = SHELF.tokenizer
seeded = SHELF.seeded
resized = SHELF.resized
swapped = SHELF.swapped
template = SHELF.template
Edit = Callable[[Path], object]


@pytest.mark.parametrize("original", ["llama", "gemma2"])
def test_models_that_fit_say_nothing_of_what_does_not_matter(shelf: Any, original: str) -> None:
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


def test_differences_that_change_nothing_are_notes(shelf: Any) -> None:
    base = shelf.put("base")
    parent = shelf.put("x", seeded, config(eos_token_id=5, max_position_embeddings=128, unsloth_fixed=True))
    (note,) = shelf.fit(base, parent).notes
    assert note == (
        f"{parent}: config.json differs, the base's is kept: eos_token_id: 1 -> 5; max_position_embeddings: 32 -> 128; "
        "unsloth_fixed: null -> true"
    )


def test_what_the_recipe_allows_is_a_note(shelf: Any) -> None:
    base = shelf.put("base")
    parent = shelf.put("x", seeded, config(rms_norm_eps=1e-5), tokenizer(swapped))
    assert "config.json differs" in shelf.refusal(base, parent, may_differ=("tokenizer",))
    assert "tokenizer.json differs" in shelf.refusal(base, parent, may_differ=("config",))
    notes = shelf.fit(base, parent, may_differ=("config", "tokenizer")).notes
    assert [note.partition(",")[0] for note in notes] == [f"{parent}: config.json differs", f"{parent}: tokenizer.json differs"]
    assert "is 'a' in the base, 'd' in" in notes[1]


def test_a_union_of_tokenizers_may_have_other_rows(shelf: Any) -> None:
    base, parent = shelf.put("base"), shelf.put("x", resized(72), config(vocab_size=72), tokenizer(swapped))
    fit = shelf.fit(base, parent, engine="mergekit", tokenizer="union", may_differ=("config",))
    assert fit.tokenizer_from == "union"


def test_a_parents_tokenizer_comes_with_its_template_and_its_ids(shelf: Any) -> None:
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


def test_a_tokenizer_without_rows_for_its_tokens_is_refused(shelf: Any) -> None:
    base = shelf.put("base")
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    last = Tokenizer.from_file(str(shelf.originals / "llama" / "tokenizer.json")).get_vocab_size()
    more = [{"id": i, "content": f"<{i}>"} | flags for i in range(last, 70)]
    parent = shelf.put("x", seeded, tokenizer(lambda t: t["added_tokens"].extend(more)))
    text = shelf.refusal(base, parent, tokenizer=parent, may_differ=("tokenizer",))
    assert f"{parent}: its tokenizer has a token with number 69, {EMBEDDING} of {base} only 64 rows" in text
    assert f"{70 - last} of 70 tokens differ: id {last} is no token in the base, '<{last}>' in" in shelf.refusal(base, parent)


def test_equal_models_mixed_dtypes_and_licences_are_told(shelf: Any) -> None:
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


def test_an_adapter_fits_as_the_model_that_it_makes(shelf: Any) -> None:
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
