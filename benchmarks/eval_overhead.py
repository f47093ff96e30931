"""What our layer costs over lm-eval: the runner against plain `lm_eval.simple_evaluate`, same tiny Llama and same items.

Run: `python benchmarks/eval_overhead.py [--items 100] [--repeats 5]`. Two kinds of request: multiple choice (a question, ten
letters) and answers of twelve tokens. Ways, imports and the model's loading done before the clock starts: `ours` with the
response cache, item and answer tables written, and `lm-eval` asked for the same tasks with the same model and batches.
lm-eval's index of its stock tasks and its description of the environment, seconds that the runner does without, are switched
off for it. Requests a CPU second (the least of the rounds counts), peak memory, and the median over rounds of the ratio of
CPU seconds, the ways taken by turns; and the same at four times the items. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

WAYS = ("ours", "lm-eval")
KINDS = ("choices", "generation")
WORDS = ["river", "market", "rice", "boat", "teacher", "garden", "letter", "window", "mountain", "song", "bridge", "lamp"]
ROWS = 16
"""Requests of a forward pass, for both."""


def write_model(folder: Path) -> None:
    """A random Llama with a tokenizer of its words and bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1024, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([question(i) for i in range(300)], trainer)
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def question(number: int) -> str:
    """A prompt of some hundred words."""
    rng = random.Random(number)
    return f"Question {number}. " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(60, 140))) + "\nAnswer:"


def harness_task(kind: str, items: int) -> Any:
    """lm-eval's task of a kind."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    rows = [{"question": question(i), "answer": i % 10} for i in range(items)]
    config: dict[str, Any] = {
        "task": kind,
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "num_fewshot": 0,
    }
    if kind == "choices":
        choice: dict[str, Any] = {
            "output_type": "multiple_choice",
            "doc_to_choice": list("ABCDEFGHIJ"),
            "doc_to_target": "answer",
        }
        return ConfigurableTask(config=config | choice)
    settings = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    free = {"output_type": "generate_until", "doc_to_target": "{{answer}}", "generation_kwargs": settings}
    return ConfigurableTask(config=config | free)


def read(kind: str) -> Callable[[Mapping[str, Any]], Any]:
    """What the suite makes of lm-eval's samples."""
    from sea_lion.catalog.records import Score
    from sea_lion.eval.family import ItemScore, TaskScores

    metric = "acc" if kind == "choices" else "exact_match"

    def scored(samples: Mapping[str, Any]) -> Any:
        items = tuple(ItemScore(item=str(s["doc_id"]), metric=metric, value=float(s[metric])) for s in samples[kind])
        value = sum(item.value for item in items) / len(items)
        fixed: Any = {"stderr": 0.0, "items": len(items), "higher_is_better": True}
        return {
            (kind, "eng"): TaskScores(
                items=items, scores=(Score(task=kind, language="eng", metric=metric, value=value, **fixed),)
            )
        }

    return scored


def ours(model: Any, kind: str, items: int, folder: Path) -> Callable[[], float]:
    """The runner, from the tasks to the merged tables."""
    from sea_lion.eval.family import HarnessFamily
    from sea_lion.eval.pace import Pace
    from sea_lion.eval.rendering import bare
    from sea_lion.eval.response_cache import RememberingLM, ResponseCache
    from sea_lion.eval.runner import Asking, Done, merged, run_families

    def run() -> float:
        family = HarnessFamily(name=kind, build=lambda: {kind: harness_task(kind, items)}, read=read(kind))
        pace = Pace("benchmark", {kind: ("harness", items)}, False)
        lm = RememberingLM(model, ResponseCache.at(folder / "responses", {"model": kind}), pace.answered)
        asking = Asking(lm=lm, model="m", render=bare, built={kind: family.build()})
        results = run_families(asking, [family], Done(folder / "families", "x"), pace)
        merged(results, folder, "items.parquet", "answers.parquet")
        return results[0].scores[0].value

    return run


