"""The tables of a merge, made up."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]


def figures(models: list[str], layers: int = 3) -> dict[str, Rows]:
    """What a merge did to the weights, as the engine's meters would have it."""
    tables: dict[str, Rows] = {"merge_tensors": [], "merge_parents": [], "merge_pairs": []}
    names = [
        f"model.layers.{i}.{part}" for i in range(layers) for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
    ]
    for name in ["model.embed_tokens", *names, "model.norm", "lm_head"]:
        layer = int(name.split(".")[2]) if "layers" in name else None
        place = {"tensor": f"{name}.weight", "layer": layer, "part": name.rpartition(".")[2]}
        own = {"elements": 4096, "dtype": "BF16", "file": "model.safetensors", "xxh3_128": "0" * 32}
        tables["merge_tensors"].append(place | own | {"base_norm": 10.0, "merged_norm": 0.2, "sign_conflict": 0.25})
        tables["merge_parents"] += [
            place
            | {"parent": i + 1, "model": model, "weight": 1.0, "norm": 0.3 - 0.1 * i, "changed": 1.0, "kept": 0.8 - 0.1 * i}
            for i, model in enumerate(models)
        ]
        tables["merge_pairs"] += [
            place | {"one": i + 1, "other": j + 1, "cosine": 0.5 - 0.2 * i, "overlap": 0.6}
            for j in range(len(models)) for i in range(j)
        ]  # fmt: skip
    return tables
