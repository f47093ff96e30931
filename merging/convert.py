"""Weights in pickles (`pytorch_model.bin`) written anew as safetensors, without running what a pickle may hold.

torch's own unpickler reads them with `weights_only`: it knows tensors and plain containers and stops at anything else. One file
is open at a time and mapped, not loaded, so that its pages are the kernel's to take back; a tensor is copied only where it is
not contiguous. (The format of torch before 1.6 cannot be mapped: such a file is in memory as a whole.) safetensors' `save_file`
was refused: it copies all of a file's tensors to memory. Two tensors over the same memory become two, except a tied head: it is
left out, as transformers does, or random pruning would make head and embedding two.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..catalog.errors import CorruptInput, SeaLionError, Unfinished
from ..catalog.files import sync_folder

log = logging.getLogger(__name__)

CONFIG, PICKLE, PICKLE_INDEX = "config.json", "pytorch_model.bin", "pytorch_model.bin.index.json"
BESIDE = (
    CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""Copied as they are."""
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
WRAPPERS = ("model", "state_dict", "module")
"""Keys under which trainers put the weights, beside their own state."""
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
COMPUTED = "rotary_emb.inv_freq"
"""A table that old versions of transformers saved and present ones compute."""
NOT_WEIGHTS = "is cut short, or no pickle of weights that can be read without running code"
PIECE = 2**24
"""Bytes written at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a conversion wrote."""

    tensors: int
    """Tensors written."""
    bytes: int
    """Of these tensors."""
    files: int
    """Safetensors files."""
    dropped: tuple[str, ...]
    """Tensors left out, because transformers makes them itself."""


