"""A merge is proved by merging its tensors again; what was changed since is found."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sea_lion.catalog.discarding import FilesDiscarded
from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.merging.recipe import Parent
from sea_lion.merging.verify import verify_merge

MERGE: Any = runpy.run_path(str(Path(__file__).with_name("test_merge.py")))


@pytest.fixture
def zoo(tmp_path: Path) -> Any:
    return MERGE["Zoo"](tmp_path / "store")


def merged(zoo: Any, **changes: Any) -> Any:
    base, p, q = (zoo.model(name, seed=seed) for seed, name in enumerate("bpq"))
    parents = [Parent(model=p, density=0.5), Parent(model=q, weight=0.5, density=0.5)]
    return zoo.merge(MERGE["merge_recipe"](base, parents, **changes))


@pytest.mark.parametrize("engine", ["streaming", "mergekit"])
def test_a_merge_comes_out_the_same_again(zoo: Any, engine: str) -> None:
    artifact = merged(zoo, method="dare_ties", engine=engine, dtype="bfloat16")
    some, every = verify_merge(zoo.store, artifact, 3), verify_merge(zoo.store, artifact, 0)
    assert (some.tensors, every.tensors) == (3, every.of) and every.of > 15
    assert not list(zoo.store.root.glob(".work/*"))


def test_a_changed_number_is_found(zoo: Any) -> None:
    artifact = merged(zoo)
    path = zoo.folder(artifact) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptInput, match="its XXH3-128 differs"):
        verify_merge(zoo.store, artifact, 0)


def test_a_digest_on_record_that_no_merge_gives_is_found(zoo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = merged(zoo)
    monkeypatch.setattr("sea_lion.merging.verify.tensor_digest", lambda *_, **__: "0" * 32)
    with pytest.raises(CorruptInput, match="merging again gives other bits"):
        verify_merge(zoo.store, artifact, 1)


def test_discarded_weights_are_called_so(zoo: Any) -> None:
    artifact = merged(zoo)
    zoo.store.discard(artifact.ref, ["*.safetensors"], reason="after a search had scored it", verb="merge")
    with pytest.raises(FilesDiscarded, match="remake it with: sea-lion merge"):
        verify_merge(zoo.store, artifact)


@pytest.mark.parametrize(
    "change", [lambda data: b"x" * len(data), lambda data: data[:500], lambda data: data.replace(b"norm", b"nxrm")]
)
def test_a_changed_table_of_digests_is_found(zoo: Any, change: Callable[[bytes], bytes]) -> None:
    artifact = merged(zoo)
    path = zoo.folder(artifact) / "merge_tensors.parquet"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorruptInput, match=r"merge_tensors\.parquet: is not what checkpoint/merged@1 wrote.* sha256 differs"):
        verify_merge(zoo.store, artifact, 1)


def test_what_is_no_merge_is_refused(zoo: Any) -> None:
    with pytest.raises(SeaLionError, match="is no merge"):
        verify_merge(zoo.store, zoo.store.require(zoo.model("b")))