def plain(folder: Path, kind: str, items: int) -> Callable[[], float]:
    """lm-eval alone, with the same batches."""
    import lm_eval as harness
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wrap: Any = HFLM
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    model = wrap(pretrained=loaded, tokenizer=AutoTokenizer.from_pretrained(folder), backend="causal", batch_size=ROWS)
    lm_eval: Any = harness
    simple_evaluate, evaluator = lm_eval.simple_evaluate, lm_eval.evaluator
    evaluator.add_env_info, evaluator.get_git_commit_hash = (lambda storage: None), (lambda: "")
    manager = TaskManager(include_defaults=False)

    def run() -> float:
        task = harness_task(kind, items)
        found: Any = simple_evaluate(model=model, tasks=[task], task_manager=manager, bootstrap_iters=0)
        return float(found["results"][kind]["acc,none" if kind == "choices" else "exact_match,none"])

    return run


def measure(way: str, kind: str, items: int, repeats: int, folder: Path) -> dict[str, Any]:
    """One way in this process, or both by turns."""
    import torch

    from sea_lion.eval.backends import Backing, load_model, tokenizer_of

    torch.set_num_threads(1)
    ways = WAYS if way == "both" else (way,)
    model = load_model(Backing(folder=folder, owner="m", rows=ROWS), tokenizer_of(folder))
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(repeats + 1):
            for name in ways[:: 1 if turn % 2 else -1]:
                size, place = (items if turn else 8), Path(scratch, f"{turn}")
                run = ours(model, kind, size, place) if name == "ours" else plain(folder, kind, size)
                place.mkdir(exist_ok=True)
                wall, cpu = time.perf_counter(), time.process_time()
                value = run()
                if turn:  # the first warms up
                    found[name].append([time.process_time() - cpu, time.perf_counter() - wall, value])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return {"rounds": found, "peak_mib": peak}


def child(way: str, kind: str, items: int, repeats: int, folder: Path) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--kind", kind, "--items", str(items), "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--repeats", str(repeats)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(kind: str, items: int, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """A row a way."""
    rounds = child("both", kind, items, repeats, folder)["rounds"]
    assert {round(values[2], 9) for way in WAYS for values in rounds[way]} == {round(rounds["ours"][0][2], 9)}, (
        "the ways differ"
    )
    ratio = median(mine[0] / theirs[0] for mine, theirs in zip(rounds["ours"], rounds["lm-eval"], strict=True))
    rows = []
    for way in reversed(WAYS):
        cpu, wall = (min(values[place] for values in rounds[way]) for place in (0, 1))
        requests = items * (10 if kind == "choices" else 1)
        row = {"kind": kind, "items": items, "way": way, "requests_per_cpu_second": requests / cpu, "cpu_seconds": cpu}
        row |= {"wall_seconds": wall, "peak_mib": child(way, kind, items, 1, folder)["peak_mib"]}
        rows.append(row | {"cpu_ratio": ratio if way == "ours" else 1.0})
    return rows


def main() -> None:
    """Measure every way and kind, or one of them in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--way", choices=(*WAYS, "both"))
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.kind, arguments.items, arguments.repeats, arguments.folder)))
        return
    rows = []
    print(f"{'kind':11} {'items':>6} {'way':8} {'req/CPU s':>10} {'CPU s':>7} {'peak MiB':>9} {'CPU ratio':>10}")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        for kind in KINDS:
            for items in (arguments.items, 4 * arguments.items):
                for row in compared(kind, items, arguments.repeats, Path(folder)):
                    figures = f"{row['requests_per_cpu_second']:10.0f} {row['cpu_seconds']:7.2f} {row['peak_mib']:9.0f}"
                    print(f"{kind:11} {items:6} {row['way']:8} {figures} {row['cpu_ratio']:10.3f}", flush=True)
                    rows.append(row)
    print(json.dumps({"benchmark": "eval_overhead", "rows": rows}))


if __name__ == "__main__":
    main()
