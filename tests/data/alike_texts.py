"""Texts that may be alike, from the sample, and datatrove's first stage over our shingles to compare with."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WhitespaceTokenizer

from sea_lion.data.minhash import shingles


@cache
def articles(language: str) -> list[str]:
    """The sample's articles in a language."""
    text = files("sea_lion").joinpath(f"data/sample/articles/{language}.jsonl").read_text("utf-8")
    return [" ".join(json.loads(line)["paragraphs"]) for line in text.splitlines()]


def long_text(language: str, first: int = 0, count: int = 4) -> str:
    """Some articles in one."""
    return " ".join(articles(language)[first : first + count])


class Reference(MinhashDedupSignature):  # type: ignore[misc]  # datatrove is untyped
    """datatrove's first stage over our shingles."""

    def __init__(self, folder: Path, language: str) -> None:
        config, words = MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1")), cast(Any, WhitespaceTokenizer())
        super().__init__(output_folder=str(folder), config=config, language=words)
        self.code = language

    def get_shingles(self, text: str) -> Any:
        return shingles(text, self.code, 5).reshape(-1, 1)
