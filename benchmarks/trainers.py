"""The trainers that `training.py` and `training_gpu.py` compare, each in a process of its own, on the same weights and ids.

    python benchmarks/trainers.py ours '{"shape": "tiny", "sequence": 128, "batch": 4, "steps": 15, "warm": 5}'

`ours` is the loop of `training/trainer.py` with its meter, loader and checkpoints, on a plan of ids in memory; `bare` the loop
one writes by hand: transformers' model, the loss over all logits, torch's AdamW, clipping; `hf` and `hf_liger` transformers'
Trainer; `trl` TRL's SFTTrainer. All take fp32 weights, no decay, a constant learning rate, eps 1e-15, clip 1, and the rows in
order. One that is not installed says so and is not run; torchtitan, whose command line brings its own model and data, is only
looked for. Prints a JSON line: the loss of step 1 and the means over each interval after it, seconds and CPU seconds of a step
after warming up, and memory.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

INTERVAL = 5
"""Steps of an interval of the log."""
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "100m": {"vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
             "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64},
    "1b": {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
}  # fmt: skip
"""Llamas with tied embeddings: 0.12, 104 and 1,236 million parameters."""
NEEDS = {"ours": (), "bare": (), "hf": (), "hf_liger": ("liger_kernel",), "trl": ("trl",), "torchtitan": ("torchtitan",)}
"""Contender to the packages it needs beside ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is trained, the same for every contender."""

    shape: str
    sequence: int
    batch: int
    """Rows of a step."""
    steps: int
    warm: int
    """Steps before the timed ones."""
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False
    """Activation checkpointing."""
    compile: bool = False


@dataclass(slots=True)
class Marks:
    """Times at the ends of steps; on a GPU only at the two ends of the timed steps, where the device is waited for."""

    settings: Settings
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def step_ended(self) -> None:
        """Take the time."""
        done = len(self.wall) + 1
        if self.settings.device == "cuda" and done in (self.settings.warm, self.settings.steps):
            import torch

            torch.cuda.synchronize()
            if done == self.settings.warm:
                torch.cuda.reset_peak_memory_stats()
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def of_a_step(self, times: Sequence[float]) -> float:
        """The median on a CPU, where other processes disturb; on a GPU, which runs behind, the mean."""
        timed = times[self.settings.warm - 1 : self.settings.steps]
        if self.settings.device == "cuda":
            return (timed[-1] - timed[0]) / (len(timed) - 1)
        return statistics.median(after - before for before, after in pairwise(timed))


def config_of(settings: Settings) -> Any:
    """The model's configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(
        **SHAPES[settings.shape], tie_word_embeddings=True, use_cache=False, bos_token_id=0, eos_token_id=0,
        max_position_embeddings=max(8192, settings.sequence),
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )  # fmt: skip


