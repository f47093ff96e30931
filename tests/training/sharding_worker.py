"""What two processes measure for test_sharding.py, all in one launch: `sharding_worker.py FOLDER`, started twice.

Rank 0 writes `FOLDER/measured.json`: for each process and scenario the figures that the tests judge.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from sea_lion.catalog.errors import SeaLionError
from sea_lion.training.batches import IGNORED, Batch, batch_of
from sea_lion.training.heads import LogProbabilities
from sea_lion.training.model import export
from sea_lion.training.processes import Processes, join_processes
from sea_lion.training.sharding import load_trainable, weights_of
from sea_lion.training.system import System

ALONE = Processes(rank=0, world=1, device="cpu")
PLAIN = System()
ROWS, LENGTH = 4, 40


def rows(numbers: Sequence[int]) -> Batch:
    """Some of four rows of documents, whose numbers of labels in the loss differ; a negative number is a blank row."""
    draw = np.random.default_rng(3)
    ids, labels = draw.integers(0, 97, (2, ROWS, LENGTH))
    labels[draw.random(labels.shape) < np.array([[0.0], [0.2], [0.5], [0.8]])] = IGNORED
    starts = draw.random(labels.shape) < 0.1
    chosen = [abs(number) for number in numbers]
    labels[[-number for number in numbers if number < 0]] = IGNORED
    return batch_of(ids[chosen], labels[chosen], np.zeros((len(chosen), LENGTH), np.int64), starts[chosen])


def gradients(module: LogProbabilities, micro_batches: Sequence[Sequence[int]], units: int, world: int) -> dict[str, Tensor]:
    """The whole gradients of the mean negative log-probability, accumulated over micro-batches."""
    module.zero_grad()
    for numbers in micro_batches:
        (-module(rows(numbers)).sum() / units * world).backward()
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        gradient: Any = parameter.grad
        found[name] = (gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient).clone()
    return found


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference, over all tensors, as a share of the tensor's largest value."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max() / expected[name].abs().max()) for name in expected)


def whole(module: LogProbabilities) -> dict[str, Tensor]:
    return {name: weight.full_tensor() for name, weight in weights_of(module).items() if isinstance(weight, DTensor)}


def measure_gradients(folder: Path, processes: Processes) -> dict[str, float]:
    """How far gradients of two processes are from those of one, in each way of training."""
    rank, units = processes.rank, len(rows(range(ROWS)).trained_N)
    expected = gradients(load_trainable(folder, "fp32", PLAIN, ALONE), [range(ROWS)], units, 1)
    ways: dict[str, tuple[Literal["fp32", "bf16"], System, list[list[int]]]] = {
        "once": ("fp32", PLAIN, [[rank, 2 + rank]]),
        "accumulated": ("fp32", PLAIN, [[rank], [2 + rank]]),
        "recomputed": ("fp32", replace(PLAIN, recompute="layers"), [[rank], [2 + rank]]),
        "replicated": ("fp32", replace(PLAIN, replicas=2), [[rank], [2 + rank]]),
        "blank": ("fp32", PLAIN, [[0, 1], [2, 3]] if rank else [[-1], [-2]]),
        "bf16": ("bf16", PLAIN, [[rank], [2 + rank]]),
    }
    return {
        name: apart(gradients(load_trainable(folder, precision, system, processes), micro, units, 2), expected)
        for name, (precision, system, micro) in ways.items()
    }


def measure_loading(folder: Path, processes: Processes) -> dict[str, bool]:
    """Whether the divided weights are the file's, how many a process holds, and what bf16 gives back."""
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    module = load_trainable(folder, "bf16", PLAIN, processes)
    loaded = whole(module)
    with torch.no_grad():
        logp_RT = module(rows([0]))
    held = sum(weight.to_local().numel() for weight in weights_of(module).values() if isinstance(weight, DTensor))
    return {
        "weights": all(torch.equal(own[name], weight) for name, weight in loaded.items()),
        "half": held <= sum(weight.numel() for weight in loaded.values()) * 0.6,
        "fp32_logp": logp_RT.dtype == torch.float32 and bool((logp_RT != logp_RT.bfloat16().float()).any()),
        "fp32_weights": all(weight.dtype == torch.float32 for weight in weights_of(module).values()),
    }


def measure_export(folder: Path, target: Path, processes: Processes) -> dict[str, Any]:
    """Train a step, export, and keep what the trained model says of a row."""
    module = load_trainable(folder, "fp32", PLAIN, processes)
    (-module(rows([processes.rank])).sum()).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.01 * parameter.grad.sign())
        logp_RT = module(rows([0]))
    exported = export(module, folder, target, dtype="float32", template="", processes=processes)
    if processes.rank == 0:
        torch.save({"batch": rows([0]), "logp": logp_RT}, target.with_suffix(".pt"))
    refused = ""
    try:  # a file is where the folder should be
        export(module, folder, folder / "config.json", dtype="float32", template="", processes=processes)
    except SeaLionError as error:
        refused = f"{type(error).__name__}: {error}"
    return {"architecture": exported.architecture, "parameters": exported.parameters, "refused": refused}


def main(folder: Path) -> None:
    processes = join_processes("cpu")
    torch.set_num_threads(1)
    measured: dict[str, Any] = {}
    for name in ("llama", "tied", "gemma2"):
        measured[name] = {
            "loading": measure_loading(folder / name, processes),
            "gradients": measure_gradients(folder / name, processes),
            "export": measure_export(folder / name, folder / f"{name}-out", processes),
        }
    measured["shards"] = measure_loading(folder / "shards", processes)
    ranks = processes.gathered(measured)
    if processes.rank == 0:
        (folder / "measured.json").write_text(json.dumps(ranks))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
