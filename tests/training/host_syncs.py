"""Counts the places where the host waits for the device: what copies from it, or asks for its values.

On a CPU these copies cost nothing and nothing else would show them; on a GPU each stops the host until all work is done.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique_dim", "aten._unique2",
    "aten.unique_consecutive", "aten.equal", "aten.is_nonzero", "aten.bincount", "aten.repeat_interleave.Tensor",
}  # fmt: skip
"""Operations whose result, or its shape, the host has to know: `.item()`, `bool()`, `int()`, `nonzero`, `equal`."""
COPIES = ("tolist", "numpy", "cpu", "__array__", "item")
"""Methods that bring a tensor to the host, some of which do without an operation on a CPU."""


Mode: Any = TorchDispatchMode


class HostSyncs(Mode):  # type: ignore[misc]
    """Collects, while it is active, the line of code of each wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def note(self, what: str) -> None:
        """Count a wait, with the line that asked for it."""
        ours = [at for at in traceback.extract_stack() if "/torch/" not in at.filename and at.filename != __file__]
        self.found.append(f"{what} at {ours[-1].filename}:{ours[-1].lineno}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name in WAITING or name.rpartition(".")[0] in WAITING or _is_masked(name, args):
            self.note(name)
        return func(*args, **(kwargs or {}))


def _is_masked(name: str, args: Any) -> bool:
    """Whether a tensor is indexed by a mask, which looks for its true elements."""
    if not name.startswith(("aten.index.", "aten.index_put", "aten._unsafe_index")):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


@contextmanager
def host_syncs() -> Iterator[list[str]]:
    """The waits for the device within the block, one line of text each."""
    mode, real = HostSyncs(), {name: getattr(torch.Tensor, name) for name in COPIES}

    def watched(name: str) -> Any:
        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            before = len(mode.found)
            result = real[name](tensor, *args, **kwargs)
            if len(mode.found) == before:
                mode.note(name)
            return result

        return call

    for name in COPIES:
        setattr(torch.Tensor, name, watched(name))
    try:
        with mode:
            yield mode.found
    finally:
        for name, method in real.items():
            setattr(torch.Tensor, name, method)
