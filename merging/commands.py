"""What `sea-lion merge` does beside merging: plan, verify, convert."""

from __future__ import annotations

import argparse

from ..catalog.commands import existing
from ..catalog.errors import RecipeError, SeaLionError
from ..catalog.recipes import read_table, read_toml
from ..catalog.tables import write
from .recipe import MergeRecipe


def other_command(arguments: argparse.Namespace) -> int | None:
    """Do what the flags ask for in place of making the recipe; None when they ask for nothing else."""
    asked = [bool(arguments.plan), bool(arguments.verify), arguments.convert is not None]
    if sum(asked) > 1:
        raise SeaLionError("--plan, --verify and --convert: one at a time")
    if arguments.convert is not None:
        return convert_command(arguments)
    if arguments.verify:
        return verify_command(arguments)
    if arguments.model_config is not None and not arguments.plan:
        raise SeaLionError("--model-config is for --plan")
    if arguments.output is not None and not arguments.plan:
        raise SeaLionError("--output is for --plan and --convert: a merge goes to its place in the catalog")
    return plan_command(arguments) if arguments.plan else None


def plan_command(arguments: argparse.Namespace) -> int:
    """Check a recipe's models and print what the merge will do and need."""
    from .costs import threads
    from .plan import plan_merge, plan_rows, plan_unseen

    if arguments.recipe is None:
        raise SeaLionError("--plan: name a recipe")
    table = read_toml(arguments.recipe)
    if table.get("kind") != "merge":
        raise RecipeError(arguments.recipe, "kind", f"--plan is for recipes of kind 'merge', not {table.get('kind')!r}")
    recipe = read_table(table, MergeRecipe, arguments.recipe)
    if arguments.model_config is not None:
        plan = plan_unseen(recipe, table, arguments.model_config, threads=threads(arguments.workers))
    else:
        plan = plan_merge(recipe, table, existing(arguments.catalog), threads=threads(arguments.workers))
    columns, rows = plan_rows(plan)
    if arguments.format == "parquet":  # a column has one type
        rows = [(quantity, None if value is None else str(value), remark) for quantity, value, remark in rows]
    write(columns, rows, arguments.format, arguments.output)
    return 0


def verify_command(arguments: argparse.Namespace) -> int:
    """Merge tensors of a finished merge again, and compare."""
    from .verify import verify_merge

    if arguments.recipe is not None or arguments.tensors < 0:
        raise SeaLionError("--verify takes the reference of a merge, no recipe; --tensors is at least 0")
    store = existing(arguments.catalog)
    found = verify_merge(store, store.require(arguments.verify), arguments.tensors)
    print(f"{arguments.verify}: {found.tensors} of {found.of} tensors merged again ({found.elements:,} numbers), all bit-equal")
    return 0


def convert_command(arguments: argparse.Namespace) -> int:
    """Write a model's pickles as safetensors."""
    from .convert import convert_pickles

    if arguments.output is None or arguments.recipe is not None:
        raise SeaLionError("--convert takes --output FOLDER, and no recipe")
    convert_pickles(arguments.convert, arguments.output)
    print(arguments.output)
    return 0