def seeded_model(settings: Settings) -> Any:
    """The model, random but the same in every process."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(config_of(settings))


def seeded_ids(settings: Settings) -> Any:
    """Token ids of all rows, (rows, sequence): each row repeats some tokens, so that there is something to learn."""
    import numpy as np

    draw = np.random.default_rng(1)
    kinds = draw.integers(1, SHAPES[settings.shape]["vocab_size"], (settings.steps * settings.batch, 32))
    places = draw.integers(0, 32, (settings.steps * settings.batch, settings.sequence))
    return np.take_along_axis(kinds, places, axis=1).astype(np.int64)


def ours(settings: Settings, marks: Marks, folder: Path) -> list[float]:
    """Our trainer; returns the loss of every step."""
    import torch

    from sea_lion.training.checkpoint import Checkpoints
    from sea_lion.training.meters import Meter
    from sea_lion.training.optimizer import adamw
    from sea_lion.training.processes import Processes, fixed_arithmetic
    from sea_lion.training.recipe import Schedule, TrainRecipe
    from sea_lion.training.sharding import load_trainable
    from sea_lion.training.system import System
    from sea_lion.training.trainer import Run, train

    class Timed(Meter):
        def end_step(self, lr: float, figures_3: torch.Tensor) -> None:
            super().end_step(lr, figures_3)
            marks.step_ended()

    recipe = TrainRecipe(
        kind="train", name="checkpoint/b", version="1", objective="cpt", model="checkpoint/a@1", mixture="mixture/a@1",
        lr=1e-4, batch_sequences=settings.batch, precision=settings.precision, checkpoint_steps=10**9,
        schedule=Schedule(form="constant", warmup=0.0, decay=0.0),
    )  # fmt: skip
    seeded_model(settings).save_pretrained(folder / "model")
    system = System(
        recompute="layers" if settings.recompute else "none", compile=settings.compile, log_steps=INTERVAL,
        liger=settings.device == "cuda" and bool(find_spec("liger_kernel")),
    )  # fmt: skip
    processes = Processes(rank=0, world=1, device=settings.device)
    plan = rows_in_memory(settings)
    with fixed_arithmetic(processes):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        module = load_trainable(folder / "model", recipe.precision, system, processes)
        meter = Timed(
            steps=settings.steps, title="ours", parts=plan.parts, processes=processes, system=system, folder=folder
        )  # fmt: skip
        run = Run(
            recipe=recipe, plan=plan, module=module, processes=processes, optimizer=adamw(module, recipe.optimizer, recipe.lr),
            meter=meter, checkpoints=Checkpoints(folder / "latest", folder / "kept", plan.digest, processes),
            heldout_rows=[], measure=lambda step: None,
        )  # fmt: skip
        train(run, 0)
    return [row["loss"] for row in meter.rows]


def rows_in_memory(settings: Settings) -> Any:
    """A plan (see `training/batches.py`) of whole rows of ids, one document each."""
    import numpy as np

    from sea_lion.training.batches import IGNORED, Batch, Integers, Part, batch_of

    ids_RT = seeded_ids(settings)

    class Rows:
        steps = settings.steps
        parts = (Part("", "", "eng", ""),)

        def examples(self, step: int) -> Integers:
            return np.arange((step - 1) * settings.batch, step * settings.batch)

        def units(self, examples: Integers) -> int:
            return len(examples) * (settings.sequence - 1)

        def collate(self, examples: Sequence[int]) -> Batch:
            tokens_RT = ids_RT[list(examples)]
            labels_RT = np.full_like(tokens_RT, IGNORED)
            labels_RT[:, :-1] = tokens_RT[:, 1:]
            nothing_RT = np.zeros_like(tokens_RT)
            return batch_of(tokens_RT, labels_RT, nothing_RT, nothing_RT.astype(bool))

        def digest(self, step: int) -> str:
            return ""

    return Rows()


def bare(settings: Settings, marks: Marks, folder: Path) -> list[float]:
    """The loop one writes by hand."""
    import torch
    from torch.nn.functional import cross_entropy

    model = seeded_model(settings).to(settings.device).train()
    if settings.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        for layer in model.model.layers:
            layer.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0, fused=True)
    ids_RT = torch.from_numpy(seeded_ids(settings))
    losses = []
    for rows_RT in torch.split(ids_RT, settings.batch):
        tokens_RT = rows_RT.to(settings.device)
        with torch.autocast(settings.device, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits_RTV = model(input_ids=tokens_RT).logits
        loss = cross_entropy(logits_RTV[:, :-1].flatten(0, 1).float(), tokens_RT[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        del logits_RTV, loss
        marks.step_ended()
    return [float(loss) for loss in losses]


def trainer_settings(settings: Settings, folder: Path) -> dict[str, Any]:
    """What transformers' Trainer and TRL's are given."""
    return {
        "output_dir": str(folder / "out"), "max_steps": settings.steps, "per_device_train_batch_size": settings.batch,
        "learning_rate": 1e-4, "lr_scheduler_type": "constant", "optim": "adamw_torch_fused", "adam_beta1": 0.9,
        "adam_beta2": 0.95, "adam_epsilon": 1e-15, "weight_decay": 0.0, "max_grad_norm": 1.0, "logging_steps": INTERVAL,
        "logging_first_step": True, "bf16": settings.precision == "bf16", "gradient_checkpointing": settings.recompute,
        "torch_compile": settings.compile, "use_cpu": settings.device == "cpu", "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "dataloader_num_workers": 0, "train_sampling_strategy": "sequential",
    }  # fmt: skip


def watcher(marks: Marks, means: list[float]) -> Any:
    """A callback that takes the times and the logged losses."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.step_ended()

        def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                means.append(float(logs["loss"]))

    return Watcher()


