"""The verb: merges checkpoints into one that loads with transformers.

The models are compared by their headers first (`fit`), then read once, to find what differs from their records or is no number
(`audit`), and merged by one of two engines: the streaming one, or mergekit. What lies beside the weights is copied from one of
the models byte for byte, except the configuration's dtype and token ids; what mergekit writes there is thrown away, as its card
and its configuration name local paths, and a tokenizer written anew can be another.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ..catalog import progress
from ..catalog.errors import SeaLionError
from ..catalog.files import SCRATCH
from ..catalog.fingerprint import plain
from ..catalog.records import Checkpoint
from ..catalog.store import Job, Made, write_atomically, write_rows
from .adapter import source_of
from .audit import audit, check_finite
from .configurations import read_config
from .contract import MergedTensor
from .costs import SHARD_BYTES, threads
from .digests import tensors_of
from .fit import Fit, Model, Part, compare
from .layers import layer_count
from .mergekit_engine import check_settings, configuration, mergekit_version, out_dtype, run_mergekit
from .meter import SCHEMAS, Figures, TensorMeter
from .methods import METHODS
from .parents import artifacts_of, models_of, stored, subjects_of
from .recipe import MergeRecipe
from .settings import settings_of
from .streaming import merge_weights

log = logging.getLogger(__name__)

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""What the merged model takes from one of the models unchanged, where that has it; `generation_config.json` as well."""
SCRATCH_MERGEKIT = f"{SCRATCH}/mergekit"


def merge_models(job: Job[MergeRecipe]) -> Made:
    """Merge the recipe's parents onto its base, into the job's folder.

    Raises CorruptInput for damaged files and for NaN or infinity in a model, RecipeError for settings that the method does not
    take, SeaLionError for models that do not fit together and for a result that is not finite. An interrupted merge goes on
    from the last whole file.
    """
    refs = {ref: str(artifact.ref) for ref, artifact in job.inputs.items()}
    recipe = named(job.recipe, refs)
    settings = settings_of(recipe, plain(recipe))
    if recipe.engine == "mergekit":
        check_settings(recipe)
    models = models_of(recipe, job.store)
    fit = compare(recipe, models)
    subjects = subjects_of(recipe, job.store)
    with _reported("audit", "bytes", sum(file.bytes for subject in subjects for file in subject.files)) as advance:
        audit(subjects, threads=threads(job.options.workers), advance=advance)
    # Only now: of a merge that is refused nothing is said but why.
    log.info("%s: %s by %s: %s", recipe.ref, recipe.method, _engine(recipe), ", ".join(f"{s.name} {s.value}" for s in settings))
    for note in fit.notes:
        log.info("%s: %s", recipe.ref, note)
    for warning in fit.warnings:
        log.warning("%s: %s", recipe.ref, warning)
    figures = Figures(recipe)
    run = _by_mergekit if recipe.engine == "mergekit" else _streamed
    tensors = run(job, recipe, models, fit, figures)
    rows = figures.rows(tensors, [parent.model for parent in recipe.parents])
    for table, schema in SCHEMAS.items():
        write_rows(job.folder / f"{table}.parquet", rows[table], schema)
    _write_settings(job.folder, recipe, models[0])
    parents = dict.fromkeys((recipe.base, *(parent.model for parent in recipe.parents)))
    return Made(
        body=Checkpoint(
            stage="merge",
            architecture=fit.architecture,
            parameters=sum(math.prod(tensor.shape) for tensor in tensors),
            parents=tuple(parents),
            method=recipe.method,
        ),
        tables={table: f"{table}.parquet" for table in SCHEMAS},
    )


def named(recipe: MergeRecipe, refs: Mapping[str, str]) -> MergeRecipe:
    """The recipe with its models by their references, where it names stages."""
    parents = tuple(replace(parent, model=refs[parent.model]) for parent in recipe.parents)
    return replace(recipe, base=refs[recipe.base], parents=parents, tokenizer=refs.get(recipe.tokenizer, recipe.tokenizer))


def _engine(recipe: MergeRecipe) -> str:
    return f"mergekit {mergekit_version()}" if recipe.engine == "mergekit" else "the streaming engine"


