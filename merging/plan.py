"""What a merge will do and need, before it is done: every setting, what is taken from where, bytes, memory, time, disk.

A plan reads records, configurations, tokenizers and the headers of the weights. A merge compares its models in the same way,
and then reads each file once, for digests and NaN, before it writes. Without the models a published `config.json` is enough
for the sizes: transformers names the tensors on the meta device, without memory; what would be compared stays open, and is
said to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..catalog.errors import CorruptInput
from ..catalog.files import read_json
from ..catalog.store import Store
from .configurations import check_plain, declared, is_tied
from .contract import Stored
from .costs import GB, SHARD_BYTES, THREADS, Costs, costs_of
from .fit import HEAD, Fit, compare
from .parents import models_of
from .recipe import MergeRecipe
from .settings import Setting, check_groups, settings_of

COLUMNS = ("quantity", "value", "remark")
Row = tuple[str, Any, str]
"""Quantity, value, and unit or remark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """A merge before it is made."""

    recipe: MergeRecipe
    """What is planned."""
    settings: tuple[Setting, ...]
    """Each with its origin."""
    models: tuple[str, ...]
    """Base and parents, as they were found."""
    architecture: str
    """transformers' class name."""
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor of the result to its shape."""
    fit: Fit | None
    """How the models fit together; None when a configuration stands in for them."""
    costs: Costs
    """What it needs."""
    free: int | None
    """Bytes free where the result goes, if that is known."""
    stand_in: str = ""
    """The configuration that stands in for the models."""

    @property
    def parameters(self) -> int:
        """Numbers in the result."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())


def plan_merge(
    recipe: MergeRecipe, table: Mapping[str, Any], store: Store, *, threads: int = THREADS, shard_bytes: int = SHARD_BYTES
) -> MergePlan:
    """Compare the recipe's models and say what the merge will need; `table` is the recipe as its file has it.

    Raises MissingArtifact for a model that the catalog does not have, CorruptInput for one that is not whole, SeaLionError for
    models that do not fit together.
    """
    settings = settings_of(recipe, table)
    models = models_of(recipe, store)
    fit = compare(recipe, models)
    costs = costs_of(
        recipe,
        {name: models[0].tensors[name] for name in fit.names},
        {model.name: model.tensors for model in models},
        held=sum({model.name: model.held for model in models}.values()),
        threads=threads,
        shard_bytes=shard_bytes,
    )
    return MergePlan(
        recipe=recipe,
        settings=settings,
        models=tuple(model.name for model in models),
        architecture=fit.architecture,
        shapes=fit.shapes,
        fit=fit,
        costs=costs,
        free=shutil.disk_usage(store.root).free,
    )


def plan_unseen(
    recipe: MergeRecipe,
    table: Mapping[str, Any],
    config: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    threads: int = THREADS,
    shard_bytes: int = SHARD_BYTES,
) -> MergePlan:
    """The same from a `config.json` that all models are taken to have, with weights in `dtype`; nothing is compared."""
    settings = settings_of(recipe, table)
    architecture, shapes = described(config)
    check_groups(recipe, shapes)
    refs = (recipe.base, *(parent.model for parent in recipe.parents))
    models = {ref: _laid_out(shapes, Path(ref), dtype) for ref in refs}
    return MergePlan(
        recipe=recipe,
        settings=settings,
        models=refs,
        architecture=architecture,
        shapes=shapes,
        fit=None,
        costs=costs_of(recipe, models[recipe.base], models, threads=threads, shard_bytes=shard_bytes),
        free=None,
        stand_in=f"{config} and weights in {str(dtype).removeprefix('torch.')}",
    )


def _laid_out(shapes: Mapping[str, tuple[int, ...]], file: Path, dtype: torch.dtype) -> dict[str, Stored]:
    """Tensors as they would lie in one file."""
    tensors, offset = dict[str, Stored](), 0
    for name, shape in shapes.items():
        tensors[name] = Stored(file=file, offset=offset, dtype=dtype, shape=shape)
        offset += tensors[name].elements * dtype.itemsize
    return tensors


