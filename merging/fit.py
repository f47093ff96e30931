"""Whether models can be merged: compared before a byte is written, each refusal one line with both values and what to do.

mergekit merges what does not fit together with at most a warning. Here nothing is guessed: the result has the base's
architecture, tensors and configuration; a difference is refused, or named in the notes, or stated as meant in the recipe
(`may_differ`). Weights are not read, but for a tied model that stores its output layer although the embedding stands for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..catalog.errors import CorruptInput, SeaLionError
from ..catalog.licences import NOASSERTION, combined_licence, keys, licence_of
from .configurations import TOKEN_IDS, changes, declared, is_tied
from .contract import Source, Stored
from .recipe import MergeRecipe
from .settings import check_groups
from .vocabulary import chat_template, read_vocabulary, tokenizer_differences

HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
"""How the name of the tensor ends that has a row for each token."""
COMPUTED = ".rotary_emb.inv_freq"
"""How a tensor's name ends that old checkpoints store and transformers computes."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
WEIGHTS = (".safetensors", "adapter_config.json")
"""How the names of the files end that two equal models share."""
COMPARED = 1 << 20
"""Bytes of two tensors that are compared at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as the comparison sees it."""

    name: str
    """As messages call it."""
    folder: Path
    """With its `config.json`."""
    tokenizer: Path
    """Folder with its tokenizer: an adapter may have its own."""
    config: Mapping[str, Any]
    """Its `config.json`."""
    tensors: Mapping[str, Stored]
    """Where its tensors lie."""
    licence: str = ""
    """SPDX expression."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """File, of the model or of an adapter over it, to sha256 by its record; by them equal models are known."""
    held: int = 0
    """Bytes of adapters, which are held in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a merge of models that fit together takes from where."""

    names: tuple[str, ...]
    """The tensors to merge, in the base's order."""
    left_out: tuple[str, ...]
    """Tensors of the base that the result needs not store."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors to merge."""
    architecture: str
    """transformers' class name."""
    is_tied: bool
    """Whether the output layer is the embedding."""
    tokenizer_from: str
    """Name of the model whose tokenizer, chat template and generation settings the result takes; `union`: mergekit's."""
    template: str
    """The length of its chat template in words, empty when it has none."""
    tokenizer_folder: Path
    """Where the tokenizer's files and the chat template are copied from; under `union` the base's."""
    generation_folder: Path | None
    """Where `generation_config.json` is copied from; None when that model has none."""
    token_ids: Mapping[str, Any]
    """Of that model's `config.json`, to be put into the result's; empty when it is the base."""
    licence: str
    """Of the result."""
    notes: tuple[str, ...]
    """Differences that do not stand in the way."""
    warnings: tuple[str, ...]
    """What is probably not meant."""

    @property
    def parameters(self) -> int:
        """Numbers in the result."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())


class Part:
    """A `Source` with only the named tensors of another: what the streaming engine is to merge."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self.source = source
        self.tensors: Mapping[str, Stored] = {name: source.tensors[name] for name in names}

    def read(self, name: str, start: int, out_C: torch.Tensor) -> None:
        """As the source does."""
        self.source.read(name, start, out_C)


def compare(recipe: MergeRecipe, models: Sequence[Model]) -> Fit:
    """Compare the base, which is the first of `models`, with the recipe's parents.

    Raises SeaLionError, in one line, for models that cannot be merged as the recipe says. Each model is compared once, however
    often the recipe names it.
    """
    base, *parents = models
    others = list({model.name: model for model in parents if model.name != base.name}.values())
    notes = list[str]()
    for model in models:
        if model.held and recipe.engine == "mergekit":
            raise SeaLionError(
                f'{model.name} is a LoRA adapter, which engine = "streaming" merges; mergekit is given whole models'
            )
    tables = {model.name: declared(model.config, model.name) for model in (base, *others)}
    tied = is_tied(tables[base.name][0])
    kept = _kept(base, tied)
    check_groups(recipe, kept)
    for other in others:
        _check_architecture(base, other)
        _check_tie(base, other, tied, is_tied(tables[other.name][0]))
        _check_tensors(base, other, kept, tied, is_union=recipe.tokenizer == "union")
        telling, harmless = changes(tables[base.name], tables[other.name])
        if telling and "config" not in recipe.may_differ:
            raise _misfit(
                base, other, f'config.json differs in the computation ({"; ".join(telling)}, base -> {other.name}): '
                'if that is meant, say may_differ = ["config"], and the base\'s is kept',
            )  # fmt: skip
        if telling or harmless:
            notes.append(f"{other.name}: config.json differs, the base's is kept: {'; '.join(telling + harmless)}")
    notes += _tokenizer_notes(recipe, base, others)
    source = base if recipe.tokenizer in ("base", "union") else models[1 + _place(recipe)]
    _check_rows(base, source, kept)
    template, said, warned = _template(recipe, models, source)
    licence = combined_licence(recipe.licence, [model.licence or NOASSERTION for model in (base, *others)])
    return Fit(
        names=tuple(kept),
        left_out=tuple(name for name in base.tensors if name not in kept),
        shapes={name: base.tensors[name].shape for name in kept},
        architecture=_architecture(base),
        is_tied=tied,
        tokenizer_from="union" if recipe.tokenizer == "union" else source.name,
        template=template,
        tokenizer_folder=source.tokenizer,
        generation_folder=source.folder if (source.folder / "generation_config.json").is_file() else None,
        token_ids={} if source is base else {key: source.config[key] for key in TOKEN_IDS if key in source.config},
        licence=licence,
        notes=(*notes, *said, *_same(recipe, models), *_dtypes(models), *_left_out(base, kept), *_licence_notes(licence)),
        warnings=(*warned, *_overflow(recipe, models)),
    )


