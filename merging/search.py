"""The verb: a merge search, from many scored merges to the best one as a checkpoint.

Every trial is two nodes of the catalog, a merge and its scorecard, made as any other; what an interrupted search had made is
found there, also when the trial's weights have been deleted since to hold the cap on the disk. Scores come from a callable, for
merging knows no evaluation. The winner is merged once more, into this artifact, and must come out bit for bit as it was scored.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..catalog import progress
from ..catalog.discarding import FilesDiscarded, recipe_toml
from ..catalog.errors import (
    CorruptInput,
    DriftError,
    MissingArtifact,
    MissingDependency,
    RecipeError,
    SeaLionError,
    Unfinished,
)
from ..catalog.fingerprint import plain
from ..catalog.recipes import read_table
from ..catalog.records import Artifact, ArtifactRef, Checkpoint
from ..catalog.store import Job, Made, Planned, verify_files, write_atomically, write_rows
from .merge import merge_models
from .methods import unusable
from .proposals import Trial, proposed
from .recipe import MergeRecipe
from .search_recipe import MergeSearchRecipe

log = logging.getLogger(__name__)

Score = Callable[[str], float | None]
"""A checkpoint's score, from its reference: higher is better, None when there is none. Makes its scorecard, or finds it."""
Merge = Callable[[Job[MergeRecipe]], Made]
WINNER = "merge.toml"
"""The winner as a merge recipe, in the search's folder."""
WEIGHTS = ("*.safetensors",)
"""What of a trial is deleted to hold the cap."""
OURS = (Unfinished, RecipeError, MissingArtifact, DriftError, MissingDependency, FilesDiscarded)
"""Errors of the recipe, the catalog or the machine: not what a trial's settings did."""
SCHEMAS = {
    "merge_trials": pa.schema(
        [("trial", pa.int64()), ("run", pa.string()), ("method", pa.string()), ("value", pa.float64()),
         ("is_best", pa.bool_()), ("failed", pa.string())]
    ),
    "merge_trial_parameters": pa.schema(
        [("trial", pa.int64()), ("run", pa.string()), ("parameter", pa.string()), ("value", pa.float64())]
    ),
}  # fmt: skip


def search_merges(job: Job[MergeSearchRecipe], score: Score, merge: Merge = merge_models) -> Made:
    """Make and score the recipe's trials, one after the other, and merge the best one into the job's folder.

    A trial that cannot be merged or scored costs itself only. Raises RecipeError for an input that is no checkpoint,
    SeaLionError when no trial has a score, or when the winner does not come out as it was scored.
    """
    for key, ref in (("base", job.recipe.base), *((f"parents.{i}", ref) for i, ref in enumerate(job.recipe.parents))):
        if not isinstance(job.inputs[ref].body, Checkpoint):
            raise RecipeError(str(job.recipe.ref), key, f"{ref} is a {job.inputs[ref].kind}, only checkpoints can be merged")
    search = _Search(job=job, score=score, merge=merge)
    trials: list[Trial] = []
    for number in range(job.recipe.trials):
        progress.update(stage="trials", done=number, total=job.recipe.trials, unit="trials")
        trials.append(search.tried(proposed(job.recipe, number, trials), trials))
        log.info("trial %d (%d of %d): %s", number, number + 1, job.recipe.trials, _described(trials[-1]))
    return _concluded(search, trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """Makes trials."""

    job: Job[MergeSearchRecipe]
    score: Score
    merge: Merge

    def merge_recipe(self, trial: Trial, *, is_winner: bool = False) -> MergeRecipe:
        """The merge of a trial, its models named outright."""
        artifacts = {ref: str(artifact.ref) for ref, artifact in self.job.inputs.items()}
        return self.job.recipe.trial(None if is_winner else trial.number, trial.method, trial.values, artifacts)

    def tried(self, trial: Trial, earlier: Sequence[Trial]) -> Trial:
        """A trial with what came of it: found, or merged and scored now."""
        store, trial = self.job.store, self._on_record(trial)
        recipe = self.merge_recipe(trial)
        planned = store.plan(recipe, Path())
        note = store.resume_folder(self.job.recipe.ref) / "failed" / f"{planned.fingerprint[:16]}.json"
        made = store.get(recipe.ref)
        run = str(recipe.ref) if made is not None and made.fingerprint == planned.fingerprint else ""
        if note.is_file():
            return replace(trial, run=run, failed=json.loads(note.read_text("utf-8"))["failed"])
        try:
            if run:
                with suppress(FilesDiscarded):  # and not scored on this suite before
                    return replace(trial, run=run, value=self._value(run))
            if planned.made is None:
                for key, problem in unusable(recipe):
                    raise SeaLionError(f"{recipe.ref}: {key}: {problem}")
                self.make_room(earlier)
                run = str(store.make(recipe, Path(), self.merge, self.job.options).ref)
            return replace(trial, run=run, value=self._value(run))
        except SeaLionError as error:
            if isinstance(error, OURS):
                raise
            self._check_inputs(error)
            return replace(trial, run=run, failed=self._noted(note, planned, error))

    def _on_record(self, trial: Trial) -> Trial:
        """The trial of this number as it was made, where it was: another version of the sampler may propose another."""
        made = self.job.store.get(self.merge_recipe(trial).ref)
        if made is None or made.recipe.get("kind") != "merge":
            return trial
        merge = read_table(made.recipe, MergeRecipe, str(made.ref))
        values = self.job.recipe.values_of(merge)
        if values is None:
            return trial
        recorded = Trial(number=trial.number, method=merge.method, values=values)  # type: ignore[arg-type]  # one of methods
        return recorded if self.merge_recipe(recorded) == merge else trial

    def _value(self, run: str) -> float:
        value = self.score(run)
        if value is None or not math.isfinite(value):
            raise SeaLionError(f"{run}: has no {'score' if value is None else 'finite score'}")
        return value

    def _check_inputs(self, error: SeaLionError) -> None:
        """Raise CorruptInput when it is not the trial that is broken, but what it was made from."""
        if isinstance(error, CorruptInput):
            for artifact in self.job.inputs.values():
                verify_files(self.job.store.folder(artifact.ref), artifact)

    def _noted(self, note: Path, planned: Planned, error: SeaLionError) -> str:
        """Write down that a trial failed, so that it is not tried again when the search goes on; returns why."""
        reason = " ".join(str(error).split())
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, json.dumps({"failed": reason}))
        shutil.rmtree(self.job.store.work_folder(planned), ignore_errors=True)  # what a killed attempt had left there
        return reason

    def make_room(self, trials: Sequence[Trial]) -> None:
        """Delete the weights of trials, the worst first, until one more may be made."""
        store, runs = self.job.store, sorted(filter(lambda trial: trial.run, trials), key=_rank, reverse=True)
        whole = [trial for trial in runs if not store.discarded(ArtifactRef.parse(trial.run))]
        for trial in whole[self.job.recipe.keep_trials - 1 :]:
            reason = f"after {self.job.recipe.ref} had scored it"
            try:
                store.discard(ArtifactRef.parse(trial.run), WEIGHTS, reason=reason, verb="merge")
            except SeaLionError as error:  # it was promoted meanwhile
                log.warning("kept: %s", error)


