"""Proves a merge: tensors of it are merged again from the models on record, and must come out bit for bit as in its files.

Three things are compared: the digest that the merge wrote down, the bytes in its files, and the result of merging again. The
models must be those of the record; whether their files are, `catalog fsck --deep` says. A merge by mergekit is made again as
a whole, below the catalog's work folder: it has no way to merge one tensor.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ..catalog.discarding import check_whole
from ..catalog.errors import CorruptInput, SeaLionError
from ..catalog.fingerprint import file_digest
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import Artifact, Checkpoint
from ..catalog.store import WORK, Store
from .adapter import source_of
from .audit import Subject, check_sizes
from .digests import stored_digest, tensors_of
from .fit import Part, compare
from .layers import layer_count
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

    Raises SeaLionError for what is no merge, whose weights were discarded or whose models are not those of its record any
    more, CorruptInput for the first tensor that differs, with what differs from what.
    """
    recipe = recorded_recipe(store, artifact)
    folder = store.folder(artifact.ref)
    check_whole(folder, artifact)
    _check_models(store, artifact, recipe)
    table = artifact.tables.get("merge_tensors")
    if table is None:
        raise SeaLionError(f"{artifact.ref}: was merged before digests of tensors were kept; merge it under a new version")
    _check_table(artifact, folder, table)
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


def _check_table(artifact: Artifact, folder: Path, table: str) -> None:
    """Raise CorruptInput when the table of digests is not the one on record: it is not read then."""
    files = tuple(file for file in artifact.files if file.path == table)
    check_sizes(Subject(name=str(artifact.ref), folder=folder, files=files))
    if [file.sha256 for file in files] != [file_digest(folder / table)]:
        raise CorruptInput(folder / table, "", f"is not what {artifact.ref} wrote: its sha256 differs")


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
    layers = layer_count(models[0].config, base.tensors)
    return {name: tensor_digest(recipe, base, parents, name, layers=layers) for name in names}
