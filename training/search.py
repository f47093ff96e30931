"""The verb: a mixture search, from many short runs to the weights they suggest.

Every run is two nodes of the catalog, a mixture and a checkpoint, made as any other; what a killed search had made is found
there. Runs go side by side in processes of their own, on CUDA each with a device of its own. The paper chose its ratio by runs
of 10B tokens each (https://arxiv.org/abs/2504.05747, section 2.1), but does not say how it read them: see `search_fit`.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import Queue, get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..catalog import progress
from ..catalog.errors import CorruptInput, RecipeError, SeaLionError, Unfinished
from ..catalog.records import Artifact, MixtureSearch, TokenFiles
from ..catalog.store import Job, Made, Options, Store, verify_files, write_atomically, write_rows
from ..data.mixture import Available, plan, plan_mixture, read_encoded
from .search_fit import GRID, Floats, Suggestion, design, diverged, suggest
from .search_recipe import MixtureSearchRecipe, mixture_toml

log = logging.getLogger(__name__)

SUGGESTED = "mixture.toml"
"""The suggested mixture as a recipe, in the search's folder."""
SCHEMAS = {
    "trial_weights": pa.schema(
        [("trial", pa.int64()), ("run", pa.string()), ("part", pa.string()), ("weight", pa.float64())]
    ),
    "trial_losses": pa.schema(
        [("trial", pa.int64()), ("run", pa.string()), ("language", pa.string()), ("bits_per_byte", pa.float64())]
    ),
    "suggested_weights": pa.schema([("part", pa.string()), *((name, pa.float64()) for name in ("weight", "lower", "upper"))]),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run: what it tried, and what came of it."""

    number: int
    """0 for the first."""
    weights: tuple[float, ...]
    """Share of each part of the recipe, in order."""
    run: str = ""
    """Reference of its checkpoint; empty when the run failed."""
    bits_per_byte: tuple[tuple[str, float], ...] = ()
    """Of each held-out language."""


Runner = Callable[[Trial], Trial]
"""Makes a trial's run, and gives the trial back with what came of it."""


def search_mixture(job: Job[MixtureSearchRecipe]) -> Made:
    """Make the recipe's runs, fit their held-out losses and suggest weights.

    A run that diverges costs itself only. Raises RecipeError for parts that hold nothing, that cannot fill their least share,
    or a goal with a language that is not held out; Unfinished when too few runs are left to say something, or a worker died.
    """
    recipe = job.recipe
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SeaLionError(f"{recipe.ref}: the runs of a search train in one process each; start it without a launcher")
    lower_P, upper_P = _bounds(job)
    try:
        weights_TP = design(lower_P, upper_P, recipe.trials, recipe.seed)
    except ValueError as error:
        problem = f"{error}; what {recipe.tokens} holds within the epochs is a bound too"
        raise RecipeError(str(recipe.ref), "part", problem) from error
    trials = [Trial(number=number, weights=tuple(map(float, weights_P))) for number, weights_P in enumerate(weights_TP)]
    return concluded(job, _ran(job, trials), lower_P, upper_P)


def concluded(job: Job[MixtureSearchRecipe], trials: Sequence[Trial], lower_P: Floats, upper_P: Floats) -> Made:
    """The search's record, from all of its trials: tables, suggestion and the suggested recipe."""
    recipe = job.recipe
    good, languages, bits_TL = _losses(recipe, trials)
    goal_L = np.array([recipe.goal.get(language, 0.0) if recipe.goal else 1.0 for language in languages])
    weights_TP = np.array([trial.weights for trial in good])
    found = suggest(weights_TP, bits_TL, goal_L / goal_L.sum(), lower_P, upper_P, recipe.seed)
    _report(recipe, found, languages, good=len(good))
    _write(job.folder, recipe, trials, good, found)
    body = MixtureSearch(
        trials=len(good),
        weights={part.name: float(weight) for part, weight in zip(recipe.part, found.weights_P, strict=True)},
        bits_per_byte=found.goal,
        stderr=found.stderr,
    )
    return Made(body=body, tables={table: f"{table}.parquet" for table in SCHEMAS})


# -- before the runs --------------------------------------------------------------------------------------------------------


def _bounds(job: Job[MixtureSearchRecipe]) -> tuple[Floats, Floats]:
    """Least and largest weight of each part on the grid; the largest budget that the planner grants a part is a bound too."""
    recipe = job.recipe
    for key, split in (("tokens", "train"), ("heldout", "heldout")):
        body = job.inputs[getattr(recipe, key)].body
        if not isinstance(body, TokenFiles) or body.split != split:
            raise RecipeError(str(recipe.ref), key, f"{getattr(recipe, key)} is not a token-files of split {split!r}")
    artifact = job.inputs[recipe.tokens]
    is_varied = isinstance(artifact.body, TokenFiles) and artifact.body.dropout > 0
    available = read_encoded(_verified(job.store, artifact, "token_files"), is_varied)
    sequences, upper = recipe.token_budget // recipe.sequence_length, []
    for number, part in enumerate(recipe.part):
        most = _most_sequences(recipe, number, available)
        largest = part.max_weight if most == sequences else min(part.max_weight, max(0, most - 1) / sequences)
        upper.append(np.floor(largest * GRID + 1e-6) / GRID)
        if upper[-1] < part.min_weight:
            problem = f"part {part.name} has {most} sequences within the epochs, a weight of at most {upper[-1]:g}"
            raise RecipeError(str(recipe.ref), f"part.{number}.min_weight", problem)
    return np.array([max(0.0, np.ceil(part.min_weight * GRID - 1e-6)) / GRID for part in recipe.part]), np.array(upper)


def _most_sequences(recipe: MixtureSearchRecipe, number: int, available: Sequence[Available]) -> int:
    """The most sequences of a part, up to those of a run, that can be planned; raises RecipeError where it draws on nothing."""
    alone = recipe.mixture([float(other == number) for other in range(len(recipe.part))], None)

    def is_too_much(sequences: int) -> bool:
        try:
            plan(replace(alone, token_budget=sequences * recipe.sequence_length), available, "")
        except RecipeError:
            return True
        return False

    plan(replace(alone, token_budget=recipe.sequence_length), available, "")
    return bisect_left(range(1, recipe.token_budget // recipe.sequence_length + 1), True, key=is_too_much)


# -- the runs ---------------------------------------------------------------------------------------------------------------


def _ran(job: Job[MixtureSearchRecipe], trials: Sequence[Trial]) -> list[Trial]:
    """All trials with what came of them, by number."""
    run = _Run(store=job.store, recipe=job.recipe, options=replace(job.options, workers=1))
    done: list[Trial] = []
    for trial in in_turn(run, trials, job.options.workers, _devices(job.options)):
        done.append(trial)
        came = ", ".join(f"{language} {bits:.4f}" for language, bits in trial.bits_per_byte) or "failed"
        log.info("trial %d of %d: %s", trial.number + 1, len(trials), came)
        progress.update(stage="runs", done=len(done), total=len(trials), unit="runs")
    return sorted(done, key=lambda trial: trial.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Makes the run of a trial: a callable that goes to a worker process."""

    store: Store
    recipe: MixtureSearchRecipe
    options: Options

    def __call__(self, trial: Trial) -> Trial:
        from .train import train_model

        mixture, train = self.recipe.mixture(trial.weights, trial.number), self.recipe.train(trial.number)
        self.store.make(mixture, Path(), plan_mixture, self.options)
        try:
            made = self.store.make(train, Path(), train_model, self.options)
        except SeaLionError as error:
            if type(error) is not SeaLionError:  # the recipe, the input or the machine: not what this mixture did
                raise
            log.warning("trial %d: %s", trial.number + 1, error)
            return trial
        return replace(trial, run=str(made.ref), bits_per_byte=tuple(_heldout_bits(self.store, str(made.ref)).items()))


def in_turn(run: Runner, trials: Sequence[Trial], workers: int, devices: Sequence[str]) -> Iterator[Trial]:
    """The trials as they are done, up to so many at a time; a worker keeps to one of the CUDA devices.

    Raises what a run raised, after the runs that were under way; Unfinished when a worker was killed.
    """
    if min(workers, len(trials)) <= 1:
        yield from map(run, trials)
        return
    context = get_context("spawn")  # CUDA does not survive a fork
    places = context.Queue()
    for worker in range(workers):
        places.put(devices[worker % len(devices)] if devices else "")
    with ProcessPoolExecutor(workers, context, initializer=_take_device, initargs=(places,)) as pool:
        futures = [pool.submit(run, trial) for trial in trials]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise Unfinished("a worker of the search was killed; the runs that are done are kept for the next try") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _take_device(places: Queue[str]) -> None:
    """Let this worker see one CUDA device only."""
    device = places.get()
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device


def _devices(options: Options) -> list[str]:
    """The CUDA devices to share out among workers."""
    if options.device != "cuda" or options.workers <= 1:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible:
        return visible.split(",")
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


# -- after the runs ---------------------------------------------------------------------------------------------------------


def _heldout_bits(store: Store, run: str) -> dict[str, float]:
    """Bits per byte of each language after the last step of a run, over its sources by their bytes."""
    path = _verified(store, store.require(run), "language_losses")
    table = pq.ParquetFile(path).read(columns=["split", "step", "language", "bytes", "bits_per_byte"])
    rows = table.filter(pc.field("split") == "heldout").to_pylist()
    last = max((row["step"] for row in rows), default=0)
    bits: dict[str, float] = {}
    size: dict[str, int] = {}
    for row in rows:
        if row["step"] == last and row["bytes"]:
            bits[row["language"]] = bits.get(row["language"], 0.0) + row["bits_per_byte"] * row["bytes"]
            size[row["language"]] = size.get(row["language"], 0) + row["bytes"]
    return {language: bits[language] / size[language] for language in sorted(bits)}


def _losses(recipe: MixtureSearchRecipe, trials: Sequence[Trial]) -> tuple[list[Trial], list[str], Floats]:
    """The trials that count, the languages, and their bits per byte."""
    done = [trial for trial in trials if trial.bits_per_byte]
    languages = [language for language, _ in done[0].bits_per_byte] if done else []
    missing = sorted(set(recipe.goal) - set(languages)) if done else []
    if missing:
        problem = f"{', '.join(missing)} is not held out; {recipe.heldout} has {', '.join(languages)}"
        raise RecipeError(str(recipe.ref), "goal", problem)
    bits_TL = np.array([[dict(trial.bits_per_byte)[language] for language in languages] for trial in done])
    keeps_T = ~diverged(bits_TL) if done else np.array([], bool)
    good = [trial for trial, keeps in zip(done, keeps_T, strict=True) if keeps]
    if len(good) < len(recipe.part) + 2:
        problem = f"{len(trials) - len(good)} of {len(trials)} runs failed or diverged (lr {recipe.lr:g})"
        raise Unfinished(f"{recipe.ref}: {problem}; {len(good)} say nothing about {len(recipe.part)} parts")
    return good, languages, bits_TL[keeps_T]


def _report(recipe: MixtureSearchRecipe, found: Suggestion, languages: Sequence[str], good: int) -> None:
    """Log what was found, and how far to believe it."""
    log.info("%d of %d runs count; left out one at a time, rank correlation %.2f, error %.4f bits per byte",
             good, recipe.trials, found.rank_correlation, found.error)  # fmt: skip
    for part, weight, lower, upper in zip(recipe.part, found.weights_P, found.lower_P, found.upper_P, strict=True):
        log.info("%s: %.3f (90%%: %.3f to %.3f)", part.name, weight, lower, upper)
    log.info("predicted: %.4f +- %.4f; %s", found.goal, found.stderr,
             ", ".join(f"{language} {bits:.4f}" for language, bits in zip(languages, found.bits_L, strict=True)))  # fmt: skip
    if found.rank_correlation < 0.5:
        log.warning("the runs hardly tell mixtures apart: more trials, or longer ones, before the suggestion is used")


def _write(
    folder: Path, recipe: MixtureSearchRecipe, trials: Sequence[Trial], good: Sequence[Trial], found: Suggestion
) -> None:
    """Write the tables, of all trials the weights and of those that count the losses, and the suggested mixture."""
    names = [part.name for part in recipe.part]
    rows = {
        "trial_weights": [
            {"trial": trial.number, "run": trial.run, "part": name, "weight": weight}
            for trial in trials
            for name, weight in zip(names, trial.weights, strict=True)
        ],
        "trial_losses": [
            {"trial": trial.number, "run": trial.run, "language": language, "bits_per_byte": bits}
            for trial in good
            for language, bits in trial.bits_per_byte
        ],
        "suggested_weights": [
            {"part": name, "weight": weight, "lower": lower, "upper": upper}
            for name, weight, lower, upper in zip(
                names, found.weights_P.tolist(), found.lower_P.tolist(), found.upper_P.tolist(), strict=True
            )
        ],
    }
    for table, schema in SCHEMAS.items():
        write_rows(folder / f"{table}.parquet", rows[table], schema)
    comment = f"Suggested by {recipe.ref}: {found.goal:.4f} +- {found.stderr:.4f} bits per byte after a run's token_budget."
    write_atomically(folder / SUGGESTED, mixture_toml(recipe.mixture(found.weights_P.tolist(), None), comment))


def _verified(store: Store, artifact: Artifact, table: str) -> Path:
    """The file of a side table of an artifact, unchanged since it was written."""
    if table not in artifact.tables:
        raise CorruptInput(str(artifact.ref), table, "the artifact has no such table")
    file = artifact.tables[table]
    folder = store.folder(artifact.ref, [file])
    verify_files(folder, artifact, iter([file]))
    return folder / file
