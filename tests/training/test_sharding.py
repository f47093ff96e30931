"""Two processes compute what one does, in every way of training, and a folder that cannot be trained is refused in one line."""

import json
import runpy
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.training.batches import Batch, batch_of
from sea_lion.training.processes import Processes
from sea_lion.training.sharding import load_trainable, weights_of
from sea_lion.training.system import System

ALONE = Processes(rank=0, world=1, device="cpu")
WORKER = Path(__file__).with_name("sharding_worker.py")
SMALL: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_models.py"))))
CONFIGS = {name: SMALL.config_of(name, initializer_range=0.06) for name in ("llama", "tied", "gemma2")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models with a tokenizer, one also in several files of bf16."""
    folder = tmp_path_factory.mktemp("sharding")
    tokenizer = SMALL.tokenizer_of(SMALL.LETTERS)
    for name, config in CONFIGS.items():
        model = SMALL.model_of(config)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        if name == "llama":
            model.to(torch.bfloat16).save_pretrained(folder / "shards", max_shard_size="20KB")
    return folder


def problems(folder: Path) -> list[str]:
    """What the two processes said last."""
    return [(folder / rank / "stderr").read_text()[-3000:] for rank in ("0", "1")]


@pytest.fixture(scope="module")
def measured(folder: Path, forked: Any) -> Any:
    """What two processes measure, each scenario in turn."""
    assert forked.exit_codes(forked.together(2, WORKER, str(folder), says=folder), 200) == [0, 0], problems(folder)
    return json.loads((folder / "measured.json").read_text())


@pytest.fixture
def group() -> Iterator[None]:
    """The group of one that bf16 makes lives no longer than the test."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def batch() -> Batch:
    draw = np.random.default_rng(5)
    ids, labels = draw.integers(0, 97, (2, 2, 30))
    return batch_of(ids, labels, np.zeros_like(ids), draw.random(ids.shape) < 0.1)


@pytest.mark.parametrize("way", ["once", "accumulated", "recomputed", "replicated", "blank"])
@pytest.mark.parametrize("model", CONFIGS)
def test_gradients_of_two_processes_are_those_of_one(measured: Any, model: str, way: str) -> None:
    assert max(rank[model]["gradients"][way] for rank in measured) < 1e-6


@pytest.mark.parametrize("model", CONFIGS)
def test_bf16_gradients_differ_by_rounding_only(measured: Any, model: str) -> None:
    assert 1e-4 < measured[0][model]["gradients"]["bf16"] < 0.05


@pytest.mark.parametrize("model", CONFIGS)
def test_each_process_holds_its_part_of_the_files_weights_in_fp32(measured: Any, model: str) -> None:
    for rank in measured:
        assert rank[model]["loading"] == {"weights": True, "half": True, "fp32_logp": True, "fp32_weights": True}


def test_weights_in_several_files_of_bf16_are_read(measured: Any, folder: Path) -> None:
    assert len(list((folder / "shards").glob("*.safetensors"))) > 1
    assert all(rank["shards"]["weights"] and rank["shards"]["fp32_weights"] for rank in measured)


@pytest.mark.parametrize("model", CONFIGS)
def test_an_export_from_two_processes_is_the_trained_model(measured: Any, folder: Path, model: str) -> None:
    said = torch.load(folder / f"{model}-out.pt", weights_only=False)
    module = load_trainable(folder / f"{model}-out", "fp32", System(), ALONE)
    with torch.no_grad():
        torch.testing.assert_close(module(said["batch"]), said["logp"], atol=1e-5, rtol=0)
    own = AutoModelForCausalLM.from_pretrained(folder / f"{model}-out")
    assert measured[0][model]["export"]["parameters"] == sum(parameter.numel() for parameter in own.parameters())
    assert measured[1][model]["export"]["architecture"] == type(own).__name__


@pytest.mark.parametrize("model", CONFIGS)
def test_a_failed_export_ends_every_process_with_the_same_line(measured: Any, model: str) -> None:
    zero, one = (rank[model]["export"]["refused"] for rank in measured)
    assert zero == one
    assert zero.startswith("Unfinished")


@pytest.mark.parametrize("model", CONFIGS)
def test_one_process_loads_what_transformers_loads(folder: Path, model: str) -> None:
    module = load_trainable(folder / model, "fp32", System(), ALONE)
    own = AutoModelForCausalLM.from_pretrained(folder / model)
    assert module.training
    assert weights_of(module).keys() == load_file(folder / model / "model.safetensors").keys()
    for name, weight in weights_of(module).items():
        assert torch.equal(weight, own.state_dict()[name])
    for name, buffer in own.named_buffers():
        assert torch.equal(module.model.get_buffer(name), buffer)


def test_bf16_in_one_process_is_the_policy_of_many(folder: Path, group: None) -> None:
    exact = load_trainable(folder / "gemma2", "fp32", System(), ALONE)(batch())
    module = load_trainable(folder / "gemma2", "bf16", System(), ALONE)
    rounded = module(batch())
    rounded.sum().backward()
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).abs().max()) < 0.1
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in module.parameters() if parameter.grad is not None} == {torch.float32}


