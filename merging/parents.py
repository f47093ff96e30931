"""The models that a merge recipe names, as the catalog has them: checkpoints, and LoRA adapters with what lies under them.

Only records, configurations and the headers of the weights are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..catalog.adapters import FILE, adapted, check_fit, read_adapter, tied_head
from ..catalog.discarding import check_whole
from ..catalog.errors import CorruptInput, SeaLionError
from ..catalog.records import Artifact, Checkpoint
from ..catalog.store import Store
from .adapter import tokenizer_folder
from .audit import Subject, check_sizes
from .configurations import read_config
from .contract import Stored
from .fit import Model
from .recipe import MergeRecipe
from .weights import stored_tensors, weight_files

BESIDE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip
"""What is read or taken over beside the weights."""


def artifacts_of(recipe: MergeRecipe, store: Store) -> list[Artifact]:
    """The recipe's base and parents, in this order; raises SeaLionError for what is no checkpoint."""
    found = [store.require(ref) for ref in (recipe.base, *(parent.model for parent in recipe.parents))]
    for artifact in found:
        if not isinstance(artifact.body, Checkpoint):
            raise SeaLionError(f"{artifact.ref} is a {artifact.kind}, only checkpoints can be merged")
    return found


def models_of(recipe: MergeRecipe, store: Store) -> list[Model]:
    """The recipe's base and parents for `fit.compare`, in this order; one named twice is there twice.

    Raises CorruptInput for files that are missing, cut short, pickles or not what their headers say.
    """
    read: dict[str, Model] = {}
    artifacts = artifacts_of(recipe, store)
    for artifact in artifacts:
        if str(artifact.ref) not in read:
            read[str(artifact.ref)] = read_model(artifact, store)
    return [read[str(artifact.ref)] for artifact in artifacts]


def read_model(artifact: Artifact, store: Store) -> Model:
    """A checkpoint as `fit.compare` sees it: an adapter as the model that it makes of the one under it."""
    whole, *adapters = stack = adapted(store, artifact)
    for each in stack:
        check_whole(store.folder(each.ref), each)
        check_sizes(Subject(name=str(each.ref), folder=store.folder(each.ref), files=each.files))
        _check_known(each, store.folder(each.ref))
    folder = store.folder(whole.ref)
    config = read_config(folder, str(whole.ref))
    tensors = stored(folder)
    shapes = {name: place.shape for name, place in tensors.items()}
    for each in adapters:
        check_fit(read_adapter(store.folder(each.ref)), shapes, is_tied=tied_head(config, shapes))
    return Model(
        name=str(artifact.ref),
        folder=folder,
        tokenizer=tokenizer_folder(store, artifact),
        config=config,
        tensors=tensors,
        licence=artifact.licence,
        digests={f"{i}/{file.path}": file.sha256 for i, each in enumerate(stack) for file in each.files},
        held=sum(file.bytes for each in adapters for file in each.files if file.path == FILE),
    )


def _check_known(artifact: Artifact, folder: Path) -> None:
    """Raise CorruptInput for a file that the record does not name and the result would take over: nobody vouches for it."""
    for name in sorted({*BESIDE} - {file.path for file in artifact.files}):
        if (folder / name).exists():
            raise CorruptInput(folder / name, "", f"is no file of {artifact.ref}; take it away or remake the artifact")


def stored(folder: Path) -> dict[str, Stored]:
    """Where each tensor of a checkpoint lies; raises CorruptInput for pickles and for files that are not whole."""
    return {name: place for path in weight_files(folder) for name, place in stored_tensors(path).items()}


def subjects_of(recipe: MergeRecipe, store: Store) -> list[Subject]:
    """What to audit before a merge: the base, the parents and whatever lies under them, each once, in this order."""
    found: dict[str, Subject] = {}
    for artifact in artifacts_of(recipe, store):
        for subject in _subjects(artifact, store):
            found.setdefault(subject.name, subject)
    return list(found.values())


def _subjects(artifact: Artifact, store: Store) -> Iterator[Subject]:
    for i, each in enumerate(adapted(store, artifact)):
        folder = store.folder(each.ref)
        tensors = stored_tensors(folder / FILE) if i else stored(folder)
        yield Subject(name=str(each.ref), folder=folder, files=each.files, tensors=tensors)
