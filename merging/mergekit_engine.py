"""The mergekit engine: a recipe as mergekit is told of it, its settings checked against mergekit's own, and the run.

mergekit (an unmodified library, LGPL-3.0) is the engine for what works on whole tensors, and the reference that the streaming
engine is tested against. Nothing is left to its defaults: each is resolved here, so that the record says what was done; what it
would ignore, or refuse in the middle, is refused before it starts. It is imported inside the functions: that takes seconds.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..catalog.errors import RecipeError, SeaLionError
from .methods import METHODS, Values, ignored
from .parents import stored
from .recipe import MergeRecipe, Parent, Setting
from .union import write_union

BASE_MODEL = "base_model"
"""The one name under `settings` that is a key of mergekit's configuration instead of a parameter of its method."""

RANGES: dict[str, tuple[float, float]] = {
    "slerp.t": (0, 1), "t": (0, math.inf), "density": (0, 1), "gamma": (0, 1), "select_topk": (0, 1), "max_iter": (1, math.inf),
    "tol": (0, math.inf), "eps": (0, math.inf), "epsilon": (0, math.inf),
}  # fmt: skip
"""mergekit's parameters outside of whose range, ends included, it gives no model, or silently another one."""


def check_settings(recipe: MergeRecipe) -> None:
    """Raise RecipeError for a field or setting that the method does not have, one that it lacks, or a wrong number of parents.

    mergekit is imported only for the methods that it alone has.
    """
    method, where = METHODS[recipe.method], str(recipe.ref)
    for key, value in ignored(recipe):
        raise RecipeError(where, key, f"{recipe.method} has no such setting and would ignore {value}")
    given = len(recipe.parents)
    if given < method.fewest or (method.most is not None and given > method.most):
        wanted = f"exactly {method.most}" if method.fewest == method.most else f"at most {method.most}"
        wanted = wanted if method.most is not None else f"at least {method.fewest}"
        besides = " besides the base" if method.takes_base else ""
        raise RecipeError(where, "parents", f"{recipe.method} takes {wanted}{besides}, not {given}")
    shared, _ = _settings(recipe)
    if recipe.tokenizer == "union" and not (method.takes_base and shared.get(BASE_MODEL, True)):
        problem = f"a union begins with the base's tokenizer, and {recipe.method} leaves the base's embeddings out"
        raise RecipeError(where, "tokenizer", problem)


def configuration(recipe: MergeRecipe, models: Sequence[Any], *, dtype: str, layers: int = 0) -> dict[str, Any]:
    """mergekit's configuration of a recipe, of either engine, with every setting resolved.

    `models` names the base and the parents, in this order; `dtype` is the result's (`out_dtype`). `layers`, how many the
    models have, is needed where a parent has `layer_weights`. Raises RecipeError like `check_settings`.
    """
    method = METHODS[recipe.method]
    base, *parents = models
    shared, own = _settings(recipe)
    has_base = method.takes_base and shared.pop(BASE_MODEL, True)
    table: dict[str, Any] = {"merge_method": method.mergekit}
    if has_base:
        table[BASE_MODEL] = base
    table["models"] = [
        {"model": model, "parameters": _by_layer(parent, method.per_parent(recipe, parent), layers) | settings}
        for model, parent, settings in zip(parents, recipe.parents, own, strict=True)
    ]
    table |= {"parameters": method.shared(recipe) | shared, "dtype": "float32", "out_dtype": dtype}
    return table | ({"tokenizer": {"source": "union"}} if recipe.tokenizer == "union" else {})


def out_dtype(recipe: MergeRecipe, base: Path) -> str:
    """The dtype of the result, as torch calls it; under `dtype = "base"` the one that the base's weights are stored in.

    A base that mixes dtypes keeps them under the streaming engine (the commonest is returned); mergekit writes one: raises
    SeaLionError.
    """
    if recipe.dtype != "base":
        return recipe.dtype
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in stored(base).values())
    if len(counts) > 1 and recipe.engine == "mergekit":
        raise SeaLionError(
            f"{recipe.ref}: {recipe.base} holds {' and '.join(sorted(counts))}, but mergekit writes one dtype: say which, "
            'for instance dtype = "bfloat16"'
        )
    return counts.most_common(1)[0][0]


