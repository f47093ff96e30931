"""Digests of the tensors in a checkpoint's files: XXH3-128 of the bytes of each, as in a merge's table `merge_tensors`."""

from __future__ import annotations

from pathlib import Path

import xxhash

from .contract import MergedTensor, Stored
from .parents import stored
from .weights import DTYPE_NAMES

PIECE = 1 << 22
"""Bytes read at a time."""


def stored_digest(tensor: Stored) -> str:
    """XXH3-128 of a tensor's bytes as they lie in its file, hexadecimal."""
    digest, left = xxhash.xxh3_128(), tensor.elements * tensor.dtype.itemsize
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        while left:
            piece = file.read(min(left, PIECE))
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def tensors_of(folder: Path) -> list[MergedTensor]:
    """The tensors of a checkpoint, as a merge lists them."""
    return [
        MergedTensor(
            name=name,
            file=tensor.file.name,
            dtype=DTYPE_NAMES[tensor.dtype],
            shape=tensor.shape,
            xxh3_128=stored_digest(tensor),
        )
        for name, tensor in stored(folder).items()
    ]
