"""What recording costs: `evaluate_model` against plain `lm_eval.simple_evaluate` on the same tasks and the same tiny Llama.

Run: `python benchmarks/evaluate_overhead.py`. Each way runs in its own process, imports done before the clock starts; wall and
CPU seconds, and the peak resident memory of the process. `simple_evaluate` is timed as a user calls it: with its index of all
stock tasks and its description of the environment. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = ("evaluate_model", "simple_evaluate-1", "simple_evaluate-64")
SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "articles"
SIZES: Any = {"hidden_size": 128, "intermediate_size": 384, "layers": 4, "heads": 4, "key_value_heads": 2, "head_dim": 32}


def documents(language: str) -> list[str]:
    """The last six sample articles of a language."""
    rows = [json.loads(line) for line in (SAMPLE / f"{language}.jsonl").read_text("utf-8").splitlines()]
    return ["\n".join([row["title"], *row["paragraphs"]]) for row in rows[-6:]]


def make_heldout(job: Any) -> Any:
    """A corpus that holds nothing but held-out documents."""
    import pyarrow as pa

    from sea_lion.catalog.fingerprint import file_digest
    from sea_lion.catalog.records import Corpus, Shard
    from sea_lion.catalog.store import Made, write_rows

    shards = []
    for language in job.recipe.languages:
        rows = [{"id": f"{language}-{i}", "text": text} for i, text in enumerate(documents(language))]
        path = job.folder / f"{language}.parquet"
        write_rows(path, rows, pa.schema([("id", pa.string()), ("text", pa.string())]))
        counts: Any = {"documents": len(rows), "characters": 0, "bytes": 0, "sha256": file_digest(path)}
        shards.append(Shard(path=path.name, language=language, source="web", split="heldout", **counts))
    return Made(body=Corpus(shards=tuple(shards), documents_in=0, documents_out=0))


def make_model(job: Any) -> Any:
    """A random Llama with a tokenizer of 2,048 entries."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from sea_lion.catalog.languages import LANGUAGES
    from sea_lion.catalog.records import Checkpoint
    from sea_lion.catalog.store import Made

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text for language in LANGUAGES for text in documents(language)], trainer)
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(job.folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(job.folder)
    return Made(body=Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=0))


def filled_store(root: Path) -> Any:
    """A store with the held-out corpus and the model; made on the first call."""
    from sea_lion.catalog.languages import LANGUAGES
    from sea_lion.catalog.records import TokenizerBody
    from sea_lion.catalog.store import Made, Options, Store
    from sea_lion.data.recipe import CorpusRecipe, Source
    from sea_lion.training.recipe import InitRecipe, TokenizerRecipe

    store, files = Store(root), ("package:data/sample/articles/eng.jsonl",)
    source = Source(name="web", form="jsonl", files=files)
    common: Any = {"version": "1"}
    corpus = CorpusRecipe(
        kind="corpus", name="corpus/b", languages=tuple(LANGUAGES), source=(source,), thresholds=files, **common
    )
    store.make(corpus, root, make_heldout, Options())
    tokenizer = TokenizerRecipe(kind="tokenizer", name="tokenizer/b", corpora=("corpus/b@1",), vocabulary=2048, **common)
    store.make(tokenizer, root, lambda job: Made(body=TokenizerBody(algorithm="bpe", vocabulary=2048)), Options())
    init = InitRecipe(
        kind="init", name="checkpoint/b", tokenizer="tokenizer/b@1", architecture="llama", max_length=512, **SIZES, **common
    )
    store.make(init, root, make_model, Options())
    return store


def recorded(store: Any, root: Path) -> Callable[[], float]:
    """Our way, with records, digests and the item table; answers the mean bits per byte."""
    from sea_lion.catalog.store import Options
    from sea_lion.eval.evaluate import evaluate_model
    from sea_lion.eval.recipe import EvaluationRecipe

    names: Any = {"name": "scorecard/b", "version": "dev", "model": "checkpoint/b@1", "heldout": "corpus/b@1"}
    recipe = EvaluationRecipe(kind="evaluation", suite="smoke", **names)

    def run() -> float:
        scores: Any = store.make(recipe, root, evaluate_model, Options()).body.scores
        values = [score.value for score in scores if score.metric == "bits_per_byte"]
        return float(sum(values) / len(values))

    return run


def plain(store: Any, root: Path, batch_size: int) -> Callable[[], float]:
    """The harness alone, on the same tasks."""
    import lm_eval

    from sea_lion.catalog.recipes import external_files
    from sea_lion.eval.evaluate import suite_tasks
    from sea_lion.eval.recipe import EvaluationRecipe
    from sea_lion.eval.suite import read_suite
    from sea_lion.eval.tasks import harness_tasks

    names: Any = {"name": "scorecard/b", "version": "dev", "model": "checkpoint/b@1", "heldout": "corpus/b@1"}
    files = external_files(EvaluationRecipe(kind="evaluation", suite="smoke", **names), root)["suite_files"]
    corpus, model = store.require("corpus/b@1"), store.require("checkpoint/b@1")
    tasks = list(suite_tasks(read_suite("smoke", files), files, corpus, store.folder(corpus.ref)))
    options = {"pretrained": str(store.folder(model.ref)), "dtype": "float32"}
    simple_evaluate: Any = lm_eval.simple_evaluate

    def run() -> float:
        built: Any = list(harness_tasks(tasks).values())
        results: Any = simple_evaluate(
            model="hf", model_args=options, tasks=built, device="cpu", batch_size=batch_size, bootstrap_iters=0
        )
        found = [task for name, task in results["results"].items() if name.startswith("heldout")]
        return sum(float(task["bits_per_byte,none"]) for task in found) / len(found)

    return run


def measure(way: str, root: Path) -> dict[str, float]:
    """One way in this process."""
    store = filled_store(root)
    run = recorded(store, root) if way == WAYS[0] else plain(store, root, int(way.split("-")[1]))
    wall, cpu = time.perf_counter(), time.process_time()
    value = run()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024),
        "bits_per_byte": value,
    }


def main() -> None:
    """Measure every way in a process of its own, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--root", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.root)))
        return
    with tempfile.TemporaryDirectory() as folder:
        filled_store(Path(folder))
        rows = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--root", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            rows[way] = json.loads(done.stdout.splitlines()[-1])
    print(f"{'way':20} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9} {'bits/byte':>10} {'CPU ratio':>10}")
    for way, row in rows.items():
        ratio = row["cpu_seconds"] / rows[WAYS[0]]["cpu_seconds"]
        figures = f"{row['wall_seconds']:8.2f} {row['cpu_seconds']:8.2f} {row['peak_mib']:9.0f} {row['bits_per_byte']:10.4f}"
        print(f"{way:20} {figures} {ratio:10.2f}")
    print(json.dumps({"benchmark": "evaluate_overhead", "ways": rows}))


if __name__ == "__main__":
    main()