def convert_pickles(folder: Path, output: Path) -> Converted:
    """Write the model of a folder of pickles into a new folder, as safetensors with configuration and tokenizer beside them.

    `output` exists when it is whole. Raises CorruptInput for files that are not a model's weights and nothing else, Unfinished
    when the disk is full, SeaLionError when `output` exists.
    """
    if output.exists() or output.is_symlink():
        raise SeaLionError(f"{output}: exists; name a new folder")
    shards = _shards(folder)
    is_tied = _is_tied(folder)
    work = output.with_name(f".{output.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        made = _converted(folder, shards, work, is_tied=is_tied)
        for name in BESIDE:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, work / name)
        sync_folder(work)
        work.rename(output)
        sync_folder(output.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unfinished(f"{output}: no space left on the device; free some, then run it again") from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made


def _shards(folder: Path) -> dict[str, set[str] | None]:
    """The names of the pickles, in order, each with the tensors that the index puts there (None without an index)."""
    if not folder.is_dir():
        raise CorruptInput(folder, "", "no such folder")
    if not (folder / CONFIG).is_file():
        raise CorruptInput(folder, CONFIG, "is missing")
    if any(folder.glob("*.safetensors")):
        raise CorruptInput(folder, "", "holds safetensors already: there is nothing to convert")
    there = {path.name for path in folder.glob("pytorch_model*.bin")}
    if not (folder / PICKLE_INDEX).is_file():
        if there != {PICKLE}:
            raise CorruptInput(folder, "", f"weights lie in {PICKLE}, or in several files with {PICKLE_INDEX}")
        return {PICKLE: None}
    shards: dict[str, set[str] | None] = {}
    try:
        for tensor, name in json.loads((folder / PICKLE_INDEX).read_text("utf-8"))["weight_map"].items():
            names = shards.setdefault(str(name), set())
            assert names is not None
            names.add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptInput(folder, PICKLE_INDEX, f"is no index of weights: {_line(error)}") from error
    if not shards or set(shards) != there:
        differing = min(set(shards) ^ there, default="")
        raise CorruptInput(folder / PICKLE_INDEX, differing, "is named there and missing, or there and not named")
    return dict(sorted(shards.items()))


def _is_tied(folder: Path) -> bool:
    """Whether the model's head is its embedding; configurations leave out what is their class' default."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the classes raise what they like
        raise CorruptInput(folder, CONFIG, f"is not a configuration of transformers: {_line(error)}") from error
    return bool(config.tie_word_embeddings)


def _converted(folder: Path, shards: Mapping[str, set[str] | None], work: Path, *, is_tied: bool) -> Converted:
    places: dict[str, int] = {}
    dropped: list[str] = []
    size = files = 0
    for name, named in shards.items():
        weights = _weights(folder / name)
        if named is not None and named != weights.keys():
            raise CorruptInput(folder / name, min(named ^ weights.keys()), f"is not where {PICKLE_INDEX} says")
        surplus = [key for key in weights if key.endswith(COMPUTED)]
        if is_tied and HEAD in weights and _is_embedding(weights[HEAD], folder, shards, weights):
            surplus.append(HEAD)
        for key in surplus:
            del weights[key]
        dropped += surplus
        if not weights:
            continue
        files += 1
        _write(weights, work / f"{files}.safetensors", folder / name)
        places |= dict.fromkeys(weights, files)
        size += sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if not places:
        raise CorruptInput(folder, "", "holds no weights")
    _name_files(work, places, files, size)
    return Converted(tensors=len(places), bytes=size, files=files, dropped=tuple(dropped))


def _is_embedding(
    head: torch.Tensor, folder: Path, shards: Mapping[str, set[str] | None], weights: Mapping[str, torch.Tensor]
) -> bool:
    """Whether a tied head can be left out for its embedding, in this or another file; raises CorruptInput if they differ."""
    embedding = weights.get(EMBEDDING)
    if embedding is None:
        place = next((name for name, named in shards.items() if EMBEDDING in (named or ())), None)
        embedding = _weights(folder / place).get(EMBEDDING) if place else None
    if embedding is None:
        return False
    is_one = (head.data_ptr(), head.shape, head.stride()) == (embedding.data_ptr(), embedding.shape, embedding.stride())
    if not (is_one or torch.equal(head, embedding)):
        raise CorruptInput(folder, HEAD, "differs from the embedding it is tied to by config.json")
    return True


def _weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle, by name."""
    try:
        with file.open("rb") as opened:
            is_zip = opened.read(4) == b"PK\x03\x04"
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except (FileNotFoundError, PermissionError) as error:
        raise CorruptInput(file, "", f"cannot be read: {_line(error)}") from error
    except MemoryError as error:
        raise CorruptInput(file, "", "asks for more memory than there is") from error
    except Exception as error:  # a damaged or hostile file can make the unpickler raise anything
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        problem = f"would call {refused[1]}, which no weights need: it was not run" if refused else NOT_WEIGHTS
        raise CorruptInput(file, "", problem) from error
    return _tensors(file, content)


def _tensors(file: Path, content: Any) -> dict[str, torch.Tensor]:
    """What the unpickler found, if it is tensors by name, or holds them under a trainer's key."""
    if isinstance(content, Mapping):
        wrapped = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if len(wrapped) == 1 and not any(isinstance(value, torch.Tensor) for value in content.values()):
            others = sorted(str(key) for key in content if key != wrapped[0])
            if others:
                log.warning("%s: only %s is taken, not %s", file, wrapped[0], ", ".join(others))
            content = content[wrapped[0]]
    if not isinstance(content, Mapping):
        raise CorruptInput(file, "", f"holds a {type(content).__name__}, not tensors by name")
    weights = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or name == "__metadata__":
            raise CorruptInput(file, str(name)[:80], f"is a {type(tensor).__name__}, not a tensor")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CorruptInput(file, name, "is sparse, quantised or without values; a model's weights are plain tensors")
        if tensor.dtype not in DTYPES and not name.endswith(COMPUTED):
            problem = (
                f"is of type {str(tensor.dtype).removeprefix('torch.')}; a model's weights are {', '.join(DTYPES.values())}"
            )
            raise CorruptInput(file, name, problem)
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CorruptInput(file, name, f"says it has shape {tuple(tensor.shape)}, of which the file holds a part")
        weights[name] = tensor.detach()
    return weights


def _write(weights: Mapping[str, torch.Tensor], path: Path, source: Path) -> None:
    """A safetensors file, a piece at a time: length of the header, header, and the tensors' bytes in its order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in weights.items():
            try:
                flat = tensor.contiguous().view(-1).view(torch.uint8)
            except RuntimeError as error:
                raise CorruptInput(source, name, f"cannot be read: {_line(error)}") from error
            _write_pieces(file, flat)
        file.flush()
        os.fsync(file.fileno())


def _write_pieces(file: BinaryIO, flat: torch.Tensor) -> None:
    for start in range(0, len(flat), PIECE):
        file.write(flat[start : start + PIECE].numpy().data)


def _name_files(work: Path, places: Mapping[str, int], files: int, size: int) -> None:
    """Give the files transformers' names, which say how many there are, and write the index of several."""
    names = _file_names(files)
    for number, name in enumerate(names, 1):
        (work / f"{number}.safetensors").rename(work / name)
    if files > 1:
        table = {"metadata": {"total_size": size}, "weight_map": {key: names[place - 1] for key, place in places.items()}}
        (work / "model.safetensors.index.json").write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", "utf-8")


def _file_names(files: int) -> Sequence[str]:
    if files == 1:
        return ["model.safetensors"]
    return [f"model-{number:05}-of-{files:05}.safetensors" for number in range(1, files + 1)]


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
