"""`sea-lion train` beyond making a recipe: `--plan`, what it will need; `--launch`, a script for many devices; `--import`.

A plan reads records and configurations and trains nothing. What it cannot know it leaves out, and says what to give.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..catalog import index
from ..catalog.adapters import check_whole
from ..catalog.commands import existing, settings_of
from ..catalog.errors import RecipeError, SeaLionError
from ..catalog.progress import reported
from ..catalog.recipes import read_recipe
from ..catalog.records import Artifact, Checkpoint, Conversations, Mixture
from ..catalog.remote import store_at
from ..catalog.store import Options, Store
from ..catalog.tables import write
from .launch_files import Launch, launch_file
from .recipe import OutsideRecipe, TrainRecipe
from .schedule import phase_steps
from .system import System, system_of

RESUMABLE_KEPT = 3
"""Checkpoints to resume from that lie on the disk at a time: the latest two, and one that is being written."""
STATE_BYTES = 12
"""Of a parameter in a checkpoint to resume from: weight and two moments, fp32."""

Row = tuple[str, Any, str]
"""Quantity, value and unit or remark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much a recipe trains on."""

    steps: int
    tokens: int | None
    """Positions, where they are known before the conversations are rendered."""
    tokens_plain: int | None
    """What the same text is without BPE-dropout."""
    length: int
    """Tokens of a sequence, at most."""
    remark: str = ""


def other_command(arguments: argparse.Namespace) -> int | None:
    """Do what the flags ask for in place of making the recipe; None when they ask for nothing else."""
    asked = [bool(arguments.plan), bool(arguments.launch), arguments.outside is not None]
    if sum(asked) > 1:
        raise SeaLionError("--plan, --launch and --import: one at a time")
    if arguments.outside is not None:
        return import_command(arguments)
    if arguments.plan:
        return plan_command(arguments)
    return launch_command(arguments) if arguments.launch else None


def import_command(arguments: argparse.Namespace) -> int:
    """Record a folder of another trainer as a checkpoint."""
    from .outside import import_model, model_files

    if not arguments.name or arguments.recipe is not None:
        raise SeaLionError("--import takes --name checkpoint/NAME, and no recipe")
    try:
        recipe = OutsideRecipe(
            kind="outside",
            name=arguments.name,
            version=arguments.version,
            licence=arguments.licence,
            model_files=model_files(arguments.outside),
            parents=tuple(arguments.parents),
            stage=arguments.stage,
            steps=arguments.steps,
            tokens=arguments.tokens,
        )
    except ValueError as error:
        raise SeaLionError(f"--import: {error}") from error
    store = store_at(arguments.catalog)
    with reported(store.root, str(recipe.ref), recipe.kind):
        artifact = store.make(recipe, arguments.outside, import_model, Options(show_progress=False))
    index.refresh(store)
    print(f"{artifact.ref}  {store.path(artifact.ref)}")
    return 0


def launch_command(arguments: argparse.Namespace) -> int:
    """Write the script that trains a recipe on many devices."""
    recipe = _train_recipe(arguments)
    if arguments.output is None:
        raise SeaLionError("--launch: name the script with --output")
    system_of(settings_of(arguments.set))
    launch = Launch(
        nodes=arguments.nodes, devices=arguments.devices_per_node, device=arguments.device, settings=tuple(arguments.set)
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(launch_file(arguments.launch, recipe, arguments.recipe, launch), "utf-8")
    arguments.output.chmod(0o755)
    print(arguments.output)
    return 0


def plan_command(arguments: argparse.Namespace) -> int:
    """Print what a recipe, or a configuration, will need; raises SeaLionError when it does not fit the memory given."""
    from .estimate import GB, Workload, check_fits, model_shape

    if arguments.devices < 1 or arguments.micro_batch < 1:
        raise SeaLionError("--devices and --micro-batch must be at least 1")
    if (arguments.recipe is None) == (arguments.model_config is None):
        raise SeaLionError("--plan: name a recipe, or a configuration with --model-config")
    system, store, recipe, amount = system_of(settings_of(arguments.set)), None, None, None
    if arguments.model_config is not None:
        if not arguments.sequence_length or arguments.sequence_length < 2:
            raise SeaLionError("--model-config: needs --sequence-length, at least 2")
        config = _config(arguments.model_config)
        rows, length, precision = arguments.micro_batch, arguments.sequence_length, arguments.precision
    else:
        recipe, store = _train_recipe(arguments), existing(arguments.catalog)
        config = _config(_checkpoint(recipe, store) / "config.json")
        amount = amount_of(recipe, store)
        rows, length, precision = rows_of(recipe, arguments.devices), amount.length, recipe.precision
    shape = model_shape(config)
    work = Workload(rows=rows, length=length, devices=arguments.devices, precision=precision)
    if arguments.memory is not None:
        try:
            check_fits(shape, work, system, arguments.memory * GB)
        except SeaLionError as error:
            raise SeaLionError(f"{arguments.recipe or arguments.model_config}: {error}") from error
    table: list[Row] = [
        ("parameters", shape.parameters, ""),
        ("parameters in matrix products", shape.matrix_parameters, ""),
        *(_amount_rows(recipe, amount) if recipe and amount else ()),
        *_memory_rows(shape, work, system),
        *_pace_rows(arguments, config, work, system, amount, _measured(store, arguments.device) if store else None),
        *(_disk_rows(shape.parameters, recipe, amount.steps) if recipe and amount else ()),
    ]
    write(("quantity", "value", "unit"), table, arguments.format, arguments.output)
    return 0


def rows_of(recipe: TrainRecipe, devices: int) -> int:
    """Sequences of a forward pass on one device; a pair of SimPO is two."""
    share = -(-recipe.batch_sequences // devices)
    rows = min(recipe.micro_batch, share) if recipe.micro_batch else share
    return rows * 2 if recipe.objective == "simpo" else rows


def amount_of(recipe: TrainRecipe, store: Store) -> Amount:
    """Steps and tokens of a recipe, by the records of its inputs; raises RecipeError for an input of another kind."""
    if recipe.mixture:
        body = store.require(recipe.mixture).body
        if not isinstance(body, Mixture):
            raise RecipeError(str(recipe.ref), "mixture", f"{recipe.mixture} is not a mixture")
        steps = -(-body.sequences // recipe.batch_sequences)
        plain = _plain(body, store) if body.token_files else None
        return Amount(steps=steps, tokens=body.tokens, tokens_plain=plain, length=body.sequence_length)
    talk = store.require(recipe.conversations).body
    if not isinstance(talk, Conversations):
        raise RecipeError(str(recipe.ref), "conversations", f"{recipe.conversations} is not a set of conversations")
    steps = max(1, -(-int(talk.rows * recipe.epochs) // recipe.batch_sequences))
    remark = "" if recipe.objective == "simpo" else "at most: several conversations share a sequence"
    return Amount(steps=steps, tokens=None, tokens_plain=None, length=recipe.sequence_length, remark=remark)


def _plain(mixture: Mixture, store: Store) -> int:
    """A mixture's tokens without BPE-dropout, each part at the mean of its own files."""
    artifact = store.require(mixture.token_files)
    rows = pq.ParquetFile(store.folder(artifact.ref) / artifact.tables["token_files"]).read().to_pylist()
    total = 0.0
    for part in mixture.parts:
        own = [row for row in rows if all(row[key] == getattr(part, key) for key in ("corpus", "language", "source"))]
        tokens = sum(row["tokens"] for row in own)
        total += part.tokens_planned * sum(row["tokens_plain"] for row in own) / tokens if tokens else 0.0
    return round(total)