@pytest.mark.parametrize("model", ["llama", "gemma2"])
def test_recomputation_changes_no_bit_and_keeps_less(folder: Path, model: str) -> None:
    results = []
    for system in (System(), System(recompute="layers")):
        module, kept = load_trainable(folder / model, "fp32", system, ALONE), [0]

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logp = module(batch())
        logp.sum().backward()
        results.append((kept[0], logp, [parameter.grad for parameter in module.parameters()]))
    (plain, *expected), (less, *found) = results
    assert less < plain / 2
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_compiled_layers_are_not_compiled_anew_for_other_documents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And recomputation does not turn compilation off."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # inductor's C++ takes 40 s
    torch._dynamo.reset()
    module = load_trainable(folder / "llama", "fp32", System(compile=True, recompute="layers"), ALONE)
    plain = load_trainable(folder / "llama", "fp32", System(), ALONE)
    first, counts = batch(), []
    other = batch_of(
        first.input_ids_RT.numpy(),
        first.labels_RT.numpy(),
        first.parts_RT.numpy(),
        np.random.default_rng(9).random((2, 30)) < 0.2,
    )
    for each in (first, other):
        logp = module(each)
        logp.sum().backward()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        torch.testing.assert_close(logp, plain(each), atol=1e-5, rtol=0)
    assert counts[0] == counts[1] > 0


def test_liger_on_a_cpu_is_refused(folder: Path) -> None:
    with pytest.raises(SeaLionError, match="CUDA only"):
        load_trainable(folder / "llama", "fp32", System(liger=True), ALONE)


def test_replicas_that_do_not_divide_the_processes_are_refused(folder: Path) -> None:
    with pytest.raises(SeaLionError, match="does not divide the 1 processes"):
        load_trainable(folder / "llama", "fp32", System(replicas=2), ALONE)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="no weights as safetensors"):
        load_trainable(tmp_path, "fp32", System(), ALONE)


def test_weights_that_are_not_the_configurations_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "llama", tmp_path / "model")
    weights = load_file(folder / "llama" / "model.safetensors")
    lacking = {name: weight for name, weight in weights.items() if name != "model.norm.weight"}
    save_file(lacking, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CorruptInput, match=r"model\.norm\.weight"):
        load_trainable(tmp_path / "model", "fp32", System(), ALONE)
    save_file({**weights, "model.norm.weight": torch.ones(5)}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CorruptInput, match="norm"):
        load_trainable(tmp_path / "model", "fp32", System(), ALONE)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CorruptInput, match="safetensors"):
        load_trainable(tmp_path / "model", "fp32", System(), ALONE)


@pytest.mark.parametrize(
    ("changes", "problem"), [({"logits_scaling": 8.0}, "scales its logits"), ({"attention_dropout": 0.1}, "has none")]
)
def test_a_model_that_would_be_trained_wrongly_is_refused(folder: Path, tmp_path: Path, changes: Any, problem: str) -> None:
    shutil.copytree(folder / "llama", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(SeaLionError, match=problem):
        load_trainable(tmp_path / "model", "fp32", System(), ALONE)