def described(file: Path) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Class, and shape of every tensor that a checkpoint stores, of the model that a `config.json` describes.

    Raises CorruptInput for what is no configuration of a causal language model.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = read_json(file)
    check_plain(config, str(file))
    table, _ = declared(config, str(file))
    build: Any = AutoModelForCausalLM.from_config
    try:
        with torch.device("meta"):
            model = build(CONFIG_MAPPING[config["model_type"]].from_dict(config), trust_remote_code=False)
    except Exception as error:  # the classes raise what they like
        raise CorruptInput(file, "", f"is not of a causal language model: {' '.join(str(error).split())[:200]}") from error
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if is_tied(table):
        shapes.pop(HEAD, None)
    return type(model).__name__, shapes


def plan_rows(plan: MergePlan) -> tuple[tuple[str, str, str], list[Row]]:
    """Columns and rows of the plan, for `catalog.tables`."""
    rows = [*_models(plan), *_settings(plan), *_taken(plan), *_needed(plan)]
    if plan.fit is None:
        rows.append(("note", None, "the models were not looked at: whether they fit together is open"))
    else:
        rows += [("note", None, note) for note in plan.fit.notes]
        rows += [("warning", None, warning) for warning in plan.fit.warnings]
    return COLUMNS, rows


def _models(plan: MergePlan) -> Iterator[Row]:
    written = (plan.recipe.base, *(parent.model for parent in plan.recipe.parents))
    for i, (name, ref) in enumerate(zip(plan.models, written, strict=True)):
        assumed = plan.recipe.assumed.get(f"parents.{i - 1}.model" if i else "base")
        remarks = [f"by {ref}"] if ref != name else []
        remarks += [f"assumed: {assumed}"] if assumed is not None else []
        yield f"parents.{i - 1}.model" if i else "base", name, "; ".join(remarks)


def _settings(plan: MergePlan) -> Iterator[Row]:
    for setting in plan.settings:
        value = setting.value
        shown = str(value).lower() if isinstance(value, bool) else json.dumps(value) if isinstance(value, tuple) else value
        yield setting.name, shown, setting.origin


def _taken(plan: MergePlan) -> Iterator[Row]:
    fit, base = plan.fit, plan.models[0]
    yield "architecture", plan.architecture, f"by {plan.stand_in}" if plan.stand_in else "of all models"
    yield "config.json", base, "with the result's dtype"
    if fit is None:
        source = dict(zip((parent.model for parent in plan.recipe.parents), plan.models[1:], strict=True))
        yield "tokenizer, chat template", source.get(plan.recipe.tokenizer, base), "by the field tokenizer"
        return
    ids = f"; of config.json too: {json.dumps(dict(fit.token_ids))}" if fit.token_ids else ""
    yield "tokenizer", fit.tokenizer_from, f"by the field tokenizer{ids}"
    yield "chat template", fit.tokenizer_from if fit.template else "none", fit.template
    yield "generation_config.json", fit.tokenizer_from if fit.generation_folder else "none", ""
    yield "licence", fit.licence, "the recipe's and all models'"


def _needed(plan: MergePlan) -> Iterator[Row]:
    costs = plan.costs
    yield "tensors", len(plan.shapes), "the output layer is the embedding" if plan.fit and plan.fit.is_tied else ""
    yield "parameters", plan.parameters, ""
    yield "read before", costs.audited / GB, "GB, for digests and NaN"
    yield "read", costs.read / GB, "GB"
    yield "written", costs.written / GB, f"GB in {costs.shards} {'file' if costs.shards == 1 else 'files'}"
    yield "peak memory", costs.memory / GB, f"GB: {costs.memory_formula}"
    yield "time", costs.seconds, f"seconds: {costs.speeds}"
    free = "" if plan.free is None else f"; {plan.free / GB:,.1f} GB are free"
    short = ": too few" if plan.free is not None and plan.free < costs.written else ""
    yield "disk", costs.written / GB, f"GB needed{free}{short}"
