"""A merge as mergekit is told of it, and the checks that come before any output.

mergekit merges what does not fit together with at most a warning, and NaN without one; so the parents are compared here first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..catalog.errors import CorruptInput, SeaLionError
from ..catalog.fingerprint import difference, file_digest
from .methods import METHODS
from .recipe import MergeRecipe

log = logging.getLogger(__name__)

NOT_SHAPE = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Keys of `config.json` that may differ between models that fit together."""


def configuration(recipe: MergeRecipe, models: Sequence[Any]) -> dict[str, Any]:
    """mergekit's configuration with every setting resolved; `models` names the base and the parents, in this order."""
    method = METHODS[recipe.method]
    base, *parents = models
    table: dict[str, Any] = {"merge_method": method.mergekit}
    if method.takes_base:
        table["base_model"] = base
    table["models"] = [
        {"model": model, "parameters": method.per_parent(recipe, parent)}
        for model, parent in zip(parents, recipe.parents, strict=True)
    ]
    return table | {"parameters": method.shared(recipe), "dtype": recipe.dtype}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint; raises CorruptInput when there is none."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise CorruptInput(folder, "", "holds no *.safetensors file")
    return found


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a checkpoint, by name, read from the files' headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise CorruptInput(path, "", f"is not a whole safetensors file: {error}") from error
    return shapes


def check_finite(folder: Path, name: str) -> None:
    """Raise CorruptInput for the first tensor of a checkpoint that holds NaN or infinity; `name` is the message's."""
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(key)
                finite = torch.isfinite(tensor)
                if not finite.all():
                    raise CorruptInput(
                        name, key, f"{int((~finite).sum()):,} of {tensor.numel():,} elements are NaN or infinite"
                    )


def check_fit(folders: Mapping[str, Path]) -> None:
    """Raise SeaLionError, naming the difference, when models cannot be merged; the first of `folders` is the base.

    Architecture, tokenizer and the tensors' names and shapes must be equal. Other differences of the configurations (RoPE
    scaling, say) are logged: the base's configuration is what the merged model gets.
    """
    (base, base_folder), *others = folders.items()
    config, shapes = _config(base_folder), tensor_shapes(base_folder)
    tokenizer = file_digest(_tokenizer(base_folder))
    for name, folder in others:
        other = _config(folder)
        if other.get("architectures") != config.get("architectures"):
            raise _misfit(base, name, "architecture", _listed(config), _listed(other))
        if file_digest(_tokenizer(folder)) != tokenizer:
            raise _misfit(base, name, "tokenizer.json", tokenizer[:12], file_digest(_tokenizer(folder))[:12])
        _check_shapes(base, shapes, name, tensor_shapes(folder))
        changed = difference(_comparable(config), _comparable(other))
        if changed:
            log.warning("%s and %s differ in config.json, the base's is kept: %s", base, name, "; ".join(changed))


def _check_shapes(base: str, expected: Mapping[str, tuple[int, ...]], name: str, found: Mapping[str, tuple[int, ...]]) -> None:
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            shape, other = (str(list(table[key])) if key in table else "missing" for table in (expected, found))
            raise _misfit(base, name, f"tensor {key}", shape, other)


def _misfit(base: str, name: str, what: str, expected: str, found: str) -> SeaLionError:
    return SeaLionError(f"{name} cannot be merged onto {base}: {what} differs: {expected} in the base, {found} in {name}")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptInput(path, "", f"cannot be read as JSON: {error}") from error
    return config


def _tokenizer(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CorruptInput(path, "", "no such file; a checkpoint carries its tokenizer")
    return path


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_SHAPE}


def _listed(config: Mapping[str, Any]) -> str:
    return ", ".join(config.get("architectures") or ["none"])
