"""A small training loop for the tests of checkpoints and interruptions: a tiny Llama or tied Gemma-2, alone or sharded.

`start` runs it in processes of the fork server that `tests/conftest.py` has import torch: a start costs a tenth of a second.
"""

import gc
import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sea_lion.catalog.errors import Unfinished
from sea_lion.training import checkpoint
from sea_lion.training.checkpoint import Checkpoints
from sea_lion.training.interruption import Interrupted, Interruption
from sea_lion.training.optimizer import adamw, clipped_norm, step_if_finite
from sea_lion.training.processes import Processes
from sea_lion.training.recipe import Optimizer

VOCABULARY, LENGTH, ROWS = 64, 16, 4


def model_of(architecture: str, seed: int = 0) -> nn.Module:
    """A model of two small layers."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": LENGTH, "attn_implementation": "eager",
    }  # fmt: skip
    torch.manual_seed(seed)
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
    return Gemma2ForCausalLM(Gemma2Config(**sizes, query_pre_attn_scalar=8, sliding_window=8))


def sharded(model: Any) -> nn.Module:
    """The model's weights divided over the processes."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for layer in model.model.layers:
        fully_shard(layer)
    if model.config.tie_word_embeddings:
        fully_shard([model.model.embed_tokens, model.model.norm, model.lm_head], reshard_after_forward=False)
    fully_shard(model)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
    return model  # type: ignore[no-any-return]


def loss_of(model: Any, step: int, rank: int, world: int, noise: float) -> Tensor:
    """Of this process' share of a step's rows; `noise` takes from the process' random state."""
    draw = torch.Generator().manual_seed(step)
    ids_RT = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=draw)[rank::world]
    logits_RTV = model(input_ids=ids_RT[:, :-1], use_cache=False).logits
    if noise:
        logits_RTV = logits_RTV + noise * torch.rand(logits_RTV.shape)
    labels_N = ids_RT[:, 1:].reshape(-1)
    return nn.functional.cross_entropy(logits_RTV.reshape(-1, VOCABULARY), labels_N, reduction="sum") / (ROWS * LENGTH)


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and moments, each whole."""
    tensors = {f"weight {name}": parameter for name, parameter in model.named_parameters()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, moments in optimizer.state.items():
        tensors |= {f"{key} {names[parameter]}": value for key, value in moments.items()}
    return {
        name: getattr(tensor, "full_tensor", lambda kept=tensor: kept)().detach().clone() for name, tensor in tensors.items()
    }


def train(folder: Path, processes: Processes, settings: dict[str, Any]) -> None:
    """Train as `settings` say; rank 0 writes `NAME.pt` (losses, final state), every process `NAME-RANK.json` (how it ended)."""
    rank, world, at = processes.rank, processes.world, settings.get("at", {})
    model = model_of(settings.get("architecture", "llama"))
    model = sharded(model) if world > 1 else model
    optimizer = adamw(model, Optimizer(weight_decay=0.1), 1e-2)
    checkpoints = Checkpoints(
        folder / "resume", folder / "permanent", lambda step: f"{settings.get('plan', '')}{step}", processes
    )  # fmt: skip
    torch.manual_seed(100 + rank)
    said: dict[str, Any] = {"resumed": 0, "skipped": [], "end": "done"}
    losses: list[float] = []
    try:
        progress = checkpoints.restore(model, optimizer)
        if progress:
            said["resumed"], losses = progress.step, progress.state["losses"]
        with Interruption(processes) as interruption:
            for step in range(said["resumed"] + 1, settings["steps"] + 1):
                loss = loss_of(model, step, rank, world, settings.get("noise", 0.0))
                if [rank, step] == at.get("nan"):
                    loss = loss * float("nan")
                torch.autograd.backward(loss * world)
                total = processes.total(loss.detach().clone())
                skipped = step_if_finite(optimizer, 1e-2 / step, total, clipped_norm(model, 1.0))
                losses.append(float(total))
                said["skipped"] += [step] if skipped else []
                if [rank, step] == at.get("term"):
                    os.kill(os.getpid(), signal.SIGTERM)
                is_stopped = interruption.agreed()
                if is_stopped or step % settings.get("every", 2) == 0:
                    fail(folder / "resume" / f"step-{step:09d}.partial", step, rank, at)
                    checkpoints.save(step, {"losses": losses}, model, optimizer, permanent=step == settings.get("permanent"))
                if is_stopped:
                    checkpoints.wait()
                    raise Interrupted(f"after step {step}")
                if step == at.get("kill"):
                    checkpoints.wait()
                    os.kill(os.getpid(), signal.SIGKILL)
                said["step"] = step
            checkpoints.wait()
    except Unfinished as error:
        said["end"] = f"{type(error).__name__}: {error}"
    tensors = whole_state(model, optimizer)
    if rank == 0:
        torch.save({"losses": losses, "tensors": tensors}, folder / f"{settings['name']}.pt")
    (folder / f"{settings['name']}-{rank}.json").write_text(json.dumps(said))


def fail(partial: Path, step: int, rank: int, at: dict[str, Any]) -> None:
    """Let the writing of this step's checkpoint fail, or be killed, as the settings say."""
    if [rank, step] == at.get("full", [])[:2]:
        partial.mkdir(parents=True, exist_ok=True)
        (partial / at["full"][2]).symlink_to("/dev/full")
    for name, function in (("kill in write", "file_digest"), ("kill in seal", "write_atomically")):
        if [rank, step] == at.get(name):
            setattr(checkpoint, function, lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def main(folder: Path, rank: int, world: int, settings: dict[str, Any]) -> None:
    """One of the processes."""
    gc.freeze()  # of what the fork server has imported
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if world == 1:
        train(folder, Processes(rank=0, world=1, device="cpu"), settings)
        return
    patience = timedelta(seconds=60)
    meeting = f"file://{folder}/{settings['name']}.meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=patience)
    groups: list[Any] = [dist.new_group(backend="gloo", timeout=patience) for _ in range(2)]
    train(folder, Processes(rank=rank, world=world, device="cpu", host=groups[0], saving=groups[1]), settings)
    dist.destroy_process_group()


def start(folder: Path, world: int, **settings: Any) -> list[BaseProcess]:
    """Start the loop in `world` processes."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    given = [{"GIVEN": (str(folder), rank, world, settings)} for rank in range(world)]
    processes = [context.Process(target=runpy.run_path, args=(__file__, each, "__main__"), daemon=True) for each in given]
    for process in processes:
        process.start()
    return list(processes)


def run(folder: Path, world: int, **settings: Any) -> list[int | None]:
    """Run the loop to its end in `world` processes; who is left when one is killed is killed too. Returns the exit codes."""
    processes = start(folder, world, **settings)
    until = time.monotonic() + 60
    while any(process.is_alive() for process in processes) and time.monotonic() < until:
        if any(process.exitcode not in (None, 0) for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


if __name__ == "__main__":
    sys.stdout.flush()
    GIVEN: Any = globals()["GIVEN"]
    main(Path(GIVEN[0]), *GIVEN[1:])