def _place(recipe: MergeRecipe) -> int:
    """Number of the parent whose tokenizer is taken."""
    return next(i for i, parent in enumerate(recipe.parents) if parent.model == recipe.tokenizer)


def _misfit(base: Model, other: Model, problem: str) -> SeaLionError:
    return SeaLionError(f"{other.name} cannot be merged onto {base.name}: {problem}")


def _architecture(model: Model) -> str:
    return ", ".join(model.config.get("architectures") or ["none"])


def _check_architecture(base: Model, other: Model) -> None:
    expected, found = _architecture(base), _architecture(other)
    if expected != found:
        raise _misfit(
            base, other, f"architecture differs: {expected} in the base, {found} in {other.name}: only models of one "
            "architecture, trained from one start, can be merged",
        )  # fmt: skip


# -- tensors -----------------------------------------------------------------------------------------------------------------


def _kept(model: Model, tied: bool) -> list[str]:
    """The tensors that count: not what transformers computes, nor an output layer that the embedding stands for."""
    for name, stored in model.tensors.items():
        if stored.dtype not in FLOATS:
            raise CorruptInput(
                model.name, name, f"is of type {str(stored.dtype).removeprefix('torch.')}, not float32, bfloat16 or float16: "
                "quantised weights cannot be merged, merge the original",
            )  # fmt: skip
    if tied and HEAD in model.tensors:
        embedding = _embedding(model)
        if embedding is None or not _is_equal(model.tensors[HEAD], model.tensors[embedding]):
            raise CorruptInput(
                model.name, HEAD, f"differs from {embedding or 'the embedding'}, to which config.json ties it "
                "(tie_word_embeddings): remove it, or say false there if it is meant",
            )  # fmt: skip
    return [name for name in model.tensors if not name.endswith(COMPUTED) and not (tied and name == HEAD)]


def _embedding(model: Model) -> str | None:
    return next((name for name in model.tensors if name.endswith(EMBEDDINGS)), None)


