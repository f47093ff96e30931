"""A model that another trainer made, recorded as a checkpoint: with parents, a licence and all that evaluation and gate ask.

The files are checked as a stranger's: no pickle is opened and no code of theirs is run, each tensor must have the name and
shape that the configuration asks for, and finite values. They are copied. Links were refused: a trainer that goes on writing
into its folder would change the record's files behind its back. The tokenizer loses its BPE-dropout on the way.

A LoRA adapter comes in the same way. Its parent is the model it adapts, its tensors must fit that model's, and only a merge
takes it: whatever loads a model says so.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..catalog import adapters
from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.files import read_json
from ..catalog.records import Checkpoint
from ..catalog.store import Job, Made
from .recipe import OutsideRecipe
from .vocabulary import TOKENIZER_FILES, copy_tokenizer

log = logging.getLogger(__name__)

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
BESIDE = (CONFIG, INDEX, "generation_config.json", *TOKENIZER_FILES)
ADAPTER = (adapters.SETTINGS, adapters.FILE)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = "a pickle can run code when it is read: save the weights as safetensors, or sea-lion merge --convert {folder}"
FLOATS = adapters.FLOATS


def model_files(folder: Path) -> tuple[str, ...]:
    """Names of the files of a folder that make a model or an adapter; raises CorruptInput where none can be taken.

    What a trainer leaves beside them, such as its optimizer's state, is passed over.
    """
    if not folder.is_dir():
        raise CorruptInput(folder, "", "no such folder")
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / adapters.SETTINGS).is_file():
        return _adapter_files(folder, weights)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not weights and pickles:
        raise CorruptInput(folder, pickles[0], CONVERT.format(folder=folder))
    if not weights:
        raise CorruptInput(folder, "", "holds no weights as safetensors")
    return (*(name for name in BESIDE if (folder / name).is_file()), *weights)


def _adapter_files(folder: Path, weights: Sequence[str]) -> tuple[str, ...]:
    others = [name for name in weights if name != adapters.FILE]
    if others:
        raise CorruptInput(folder, others[0], f"lies beside {adapters.SETTINGS}: a model and an adapter in one folder are two")
    adapters.read_adapter(folder)
    return (*ADAPTER, *(name for name in TOKENIZER_FILES if (folder / name).is_file()))


def import_model(job: Job[OutsideRecipe]) -> Made:
    """Check the recipe's files and copy them; a second import of the same files finds it made.

    Raises RecipeError for a parent that is no checkpoint, CorruptInput for files that are not a whole model.
    """
    recipe, files = job.recipe, job.files["model_files"]
    for ref in recipe.parents:
        if not isinstance(job.inputs[ref].body, Checkpoint):
            raise RecipeError(str(recipe.ref), "parents", f"{ref} is a {job.inputs[ref].kind}, not a checkpoint")
    if any(path.name in ADAPTER for path in files):
        return _import_adapter(job, files)
    folder = _one_folder(files, BESIDE, (CONFIG, "tokenizer.json"))
    config = _config(folder)
    weights = _weights(files)
    model = _architecture(folder, config, len(weights))
    _check_tokenizer(folder, config)
    _check_generation(folder)
    _check_tensors(weights, model, is_tied=bool(config.tie_word_embeddings))
    _copy(files, folder, job.folder)
    body = Checkpoint(
        stage=recipe.stage,
        architecture=type(model).__name__,
        parameters=sum(weight.numel() for weight in model.parameters()),
        parents=tuple(dict.fromkeys(str(job.inputs[ref].ref) for ref in recipe.parents)),
        step=recipe.steps,
        tokens_seen=recipe.tokens,
    )
    return Made(body=body)


def _import_adapter(job: Job[OutsideRecipe], files: Sequence[Path]) -> Made:
    """Check an adapter against the model it is for and copy it."""
    recipe = job.recipe
    if len(recipe.parents) != 1:
        problem = f"an adapter has one parent, the model it adapts; {len(recipe.parents)} are named"
        raise RecipeError(str(recipe.ref), "parents", problem)
    folder = _one_folder(files, (*ADAPTER, *TOKENIZER_FILES), ADAPTER)
    parent = job.inputs[recipe.parents[0]]
    adapter = adapters.read_adapter(folder)
    under = job.store.folder(adapters.adapted(job.store, parent)[0].ref)
    config = _config(under)
    shapes = {name: shape for path in sorted(under.glob("*.safetensors")) for name, shape in _shapes(path)}
    adapters.check_fit(adapter, shapes, is_tied=adapters.tied_head(vars(config), shapes))
    for name, tensor in _tensors(adapter.file):
        _check_finite(adapter.file, name, tensor)
    if any(path.name == "tokenizer.json" for path in files):
        _check_tokenizer(folder, config)
    _copy(files, folder, job.folder)
    assert isinstance(parent.body, Checkpoint)
    body = Checkpoint(
        stage=recipe.stage,
        architecture=parent.body.architecture,
        parameters=adapter.parameters,
        parents=(str(parent.ref),),
        step=recipe.steps,
        tokens_seen=recipe.tokens,
        adapter_of=str(parent.ref),
    )
    return Made(body=body)


def _one_folder(files: Sequence[Path], known: Collection[str], needed: Collection[str]) -> Path:
    folders = {path.parent for path in files}
    if len(folders) > 1:
        raise CorruptInput(files[-1], "", "the files of a model lie in one folder; these lie in several")
    for path in files:
        if path.suffix in PICKLES:
            raise CorruptInput(path, "", CONVERT.format(folder=path.parent))
        if path.suffix != ".safetensors" and path.name not in known:
            raise CorruptInput(path, "", f"is no file of a model; these are *.safetensors, {', '.join(known)}")
    for name in needed:
        if not any(path.name == name for path in files):
            raise CorruptInput(folders.pop(), name, "is missing")
    return folders.pop()


def _config(folder: Path) -> Any:
    """The configuration of a model that transformers' own code can run."""
    from transformers import AutoConfig

    content = read_json(folder / CONFIG)
    if content.get("auto_map"):
        raise CorruptInput(folder, CONFIG, "asks for code of its own (auto_map), which is not run")
    if content.get("quantization_config"):
        raise CorruptInput(folder, CONFIG, "is of a quantised model; import the model itself")
    named = content.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise CorruptInput(folder, CONFIG, f"architectures is a list of names, not {str(named)[:80]!r}")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the classes raise what they like
        raise CorruptInput(folder, CONFIG, f"is not a configuration of transformers: {_line(error)}") from error


