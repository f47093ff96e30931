"""LoRA adapters in peft's format: what one changes in which tensor of a model, by its configuration and its file's header.

Here, because training imports adapters and merging adds them to a model, and neither may import the other. No tensor's values
are read, and `base_model_name_or_path` is not believed: an adapter belongs to the parent that its record names.
Refused is what would give another model than peft's if it were passed over: a setting that is not known, an initialisation that
changes the model under the adapter (PiSSA, OLoRA), an adapter of an embedding that is the head as well. Rank and
factor are peft's, https://arxiv.org/abs/2106.09685 and, for `use_rslora`, https://arxiv.org/abs/2312.03732.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CorruptInput, SeaLionError
from .files import read_json
from .records import Artifact, Checkpoint

if TYPE_CHECKING:
    from .store import Store

SETTINGS, FILE, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
"""What peft puts before the name of each tensor."""
HEAD, EMBEDDINGS = "lm_head.weight", ("embed_tokens.weight", "wte.weight")
FLOATS = ("F32", "BF16", "F16")
READ = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias"})
"""Settings that are obeyed."""
INERT = frozenset({
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "megatron_core", "modules_to_save", "peft_version",
    "qalora_group_size", "revision", "target_modules", "task_type",
})  # fmt: skip
"""Settings that say nothing that the names of the tensors do not say, or nothing about the trained model. Of any other
setting only the value that means "not used" is let through."""
KINDS = {"use_dora": "DoRA", "trainable_token_indices": "trained tokens", "lora_bias": "a bias of its own"}
"""Refused settings in words."""
HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the model under the adapter as it is."""
CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")
"""Modules of GPT-2 that store their weight as (in, out)."""
PATTERN = re.compile(r"[^*+{?]*(?:[*+{?][^*+{?]*){0,4}")
"""Of `rank_pattern` and `alpha_pattern`, which are regular expressions of a stranger's: few repetitions, none of a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an adapter does to one tensor: `(replaced or what the model has) + scaling * (B @ A)`."""

    replaced: str = ""
    """Name, in the adapter's file, of a tensor that stands in place of the model's; empty: none does."""
    a: str = ""
    """Name of the pair's `lora_A` (rank, in), or `lora_embedding_A` (rank, vocabulary); empty: there is no pair."""
    b: str = ""
    """Name of its `lora_B`, (out, rank)."""
    scaling: float = 0.0
    """Factor on the product."""
    is_transposed: bool = False
    """Whether the model stores the product's transpose: embeddings, and the layers of `fan_in_fan_out`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter's configuration and the header of its file."""

    file: Path
    """Its `adapter_model.safetensors`."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors in the file, by their names there."""
    changes: Mapping[str, Change]
    """By the name of the model's tensor."""

    @property
    def parameters(self) -> int:
        """Numbers in its file."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def check_whole(artifact: Artifact) -> None:
    """Raise SeaLionError for a checkpoint that is an adapter: only merging takes one."""
    if isinstance(artifact.body, Checkpoint) and artifact.body.adapter_of:
        under = artifact.body.adapter_of
        raise SeaLionError(
            f"{artifact.ref} is a LoRA adapter of {under}, no whole model: merge it into {under} (sea-lion merge)"
        )


def adapted(store: Store, artifact: Artifact) -> tuple[Artifact, ...]:
    """A checkpoint and what lies under it: the whole model first, then the adapters, each on the one before it."""
    stack = [artifact]
    while isinstance(stack[0].body, Checkpoint) and stack[0].body.adapter_of:
        stack.insert(0, store.require(stack[0].body.adapter_of))
    return tuple(stack)


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder; raises CorruptInput for anything but a LoRA adapter of which all settings are known."""
    settings = _settings(folder)
    file = folder / FILE
    if not file.is_file():
        has_pickle = (folder / PICKLE).is_file()
        raise CorruptInput(
            folder, PICKLE if has_pickle else FILE,
            "a pickle can run code when it is read: save the adapter as safetensors" if has_pickle else "is missing",
        )  # fmt: skip
    shapes = _shapes(file)
    if not shapes:
        raise CorruptInput(file, "", "holds no tensors")
    return Adapter(file=file, shapes=shapes, changes=_changes(file, shapes, settings))