def _streamed(
    job: Job[MergeRecipe], recipe: MergeRecipe, models: Sequence[Model], fit: Fit, figures: Figures
) -> list[MergedTensor]:
    artifacts = artifacts_of(recipe, job.store)
    base, *parents = (Part(source_of(job.store, artifact), fit.names) for artifact in artifacts)
    with _reported("merge", "tensors", len(fit.names)) as advance:

        def meter(name: str) -> TensorMeter:
            advance(1)
            return figures.meter(name)

        tensors = merge_weights(
            recipe, base, parents, job.folder, threads=threads(job.options.workers), shard_bytes=SHARD_BYTES, meter=meter,
            config=models[0].config, inputs=" ".join(artifact.fingerprint for artifact in artifacts),
        )  # fmt: skip
    _assemble(job.folder, recipe, models[0], fit, fit.tokenizer_folder)
    return tensors


def _by_mergekit(
    job: Job[MergeRecipe], recipe: MergeRecipe, models: Sequence[Model], fit: Fit, figures: Figures
) -> list[MergedTensor]:
    scratch = job.folder / SCRATCH_MERGEKIT
    shutil.rmtree(scratch, ignore_errors=True)
    merged = run_mergekit(recipe, [model.folder for model in models], scratch, job.options.show_progress)
    found = stored(merged)
    check_finite(f"the result of {recipe.ref}", merged, found, threads=threads(job.options.workers))
    is_union = recipe.tokenizer == "union"
    shapes = {name: tensor.shape for name, tensor in found.items()}
    if shapes.keys() != fit.shapes.keys() or (not is_union and shapes != dict(fit.shapes)):
        raise SeaLionError(f"{recipe.ref}: mergekit wrote other tensors than the base has; this is not a usable model")
    for stale in job.folder.glob("model*.safetensors*"):  # of an attempt that was interrupted
        stale.unlink()
    weights = sorted(merged.glob("model*.safetensors*"))
    shards = [path for path in weights if path.suffix == ".safetensors"]
    if len(shards) == 1:  # transformers' name for a model in one file; mergekit writes it as one shard of one, with an index
        shards[0].replace(job.folder / "model.safetensors")
    else:
        for path in weights:
            path.replace(job.folder / path.name)
    own = {"vocab_size": read_config(merged, "mergekit's result")["vocab_size"]} if is_union else {}
    _assemble(job.folder, recipe, models[0], fit, merged if is_union else fit.tokenizer_folder, own)
    shutil.rmtree(scratch)
    return tensors_of(job.folder)


def _assemble(
    folder: Path, recipe: MergeRecipe, base: Model, fit: Fit, tokenizer: Path, own: Mapping[str, Any] | None = None
) -> None:
    """Put configuration, tokenizer and generation settings beside the weights."""
    sources = [(tokenizer, name) for name in TOKENIZER]
    if fit.generation_folder:
        sources.append((fit.generation_folder, "generation_config.json"))
    for source, name in sources:
        (folder / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = {key: value for key, value in base.config.items() if key != "torch_dtype"}
    config |= dict(fit.token_ids) | {"dtype": out_dtype(recipe, base.folder)} | dict(own or {})
    write_atomically(folder / "config.json", json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _write_settings(folder: Path, recipe: MergeRecipe, base: Model) -> None:
    """Write the merge as mergekit is told of it, references in the place of paths: how it can be made without this platform."""
    models = [recipe.base, *(parent.model for parent in recipe.parents)]
    layers = layer_count(base.config, base.tensors)
    table = configuration(recipe, models, dtype=out_dtype(recipe, base.folder), layers=layers)
    head = f"# {METHODS[recipe.method].reference}\n# Made by {_engine(recipe)}.\n"
    write_atomically(folder / "mergekit.yml", head + yaml.safe_dump(table, sort_keys=False))


class _reported:
    """Says how far a step is, from any thread: a context manager whose value is called with each advance."""

    def __init__(self, stage: str, unit: str, total: int) -> None:
        self.report, self.lock, self.done = progress.current(), threading.Lock(), 0
        self.update: Callable[..., None] = (
            partial(self.report.update, stage=stage, unit=unit, total=total) if self.report else _none
        )

    def __enter__(self) -> Callable[[int], object]:
        self.update(done=0)
        return self.advance

    def __exit__(self, *error: object) -> None:
        return None

    def advance(self, count: int) -> None:
        """So much more is done."""
        with self.lock:
            self.done += count
            self.update(done=self.done)


def _none(**_: Any) -> None:
    return None
