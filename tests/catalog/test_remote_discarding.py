"""Files that were discarded on one machine, in a catalog that several share."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sea_lion.catalog.discarding import FilesDiscarded
from sea_lion.catalog.fsck import fsck
from sea_lion.catalog.remote import push
from sea_lion.catalog.store import Store, verify_files

REMOTE: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_remote.py"))))
cloud, made, recipe = REMOTE.cloud, REMOTE.made, REMOTE.recipe


def test_files_discarded_on_one_machine_are_known_to_be_on_the_others(cloud: Any, tmp_path: Path) -> None:
    first, second = cloud.machine("a"), cloud.machine("b")
    artifact = made(first, tmp_path / "in", "one", "two")
    verify_files(second.folder(artifact.ref, ["parts/0.txt"]), artifact, ["parts/0.txt"])
    first.discard(artifact.ref, ["parts/*.txt"], reason="after it was read", verb="build")
    assert not [path for path in cloud.objects() if path.endswith(".txt")]
    assert [finding.severity for finding in fsck(first)] == ["note"]
    for store in (first, second, cloud.machine("c")):
        with pytest.raises(FilesDiscarded, match=r"conversations/x@1: 2 files .* discarded after it was read"):
            verify_files(store.folder(artifact.ref), artifact)
        assert store.require("conversations/x@1") == artifact
    assert second.plan(recipe(), tmp_path / "in").made is None
    remade = made(second, tmp_path / "in", "one", "two")
    for store in (second, cloud.machine("d"), cloud.machine("a")):
        verify_files(store.folder(remade.ref), store.require("conversations/x@1"))
        assert store.discarded(artifact.ref) is None and fsck(store, deep=True) == []


def test_a_discarding_that_was_killed_before_others_knew_did_not_happen(
    cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cloud.machine("a")
    artifact = made(store, tmp_path / "in", "one", "two")

    def killed(path: str, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.place, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            store.discard(artifact.ref, ["parts/*.txt"], reason="after it was read", verb="build")
    again = cloud.machine("a")
    assert list(again.records())
    verify_files(again.folder(artifact.ref), artifact)


def test_discarded_artifacts_are_pushed_as_such(cloud: Any, tmp_path: Path) -> None:
    local, target = Store(tmp_path / "local"), cloud.machine("a")
    artifact = made(local, tmp_path / "in", "one", "two")
    local.discard(artifact.ref, ["parts/1.txt"], reason="after it was read", verb="build")
    assert push(local, target) == [artifact.ref]
    with pytest.raises(FilesDiscarded):
        verify_files(target.folder(artifact.ref), artifact)
    verify_files(cloud.machine("b").folder(artifact.ref), artifact, ["parts/0.txt"])
