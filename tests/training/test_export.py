"""An export is the trained model in transformers' hands, or it does not appear."""

import errno
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sea_lion.catalog.errors import SeaLionError, Unfinished
from sea_lion.training import model as exports
from sea_lion.training.batches import Batch
from sea_lion.training.heads import LogProbabilities
from sea_lion.training.model import Exported, export
from sea_lion.training.processes import Processes
from sea_lion.training.sharding import load_trainable
from sea_lion.training.system import System

ALONE = Processes(rank=0, world=1, device="cpu")
SMALL: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_models.py"))))
CONFIGS = {name: SMALL.config_of(name) for name in ("llama", "gemma2")}
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models whose tokenizer was saved with BPE-dropout on."""
    folder = tmp_path_factory.mktemp("export")
    tokenizer = SMALL.tokenizer_of({**SMALL.LETTERS, "ab": 20}, [("a", "b")], dropout=0.5)
    for name, config in CONFIGS.items():
        model = SMALL.model_of(config)
        model.generation_config.max_new_tokens = 77
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def group() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def trained(folder: Path, precision: Any = "fp32") -> LogProbabilities:
    """A model some way from where it began."""
    module = load_trainable(folder, precision, System(), ALONE)
    module(probe()).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.02 * parameter.grad.sign())
    return module


def probe() -> Batch:
    return exports._probe(97)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_loads_the_trained_model(folder: Path, tmp_path: Path, name: str) -> None:
    module = trained(folder / name)
    exported = export(module, folder / name, tmp_path, dtype="float32", template=TEMPLATE, processes=ALONE)
    own: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    logits = own(input_ids=probe().input_ids_RT).logits
    logp = logits.log_softmax(-1).gather(2, probe().labels_RT[..., None]).squeeze(2)
    torch.testing.assert_close(module(probe()), logp, atol=1e-5, rtol=0)
    assert exported == Exported(architecture=type(own).__name__, parameters=sum(p.numel() for p in own.parameters()))
    assert own.generation_config.max_new_tokens == 77
    assert not (tmp_path / "export.partial").exists()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_loads_to_the_same_bits_for_the_next_stage(folder: Path, tmp_path: Path, name: str) -> None:
    module = trained(folder / name)
    export(module, folder / name, tmp_path, dtype="float32", template="", processes=ALONE)
    assert torch.equal(load_trainable(tmp_path, "fp32", System(), ALONE)(probe()), module(probe()))


def test_the_tokenizer_is_not_random_and_holds_the_template(folder: Path, tmp_path: Path) -> None:
    export(trained(folder / "llama"), folder / "llama", tmp_path, dtype="float32", template=TEMPLATE, processes=ALONE)
    assert json.loads((folder / "llama" / "tokenizer.json").read_text())["model"]["dropout"] == 0.5
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert {tuple(tokenizer("ababab")["input_ids"]) for _ in range(20)} == {(20, 20, 20)}
    assert tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "bfloat16"), ("bf16", "float32"), ("bf16", "bfloat16")])
def test_bf16_is_written_and_computed(folder: Path, tmp_path: Path, group: None, name: str, precision: str, dtype: Any) -> None:
    module = trained(folder / name, precision)
    export(module, folder / name, tmp_path, dtype=dtype, template="", processes=ALONE)
    weights = load_file(tmp_path / "model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {f"torch.{dtype}"}
    assert AutoConfig.from_pretrained(tmp_path).dtype == getattr(torch, dtype)
    assert "within_documents" not in (tmp_path / "config.json").read_text()


def test_a_large_model_is_several_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"of an earlier attempt")
    monkeypatch.setattr(exports, "SHARD", "20KB")
    module = trained(folder / "llama")
    export(module, folder / "llama", tmp_path, dtype="float32", template="", processes=ALONE)
    assert "model.safetensors.index.json" in files(tmp_path)
    assert "model.safetensors" not in files(tmp_path)
    assert torch.equal(load_trainable(tmp_path, "fp32", System(), ALONE)(probe()), module(probe()))


def test_a_config_that_computes_something_else_is_found(folder: Path, tmp_path: Path) -> None:
    module = trained(folder / "gemma2")
    module.model.config.final_logit_softcapping = 2.0
    with pytest.raises(SeaLionError, match="is not the trained model: its log-probabilities differ"):
        export(module, folder / "gemma2", tmp_path, dtype="float32", template="", processes=ALONE)
    with pytest.raises(SeaLionError, match="is not the trained model"):
        export(module, folder / "gemma2", tmp_path, dtype="bfloat16", template="", processes=ALONE)
    assert files(tmp_path) == []


def test_a_weight_that_changes_on_its_way_is_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = exports._write

    def spoil(weights: Any, *rest: Any) -> None:
        write({**weights, "model.norm.weight": weights["model.norm.weight"] + 0.1}, *rest)

    monkeypatch.setattr(exports, "_write", spoil)
    with pytest.raises(SeaLionError, match=r"weight model\.norm\.weight of the export does not read back"):
        export(trained(folder / "llama"), folder / "llama", tmp_path, dtype="bfloat16", template="", processes=ALONE)
    assert files(tmp_path) == []


def test_weights_that_are_not_finite_are_found(folder: Path, tmp_path: Path) -> None:
    module = trained(folder / "llama")
    with torch.no_grad():
        module.model.model.norm.weight[3] = torch.nan
    with pytest.raises(SeaLionError, match="not finite"):
        export(module, folder / "llama", tmp_path, dtype="float32", template="", processes=ALONE)
    assert files(tmp_path) == []


def test_a_tokenizer_larger_than_the_embedding_is_found(folder: Path, tmp_path: Path) -> None:
    SMALL.tokenizer_of({chr(200 + i): i for i in range(98)}).save_pretrained(tmp_path / "source")
    with pytest.raises(SeaLionError, match="98 tokens and the model's embedding 97"):
        export(trained(folder / "llama"), tmp_path / "source", tmp_path / "out", dtype="float32", template="", processes=ALONE)


def test_a_full_disk_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exports, "copy_tokenizer", full)
    with pytest.raises(Unfinished, match=r"cannot be written: .*No space left"):
        export(trained(folder / "llama"), folder / "llama", tmp_path, dtype="float32", template="", processes=ALONE)
    assert files(tmp_path) == []
