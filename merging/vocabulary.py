"""Whether two tokenizers mean the same: the token of each number, the merges, and the steps before and after them.

`tokenizer.json` is compared by what it says, not by its bytes: two releases of the tokenizers library write one tokenizer in
two ways (merges as one text or as two, defaults written out or not), and a rate of BPE-dropout is a matter of training. Both
files are therefore read and written out anew by the library that is installed before they are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..catalog.errors import CorruptInput
from ..catalog.files import read_json
from ..catalog.fingerprint import file_digest

STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
COMPARED_APART = ("vocab", "merges", "dropout")
"""Keys of the model that are compared one by one, or not at all."""
TEMPLATE = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a `tokenizer.json` says."""

    tokens: Mapping[int, str]
    """Number to token, added ones included."""
    merges: Sequence[Any]
    """Pairs of BPE, or pieces with their scores of a unigram model."""
    added: Mapping[str, Mapping[str, Any]]
    """Added token to what else is said of it (`special`, `lstrip`, ...)."""
    steps: Mapping[str, Any]
    """The steps around the model, and the model's own settings."""


def tokenizer_file(folder: Path) -> Path:
    """The folder's `tokenizer.json`; raises CorruptInput when there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CorruptInput(path, "", "no such file; a checkpoint carries its tokenizer: save it there with save_pretrained")
    return path


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read a folder's tokenizer; raises CorruptInput when it has none or the library does not take it."""
    path = tokenizer_file(folder)
    try:
        table = json.loads(Tokenizer.from_file(str(path)).to_str())
    except Exception as error:  # the library raises Exception itself
        raise CorruptInput(path, "", f"is no tokenizer: {str(error).splitlines()[0][:200]}") from error
    model = table["model"]
    vocab = model.get("vocab") or {}
    is_scored = isinstance(vocab, list)
    tokens = {i: token for i, (token, _) in enumerate(vocab)} if is_scored else {i: token for token, i in vocab.items()}
    added = {token["content"]: {key: token[key] for key in token.keys() - {"content"}} for token in table["added_tokens"]}
    settings = {key: value for key, value in model.items() if key not in COMPARED_APART}
    return Vocabulary(
        tokens=tokens | {entry["id"]: content for content, entry in added.items()},
        merges=list(vocab) if is_scored else [_pair(merge) for merge in model.get("merges") or []],
        added=added,
        steps={step: table.get(step) for step in STEPS} | {"model": settings},
    )


def _pair(merge: Any) -> tuple[str, ...]:
    return tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge)


def tokenizer_differences(base: Path, others: Mapping[str, Path]) -> dict[str, list[str]]:
    """For each named folder, how its tokenizer differs from that in the folder `base`: each difference with an example."""
    digest, first, found = file_digest(tokenizer_file(base)), None, {}
    for name, folder in others.items():
        if file_digest(tokenizer_file(folder)) == digest:
            found[name] = list[str]()
            continue
        first = first or read_vocabulary(base)
        found[name] = list(differences(first, read_vocabulary(folder), name))
    return found


def differences(base: Vocabulary, other: Vocabulary, name: str) -> Iterator[str]:
    """How two tokenizers differ; `name` is the other one's."""
    yield from _tokens(base.tokens, other.tokens, name)
    if base.merges != other.merges:
        shared = min(len(base.merges), len(other.merges))
        first = next((i for i in range(shared) if base.merges[i] != other.merges[i]), shared)
        pair = [repr(table.merges[first]) if first < len(table.merges) else "none" for table in (base, other)]
        yield f"merges differ from number {first:,} on: {pair[0]} in the base, {pair[1]} in {name}"
    changed = [token for token in base.added.keys() & other.added.keys() if base.added[token] != other.added[token]]
    if changed:
        token = min(changed)
        keys = sorted(key for key, value in base.added[token].items() if other.added[token].get(key) != value)
        pair = [", ".join(f"{key} {table.added[token].get(key)}" for key in keys) for table in (base, other)]
        yield f"{len(changed):,} added tokens are treated otherwise: {token!r} has {pair[0]} in the base, {pair[1]} in {name}"
    apart = base.added.keys() ^ other.added.keys()
    if apart and base.tokens == other.tokens:
        token = min(apart)
        where = "the base" if token in base.added else name
        yield f"{len(apart):,} tokens are added ones in one of them only: {token!r} in {where}"
    for step in (*STEPS, "model"):
        if base.steps[step] != other.steps[step]:
            yield f"{step} differs: {_short(base.steps[step])} in the base, {_short(other.steps[step])} in {name}"


def _tokens(base: Mapping[int, str], other: Mapping[int, str], name: str) -> Iterator[str]:
    differing = [i for i in base.keys() | other.keys() if base.get(i) != other.get(i)]
    if differing:
        first = min(differing)
        pair = [repr(table[first]) if first in table else "no token" for table in (base, other)]
        total = max(len(base), len(other))
        yield f"{len(differing):,} of {total:,} tokens differ: id {first} is {pair[0]} in the base, {pair[1]} in {name}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."


def chat_template(folder: Path) -> str:
    """The folder's chat template, empty when it has none; several named ones as JSON."""
    if (folder / TEMPLATE).is_file():
        try:
            return (folder / TEMPLATE).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise CorruptInput(folder / TEMPLATE, "", f"is no text: {error}") from error
    template = read_json(folder / SETTINGS).get("chat_template") if (folder / SETTINGS).is_file() else None
    return template if isinstance(template, str) else json.dumps(template) if template else ""