def run_mergekit(recipe: MergeRecipe, folders: Sequence[Path], scratch: Path, show_progress: bool) -> Path:
    """Merge the base and the parents in `folders`, in this order, below `scratch`; returns the folder with the weights.

    It also holds mergekit's `config.json`; under `tokenizer = "union"` that has the vocabulary's new size, and the tokenizer's
    files lie beside it. Raises RecipeError like `check_settings`, and SeaLionError with mergekit's reason when it gives up.
    """
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    from .plugin import OrderedConfiguration, register_methods

    check_settings(recipe)
    register_methods()
    scratch.mkdir(parents=True, exist_ok=True)
    links = [scratch / f"model-{i:04}" for i in range(len(folders))]
    # mergekit tells inputs apart by path, and two parents may be one model; in a text it reads `@` as revision, `+` as adapter.
    for link, folder in zip(links, folders, strict=True):
        link.symlink_to(folder.resolve(), target_is_directory=True)
    named = [{"model": {"path": str(link)}} for link in links]
    table = configuration(recipe, named, dtype=out_dtype(recipe, folders[0]))
    if recipe.tokenizer == "union":
        refs = [recipe.base, *(parent.model for parent in recipe.parents)]
        write_union(folders, refs, scratch / "tokenizer")
        table["tokenizer"] = {"source": {"model": {"path": str(scratch / "tokenizer")}}}
    output = scratch / "merged"
    options = MergeOptions(
        device="cpu",
        random_seed=recipe.seed,
        copy_tokenizer=False,
        write_model_card=False,
        trust_remote_code=False,
        quiet=not show_progress,
    )
    with _own_randomness():
        try:
            run_merge(OrderedConfiguration.model_validate(table), str(output), options)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise SeaLionError(f"{recipe.ref}: mergekit {mergekit_version()} cannot merge these models: {reason}") from error
    return output


def mergekit_version() -> str:
    """The installed mergekit's; asking does not import it."""
    return version("mergekit")


def _settings(recipe: MergeRecipe) -> tuple[Values, list[Values]]:
    """`settings` of the merge and of each parent, with mergekit's defaults; none for methods that have fields of their own."""
    parents: list[Values] = [{} for _ in recipe.parents]
    if recipe.engine == "streaming":
        return {}, parents
    from mergekit.merge_methods import get

    from .plugin import register_methods

    register_methods()
    method, where = METHODS[recipe.method], str(recipe.ref)
    given = dict(recipe.settings)
    shared: Values = {}
    if method.base_optional:
        shared[BASE_MODEL] = _checked(bool, given.pop(BASE_MODEL, True), where, f"settings.{BASE_MODEL}")
    ours = {**method.shared_fields, **method.parent_fields, **method.fixed}
    specs = {spec.name: spec for spec in get(method.mergekit).spec.parameters if spec.name not in ours}
    whole = {spec.name for spec in specs.values() if spec.scope.value == "shared"}
    for i, parent in enumerate(recipe.parents):
        for key in parent.settings:
            if key in whole:
                raise RecipeError(
                    where, f"parents.{i}.settings.{key}", "is a setting of the whole merge: put it under [settings]"
                )
        _check_names(recipe, parent.settings, specs, f"parents.{i}.settings")
    _check_names(recipe, given, specs, "settings")
    for name, spec in specs.items():
        if name in whole:
            shared[name] = _value(recipe.method, spec, given, {}, where, "settings")
            continue
        for i, parent in enumerate(recipe.parents):
            parents[i][name] = _value(recipe.method, spec, parent.settings, given, where, f"parents.{i}.settings")
    return shared, parents


def _check_names(recipe: MergeRecipe, given: Mapping[str, Setting], specs: Mapping[str, Any], key: str) -> None:
    method = METHODS[recipe.method]
    fields = {**method.shared_fields, **method.parent_fields}
    for name in given:
        if name in fields:
            raise RecipeError(str(recipe.ref), f"{key}.{name}", f"is a field of the recipe itself: {fields[name]}")
        if name not in specs:
            near = get_close_matches(name, specs, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else "; it has none"
            raise RecipeError(str(recipe.ref), f"{key}.{name}", f"mergekit's {recipe.method} has no such setting{hint}")


def _value(method: str, spec: Any, given: Mapping[str, Setting], otherwise: Mapping[str, Setting], where: str, key: str) -> Any:
    """The value of one of mergekit's parameters: the first that is given, or its default."""
    for table, place in ((given, key), (otherwise, "settings")):
        if spec.name in table:
            value = _checked(spec.value_type, table[spec.name], where, f"{place}.{spec.name}")
            low, high = RANGES.get(f"{method}.{spec.name}", RANGES.get(spec.name, (-math.inf, math.inf)))
            if not low <= value <= high:
                wanted = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
                raise RecipeError(where, f"{place}.{spec.name}", f"must be {wanted}, not {value:g}")
            return value
    if spec.required:
        raise RecipeError(where, f"{key}.{spec.name}", "is required by this method, mergekit has no default for it")
    return spec.validate(spec.default)


def _checked(kind: Any, value: Setting, where: str, key: str) -> Setting:
    """The value as mergekit's type; True is no number and 0.5 no whole one, whatever mergekit would make of them."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        wanted = {bool: "true or false", int: "a whole number", float: "a finite number"}[kind]
        raise RecipeError(where, key, f"must be {wanted}, not {str(value).lower()}")
    return value


def _by_layer(parent: Parent, values: Values, layers: int) -> Values:
    """With `layer_weights`, the weight of each layer by its tensors' names, then that of all else."""
    if not parent.layer_weights:
        return values
    if not layers:
        raise ValueError("layer_weights need the number of layers")
    by_name: list[dict[str, Any]] = [
        {"filter": f"layers.{layer}.", "value": parent.weight_at(layer, layers)} for layer in range(layers)
    ]
    return values | {"weight": [*by_name, {"value": parent.weight}]}


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Give the process its random states back: mergekit sows all of them with the recipe's seed."""
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)
