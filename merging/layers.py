"""Which layer of a model a tensor belongs to, by the names that transformers gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def layer_of(tensor: str) -> int | None:
    """The number of the layer that a tensor is in, from 0; None outside of the layers.

    >>> layer_of("model.layers.11.mlp.up_proj.weight"), layer_of("lm_head.weight")
    (11, None)
    """
    found = _LAYER.search(tensor)
    return int(found[1]) if found else None


def layer_count(config: Mapping[str, Any], tensors: Iterable[str]) -> int:
    """How many layers a model has, by its configuration or else by its tensors' names."""
    if "num_hidden_layers" in config:
        return int(config["num_hidden_layers"])
    return 1 + max((layer_of(name) or 0 for name in tensors), default=0)
