"""Encoding a corpus into token files, with and without BPE-dropout, beside datatrove's DocumentTokenizer.

The documents are those of `tokens.py`: shards of one language made of the sample articles. The tokenizer is built like
Llama 3's, or like Gemma's (`--like gemma`): no words, a sign for the space, bytes for unknown characters. Each way runs in a
process of its own, on one thread, in turns, and the least CPU time of the repeats counts; ours reads, verifies, encodes,
shuffles, writes and hashes, datatrove's reads, encodes, shuffles and writes. Both must write the same number of tokens without
dropout. Two sizes show what grows with the input.

    python benchmarks/token_files.py --megabytes 12
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tokens import articles, make_corpus  # type: ignore[import-not-found]  # the folder of a script is on its path

WAYS = {"datatrove": None, "plain": 0.0, "dropout": 0.1}
"""Way to the rate of our dropout."""
END = "<|endoftext|>"
VOCABULARY = 16_000
SPACE = "\u2581"


def make_tokenizer(job: Any, like: str) -> Any:
    """A BPE of the sample articles, byte-level or with a sign for the space."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    from sea_lion.catalog.records import TokenizerBody
    from sea_lion.catalog.store import Made

    tokenizer = Tokenizer(models.BPE(byte_fallback=like == "gemma", ignore_merges=like == "llama"))
    special = [END]
    if like == "gemma":
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{SPACE}*[^{SPACE}\s]+|{SPACE}+|\s+"), "isolated")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if like == "llama" else []
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator([text for texts in articles().values() for text in texts], trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] == END]
    if like == "gemma":
        content["pre_tokenizer"] = None
    (job.folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    return Made(body=TokenizerBody(algorithm="bpe", vocabulary=len(content["model"]["vocab"])))


def filled_store(root: Path, megabytes: int, like: str) -> Any:
    """A store with the corpus and the tokenizer; made on the first call."""
    from sea_lion.catalog.recipes import Recipe
    from sea_lion.catalog.store import Options, Store

    store = Store(root)
    store.make(Recipe(kind="corpus", name="corpus/b", version="1"), root, lambda job: make_corpus(job, megabytes), Options())
    tokenizer = Recipe(kind="tokenizer", name="tokenizer/b", version="1")
    store.make(tokenizer, root, lambda job: make_tokenizer(job, like), Options())
    return store


def ours(store: Any, way: str, dropout: float) -> int:
    """Tokens written by our verb."""
    from sea_lion.catalog.store import Options
    from sea_lion.data.recipe import TokenFilesRecipe
    from sea_lion.data.token_files import write_token_files

    recipe = TokenFilesRecipe(
        kind="token-files", name=f"token-files/{way}", version="1", corpora=("corpus/b@1",), tokenizer="tokenizer/b@1",
        dropout=dropout,
    )  # fmt: skip
    artifact = store.make(recipe, store.root, write_token_files, Options(workers=1))
    return int(artifact.body.tokens)


def datatrove(store: Any) -> int:
    """Tokens written by datatrove's block."""
    import numpy as np
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from loguru import logger

    logger.disable("datatrove")

    target = store.root / "datatrove"
    step = DocumentTokenizer(
        str(target), str(store.root / "tokenizer/b/1/tokenizer.json"), eos_token=END, seed=0, save_final_metadata=False,
        batch_size=64,
    )  # fmt: skip
    for _ in step.run(ParquetReader(str(store.root / "corpus/b/1"), glob_pattern="*.parquet").run(), 0, 1) or ():
        pass
    return sum(len(np.memmap(path, f"<u{step.token_size}", "r")) for path in target.glob("*.ds"))


def measured(way: str, folder: Path, megabytes: int, like: str) -> dict[str, float]:
    """One way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--root", str(folder), "--megabytes", str(megabytes), "--like", like]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def run(way: str, root: Path, megabytes: int, like: str) -> dict[str, float]:
    """One way, in this process."""
    store = filled_store(root, megabytes, like)
    dropout = WAYS[way]
    start = time.process_time()
    tokens = datatrove(store) if dropout is None else ours(store, way, dropout)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_seconds": time.process_time() - start, "tokens": tokens, "peak_mb": peak}


def main() -> None:
    """Measure every way in turns at two sizes, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--like", choices=("llama", "gemma"), default="llama")
    parser.add_argument("--way", choices=tuple(WAYS))
    parser.add_argument("--root", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(run(arguments.way, arguments.root, arguments.megabytes, arguments.like)))
        return
    best: dict[str, dict[str, float]] = {}
    for megabytes in (arguments.megabytes, 3 * arguments.megabytes):
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as folder:
                filled_store(Path(folder), megabytes, arguments.like)
                for way in WAYS:
                    row = measured(way, Path(folder), megabytes, arguments.like)
                    name = f"{way}, {megabytes} MB"
                    best[name] = min(best.get(name, row), row, key=lambda each: each["cpu_seconds"])
        assert best[f"plain, {megabytes} MB"]["tokens"] == best[f"datatrove, {megabytes} MB"]["tokens"]
    print(f"{'way':20} {'CPU s':>8} {'tokens':>12} {'Mtok/CPU s':>11} {'peak MB':>8}")
    for name, row in best.items():
        pace = row["tokens"] / row["cpu_seconds"] / 1e6
        print(f"{name:20} {row['cpu_seconds']:8.2f} {row['tokens']:12.0f} {pace:11.3f} {row['peak_mb']:8.0f}")
    print(json.dumps({"benchmark": "token_files", "like": arguments.like, "repeats": arguments.repeats, "ways": best}))


if __name__ == "__main__":
    main()
