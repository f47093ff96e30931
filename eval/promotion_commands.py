"""`sea-lion promote` without a recipe: `--verify`, is all that a promotion rests on as it was; `--rollback`, back to before."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..catalog import index
from ..catalog.commands import existing
from ..catalog.errors import SeaLionError
from ..catalog.remote import store_at
from ..catalog.store import Options


def add_promote_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `sea-lion promote` that take no recipe."""
    group = parser.add_argument_group("without a recipe")
    group.add_argument("--verify", metavar="REF", help="compute every digest behind a promotion again; exit 1 if one differs")
    group.add_argument("--rollback", metavar="STAGE", help="move the stage's alias back; recorded as a promotion of its own")
    group.add_argument("--to", default="", metavar="REF", help="with --rollback: the model (default: the one before)")
    group.add_argument("--person", default="", help="with --rollback: who decides it")
    group.add_argument("--reason", default="", help="with --rollback: why")


def other_command(arguments: argparse.Namespace) -> int | None:
    """Do what the flags ask for in place of making a recipe; None when they ask for nothing else."""
    if not arguments.verify and not arguments.rollback:
        if arguments.recipe is None or arguments.to or arguments.person or arguments.reason:
            raise SeaLionError("promote a recipe, or --verify REF, or --rollback STAGE with --person and --reason")
        return None
    if arguments.recipe is not None or (arguments.verify and arguments.rollback):
        raise SeaLionError("a recipe, --verify REF or --rollback STAGE: one at a time")
    return _verify(arguments) if arguments.verify else _roll_back(arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from .promote import promotion, verify

    store = existing(arguments.catalog)
    artifact = store.require(arguments.verify)
    found = verify(store, artifact)
    roles = {evidence.artifact: evidence.role for evidence in promotion(artifact).evidence}
    for ref, problem in found.items():
        print(f"{problem or 'as recorded'}: {roles.get(ref, 'decision')} {ref}")
    wrong = [ref for ref, problem in found.items() if problem]
    print(f"{artifact.ref}: {len(found) - len(wrong)} of {len(found)} artifacts are as the promotion saw them")
    return 1 if wrong else 0


def _roll_back(arguments: argparse.Namespace) -> int:
    from .promote import promote, promotion, rollback_recipe

    existing(arguments.catalog)
    store = store_at(arguments.catalog)
    stage = arguments.rollback.removeprefix("stage:")
    recipe = rollback_recipe(store, stage, to=arguments.to, person=arguments.person, reason=arguments.reason)
    artifact = store.make(recipe, Path(), promote, Options())
    index.refresh(store)
    body = promotion(artifact)
    print(f"{artifact.ref}  {stage} is {body.model} again; {body.rolled_back} was taken back")
    return 0