def check_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], *, is_tied: bool) -> None:
    """Raise CorruptInput where an adapter does not fit a model of tensors with these shapes; its rank and its model's own.

    `is_tied` says that the head is the embedding: then what changes the one would have to change the other.
    """
    for name, change in sorted(adapter.changes.items()):
        given = change.replaced or change.a
        if is_tied and (name == HEAD or name.endswith(EMBEDDINGS)):
            raise CorruptInput(
                adapter.file,
                given,
                "changes an embedding that is the head as well: run and merged by peft it is two models",
            )
        if name not in shapes:
            raise CorruptInput(adapter.file, given, f"belongs to nothing: the model has no tensor {name}")
        wanted = shapes[name]
        found = _result_shape(adapter, change)
        if change.replaced and change.a and adapter.shapes[change.replaced] != found:
            raise CorruptInput(adapter.file, given, f"has shape {adapter.shapes[given]}, its pair makes {found}")
        if found != wanted:
            is_grown = name.endswith((HEAD, *EMBEDDINGS)) and found[1:] == wanted[1:]
            hint = ": new rows of a vocabulary are not merged" if is_grown else ""
            raise CorruptInput(adapter.file, given, f"makes a tensor of shape {found}, {name} is {wanted}{hint}")


def _result_shape(adapter: Adapter, change: Change) -> tuple[int, ...]:
    if not change.a:
        return adapter.shapes[change.replaced]
    made = adapter.shapes[change.b][0], adapter.shapes[change.a][1]
    return made[::-1] if change.is_transposed else made


def _settings(folder: Path) -> dict[str, Any]:
    """The configuration, every setting of it known."""
    settings = read_json(folder / SETTINGS)
    if not isinstance(settings.get("peft_type"), str):
        raise CorruptInput(folder / SETTINGS, "peft_type", "is missing: this is no adapter of peft's")
    if settings["peft_type"] != "LORA":
        raise CorruptInput(folder / SETTINGS, "peft_type", f"is {settings['peft_type']}; only LORA can be merged")
    start = settings.pop("init_lora_weights", True)
    if start not in HARMLESS_STARTS:
        problem = f"{start!r} changes the model under the adapter; save it with path_initial_model_for_weight_conversion"
        raise CorruptInput(folder / SETTINGS, "init_lora_weights", problem)
    for key in sorted(settings.keys() - READ - INERT):
        if settings[key]:
            what = f"is used ({KINDS[key]})" if key in KINDS else f"is {str(settings[key])[:80]!r}"
            raise CorruptInput(folder / SETTINGS, key, f"{what}, which cannot be merged here; merge it with peft")
    _check_values(folder / SETTINGS, settings)
    return settings


def _check_values(file: Path, settings: Mapping[str, Any]) -> None:
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(settings.get(key) or {}, dict):
            raise CorruptInput(file, key, "is no table")
        for pattern in settings.get(key) or {}:
            try:
                is_plain = PATTERN.fullmatch(pattern) and not re.search(r"\)[*+{?]", pattern) and re.compile(pattern)
            except re.error:
                is_plain = None
            if not is_plain:
                raise CorruptInput(file, key, f"{pattern!r} is no pattern of a few names")
    ranks = [settings.get("r", 8), *(settings.get("rank_pattern") or {}).values()]
    for rank in ranks:
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise CorruptInput(file, "r", f"a rank is a whole number of at least 1, not {rank!r}")
    for alpha in (settings.get("lora_alpha", 8), *(settings.get("alpha_pattern") or {}).values()):
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            raise CorruptInput(file, "lora_alpha", f"must be a finite number, not {alpha!r}")
    for key in ("use_rslora", "fan_in_fan_out"):
        if not isinstance(settings.get(key) or False, bool):
            raise CorruptInput(file, key, f"must be true or false, not {settings[key]!r}")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    shapes = {}
    try:
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                part = opened.get_slice(name)
                if part.get_dtype() not in FLOATS:
                    raise CorruptInput(
                        file, name, f"is of type {part.get_dtype()}; an adapter's tensors are {', '.join(FLOATS)}"
                    )
                shapes[str(name)] = tuple(part.get_shape())
    except (SafetensorError, OSError) as error:
        raise CorruptInput(file, "", f"is not a whole safetensors file: {str(error).splitlines()[0]}") from error
    return shapes


