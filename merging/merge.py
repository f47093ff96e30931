"""Merges checkpoints with mergekit into one that loads with transformers.

mergekit writes the weights; configuration and tokenizer are copied from the base byte for byte, and what mergekit writes beside
the weights is thrown away: its card and its configuration name local paths, and re-serialising a tokenizer can change it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

from ..catalog.errors import SeaLionError
from ..catalog.records import Artifact, Checkpoint
from ..catalog.store import Job, Made, verify_files, write_atomically
from .methods import METHODS, register_methods
from .plan import check_finite, check_fit, configuration, tensor_shapes
from .recipe import MergeRecipe

log = logging.getLogger(__name__)

COPIED = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
"""What the merged model takes from the base unchanged, where the base has it."""


def merge_models(job: Job[MergeRecipe]) -> Made:
    """Merge the recipe's parents onto its base.

    Raises CorruptInput for damaged files and for NaN or infinity in a model, and SeaLionError for models that do not fit
    together. Only complete merges leave files: an interrupted one starts again.
    """
    recipe = job.recipe
    given = [job.inputs[ref] for ref in (recipe.base, *(parent.model for parent in recipe.parents))]
    _check_inputs(job, given)
    _clear(job.folder)
    scratch = job.folder / "merging"
    merged = _run_mergekit(job, [job.store.folder(artifact.ref) for artifact in given], scratch)
    check_finite(merged, f"the result of {recipe.ref}")
    base_folder = job.store.folder(given[0].ref)
    shapes = tensor_shapes(merged)
    if shapes != tensor_shapes(base_folder):
        raise SeaLionError(f"{recipe.ref}: mergekit wrote other tensors than the base has; this is not a usable model")
    architecture = _assemble(merged, base_folder, job.folder, recipe.dtype)
    text = yaml.safe_dump(configuration(recipe, [str(artifact.ref) for artifact in given]), sort_keys=False)
    write_atomically(job.folder / "mergekit.yml", f"# {METHODS[recipe.method].reference}\n{text}")
    shutil.rmtree(scratch)
    return Made(
        body=Checkpoint(
            stage="merge",
            architecture=architecture,
            parameters=sum(_count(shape) for shape in shapes.values()),
            parents=tuple(dict.fromkeys(str(artifact.ref) for artifact in given)),
            method=recipe.method,
        )
    )


def _check_inputs(job: Job[MergeRecipe], given: Sequence[Artifact]) -> None:
    folders = {str(artifact.ref): job.store.folder(artifact.ref) for artifact in given}
    for artifact in given:
        if not isinstance(artifact.body, Checkpoint):
            raise SeaLionError(f"{artifact.ref} is a {artifact.kind}, only checkpoints can be merged")
    for artifact in {str(artifact.ref): artifact for artifact in given}.values():
        verify_files(job.store.folder(artifact.ref), artifact)
    check_fit(folders)
    for name, folder in folders.items():
        check_finite(folder, name)


def _run_mergekit(job: Job[MergeRecipe], folders: Sequence[Path], scratch: Path) -> Path:
    """Run mergekit below `scratch` and return the folder with its weights.

    The models are given as links: mergekit tells inputs apart by path, and two parents may be one model (a stage that kept its
    parent); the links' paths are handed over as values, since mergekit reads `@` and `+` in a text as revision and adapter.
    """
    register_methods()
    scratch.mkdir(parents=True)
    links = [scratch / f"model-{i}" for i in range(len(folders))]
    for link, folder in zip(links, folders, strict=True):
        link.symlink_to(folder.resolve(), target_is_directory=True)
    table = configuration(job.recipe, [{"model": {"path": str(link)}} for link in links])
    output = scratch / "merged"
    options = MergeOptions(
        device="cpu",
        random_seed=job.recipe.seed,
        copy_tokenizer=False,
        write_model_card=False,
        trust_remote_code=False,
        quiet=not job.options.show_progress,
    )
    run_merge(MergeConfiguration.model_validate(table), str(output), options)
    return output


def _assemble(merged: Path, base: Path, folder: Path, dtype: str) -> str:
    """Put weights, configuration and tokenizer into `folder`; returns the architecture."""
    weights = sorted(merged.glob("model*.safetensors*"))
    shards = [path for path in weights if path.suffix == ".safetensors"]
    if len(shards) == 1:  # transformers' name for a model in one file; mergekit writes it as one shard of one, with an index
        shards[0].replace(folder / "model.safetensors")
    else:
        for path in weights:
            path.replace(folder / path.name)
    for name in COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    config: dict[str, Any] = json.loads((base / "config.json").read_text("utf-8"))
    config.pop("torch_dtype", None)
    config |= {"dtype": dtype}
    write_atomically(folder / "config.json", json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return str(config["architectures"][0])


def _clear(folder: Path) -> None:
    """Remove what an interrupted attempt left."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
