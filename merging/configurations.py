"""What the configurations of two models say about the computation, and where they differ.

Releases of transformers spell one configuration in several ways (`torch_dtype` or `dtype`, `rope_theta` beside `rope_scaling`
or both in `rope_parameters`, defaults left out or written), so that texts cannot be compared; each is read by transformers'
own class first. What that class does not declare cannot change what its model computes. A list of the keys that matter was
refused: it would not know the next architecture's.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..catalog.errors import CorruptInput
from ..catalog.files import read_json
from ..catalog.fingerprint import difference

CONFIG = "config.json"
UNSAID = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "model_type", "return_dict")
"""Keys whose difference is not worth a word: compared elsewhere, or of the file and not of the model."""
HARMLESS = (
    "use_cache", "initializer_range", "output_hidden_states", "output_attentions", "id2label", "label2id", "problem_type",
    "chunk_size_feed_forward", "cache_implementation", "pretraining_tp",
)  # fmt: skip
"""Keys that do not change what a trained model computes of given tokens."""
HARMLESS_ENDS = ("_token_id", "dropout", "_pdrop")
"""How such keys end."""
LENGTH = "max_position_embeddings"
FIXED_ROPE = ("default", "linear", "llama3", "proportional")
"""Kinds of RoPE that do not ask how long the longest text is."""
Declared = tuple[dict[str, Any], dict[str, Any]]
"""A configuration as transformers' class reads it, and what that class does not declare."""
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """A model's `config.json`; raises CorruptInput for one that asks for code of its own, or is of a quantised model."""
    config = read_json(folder / CONFIG)
    check_plain(config, name)
    return config


def check_plain(config: Mapping[str, Any], name: str) -> None:
    """Raise CorruptInput for a configuration whose weights cannot be merged as numbers, or not without foreign code."""
    if config.get("auto_map"):
        raise CorruptInput(name, CONFIG, "asks for code of its own (auto_map), which is not run: use a class of transformers")
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise CorruptInput(name, CONFIG, f"architectures is a list of names, not {str(named)[:80]!r}")
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise CorruptInput(
            name, CONFIG, f"is of a quantised model ({method}), whose numbers cannot be merged: merge the original"
        )


def declared(config: Mapping[str, Any], name: str) -> Declared:
    """What a configuration says as transformers' class of its kind reads it, and what that class does not declare.

    Raises CorruptInput for a kind that transformers does not know, and for values its class refuses.
    """
    from transformers import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise CorruptInput(name, CONFIG, f"model_type {kind!r} is not known to the installed transformers")
    try:
        table = CONFIG_MAPPING[kind].from_dict(copy.deepcopy(dict(config))).to_dict()
        known = CONFIG_MAPPING[kind]().to_dict().keys()
    except Exception as error:  # the classes raise what they like
        raise CorruptInput(
            name, CONFIG, f"is no configuration of transformers: {' '.join(str(error).split())[:200]}"
        ) from error
    rope = table.get("rope_parameters")
    if isinstance(rope, dict):
        table["rope_parameters"] = {key: value for key, value in rope.items() if key != "type"}
    table = json.loads(json.dumps(table, default=str))
    return {key: table[key] for key in table if key in known}, {key: table[key] for key in table if key not in known}


def changes(base: Declared, other: Declared) -> tuple[list[str], list[str]]:
    """Differences, as `key: base's -> other's`: those that change the computation, and the others."""
    telling, harmless = list[str](), list[str]()
    for key in sorted((base[0].keys() | other[0].keys()) - {*UNSAID}):
        found = difference(base[0].get(key), other[0].get(key), key)
        (harmless if _is_harmless(key, base[0], other[0]) else telling).extend(found)
    for key in sorted((base[1].keys() | other[1].keys()) - {*UNSAID}):
        harmless += difference(base[1].get(key), other[1].get(key), key)
    return telling, harmless


def _is_harmless(key: str, *tables: Mapping[str, Any]) -> bool:
    if key == LENGTH:
        return all(_rope_kinds(table) <= {*FIXED_ROPE} for table in tables)
    return key in HARMLESS or key.endswith(HARMLESS_ENDS)


def _rope_kinds(table: Mapping[str, Any]) -> set[str]:
    """Kinds of RoPE in a configuration; some have one for each kind of layer."""
    rope = table.get("rope_parameters")
    if not isinstance(rope, dict):
        return {"unknown"}
    nested: Sequence[Any] = [value for value in rope.values() if isinstance(value, dict)]
    return {str(part.get("rope_type", "default")) for part in nested or [rope]}


def is_tied(table: Mapping[str, Any]) -> bool:
    """Whether the output layer is the embedding, by a table that `declared` gives."""
    return bool(table.get("tie_word_embeddings"))