def _rank(trial: Trial) -> tuple[float, int]:
    """Higher is better; of equals the first."""
    return (-math.inf if trial.value is None else trial.value, -trial.number)


def _concluded(search: _Search, trials: Sequence[Trial]) -> Made:
    """The winner merged anew, the tables, and the winner's recipe."""
    job, best = search.job, max(trials, key=_rank)
    if best.value is None:
        shutil.rmtree(job.store.resume_folder(job.recipe.ref), ignore_errors=True)  # the next try tries them again
        raise SeaLionError(f"{job.recipe.ref}: none of {len(trials)} trials has a score; the first: {trials[0].failed}")
    search.make_room(trials)
    recipe = search.merge_recipe(best, is_winner=True)
    inputs = {str(artifact.ref): artifact for artifact in job.inputs.values()}
    log.info("best: %s; merging it anew", _described(best))
    made = search.merge(Job(recipe=recipe, inputs=inputs, files={}, folder=job.folder, store=job.store, options=job.options))
    _check_same(job, job.store.require(best.run))
    failed = sum(trial.value is None for trial in trials)
    for table, rows in _rows(trials, best).items():
        write_rows(job.folder / f"{table}.parquet", rows, SCHEMAS[table])
    comment = f"The best of {len(trials)} trials of {job.recipe.ref} ({failed} failed): trial {best.number}, {best.value:.6g}."
    write_atomically(job.folder / WINNER, recipe_toml(plain(recipe), comment))
    return replace(made, tables=made.tables | {table: f"{table}.parquet" for table in SCHEMAS})


def _check_same(job: Job[MergeSearchRecipe], scored: Artifact) -> None:
    """Raise SeaLionError when the winner's weights are not those that were scored."""
    wanted = [file for file in scored.files if file.path.endswith(".safetensors")]
    assert wanted, f"{scored.ref} has no weights"
    try:
        verify_files(job.folder, replace(scored, files=tuple(wanted)))
    except CorruptInput as error:
        problem = f"merged anew, the best trial is not what was scored ({error}); another version of a package?"
        raise SeaLionError(f"{job.recipe.ref}: {problem} Raise the version, and the trials are made anew") from error


def _rows(trials: Sequence[Trial], best: Trial) -> dict[str, list[dict[str, Any]]]:
    return {
        "merge_trials": [
            {"trial": trial.number, "run": trial.run, "method": trial.method, "value": trial.value,
             "is_best": trial is best, "failed": trial.failed}
            for trial in trials
        ],
        "merge_trial_parameters": [
            {"trial": trial.number, "run": trial.run, "parameter": name, "value": float(value)}
            for trial in trials
            for name, value in trial.values.items()
        ],
    }  # fmt: skip


def _described(trial: Trial) -> str:
    came = trial.failed if trial.value is None else f"{trial.value:.6g}"
    values = ", ".join(f"{name} {value:g}" for name, value in trial.values.items())
    return f"{trial.method} {values}: {came}"
