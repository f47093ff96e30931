"""A merge search with a known best: the score is how close a merge comes to a target, and everything is counted.

    python tests/merging/search_toy.py CATALOG KILL_AT

runs the search and, at the event of that number (a merge half written, a merge done, a score made), kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.records import Artifact, ArtifactRef, Checkpoint, Score, Scorecard
from sea_lion.catalog.store import Job, Made, Options, Store, verify_files
from sea_lion.eval.recipe import EvaluationRecipe
from sea_lion.merging.recipe import MergeRecipe
from sea_lion.merging.search import search_merges
from sea_lion.merging.search_recipe import MergeSearchRecipe
from sea_lion.training.recipe import InitRecipe

LAYERS = 2
BEST = (0.7, 0.2)
TARGET = "target.safetensors"
LOG = "begun.log"


def model(store: Store, name: str, weights: Mapping[str, torch.Tensor]) -> str:
    """Store a checkpoint of these tensors; returns its reference."""

    def save(job: Job[InitRecipe]) -> Made:
        save_file(dict(weights), job.folder / "model.safetensors")
        return Made(body=Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1))

    recipe = InitRecipe(
        kind="init", name=f"checkpoint/{name}", version="1", tokenizer="", architecture="llama", hidden_size=8,
        intermediate_size=8, layers=LAYERS, heads=1, key_value_heads=1, head_dim=8, max_length=8,
        seed=sum(map(ord, name)),
    )  # fmt: skip
    return str(store.make(recipe, Path(), save, Options()).ref)


def models(store: Store, best: Mapping[str, tuple[float, ...]] | None = None) -> None:
    """A base, two parents p and q, and the target: the base and the best weights times the differences, by layer."""
    generator = torch.Generator().manual_seed(3)
    names = ("embed", *(f"layers.{layer}" for layer in range(LAYERS)))
    base, p, q = ({name: torch.randn(40, generator=generator) for name in names} for _ in range(3))
    target = {}
    for name in names:
        weights = (best or {}).get(name, BEST)
        target[name] = base[name] + weights[0] * (p[name] - base[name]) + weights[1] * (q[name] - base[name])
    for name, weights_of in (("base", base), ("p", p), ("q", q)):
        model(store, name, weights_of)
    save_file(target, store.root / TARGET)


def recipe(**changes: Any) -> MergeSearchRecipe:
    """A search over two weights."""
    fields: dict[str, Any] = {
        "kind": "merge-search", "name": "checkpoint/toy", "version": "1", "base": "checkpoint/base@1",
        "parents": ("checkpoint/p@1", "checkpoint/q@1"), "methods": ("task_arithmetic",), "trials": 40, "suite": "smoke",
        "seed": 5,
    }  # fmt: skip
    return MergeSearchRecipe(**(fields | changes))


class Toy:
    """Merges, scores and counts."""

    def __init__(self, store: Store, search: MergeSearchRecipe, kill_at: int = 0) -> None:
        self.store, self.search, self.kill_at = store, search, kill_at
        self.merged: list[str] = []
        self.scored: list[str] = []
        self.most_kept = 0
        self.events = 0

    def run(self) -> Artifact:
        """The search through the store."""
        return self.store.make(
            self.search, Path(), lambda job: search_merges(job, score=self.score, merge=self.merge), Options()
        )

    def note(self, *words: str) -> None:
        """Write down what begins, for the processes after a kill."""
        with (self.store.root / LOG).open("a") as file:
            file.write(" ".join(words) + "\n")

    def event(self) -> None:
        """Look at the disk; die when it is time."""
        trials = self.store.root.glob("checkpoint/*-trials/*/*/model.safetensors")
        making = [path for path in self.store.root.glob(".work/*/*.safetensors") if not (path.parent / "winner").exists()]
        self.most_kept = max(self.most_kept, len(list(trials)) + len(making))
        self.events += 1
        if self.events == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def merge(self, job: Job[MergeRecipe]) -> Made:
        """Task arithmetic; weights above 0.9 come out as no numbers, as an overflow would."""
        given = job.recipe
        for path in job.folder.iterdir():
            path.unlink()
        if given.name.endswith("-winner"):
            (job.folder / "winner").touch()
        self.merged.append(str(given.ref))
        self.note("merge", str(given.ref))
        refs = (given.base, *(parent.model for parent in given.parents))
        base, *parents = (load_file(job.folder_of(ref) / "model.safetensors") for ref in refs)
        result = {}
        for name, start in base.items():
            layer = int(name.split(".")[1]) if "." in name else None
            weights = [parent.weight_at(layer, LAYERS) for parent in given.parents]
            result[name] = start.clone()
            for weight, parent in zip(weights, parents, strict=True):
                result[name] += weight * (parent[name] - start)
        save_file(result, job.folder / "model.safetensors")
        self.event()
        if any(parent.weight > 0.9 for parent in given.parents) and self.search.description == "overflows":
            raise CorruptInput(str(given.ref), "embed", "is infinite")
        return Made(body=Checkpoint(stage="merge", architecture="X", parameters=1, method=given.method, parents=refs[1:]))

    def score(self, ref: str) -> float | None:
        """Minus the distance from the target, by way of a scorecard."""

        def card(job: Job[EvaluationRecipe]) -> Made:
            self.scored.append(ref)
            self.note("score", ref)
            found = load_file(job.folder_of(ref) / "model.safetensors")
            target = load_file(self.store.root / TARGET)
            distance = sum(float((found[name] - target[name]).square().sum()) for name in target) ** 0.5
            score = Score(
                task="t", language="ind", metric="distance", value=distance, stderr=0, items=1, higher_is_better=False
            )
            return Made(body=Scorecard(model=ref, suite="smoke", suite_fingerprint="f", harness="toy", scores=(score,)))

        name = ArtifactRef.parse(ref).name.removeprefix("checkpoint/")
        asked = EvaluationRecipe(kind="evaluation", name=f"scorecard/{name}", version="1", model=ref, suite="smoke")
        planned = self.store.plan(asked, Path())
        if planned.made is None:
            verify_files(self.store.folder(ArtifactRef.parse(ref)), self.store.require(ref))
        body = self.store.make(asked, Path(), card, Options()).body
        self.event()
        assert isinstance(body, Scorecard)
        return -body.scores[0].value


def main(catalog: str, kill_at: str) -> None:
    """Run the search of 12 trials with a cap of 2, and die."""
    store = Store(Path(catalog))
    Toy(store, recipe(trials=12, keep_trials=2), int(kill_at)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
