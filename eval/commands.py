"""`sea-lion eval …`: what the eval area can do beside making recipes."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from ..catalog import index
from ..catalog.commands import add_catalog_flag, command, existing
from ..catalog.errors import SeaLionError
from ..catalog.progress import reported
from ..catalog.remote import store_at
from ..catalog.store import Options
from .mirror_recipe import MirrorRecipe

log = logging.getLogger(__name__)


def add_eval(commands: Any) -> Any:
    """Add the command; returns its subcommands."""
    evaluation = command(commands, "eval", "prepare evaluations", "sea-lion eval mirror sea-helm --from ~/SEA-HELM")
    verbs = evaluation.add_subparsers(required=True, metavar="VERB")
    mirror = command(
        verbs,
        "mirror",
        "check a benchmark's own files and copy them into the catalog",
        "sea-lion eval mirror sea-helm --from ~/SEA-HELM --profile sea_helm_2025",
    )
    mirror.add_argument("benchmark", choices=("sea-helm", "leaderboard"), help="what to mirror")
    mirror.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="PATH",
        help="a checkout of SEA-HELM (for sea_helm_2026 also downloaded data sets as org/name), or the leaderboard's data sets",
    )
    mirror.add_argument("--profile", default="", help="release of the benchmark (default: sea_helm_2025, leaderboard)")
    mirror.add_argument("--name", default="", help="of the artifact (default: mirror/PROFILE)")
    mirror.add_argument("--version", default="1", help="of the artifact (default: %(default)s)")
    add_catalog_flag(mirror)
    mirror.set_defaults(command=mirror_command)
    return verbs


def mirror_command(arguments: argparse.Namespace) -> int:
    """Record a benchmark's files as a mirror, and name what it lacks."""
    from .mirror import PROFILES, make_mirror, mirror_files_of

    profile = arguments.profile or PROFILES[arguments.benchmark]
    _check_profile(arguments.benchmark, profile)
    try:
        recipe = MirrorRecipe(
            kind="mirror",
            name=arguments.name or f"mirror/{profile.replace('_', '-')}",
            version=arguments.version,
            benchmark=arguments.benchmark,
            profile=profile,
            files=mirror_files_of(arguments.benchmark, profile, arguments.source),
        )
    except ValueError as error:
        raise SeaLionError(f"eval mirror: {error}") from error
    store = store_at(arguments.catalog)
    with reported(store.root, str(recipe.ref), recipe.kind):
        artifact = store.make(recipe, arguments.source, make_mirror, Options(show_progress=False))
    index.refresh(store)
    body: Any = artifact.body
    print(f"{artifact.ref}  {len(body.files):,} files, {len(body.missing):,} missing  {store.path(artifact.ref)}")
    for line in body.missing:
        print(f"  missing: {line}")
    return 0


def add_gate_tools(commands: Any) -> None:
    """Add `gate simulate` and `gate noise`, each one word to argparse."""
    from .simulation_flags import add_simulate

    simulation = command(
        commands,
        "gate simulate",
        "how often a policy raises a false alarm and what it detects",
        "sea-lion gate simulate eval/policies/leaderboard-grade.toml --items 500 --churn 0.15",
    )
    add_simulate(simulation)
    simulation.set_defaults(command=_simulate)
    noise = command(
        commands,
        "gate noise",
        "a policy's [noise] table, from scorecards of the same model",
        "sea-lion gate noise scorecard/a@1 scorecard/a@2 scorecard/a@3",
    )
    noise.add_argument("scorecards", nargs="+", metavar="REF", help="re-evaluations of one model, or neighbouring checkpoints")
    add_catalog_flag(noise)
    noise.set_defaults(command=_noise)


def _simulate(arguments: argparse.Namespace) -> int:
    from .simulate import simulated

    print(simulated(arguments))
    return 0


def _noise(arguments: argparse.Namespace) -> int:
    from .noise import as_toml, noise_floor
    from .pairing import read_items

    store = existing(arguments.catalog)
    cards = [store.require(ref) for ref in arguments.scorecards]
    print(as_toml(noise_floor([read_items(card, store.folder(card.ref)) for card in cards])), end="")
    return 0


def copy_reports(decision: Path, target: Path) -> None:
    """Copy a decision's reports into a folder, for a CI to keep."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("decision.json", "decision.md", "decision.html", "junit.xml", "broken.parquet"):
        shutil.copyfile(decision / name, target / name)


def tell_github(decision: Path) -> None:
    """In a GitHub workflow: annotations to standard output, and the summary to the step's page."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print((decision / "annotations.txt").read_text("utf-8"), end="")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write((decision / "decision.md").read_text("utf-8"))
        except OSError as error:  # the exit code is the verdict's, whatever becomes of the page
            log.warning("the step's summary was not written: %s: %s", summary, error.strerror)


def _check_profile(benchmark: str, profile: str) -> None:
    if benchmark == "sea-helm":
        from .sea_helm.profile import profile_of

        profile_of(profile)
    elif profile != "leaderboard":
        raise SeaLionError(f"{profile!r} is no profile of the leaderboard; there is 'leaderboard'")
