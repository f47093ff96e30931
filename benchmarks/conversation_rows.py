"""Conversations for training: opening and planning ten million rendered rows, and rendering, beside TRL's way.

`python -m benchmarks.conversation_rows [--rows 1000000 10000000] [--render 3000]`. Prints a table and JSON lines. Rows are
synthetic (log-normal lengths); each size runs in its own process, so that the peak memory is its own. The other way is what
TRL's SFTTrainer does to a set: `datasets.map` over `apply_chat_template` with `return_assistant_tokens_mask`.
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
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, BATCH = 4096, 64


def write_rows(folder: Path, count: int) -> None:
    """Rows of log-normal lengths (median 400 tokens), written piece by piece; the file of tokens is sparse, so all are 0."""
    from sea_lion.training.rows import ENDS, LANGUAGES, TOKENS, TRAINED, write_marker

    draw, end = np.random.default_rng(0), 0
    with (
        (folder / ENDS).open("wb") as ends,
        (folder / TRAINED).open("wb") as trained,
        (folder / LANGUAGES).open("wb") as spoken,
    ):
        for first in range(0, count, 1 << 20):
            sizes = 2 + np.minimum(draw.lognormal(6, 0.8, min(1 << 20, count - first)), LENGTH - 2).astype(np.uint64)
            (end + np.cumsum(sizes)).astype("<u8").tofile(ends)
            (sizes // 2).astype("<u4").tofile(trained)
            (sizes % 11).astype("<u2").tofile(spoken)
            end += int(sizes.sum())
    with (folder / TOKENS).open("wb") as tokens:
        tokens.truncate(4 * end)
    write_marker(folder, "synthetic", "messages", [str(i) for i in range(11)], {})


def planning(folder: Path) -> dict[str, Any]:
    """Open and plan one epoch, then read steps; in this process."""
    from sea_lion.training.conversations import ConversationPlan
    from sea_lion.training.recipe import TrainRecipe
    from sea_lion.training.rows import open_rows

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recipe = TrainRecipe(
        kind="train", name="model/b", version="1", objective="sft", model="model/m@1", conversations="conversations/c@1",
        lr=1e-5, batch_sequences=BATCH, sequence_length=LENGTH,
    )  # fmt: skip
    start = time.process_time()
    rows = open_rows(folder)
    opened = time.process_time()
    plan = ConversationPlan(rows, recipe, filler=0)
    planned = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = np.linspace(1, plan.steps, 20).astype(int).tolist()
    reading = time.process_time()
    for step in steps:
        plan.collate(plan.examples(step).tolist())
    seconds = time.process_time() - reading
    return {
        "rows": len(rows), "open_seconds": opened - start, "plan_seconds": planned - opened,
        "plan_mib": (peak - before) / 1024, "windows": int(plan.settings["examples"]),
        "filled": (len(rows.tokens) - len(rows)) / (int(plan.settings["examples"]) * LENGTH),
        "tokens_per_cpu_second": len(steps) * BATCH * LENGTH / seconds,
    }  # fmt: skip


def rendering(folder: Path, count: int) -> dict[str, Any]:
    """Rows a CPU-second of our renderer and of `datasets.map`, on the same conversations and tokenizer; checked to be equal."""
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer

    from sea_lion.training.rendering import IN_LOSS, Renderer, template_text
    from sea_lion.training.vocabulary import save_tokenizer, trained_bpe

    draw = random.Random(0)
    known = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(3000)]

    def said() -> str:
        return " ".join(draw.choices(known, k=draw.randint(20, 250)))

    talks = [[{"role": ("user", "assistant")[i % 2], "content": said()} for i in range(4)] for _ in range(count)]
    save_tokenizer(trained_bpe((talk[0]["content"] for talk in talks[:1000]), 3000), folder)
    load: Any = AutoTokenizer.from_pretrained
    tokenizer = load(folder)
    start = time.process_time()
    renderer = Renderer(tokenizer, template_text("", tokenizer), 1 << 20)
    ours = [rows for i in range(0, count, 256) for rows in renderer.rendered([[talk] for talk in talks[i : i + 256]])]
    middle = time.process_time()
    disable_progress_bars()

    def rendered(record: Any) -> Any:
        return tokenizer.apply_chat_template(record["messages"], return_dict=True, return_assistant_tokens_mask=True)

    data = Dataset.from_dict({"messages": talks})
    begun = time.process_time()
    theirs: Any = data.map(rendered, remove_columns=["messages"], keep_in_memory=True)
    end = time.process_time()
    for mine, other in zip(ours[:50], theirs, strict=False):
        assert (mine[0] & ~IN_LOSS).tolist() == other["input_ids"]  # type: ignore[operator]
        assert (mine[0] >= IN_LOSS).astype(int).tolist() == other["assistant_masks"]
    tokens = sum(len(rows[0]) for rows in ours)
    return {
        "rendered": count, "tokens_a_row": tokens / count, "rows_per_cpu_second": count / (middle - start),
        "datasets_rows_per_cpu_second": count / (end - begun),
    }  # fmt: skip


def main() -> None:
    """Run all sizes, and the rendering."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--render", type=int, default=3000)
    parser.add_argument("--plan", type=Path, help="open and plan the rows of this folder, in this process")
    options = parser.parse_args()
    if options.plan:
        print(json.dumps(planning(options.plan)))
        return
    results = []
    for count in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder), count)
            command = [sys.executable, "-m", "benchmarks.conversation_rows", "--plan", folder]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    if options.render:
        with tempfile.TemporaryDirectory() as folder:
            results.append(rendering(Path(folder), options.render))
    for result in results:
        print("  ".join(f"{name} {value:,.4g}" if value < 10 else f"{name} {value:,.0f}" for name, value in result.items()))
    for result in results:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
