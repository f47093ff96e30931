"""One tokenizer that has the tokens of all models of a merge: the base's with the others' added to it.

This is mergekit's union of tokenizers, made here and handed to mergekit as a folder, because mergekit numbers the tokens in the
order of a hash table, which differs from run to run. As there, a token of a parent's own vocabulary is added as a text that is
looked for before the base's merges: a union suits tokenizers that differ in their added tokens, not two vocabularies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..catalog.errors import SeaLionError


def write_union(folders: Sequence[Path], names: Sequence[str], into: Path) -> None:
    """Write the tokenizer of the first model with the tokens of the others added, model by model in the order of their numbers.

    Its chat template is the first model's. Raises SeaLionError, with the model's name, for a token beyond its embedding's rows.
    """
    from transformers import AutoTokenizer

    loaded = [AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False) for folder in folders]
    for tokenizer, folder, name in zip(loaded, folders, names, strict=True):
        _check_rows(tokenizer, folder, name)
    union = loaded[0]
    for token in [*_plain(loaded), *_added(loaded)]:
        if str(token) not in union.get_vocab():
            union.add_tokens([token])
    union.save_pretrained(into)


def _plain(tokenizers: Sequence[Any]) -> Iterator[str]:
    for tokenizer in tokenizers[1:]:
        added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
        for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: int(pair[1])):
            if token not in added:
                yield token


def _added(tokenizers: Sequence[Any]) -> Iterator[Any]:
    for tokenizer in tokenizers[1:]:
        for _, token in sorted(tokenizer.added_tokens_decoder.items()):
            yield token


def _check_rows(tokenizer: Any, folder: Path, name: str) -> None:
    rows = json.loads((folder / "config.json").read_text("utf-8")).get("vocab_size")
    token, number = max(tokenizer.get_vocab().items(), key=lambda pair: int(pair[1]))
    if isinstance(rows, int) and number >= rows:
        raise SeaLionError(f"{name}: its tokenizer numbers {token!r} {number:,}, its embedding has only {rows:,} rows")
