"""Counting tokens: `sea-lion build` of a recipe of kind `tokens`, beside a bare loop of `tokenizers` over the same texts.

The texts are the sample articles of all eleven languages, shuffled into new documents with a fixed seed, in shards of one
language; the tokenizer is a byte-level BPE trained on them. The bare loop has the texts in memory and Rust's own threads on all
cores, and throws the counts away. Ours reads and verifies the shards, counts words too, and keeps a row a document; the second
tokenizer finds the words counted, and the third run finds everything counted. Each way runs in a process of its own, in turns;
the best of the repeats counts. MB are UTF-8 text. CPU seconds are those of all processes: on a busy machine compare these.

    python benchmarks/tokens.py --megabytes 60
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WAYS = ("bare", "first", "second", "again")
MERGES = {"a": 16_000, "b": 15_000}
"""Vocabulary of the two tokenizers."""
RUNS = {"first": ("tokenizer/a@1", "tokens/first"), "second": ("tokenizer/b@1", "tokens/second")}


def articles() -> dict[str, list[str]]:
    """Paragraphs of the sample articles, by language."""
    from sea_lion.catalog.languages import LANGUAGES

    folder = Path(__file__).parent.parent / "data/sample/articles"
    found: dict[str, list[str]] = {}
    for language in LANGUAGES:
        lines = (folder / f"{language}.jsonl").read_text("utf-8").splitlines()
        found[language] = [paragraph for line in lines for paragraph in json.loads(line)["paragraphs"]]
    return found


def documents(language: str, paragraphs: list[str], size: int) -> Iterator[str]:
    """Documents of 3 to 30 paragraphs, `size` bytes in all."""
    chance, done = random.Random(language), 0
    while done < size:
        text = "\n".join(chance.choices(paragraphs, k=chance.randint(3, 30)))
        done += len(text.encode())
        yield text


def make_corpus(job: Any, megabytes: int) -> Any:
    """Shards in the form that a corpus has, a language each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sea_lion.catalog.fingerprint import file_digest
    from sea_lion.catalog.records import Corpus, Shard
    from sea_lion.catalog.store import Made

    shards, languages = [], articles()
    for language, paragraphs in languages.items():
        path = f"{language}.parquet"
        texts = list(documents(language, paragraphs, megabytes * 1_000_000 // len(languages)))
        table = pa.table({"id": [f"{language}-{n}" for n in range(len(texts))], "text": texts})
        pq.write_table(table, job.folder / path, compression="zstd", row_group_size=1_000)
        sizes: Any = {"documents": len(texts), "characters": sum(map(len, texts)), "bytes": sum(len(t.encode()) for t in texts)}
        digest = file_digest(job.folder / path)
        shards.append(Shard(path=path, language=language, source="web", split="train", sha256=digest, **sizes))
    return Made(body=Corpus(shards=tuple(shards), documents_in=0, documents_out=0))


def make_tokenizer(job: Any) -> Any:
    """A byte-level BPE of the sample articles."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from sea_lion.catalog.records import TokenizerBody
    from sea_lion.catalog.store import Made

    size = MERGES[job.recipe.name.rpartition("/")[2]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text for texts in articles().values() for text in texts], trainer)
    tokenizer.save(str(job.folder / "tokenizer.json"))
    return Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=tokenizer.get_vocab_size()))


def filled_store(root: Path, megabytes: int) -> Any:
    """A store with the corpus and both tokenizers; made on the first call."""
    from sea_lion.catalog.recipes import Recipe
    from sea_lion.catalog.store import Options, Store

    store = Store(root)
    store.make(Recipe(kind="corpus", name="corpus/b", version="1"), root, lambda job: make_corpus(job, megabytes), Options())
    for name in MERGES:
        store.make(Recipe(kind="tokenizer", name=f"tokenizer/{name}", version="1"), root, make_tokenizer, Options())
    return store


def bare(store: Any, workers: int) -> tuple[float, int]:
    """Seconds and tokens of the loop that anyone would write."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(workers)}
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(store.root / "tokenizer/a/1/tokenizer.json"))
    texts = [text for path in sorted((store.root / "corpus/b/1").glob("*.parquet")) for text in _texts(pq, path)]
    start, tokens = time.perf_counter(), 0
    for at in range(0, len(texts), 256):
        tokens += sum(len(each) for each in tokenizer.encode_batch_fast(texts[at : at + 256], add_special_tokens=False))
    return time.perf_counter() - start, tokens


def cpu_seconds() -> float:
    """Of this process and of every worker that it or its fork server has had."""
    import psutil

    process = psutil.Process()
    times = [process.cpu_times()[:2], *(child.cpu_times()[:4] for child in process.children(recursive=True))]
    return float(sum(sum(each) for each in times))


def _texts(pq: Any, path: Path) -> list[str]:
    texts: list[str] = pq.read_table(path, columns=["text"])["text"].to_pylist()
    return texts


def counted(store: Any, root: Path, way: str, workers: int) -> tuple[float, int]:
    """Seconds and tokens of the verb."""
    from sea_lion.catalog.store import Options
    from sea_lion.data.recipe import TokensRecipe
    from sea_lion.data.tokens import count_tokens

    tokenizer, name = RUNS.get(way, (RUNS["first"][0], "tokens/again"))
    recipe = TokensRecipe(kind="tokens", name=name, version="1", corpora=("corpus/b@1",), tokenizer=tokenizer)
    start = time.perf_counter()
    artifact = store.make(recipe, root, count_tokens, Options(workers=workers))
    return time.perf_counter() - start, artifact.body.tokens


def measured(way: str, folder: Path, megabytes: int, workers: int) -> dict[str, float]:
    """One way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--root", str(folder), "--megabytes", str(megabytes)]
    done = subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure every way in turns, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--root", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        store = filled_store(arguments.root, arguments.megabytes)
        before, way = cpu_seconds(), arguments.way
        run = bare if way == "bare" else lambda store, workers: counted(store, arguments.root, way, workers)
        seconds, tokens = run(store, arguments.workers)
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds() - before, "tokens": tokens}))
        return
    best: dict[str, dict[str, float]] = {}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            filled_store(Path(folder), arguments.megabytes)
            for way in WAYS:
                row = measured(way, Path(folder), arguments.megabytes, arguments.workers)
                best[way] = {name: min(best.get(way, row)[name], value) for name, value in row.items()}
    print(f"{arguments.megabytes} MB, {arguments.workers} workers, best of {arguments.repeats}")
    print(f"{'way':8} {'seconds':>8} {'MB/s':>8} {'of bare':>8} {'CPU s':>8} {'MB/CPU s':>9} {'of bare':>8} {'tokens':>12}")
    for way, row in best.items():
        figures = []
        for name in ("seconds", "cpu_seconds"):
            figures += [row[name], arguments.megabytes / row[name], best["bare"][name] / row[name]]
        print(f"{way:8} {' '.join(f'{figure:8.2f}' for figure in figures)}  {row['tokens']:12.0f}")
    print(json.dumps({"benchmark": "tokens", "megabytes": arguments.megabytes, "workers": arguments.workers, "ways": best}))


if __name__ == "__main__":
    main()
