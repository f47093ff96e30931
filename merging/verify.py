"""Proves a merge: tensors of it are merged again from the models on record, and must come out bit for bit as in its files.

Three things are compared: the digest that the merge wrote down, the bytes in its files, and the result of merging again. The
models must be those of the record; whether their files are, `catalog verify` says. A merge by mergekit is made again as a
whole, below the catalog's work folder: it has no way to merge one tensor.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput, SeaLionError
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import Artifact, Checkpoint
from ..catalog.store import WORK, Store
from .adapter import source_of
from .chunks import layer_count
from .configurations import read_config
from .digests import stored_digest, tensors_of
from .fit import Part, compare
from .merge import named
from .mergekit_engine import run_mergekit
from .parents import artifacts_of, models_of, stored
from .recipe import MergeRecipe
from .streaming import tensor_digest

WINNER = "merge.toml"
"""The recipe of the merge, in the folder of a search's winner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found to be bit-equal."""

    tensors: int
    """Tensors that were merged again."""
    of: int
    """Tensors of the merge."""
    elements: int
    """Numbers in those that were."""


def verify_merge(store: Store, artifact: Artifact, tensors: int = 8) -> Verified:
    """Merge some tensors of a finished merge again (0: all), the same ones each time, and compare them.

    Raises SeaLionError for what is no merge or whose models are not those of its record any more, CorruptInput for the first
    tensor that differs, with what differs from what.
    """
    recipe = recorded_recipe(store, artifact)
    folder = store.folder(artifact.ref)
    _check_models(store, artifact, recipe)
    table = artifact.tables.get("merge_tensors")
    if table is None:
        raise SeaLionError(f"{artifact.ref}: was merged before digests of tensors were kept; merge it under a new version")
    recorded = {
        row["tensor"]: row["xxh3_128"] for row in pq.read_table(folder / table, columns=["tensor", "xxh3_128"]).to_pylist()
    }
    found = stored(folder)
    if found.keys() != recorded.keys():
        raise CorruptInput(folder, "", f"holds other tensors than {artifact.ref} wrote")
    chosen = _chosen(sorted(recorded), tensors, artifact.fingerprint)
    for name in chosen:
        if stored_digest(found[name]) != recorded[name]:
            raise CorruptInput(found[name].file, name, f"is not what {artifact.ref} wrote: its XXH3-128 differs")
    again = _again(store, recipe, chosen, _work(store))
    for name in chosen:
        if again[name] != recorded[name]:
            raise CorruptInput(
                str(artifact.ref), name, f"merging again gives other bits: XXH3-128 {again[name]}, not {recorded[name]}"
            )
    return Verified(tensors=len(chosen), of=len(found), elements=sum(found[name].elements for name in chosen))


def recorded_recipe(store: Store, artifact: Artifact) -> MergeRecipe:
    """The recipe that a merge was made by, its models by their references; raises SeaLionError for what is no merge."""
    if not isinstance(artifact.body, Checkpoint) or artifact.body.stage != "merge":
        raise SeaLionError(f"{artifact.ref} is no merge")
    if artifact.recipe.get("kind") == "merge":
        recipe = read_table(artifact.recipe, MergeRecipe, str(artifact.ref))
        roles = {given.role: given.ref for given in artifact.inputs}
        refs = {recipe.base: roles["base"]} | {p.model: roles[f"parents.{i}.model"] for i, p in enumerate(recipe.parents)}
        return named(recipe, refs)
    path = store.folder(artifact.ref) / WINNER
    return read_table(read_toml(path), MergeRecipe, path)


def _check_models(store: Store, artifact: Artifact, recipe: MergeRecipe) -> None:
    """Raise SeaLionError when a model has been made anew since: then it is another one under the same name."""
    known = {given.ref: given.fingerprint for given in artifact.inputs}
    for ref in dict.fromkeys((recipe.base, *(parent.model for parent in recipe.parents))):
        if known.get(ref, "") != store.require(ref).fingerprint:
            raise SeaLionError(f"{artifact.ref}: {ref} is not the model any more that it was merged from")


def _chosen(names: Sequence[str], count: int, seed: str) -> list[str]:
    if count == 0 or count >= len(names):
        return list(names)
    return sorted(random.Random(seed).sample(names, count))


def _work(store: Store) -> Path:
    folder = store.root / WORK
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _again(store: Store, recipe: MergeRecipe, names: Sequence[str], work: Path) -> Mapping[str, str]:
    models = models_of(recipe, store)
    if recipe.engine == "mergekit":
        scratch = Path(tempfile.mkdtemp(prefix="verify-", dir=work))
        try:
            merged = run_mergekit(recipe, [model.folder for model in models], scratch, show_progress=False)
            return {tensor.name: tensor.xxh3_128 for tensor in tensors_of(merged)}
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    fit = compare(recipe, models)
    base, *parents = (Part(source_of(store, artifact), fit.names) for artifact in artifacts_of(recipe, store))
    layers = layer_count(read_config(models[0].folder, models[0].name), base)
    return {name: tensor_digest(recipe, base, parents, name, layers=layers) for name in names}
