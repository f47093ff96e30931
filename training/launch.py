"""Several processes make one checkpoint: `torchrun --nproc-per-node 2 -m sea_lion.training.launch recipe.toml artifacts`.

`accelerate launch` starts the same module on GPUs; on a CPU it starts one process unless it is given mpirun.

Rank 0 makes the artifact in the store as ever (lock, record, rename); the others run the same training beside it and write
nothing but their shards of the checkpoints.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..catalog.progress import reported
from ..catalog.recipes import read_recipe
from ..catalog.remote import store_at
from ..catalog.store import Job, Options
from .recipe import TrainRecipe
from .train import train_model


def train_in_processes(file: Path, catalog: str, options: Options) -> None:
    """Make the checkpoint of a recipe's file in a catalog, a folder or an address; every process of the launch calls it."""
    recipe = read_recipe(file, {"train": TrainRecipe})
    assert isinstance(recipe, TrainRecipe)
    store = store_at(catalog)
    if int(os.environ.get("RANK", "0")) == 0:
        with reported(store.root, str(recipe.ref), recipe.kind):
            store.make(recipe, file.parent, train_model, options)
        return
    planned = store.plan(recipe, file.parent)
    if planned.made is None:
        folder = store.work_folder(planned)
        train_model(Job(recipe=recipe, inputs=planned.inputs, files=planned.files, folder=folder, store=store, options=options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("catalog", help="folder of the artifacts, or s3://bucket/prefix")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    train_in_processes(arguments.recipe, arguments.catalog, Options(device=arguments.device))
