"""Every setting of a merge with its value and where that comes from: the recipe, a default, an assumption of its author.

What a source (a paper, a model's card) does not say stands in the recipe all the same, with the reason under `assumed`; so a
reader of the plan sees which values are known and which are guesses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..catalog.errors import RecipeError
from .layers import layer_count
from .methods import METHODS, NEUTRAL, ignored, unusable
from .recipe import PRUNING, MergeRecipe, StreamedMethod

SHOWN_APART = ("kind", "name", "version", "description", "licence", "assumed", "base", "parents", "settings")
"""Fields of a recipe that are no settings of the merge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of a merge, resolved."""

    name: str
    """Key path in the recipe."""
    value: Any
    """In this merge."""
    origin: str
    """`recipe`, whose default it is, or `assumed: ` with the reason; mergekit's name; whether it says anything here."""


def settings_of(recipe: MergeRecipe, table: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Every setting of a recipe; `table` is the recipe as its file has it.

    Raises RecipeError for a setting that the method would ignore, that it lacks or cannot use.
    """
    for key, value in ignored(recipe):
        raise RecipeError(str(recipe.ref), key, f"{recipe.method} has no such setting and would ignore {value}")
    for key, problem in unusable(recipe):
        raise RecipeError(str(recipe.ref), key, problem)
    return (*_of_the_merge(recipe, table), *_of_the_parents(recipe, table), *_of_mergekit(recipe))


def check_groups(recipe: MergeRecipe, tensors: Iterable[str]) -> None:
    """Raise RecipeError for more groups of layers than a model of these tensors has layers: a weight would go unused."""
    layers = layer_count({}, tensors)
    for i, parent in enumerate(recipe.parents):
        if len(parent.layer_weights) > layers:
            problem = f"are {len(parent.layer_weights)}, the model has only {layers} layers"
            raise RecipeError(str(recipe.ref), f"parents.{i}.layer_weights", problem)


def is_streamed(recipe: MergeRecipe) -> bool:
    """Whether the platform has the method itself, whichever engine runs it."""
    return recipe.method in StreamedMethod.__args__  # type: ignore[attr-defined]


def _of_the_merge(recipe: MergeRecipe, table: Mapping[str, Any]) -> Iterator[Setting]:
    method = METHODS[recipe.method]
    taken = {*method.shared_fields.values(), *method.parent_fields.values()}
    theirs = {ours: name for name, ours in method.shared_fields.items() if name != ours}
    for each in dataclasses.fields(recipe):
        if each.name in SHOWN_APART or (each.name in NEUTRAL and each.name not in taken):
            continue
        default = f"default of {recipe.method}" if each.default is None else "default"
        called = f"; mergekit's {theirs[each.name]}" if each.name in theirs else ""
        origin = _origin(recipe, table, each.name, default) + called + _idle(recipe, each.name)
        yield Setting(name=each.name, value=getattr(recipe, each.name), origin=origin)


def _of_the_parents(recipe: MergeRecipe, table: Mapping[str, Any]) -> Iterator[Setting]:
    taken, written = METHODS[recipe.method].parent_fields.values(), list(table.get("parents", []))
    for i, parent in enumerate(recipe.parents):
        given = written[i] if i < len(written) else {}
        for name in ("weight", "density", "layer_weights"):
            if name in taken or (name == "layer_weights" and parent.layer_weights):
                key = f"parents.{i}.{name}"
                yield Setting(name=key, value=getattr(parent, name), origin=_origin(recipe, given, name, "default", key))


def _of_mergekit(recipe: MergeRecipe) -> Iterator[Setting]:
    """Settings by mergekit's names, of the methods that it alone has, with its defaults."""
    if is_streamed(recipe):
        return
    from .mergekit_engine import check_settings, configuration

    check_settings(recipe)
    table = configuration(recipe, [recipe.base, *(parent.model for parent in recipe.parents)], dtype="float32")
    places = [("settings", recipe.settings, table["parameters"])]
    for i, (parent, model) in enumerate(zip(recipe.parents, table["models"], strict=True)):
        places.append((f"parents.{i}.settings", recipe.settings | parent.settings, model["parameters"]))
    method = METHODS[recipe.method]
    for place, given, resolved in places:
        for name in sorted(resolved.keys() - method.shared_fields.keys() - method.parent_fields.keys()):
            origin = _origin(recipe, given, name, "mergekit's default", f"{place}.{name}")
            yield Setting(name=f"{place}.{name}", value=resolved[name], origin=origin)


def _origin(recipe: MergeRecipe, table: Mapping[str, Any], name: str, default: str, key: str = "") -> str:
    reason = recipe.assumed.get(key or name)
    if reason is not None:
        return f"assumed: {reason}"
    return "recipe" if name in table else default


def _idle(recipe: MergeRecipe, name: str) -> str:
    """Why a setting says nothing in this merge; empty when it does."""
    pruned = PRUNING.get(recipe.method) if any(parent.density < 1 for parent in recipe.parents) else None
    if name in ("rescale", "epsilon") and pruned is None and recipe.method in PRUNING:
        return "; says nothing at density 1"
    if name == "seed" and pruned in (None, "magnitude") and is_streamed(recipe):
        return "; says nothing, as nothing is random"
    return ""