def _is_equal(one: Stored, other: Stored) -> bool:
    """Whether two stored tensors have the same bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    size = one.elements * one.dtype.itemsize
    with one.file.open("rb") as first, other.file.open("rb") as second:
        for start in range(0, size, COMPARED):
            count = min(COMPARED, size - start)
            if os.pread(first.fileno(), count, one.offset + start) != os.pread(second.fileno(), count, other.offset + start):
                return False
    return True


def _check_tie(base: Model, other: Model, expected: bool, found: bool) -> None:
    if expected != found:
        said = [str(value).lower() for value in (expected, found)]
        raise _misfit(
            base, other, f"tie_word_embeddings differs: {said[0]} in the base, {said[1]} in {other.name}: in one of them the "
            "output layer is the embedding; untie that one first",
        )  # fmt: skip


def _check_tensors(base: Model, other: Model, kept: Sequence[str], tied: bool, *, is_union: bool) -> None:
    expected = {name: base.tensors[name].shape for name in kept}
    found = {name: other.tensors[name].shape for name in _kept(other, tied)}
    if is_union:
        expected, found = ({n: s[1:] if _is_of_rows(n) else s for n, s in table.items()} for table in (expected, found))
    for name in sorted(filter(_is_of_rows, expected.keys() & found.keys())):
        if expected[name] != found[name] and expected[name][1:] == found[name][1:]:
            raise _misfit(
                base, other, f"vocabulary differs: embeddings of {expected[name][0]:,} rows in the base, {found[name][0]:,} in "
                f'{other.name} ({name}): resize one to the other, or say engine = "mergekit" and tokenizer = "union"',
            )  # fmt: skip
    differing = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if differing:
        name, more = differing[0], f", and {len(differing) - 1:,} more" if len(differing) > 1 else ""
        values = [str(list(table[name])) if name in table else "missing" for table in (expected, found)]
        raise _misfit(
            base, other, f"tensor {name} differs: {values[0]} in the base, {values[1]} in {other.name}{more}: take a model "
            "that was trained from this base",
        )  # fmt: skip


def _is_of_rows(name: str) -> bool:
    return name == HEAD or name.endswith(EMBEDDINGS)


def _left_out(base: Model, kept: Sequence[str]) -> Iterator[str]:
    for name in base.tensors.keys() - {*kept}:
        if name == HEAD:
            yield f"{base.name}: {name} repeats the embedding, to which it is tied: the result does not store it"
    computed = sum(name.endswith(COMPUTED) for name in base.tensors)
    if computed:
        yield f"{base.name}: {computed} tensors {COMPUTED[1:]} are computed by transformers: the result does not store them"


# -- beside the weights ------------------------------------------------------------------------------------------------------


def _tokenizer_notes(recipe: MergeRecipe, base: Model, others: Sequence[Model]) -> Iterator[str]:
    found = tokenizer_differences(base.tokenizer, {other.name: other.tokenizer for other in others})
    for other in others:
        problems = found[other.name]
        if not problems:
            continue
        if recipe.tokenizer != "union" and "tokenizer" not in recipe.may_differ:
            raise _misfit(
                base, other, f"tokenizer.json differs: {'; '.join(problems)}: a row of the embeddings would mix two tokens; if "
                'that is meant, say may_differ = ["tokenizer"]',
            )  # fmt: skip
        yield f"{other.name}: tokenizer.json differs, as the recipe allows: {'; '.join(problems)}"


def _check_rows(base: Model, source: Model, kept: Sequence[str]) -> None:
    """Raise SeaLionError when the tokenizer that is taken knows a token that the embeddings have no row for."""
    embedding = next((name for name in kept if name.endswith(EMBEDDINGS)), None)
    if embedding is None or source is base:  # a base fits itself, and to read a large tokenizer takes memory
        return
    rows, last = base.tensors[embedding].shape[0], max(read_vocabulary(source.tokenizer).tokens, default=0)
    if last >= rows:
        raise SeaLionError(
            f"{source.name}: its tokenizer has a token with number {last:,}, {embedding} of {base.name} only {rows:,} rows: "
            "take another model's tokenizer (field tokenizer)"
        )


def _template(recipe: MergeRecipe, models: Sequence[Model], source: Model) -> tuple[str, list[str], list[str]]:
    """The chat template that the result takes in words, notes and warnings."""
    written = {model.name: text for model, text in zip(models, ("base", *(p.model for p in recipe.parents)), strict=True)}
    found = {model.name: chat_template(model.tokenizer) for model in models}
    words = {name: f"{len(text):,} characters" if text else "none" for name, text in found.items()}
    differing = [name for name, text in found.items() if text != found[source.name]]
    named = ", ".join(f"{name}: {words[name]}" for name in differing)
    if not differing:
        return words[source.name].removesuffix("none"), [], []
    if not found[source.name]:
        warning = f"the result will have no chat template, as {source.name} has none ({named})"
        return "", [], [f'{warning}: to take one with its tokenizer, say tokenizer = "{written[differing[0]]}"']
    return words[source.name], [f"chat templates differ, that of {source.name} is taken ({words[source.name]}; {named})"], []


def _same(recipe: MergeRecipe, models: Sequence[Model]) -> Iterator[str]:
    """Notes on models that are one and the same."""
    base, *parents = models
    seen: dict[str, str] = {}
    for i, parent in enumerate(parents):
        state = _state(parent)
        if state == _state(base):
            note = "" if recipe.method == "linear" else ": its difference is zero"
            yield f"parents.{i} ({parent.name}) has the weights of the base{note}"
        elif state in seen:
            yield f"parents.{i} ({parent.name}) has the weights of {seen[state]}: they count twice"
        seen.setdefault(state, f"parents.{i} ({parent.name})")


def _state(model: Model) -> str:
    weights = sorted(f"{name} {digest}" for name, digest in model.digests.items() if name.endswith(WEIGHTS))
    return "\n".join(weights) or model.name


def _names(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _dtypes(models: Sequence[Model]) -> Iterator[str]:
    found = {model.name: _names({stored.dtype for stored in model.tensors.values()}) for model in models}
    if len({*found.values()}) > 1 or any(" and " in names for names in found.values()):
        yield f"dtypes are mixed: {', '.join(f'{name}: {names}' for name, names in found.items())}"


def _overflow(recipe: MergeRecipe, models: Sequence[Model]) -> Iterator[str]:
    wide = any(stored.dtype != torch.float16 for model in models for stored in model.tensors.values())
    narrow = recipe.dtype == "float16" or (
        recipe.dtype == "base" and any(stored.dtype == torch.float16 for stored in models[0].tensors.values())
    )
    if wide and narrow:
        yield "the result is float16, which ends at 65,504, and a model is not: what is larger becomes infinite, and is refused"


def _licence_notes(licence: str) -> Iterator[str]:
    for key in keys(licence):
        unknown = [term for term in licence_of(key).terms if term.startswith("unknown:")]
        if key == NOASSERTION:
            yield "a model states no licence: what the result may be used for is not known"
        elif unknown:
            yield f"{key} is not in the table of licences: what it asks for is not known"