def _check_generation(folder: Path) -> None:
    """Raise CorruptInput for generation settings with which no model loads."""
    from transformers import GenerationConfig

    name = "generation_config.json"
    if not (folder / name).is_file():
        return
    try:
        GenerationConfig.from_dict(read_json(folder / name))
    except CorruptInput:
        raise
    except Exception as error:  # the class raises what it likes
        raise CorruptInput(folder, name, f"cannot be loaded: {_line(error)}") from error


def _architecture(folder: Path, config: Any, tensors: int) -> Any:
    """The model that the configuration describes, without memory; its files hold so many tensors."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    if (getattr(config, "num_hidden_layers", 0) or 0) > tensors:  # a billion layers take hours also without memory
        raise CorruptInput(folder, CONFIG, f"has {config.num_hidden_layers:,} layers, the files {tensors:,} tensors")
    build: Any = AutoModelForCausalLM.from_config
    try:
        with init_empty_weights():
            model = build(config, trust_remote_code=False)
    except Exception as error:  # as above, and the models
        raise CorruptInput(folder, CONFIG, f"is not of a causal language model: {_line(error)}") from error
    named = config.architectures or []
    if named and type(model).__name__ not in named:
        raise CorruptInput(folder, CONFIG, f"is of a {named[0]}, not of a causal language model ({type(model).__name__})")
    model.tie_weights()
    return model


def _check_tokenizer(folder: Path, config: Any) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise CorruptInput(folder, "tokenizer.json", f"cannot be loaded: {_line(error)}") from error
    if len(tokenizer) > config.vocab_size:
        raise CorruptInput(
            folder, "tokenizer.json", f"has {len(tokenizer):,} entries, the model only {config.vocab_size:,}: not this model's"
        )
    if tokenizer.eos_token_id is None:
        raise CorruptInput(folder, "tokenizer_config.json", "names no end token (eos_token)")


def _weights(files: Sequence[Path]) -> dict[str, Path]:
    """Tensor to its file; the files must be those by which transformers finds the weights."""
    shards = {path.name: path for path in files if path.suffix == ".safetensors"}
    index = next((path for path in files if path.name == INDEX), None)
    if index is None:
        if set(shards) != {WEIGHTS}:
            raise CorruptInput(files[0].parent, "", f"weights lie in {WEIGHTS}, or in several files with {INDEX}")
        named = None
    else:
        named = read_json(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise CorruptInput(index, "weight_map", "is not a table of tensors and their files")
        if set(named.values()) != set(shards):
            differing = min(set(named.values()) ^ set(shards))
            raise CorruptInput(index, str(differing), "is named there and missing, or there and not named")
    found = {key: path for path in shards.values() for key in _keys(path)}
    if named is not None and {key: path.name for key, path in found.items()} != named:
        raise CorruptInput(index or files[0], "", "does not say what the files hold")
    return found


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise CorruptInput(path, "", f"is not a whole safetensors file: {_line(error)}") from error


def _check_tensors(found: dict[str, Path], model: Any, *, is_tied: bool) -> None:
    """Names, shapes, types and values; one tensor is in memory at a time."""
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    optional = {"lm_head.weight"} if is_tied else set[str]()
    source = next(iter(found.values())).parent if found else Path(WEIGHTS)
    for problem, names in (
        ("is missing", wanted.keys() - found - optional),
        ("is no tensor of this model", found.keys() - wanted),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise CorruptInput(source, min(names), f"{problem}{more}")
    for path in sorted(set(found.values())):
        for name, tensor in _tensors(path):
            if tuple(tensor.shape) != wanted[name]:
                raise CorruptInput(path, name, f"has shape {tuple(tensor.shape)}, the configuration says {wanted[name]}")
            _check_finite(path, name, tensor)
    if is_tied and "lm_head.weight" in found:
        _check_tie(found)


def _check_finite(path: Path, name: str, tensor: torch.Tensor) -> None:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise CorruptInput(path, name, f"{bad:,} of {tensor.numel():,} elements are NaN or infinite")


def _shapes(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            yield name, tuple(file.get_slice(name).get_shape())


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            dtype = file.get_slice(name).get_dtype()
            if dtype not in FLOATS:
                raise CorruptInput(path, name, f"is of type {dtype}; a model's weights are {', '.join(FLOATS)}")
            yield name, file.get_tensor(name)


def _check_tie(found: dict[str, Path]) -> None:
    """A head that is stored although it is tied is not read: it must be what the embedding is."""
    both = []
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        with safe_open(found[name], framework="pt") as file:
            both.append(file.get_tensor(name))
    if not torch.equal(*both):
        raise CorruptInput(found["lm_head.weight"], "lm_head.weight", "differs from the embedding it is tied to")


def _copy(files: Sequence[Path], source: Path, target: Path) -> None:
    """What was half copied before is copied again."""
    has_tokenizer = any(path.name == "tokenizer.json" for path in files)
    if has_tokenizer:
        copy_tokenizer(source, target)
    for path in files:
        if path.name not in TOKENIZER_FILES:
            shutil.copyfile(path, target / path.name)
    if has_tokenizer and (target / "tokenizer.json").read_bytes() != (source / "tokenizer.json").read_bytes():
        log.info("%s: BPE-dropout of the tokenizer is switched off in the copy", source.name)


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
