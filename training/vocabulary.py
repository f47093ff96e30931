"""Training a byte-level BPE tokenizer, and the files that a model carries of it.

Bytes, so that no text is unknown; words are cut by a rule of our own in place of GPT's or Llama's, whose letters leave out the
marks that Thai, Lao, Khmer, Burmese and Tamil write vowels with. Encoding, with BPE-dropout, is `data.encoder`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.records import Corpus, Shard, TokenizerBody
from ..catalog.store import Job, Made, verify_files
from .recipe import TokenizerRecipe

BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
SPECIAL = (BEGIN, END, PAD, TURN, TURN_END)
"""Special tokens; their ids are their places here."""

WORDS = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Words; no merge crosses their ends. Marks count as letters: Thai, Lao, Khmer, Burmese and Tamil vowels are marks."""

MIN_FREQUENCY = 2
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def train_tokenizer(job: Job[TokenizerRecipe]) -> Made:
    """Train a byte-level BPE tokenizer on the training split of the recipe's corpora and save it for transformers.

    The same documents give the same bytes, whatever the number of threads. Raises RecipeError when the corpora do not hold
    enough text for the vocabulary.
    """
    tokenizer = trained_bpe(_texts(job), job.recipe.vocabulary)
    entries = tokenizer.get_vocab_size()
    if entries != job.recipe.vocabulary:
        raise RecipeError(str(job.recipe.ref), "vocabulary", f"the corpora give only {entries} entries; ask for fewer")
    save_tokenizer(tokenizer, job.folder)
    return Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=entries))


def trained_bpe(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE with at most `vocabulary` entries, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files from which `AutoTokenizer.from_pretrained` loads it, with our chat template."""
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    template = files(__package__ or "").joinpath("chat_template.jinja").read_text("utf-8")
    fast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TURN, TURN_END],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files, dropout off: a rate in tokenizer.json would make every later use of it random."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
    content = json.loads((source / "tokenizer.json").read_text("utf-8"))
    if content["model"].get("dropout"):
        content["model"]["dropout"] = None
        (target / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")


def _texts(job: Job[TokenizerRecipe]) -> Iterator[str]:
    for ref in job.recipe.corpora:
        artifact, folder = job.inputs[ref], job.folder_of(ref)
        if not isinstance(artifact.body, Corpus):
            raise RecipeError(str(job.recipe.ref), "corpora", f"{ref} is a {artifact.kind}, not a corpus")
        shards = [shard for shard in artifact.body.shards if shard.split == "train"]
        verify_files(folder, artifact, (shard.path for shard in shards))
        for shard in shards:
            yield from (text for _, text in shard_documents(folder, shard))


def shard_documents(folder: Path, shard: Shard) -> Iterator[tuple[str, str]]:
    """Id and text of a shard's documents, in the shard's order; raises CorruptInput when it cannot be read."""
    path = folder / shard.path
    try:
        table = pq.read_table(path, columns=["id", "text"])
    except (OSError, ValueError, KeyError) as error:
        raise CorruptInput(path, "", f"is not a Parquet shard with columns id and text: {error}") from error
    yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
