"""Pickles become safetensors, and what a pickle would run stays unrun."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from sea_lion.catalog.errors import CorruptInput, SeaLionError, Unfinished
from sea_lion.merging import convert
from sea_lion.merging.convert import convert_pickles
from sea_lion.merging.weights import Weights

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32,
}  # fmt: skip
PICKLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
HEAD, EMBEDDING, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"


def model_of(architecture: str) -> Any:
    torch.manual_seed(2)
    if architecture == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=16)).bfloat16()
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def pickled(folder: Path, model: Any, shards: int = 1, **options: Any) -> Path:
    """A model as old trainers left it; the state of a tied one names the shared tensor twice."""
    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"not for us")
    state = list(model.state_dict().items())
    if shards == 1:
        torch.save(dict(state), folder / PICKLE, **options)
        return folder
    names = [f"pytorch_model-{number:05}-of-{shards:05}.bin" for number in range(1, shards + 1)]
    for number, name in enumerate(names):
        torch.save(dict(state[number::shards]), folder / name, **options)
    weight_map = {key: names[number % shards] for number, (key, _) in enumerate(state)}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pickled(tmp_path / "pickled", model_of("llama"))


def repickled(folder: Path, change: Callable[[dict[Any, Any]], Any]) -> None:
    content = torch.load(folder / PICKLE)
    torch.save(change(content) or content, folder / PICKLE)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_same_model_comes_out(tmp_path: Path, architecture: str, shards: int, is_zip: bool) -> None:
    model, output = model_of(architecture), tmp_path / "new" / "model"
    folder = pickled(tmp_path / "pickled", model, shards, _use_new_zipfile_serialization=is_zip)
    made = convert_pickles(folder, output)
    assert made.files == shards == len(list(output.glob("*.safetensors")))
    assert {path.name for path in output.iterdir() if path.suffix != ".safetensors"} == {"config.json", "tokenizer.json"} | (
        {"model.safetensors.index.json"} if shards > 1 else set()
    )
    again: Any = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    for (name, old), (_, new) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert old.dtype == new.dtype and torch.equal(old, new), name
    tensors = Weights(output).tensors
    assert len(tensors) == made.tensors and sum(t.elements * t.dtype.itemsize for t in tensors.values()) == made.bytes
    is_left_out = architecture == "gemma2"  # also where head and embedding lie in two files
    assert made.dropped == ((HEAD,) if is_left_out else ())
    assert (HEAD in tensors) is not is_left_out
    assert [path.name for path in output.parent.iterdir()] == ["model"]


def test_tensors_that_share_memory_or_lie_turned_come_out_whole(folder: Path, tmp_path: Path) -> None:
    long = torch.arange(64.0).half()

    def change(state: dict[str, Any]) -> dict[str, Any]:
        turned = torch.arange(6.0).view(2, 3).T
        more = {"a": long[:16], "b": long[8:24], "turned": turned, "one": torch.tensor(3.5), "none": torch.empty(0, 4)}
        return {"model": state | more | {"rotary_emb.inv_freq": torch.ones(4)}, "epoch": 3}

    repickled(folder, change)
    made = convert_pickles(folder, tmp_path / "new")
    found = load_file(tmp_path / "new" / "model.safetensors")
    assert made.dropped == ("rotary_emb.inv_freq",)
    assert torch.equal(found["a"], long[:16]) and torch.equal(found["b"], long[8:24])
    assert torch.equal(found["turned"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert found["one"].shape == () and found["one"] == 3.5 and found["none"].shape == (0, 4)


class Payload:
    """Unpickled by Python, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "nested"])
def test_a_pickle_that_would_run_code_is_refused_unrun(folder: Path, tmp_path: Path, form: str) -> None:
    proof = tmp_path / "it-ran"
    content: Any = {"w": torch.ones(2), "x": Payload(proof)}
    if form == "bare":
        (folder / PICKLE).write_bytes(pickle.dumps(content["x"], 2))
        pickle.loads((folder / PICKLE).read_bytes())
        assert proof.exists(), "the payload works"
        proof.unlink()
    else:
        content = {"model": content} if form == "nested" else content
        torch.save(content, folder / PICKLE, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(CorruptInput, match=r"pytorch_model\.bin: would call [\w.]+, which") as error:
        convert_pickles(folder, tmp_path / "new")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    assert not proof.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"pickled"}


def test_an_import_that_a_pickle_names_is_not_made(folder: Path, tmp_path: Path) -> None:
    """Protocol 0, by hand: `os.system('touch ...')`."""
    proof = tmp_path / "it-ran"
    (folder / PICKLE).write_bytes(f"cos\nsystem\n(S'touch {proof}'\ntR.".encode())
    with pytest.raises(CorruptInput, match=r"would call os\.system, which no weights need: it was not run"):
        convert_pickles(folder, tmp_path / "new")
    assert not proof.exists()