def hf(settings: Settings, marks: Marks, folder: Path, liger: bool = False) -> list[float]:
    """transformers' Trainer; returns the losses that it logs."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments, default_data_collator

    ids_RT = seeded_ids(settings)
    rows = Dataset.from_dict({"input_ids": ids_RT, "labels": ids_RT}).with_format("torch")
    means: list[float] = []
    Trainer(
        model=seeded_model(settings), args=TrainingArguments(**trainer_settings(settings, folder), use_liger_kernel=liger),
        train_dataset=rows, data_collator=default_data_collator, callbacks=[watcher(marks, means)],
    ).train()  # fmt: skip
    return means


def hf_liger(settings: Settings, marks: Marks, folder: Path) -> list[float]:
    """The same with Liger's kernels."""
    return hf(settings, marks, folder, liger=True)


def trl(settings: Settings, marks: Marks, folder: Path) -> list[float]:
    """TRL's SFTTrainer on rows that are tokens already."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    library: Any = import_module("trl")
    bpe = Tokenizer(models.BPE(vocab={"<eos>": 0, "a": 1}, merges=[]))
    wrap: Any = PreTrainedTokenizerFast
    tokenizer = wrap(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")
    means: list[float] = []
    library.SFTTrainer(
        model=seeded_model(settings),
        args=library.SFTConfig(**trainer_settings(settings, folder), max_length=settings.sequence),
        train_dataset=Dataset.from_dict({"input_ids": seeded_ids(settings)}), processing_class=tokenizer,
        callbacks=[watcher(marks, means)],
    ).train()  # fmt: skip
    return means


CONTENDERS: dict[str, Callable[[Settings, Marks, Path], list[float]]] = {
    "ours": ours, "bare": bare, "hf": hf, "hf_liger": hf_liger, "trl": trl,
}  # fmt: skip


def intervals(losses: Sequence[float]) -> list[float]:
    """The loss of step 1, and the means up to each multiple of INTERVAL after it: what transformers' Trainer logs."""
    edges = [1, *range(INTERVAL, len(losses) + 1, INTERVAL)]
    return [losses[0]] + [statistics.fmean(losses[start:end]) for start, end in pairwise(edges)]


def measured(name: str, settings: Settings) -> dict[str, Any]:
    """Run a contender in this process; returns its figures, or why there are none."""
    missing = [package for package in NEEDS[name] if not find_spec(package)]
    if missing:
        return {"which": name, "not_run": f"{', '.join(missing)} is not installed"}
    if name == "torchtitan":
        return {"which": name, "not_run": "brings its own model and data: run its command line beside this"}
    if name == "hf_liger" and settings.device == "cpu":
        return {"which": name, "not_run": "Liger's kernels run on CUDA only"}
    import torch

    marks = Marks(settings)
    with tempfile.TemporaryDirectory(prefix="sea-lion-") as folder:
        try:
            losses = CONTENDERS[name](settings, marks, Path(folder))
        except torch.OutOfMemoryError:
            return {"which": name, "not_run": "out of memory"}
    figures: dict[str, Any] = {
        "which": name,
        "losses": intervals(losses) if name in ("ours", "bare") else losses,
        "seconds": marks.of_a_step(marks.wall),
        "cpu_seconds": marks.of_a_step(marks.cpu),
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if settings.device == "cuda":
        figures |= {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return figures


def main() -> None:
    """Run one contender."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(json.dumps(measured(sys.argv[1], Settings(**json.loads(sys.argv[2])))))


def run(name: str, settings: Settings) -> dict[str, Any]:
    """A contender's figures from a process of its own."""
    import subprocess

    command = [sys.executable, __file__, name, json.dumps(asdict(settings))]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        return {"which": name, "not_run": f"failed: {reason[:200]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