def _train_recipe(arguments: argparse.Namespace) -> TrainRecipe:
    if arguments.recipe is None:
        raise SeaLionError("name a recipe")
    recipe = read_recipe(arguments.recipe, {"train": TrainRecipe})
    assert isinstance(recipe, TrainRecipe)
    return recipe


def _checkpoint(recipe: TrainRecipe, store: Store) -> Path:
    artifact = store.require(recipe.model)
    if not isinstance(artifact.body, Checkpoint):
        raise RecipeError(str(recipe.ref), "model", f"{recipe.model} is not a checkpoint")
    check_whole(artifact)
    return store.folder(artifact.ref, ("config.json",))


def _config(file: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(file, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SeaLionError(f"{file}: is not a configuration of transformers: {str(error).splitlines()[0]}") from error


def _amount_rows(recipe: TrainRecipe, amount: Amount) -> Iterator[Row]:
    warmup, decay = phase_steps(amount.steps, recipe.schedule)
    yield "steps", amount.steps, amount.remark
    yield "warm-up to step", warmup, ""
    yield "decay from step", amount.steps - decay + 1 if decay else None, recipe.schedule.form
    yield "tokens trained", amount.tokens, "" if amount.tokens is not None else "known when the conversations are rendered"
    if amount.tokens_plain is not None:
        yield "tokens without BPE-dropout", amount.tokens_plain, "about: each part at the mean of its files"


def _memory_rows(shape: Any, work: Any, system: System) -> Iterator[Row]:
    from .estimate import GB, memory, whole_logits

    needed = memory(shape, work, system)
    yield "sequences of a forward pass", work.rows, f"of {work.length:,} tokens, on each of {work.devices} devices"
    for name in ("states", "buffers", "activations", "head", "total"):
        yield f"memory: {name}", getattr(needed, name) / GB, "GB a device"
    yield "logits, were they whole", whole_logits(shape, work.tokens) / GB, "GB a device; not in the total"


def _pace_rows(
    arguments: argparse.Namespace,
    config: Any,
    work: Any,
    system: System,
    amount: Amount | None,
    measured: tuple[float, str] | None,
) -> Iterator[Row]:
    """Tokens a second and hours: as given, by a given MFU, or as the catalog's latest run on such a device did."""
    from .estimate import tokens_per_second

    pace, source = arguments.tokens_per_second, "given"
    if pace is None and arguments.mfu is not None:
        if not system.peak_tflops:
            raise SeaLionError("--mfu: is a share of a peak; give it with --set peak_tflops=N, in 1e12 operations a second")
        flops, source = arguments.mfu * system.peak_tflops * 1e12, f"MFU {arguments.mfu:g}"
        pace = tokens_per_second(config, work.length, flops=flops)
    elif pace is None and measured is not None:
        pace, source = tokens_per_second(config, work.length, flops=measured[0]), f"at the rate of {measured[1]}"
    if pace is None:
        yield "device hours", None, "not known: no run on such a device is on record; give --mfu or --tokens-per-second"
        return
    if pace <= 0:
        raise SeaLionError("--mfu and --tokens-per-second must be above 0")
    yield "tokens a second and device", pace, source
    if amount is not None and amount.tokens is not None:
        hours = amount.tokens / pace / 3600
        yield "device hours", hours, ""
        yield "hours", hours / work.devices, f"on {work.devices} devices"


def _disk_rows(parameters: int, recipe: TrainRecipe, steps: int) -> Iterator[Row]:
    from .estimate import GB

    checkpoint = STATE_BYTES * parameters
    permanent = steps // recipe.permanent_steps if recipe.permanent_steps else 0
    permanent += recipe.keeps_decay_start and recipe.schedule.form == "wsd"
    model = parameters * (2 if recipe.export_dtype == "bfloat16" else 4)
    yield "disk: a checkpoint", checkpoint / GB, "GB"
    yield "disk: at most", (checkpoint * (RESUMABLE_KEPT + permanent) + model) / GB, f"GB; {permanent} checkpoints stay"
    yield "disk: trained model", model / GB, f"GB, {recipe.export_dtype}"


def _measured(store: Store, device: str) -> tuple[float, str] | None:
    """Operations a second of one device in the latest run on record on such a device, and the run's reference."""
    runs = [artifact for artifact in store.all() if {"training_pace", "training_settings"} <= artifact.tables.keys()]
    for artifact in sorted(runs, key=lambda run: run.provenance.created, reverse=True):
        rate = _rate(store, artifact, device)
        if rate:
            return rate, str(artifact.ref)
    return None


def _rate(store: Store, artifact: Artifact, device: str) -> float | None:
    from .flops import flops_per_token

    names = [artifact.tables["training_pace"], artifact.tables["training_settings"], "config.json"]
    folder = store.folder(artifact.ref, names)
    settings = {row["key"]: row["value"] for row in pq.read_table(folder / names[1]).to_pylist()}
    paces: Sequence[dict[str, Any]] = pq.read_table(folder / names[0]).to_pylist()
    length = settings.get("sequence_length", "")
    if not paces or settings.get("device", "").partition(":")[0] != device or not length.isdigit():
        return None
    tokens, seconds = sum(row["tokens"] for row in paces), sum(row["seconds"] for row in paces)
    if not (tokens and seconds):
        return None
    flops = flops_per_token(_config(folder / names[2]), int(length), causal=False)
    return float(tokens / seconds / paces[-1]["processes"] * flops)