def _changes(file: Path, shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]) -> dict[str, Change]:
    """What each tensor of the file is for; a pair is read at its A."""
    changes: dict[str, Change] = {}
    for name in sorted(shapes):
        if not name.startswith(PREFIX):
            raise CorruptInput(file, name, f"belongs to nothing: peft's names begin with {PREFIX}")
        place = name.removeprefix(PREFIX)
        module, _, end = place.rpartition(".lora_")
        if module:
            a, b = (f"{PREFIX}{module}.lora_{other}" for other in _pair(file, name, end))
            for half, missing in ((a, b), (b, a)):
                if half not in shapes:
                    raise CorruptInput(file, missing, f"has no {half} beside it")
            if name == a:
                kept = changes.get(f"{module}.weight", Change()).replaced
                changes[f"{module}.weight"] = replace(_low_rank(file, module, (a, b), shapes, settings), replaced=kept)
        elif "trainable_tokens" in place:
            raise CorruptInput(file, name, "holds trained tokens, which cannot be merged here; merge it with peft")
        elif place.endswith(".bias") and settings.get("bias", "none") != "none":
            raise CorruptInput(file, name, f"is a bias that was trained (bias = {settings['bias']!r}); merge it with peft")
        else:  # before a pair of the same module, by the order of their names
            target = place.replace(".base_layer.", ".")
            if target in changes:
                raise CorruptInput(file, name, f"changes {target}, which another tensor of this file changes too")
            changes[target] = Change(replaced=name)
    return changes


def _pair(file: Path, name: str, end: str) -> tuple[str, str]:
    for a, b in (("A.weight", "B.weight"), ("embedding_A", "embedding_B")):
        if end in (a, b):
            return a, b
    raise CorruptInput(file, name, "belongs to nothing that is known of LoRA; merge it with peft")


def _low_rank(
    file: Path,
    module: str,
    names: tuple[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, Any],
) -> Change:
    (a, b), is_embedding = names, names[0].endswith("embedding_A")
    for name in names:
        if len(shapes[name]) != 2:
            raise CorruptInput(
                file, name, f"has shape {shapes[name]}; only matrices of linear layers and embeddings are merged"
            )
    rank = _by_pattern(settings.get("rank_pattern") or {}, module, settings.get("r", 8))
    if (shapes[a][0], shapes[b][1]) != (rank, rank):
        raise CorruptInput(file, a, f"and its lora_B have ranks {shapes[a][0]} and {shapes[b][1]}, {SETTINGS} says {rank}")
    is_turned = bool(settings.get("fan_in_fan_out")) and not is_embedding
    if is_turned and module.rpartition(".")[2] not in CONV1D:
        raise CorruptInput(file, a, f"is of a linear layer; fan_in_fan_out is for those of GPT-2 ({', '.join(CONV1D)})")
    alpha = _by_pattern(settings.get("alpha_pattern") or {}, module, settings.get("lora_alpha", 8))
    scaling = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    return Change(a=a, b=b, scaling=float(scaling), is_transposed=is_embedding or is_turned)


def _by_pattern(table: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that the end of a module's name matches, as in peft."""
    return next((value for key, value in table.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)


def tied_head(config: Mapping[str, Any], tensors: Collection[str]) -> bool:
    """Whether the head of a model is its embedding, by its `config.json` and the names of its stored tensors."""
    return bool(config.get("tie_word_embeddings")) or HEAD not in tensors
