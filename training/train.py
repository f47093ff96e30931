"""The verb: one training stage, from its recipe to a recorded checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..catalog.errors import RecipeError
from ..catalog.records import Checkpoint, Mixture
from ..catalog.store import Job, Made, verify_files, write_rows
from .batches import Plan
from .checkpoint import delete
from .conversations import conversation_plan
from .meters import last_loss
from .mixture import mixture_plan
from .processes import Processes, join_processes
from .recipe import TrainRecipe
from .trainer import RESUME, Run, run_training

LOG_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("lr", pa.float64()),
        ("grad_norm", pa.float64()),
        ("tokens", pa.int64()),
        ("skipped", pa.bool_()),
    ]
)
PARTS_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("sequences", pa.int64()),
        ("tokens", pa.int64()),
        ("documents", pa.int64()),
    ]
)
CONSUMED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("part", "corpus", "language", "source", "crawl")]
    + [("documents", pa.int64()), ("tokens", pa.int64())]
)


def train_model(job: Job[TrainRecipe]) -> Made:
    """Train a checkpoint by the recipe's objective; a run that was killed goes on from its last checkpoint.

    The same recipe and inputs give the same bytes; over several processes the last bits depend on their number, as sums are
    taken in another order. Where a launcher started several, each calls this with the same job; rank 0 writes. Raises
    RecipeError for inputs that do not fit together, CorruptInput for files that changed.
    """
    recipe = job.recipe
    parent = job.inputs[recipe.model]
    if not isinstance(parent.body, Checkpoint):
        raise RecipeError(str(recipe.ref), "model", f"{recipe.model} is not a checkpoint")
    verify_files(job.folder_of(recipe.model), parent)
    processes = join_processes(job.options.device)
    plan, consumed = _plan(job)
    if processes.rank == 0:
        _clear(job.folder)
    processes.barrier()
    trained = run_training(
        Run(
            recipe=recipe,
            plan=plan,
            model_folder=job.folder_of(recipe.model),
            folder=job.folder,
            processes=processes,
            show_progress=job.options.show_progress,
        )
    )
    tables = _write_tables(job.folder, trained.rows, plan, consumed, processes)
    body = Checkpoint(
        stage=recipe.objective,
        architecture=trained.architecture,
        parameters=trained.parameters,
        parents=(str(parent.ref),),
        step=len(trained.rows),
        tokens_seen=sum(row["tokens"] for row in trained.rows if not row["skipped"]),
        loss=last_loss(trained.rows),
    )
    return Made(body=body, tables=tables)


def _plan(job: Job[TrainRecipe]) -> tuple[Plan, list[dict[str, Any]]]:
    """The plan, and the rows of the table `consumed`."""
    from transformers import AutoConfig, AutoTokenizer

    recipe, folder = job.recipe, job.folder_of(job.recipe.model)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token_id is None:
        raise RecipeError(str(recipe.ref), "model", f"the tokenizer of {recipe.model} has no end token")
    length, key = recipe.sequence_length, "sequence_length"
    if recipe.objective == "cpt":
        body = job.inputs[recipe.mixture].body
        length, key = (body.sequence_length if isinstance(body, Mixture) else 0), "mixture"
    longest = AutoConfig.from_pretrained(folder).max_position_embeddings
    if length > longest:
        raise RecipeError(str(recipe.ref), key, f"has sequences of {length} tokens, {recipe.model} can take {longest}")
    if recipe.objective == "cpt":
        return mixture_plan(job, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return conversation_plan(job, tokenizer), []


def _clear(folder: Path) -> None:
    """Delete what a killed attempt left half written, but for its checkpoints."""
    for path in folder.iterdir():
        if path.name != RESUME:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_tables(
    folder: Path, rows: list[dict[str, Any]], plan: Plan, consumed: list[dict[str, Any]], processes: Processes
) -> dict[str, str]:
    """Write the side tables (rank 0) and delete the checkpoints, in this order; returns table to file name."""
    written = {"training_log": (rows, LOG_SCHEMA)}
    if plan.parts:
        written |= {"training_parts": (list(plan.parts), PARTS_SCHEMA), "consumed": (consumed, CONSUMED_SCHEMA)}
    files = {table: f"{table}.parquet" for table in written}
    if processes.rank == 0:
        for table, (content, schema) in written.items():
            write_rows(folder / files[table], content, schema)
        delete(folder / RESUME)
    processes.barrier()
    return files
