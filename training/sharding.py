"""A model from its folder, ready to train: weights in fp32, divided among the processes, computed in fp32 or bf16.

The model is built without memory, then divided by torch's `fully_shard`, then each process reads its own part of the files:
none ever holds the whole. Accelerate's FSDP was refused: on a CPU it is silently plain data parallelism, and its bf16 policy
rounds losses and reduces gradients in bf16. bf16 in a single process goes the same way, over a group of one; only fp32 in a
single process is not divided, and its parameters are plain tensors.

Gradients are the mean over the processes (torch's default, and the one reduction that gloo and NCCL both do right), so a loss
of which each process has its summand is multiplied by their number. `state_dict()` always gives the fp32 parts; `parameters()`
gives what the head's group has brought together from a forward pass until the next backward pass.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from ..catalog.errors import CorruptInput, MissingDependency, SeaLionError
from .attention import register
from .heads import LogProbabilities
from .processes import Processes
from .system import System

SCALED = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of transformers' models that scale the logits, which the head does not do."""


def load_trainable(folder: Path, precision: Literal["fp32", "bf16"], system: System, processes: Processes) -> LogProbabilities:
    """The model of `folder` for training, on the processes' device; every process of a launch calls it.

    Raises CorruptInput for a folder without safetensors or with weights that are not the configuration's, SeaLionError for a
    setting or a model that cannot be trained here, MissingDependency when Liger's kernels are asked for and not there.
    """
    if processes.world % system.replicas:
        raise SeaLionError(f"--set replicas={system.replicas}: does not divide the {processes.world} processes")
    if not any(folder.glob("*.safetensors")):
        raise CorruptInput(folder, "", "holds no weights as safetensors")
    module = LogProbabilities(_without_memory(folder), system.chunk, precision)
    _set_up(module.model, system, processes.device)
    if processes.world > 1 or precision == "bf16":
        _shard(module, precision, _mesh(system.replicas, processes))
    _allocate(module, processes.device)
    _read(module, folder, processes)
    return module.train()


def weights_of(module: LogProbabilities) -> dict[str, Tensor]:
    """The model's weights by their names in a file, each process' part of them; a tied head is left out."""
    weights = {name.removeprefix("model."): weight for name, weight in module.state_dict().items()}
    if _is_tied(module.model):
        del weights["lm_head.weight"]
    return weights


def _is_tied(model: Any) -> bool:
    return bool(model.config.tie_word_embeddings)


def _tie(model: Any) -> None:
    """Make head and embedding one parameter again: whatever moves parameters one by one takes them apart."""
    if _is_tied(model):
        model.lm_head.weight = model.model.embed_tokens.weight


def _without_memory(folder: Path) -> Any:
    """transformers' model with fp32 parameters on the meta device, and its computed buffers on the host."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        with init_empty_weights(include_buffers=False):
            build: Any = AutoModelForCausalLM.from_config
            model = build(config, dtype=torch.float32, attn_implementation=register())
    except (OSError, ValueError, KeyError) as error:
        raise CorruptInput(folder, "config.json", f"is not a causal language model of transformers: {error}") from error
    if not (hasattr(model, "lm_head") and hasattr(getattr(model, "model", None), "layers")):
        raise SeaLionError(f"{folder}: {type(model).__name__} has no model.layers and lm_head, which training needs")
    for setting in SCALED:
        if getattr(config, setting, None) not in (None, 1, 1.0):
            raise SeaLionError(f"{folder}: {type(model).__name__} scales its logits ({setting}), which training does not")
    if getattr(config, "attention_dropout", 0):
        raise SeaLionError(f"{folder}: attention_dropout is {config.attention_dropout}, and training has none: set it to 0")
    _tie(model)
    return model


def _set_up(model: Any, system: System, device: str) -> None:
    """Kernels, compilation and recomputation, from the inside out.

    Recomputation stands outside: attention breaks a compiled graph, and a graph that breaks within a recomputed region is not
    compiled at all, so that transformers' own, which stands inside, silently turns compilation off.
    """
    if system.liger:
        _use_liger(model, device)
    for layer in model.model.layers:
        if system.compile:
            layer.forward = torch.compile(layer.forward)
        if system.recompute == "layers":  # no layer draws random numbers, and asking for the generator's state costs time
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def _use_liger(model: Any, device: str) -> None:
    """Liger's norms and feed-forward layers in this model only.

    Liger replaces transformers' classes for the whole process, and a model that is loaded later, as to check an export on the
    host, could not run; so they are put back. Its rotary embedding is a function of the module and cannot be kept.
    """
    if not device.startswith("cuda"):
        raise SeaLionError(f"--set liger: Liger's kernels run on CUDA only, not on {device}")
    try:
        patches = import_module("liger_kernel.transformers.monkey_patch")
    except ImportError as error:
        raise MissingDependency("liger-kernel", "for --set liger") from error
    if model.config.model_type not in patches.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise SeaLionError(f"--set liger: Liger has no kernels for {model.config.model_type}")
    modeling = vars(sys.modules[type(model).__module__])
    originals = dict(modeling)
    patches._apply_liger_kernel_to_instance(model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)
    modeling.update(originals)


def _mesh(replicas: int, processes: Processes) -> DeviceMesh:
    """The processes as one group, or as `replicas` groups that each hold all weights."""
    if not dist.is_initialized():  # bf16 in a single process
        backend = "cpu:gloo" if processes.device == "cpu" else "cpu:gloo,cuda:nccl"
        stores: Any = dist
        dist.init_process_group(backend, store=stores.HashStore(), rank=0, world_size=1)
    kind = torch.device(processes.device).type
    if replicas == 1:
        return init_device_mesh(kind, (processes.world,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (replicas, processes.world // replicas), mesh_dim_names=("replicate", "shard"))


def _shard(module: LogProbabilities, precision: str, mesh: DeviceMesh) -> None:
    """Divide layer by layer; the last norm and the head stay together from forward to backward, which follow at once."""
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None)
    model = module.model
    last: list[nn.Module] = [model.model.norm, model.lm_head]
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    if _is_tied(model):
        last.insert(0, model.model.embed_tokens)  # a shared parameter must be in one group
    else:
        fully_shard(model.model.embed_tokens, mesh=mesh, mp_policy=policy)
    fully_shard(last, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    fully_shard(module, mesh=mesh, mp_policy=policy)


def _allocate(module: LogProbabilities, device: str) -> None:
    buffers = dict(module.named_buffers())
    module.to_empty(device=device)
    for name, buffer in module.named_buffers():
        buffer.copy_(buffers[name])
    _tie(module.model)


def _read(module: LogProbabilities, folder: Path, processes: Processes) -> None:
    """Fill the weights from the safetensors of a folder, of any precision, each process its part."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(weights_of(module), storage_reader=reader, process_group=processes.host, no_dist=processes.world == 1)
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise CorruptInput(folder, "", f"its safetensors are not the weights of its config.json: {reason}") from error