def cut(folder: Path) -> None:
    data = (folder / PICKLE).read_bytes()
    (folder / PICKLE).write_bytes(data[: len(data) // 2])


def sharded(folder: Path, weight_map: Callable[[dict[str, str]], object]) -> None:
    """Two shards, and an index that was changed."""
    other = pickled(folder.with_name("sharded"), model_of("llama"), 2)
    content = json.loads((other / INDEX).read_text())
    weight_map(content["weight_map"])
    (other / INDEX).write_text(json.dumps(content))
    shutil.rmtree(folder)
    other.rename(folder)


def untied(folder: Path) -> None:
    shutil.rmtree(folder)
    pickled(folder, model_of("gemma2"))
    repickled(folder, lambda state: state | {HEAD: state[HEAD] + 1})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, r"pytorch_model\.bin: is cut short, or no pickle of weights"),
    "empty": (lambda folder: (folder / PICKLE).write_bytes(b""), "is cut short, or no pickle of weights"),
    "text": (lambda folder: (folder / PICKLE).write_text("version https://git-lfs"), "is cut short, or no pickle of weights"),
    "list": (lambda folder: repickled(folder, lambda state: [*state.values()]), "holds a list, not tensors by name"),
    "number": (lambda folder: repickled(folder, lambda state: state.update(step=3)), "step: is a int, not a tensor"),
    "numbered": (lambda folder: repickled(folder, lambda state: state | {3: torch.ones(1)}), "3: is a Tensor, not a t"),
    "nested": (lambda folder: repickled(folder, lambda state: {"ema": state}), "ema: is a dict, not a tensor"),
    "integers": (lambda folder: repickled(folder, lambda state: state.update(w=torch.ones(2).int())), "w: is of type int32"),
    "sparse": (lambda folder: repickled(folder, lambda state: state.update(w=torch.eye(2).to_sparse())), "w: is sparse"),
    "stretched": (
        lambda folder: repickled(folder, lambda state: state.update(w=torch.ones(1).expand(10**6, 10**6))),
        "w: says it has shape .* of which the file holds a part",
    ),
    "no global": (lambda folder: (folder / PICKLE).write_bytes(pickle.dumps(Path(), 4)), "no pickle of weights"),
    "untied": (
        untied,
        r"lm_head\.weight: differs from the embedding it is tied to",
    ),
    "nothing": (lambda folder: torch.save({}, folder / PICKLE), "holds no weights"),
    "no pickle": (lambda folder: (folder / PICKLE).unlink(), r"weights lie in pytorch_model\.bin"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), r"config\.json: is missing"),
    "not a configuration": (lambda folder: (folder / "config.json").write_text("[]"), "is not a configuration"),
    "heads": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 0}'),
        "is not a configuration",
    ),
    "deep index": (lambda folder: (folder / f"{PICKLE}.index.json").write_text("[" * 100_000), "is no index of weights"),
    "safetensors": (lambda folder: save_file({"w": torch.ones(1)}, folder / "model.safetensors"), "nothing to convert"),
    "no folder": (lambda folder: shutil.rmtree(folder), "no such folder"),
    "missing shard": (lambda folder: sharded(folder, lambda m: m.update({NORM: "pytorch_model-9.bin"})), "is named there and"),
    "path": (lambda folder: sharded(folder, lambda m: m.update({NORM: "../pytorch_model.bin"})), "is named there and missing"),
    "wrong shard": (lambda folder: sharded(folder, lambda m: m.pop(NORM)), r"model\.norm\.weight: is not where"),
    "no index": (lambda folder: sharded(folder, lambda m: m.clear()), "is named there and missing"),
}  # fmt: skip


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_what_is_not_weights_is_refused_and_leaves_nothing(folder: Path, tmp_path: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    change(folder)
    there = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(CorruptInput, match=message) as error:
        convert_pickles(folder, tmp_path / "new")
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == there


def test_an_output_that_exists_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(SeaLionError, match="new: exists; name a new folder"):
        convert_pickles(folder, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_a_full_disk_and_an_interruption_leave_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, flat: torch.Tensor) -> None:
        file.write(flat[:3].numpy().data)
        raise OSError(28, "No space left on device")

    (tmp_path / ".new.partial").mkdir()
    (tmp_path / ".new.partial" / "left-by-a-killed-run").touch()
    with monkeypatch.context() as patch:
        patch.setattr(convert, "_write_pieces", full)
        with pytest.raises(Unfinished, match="no space left on the device"):
            convert_pickles(folder, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"pickled"}
    assert convert_pickles(folder, tmp_path / "new").tensors == 21
    assert not list((tmp_path / "new").glob("left*"))
