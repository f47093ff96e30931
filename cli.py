"""The command line: `sea-lion build | train | merge | evaluate | gate | promote | run | report | catalog`.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a recipe or usage error (one line); `gate`: 0 pass, 1 fail, 2 hold, 3 error,
a recipe that is wrong included.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, cast

from tqdm.contrib.logging import logging_redirect_tqdm

from . import __version__, chain
from .catalog import index
from .catalog.commands import add_catalog, add_catalog_flag, ask, command, existing, settings_of
from .catalog.commands_care import add_care
from .catalog.commands_detail import add_detail
from .catalog.errors import RecipeError, SeaLionError
from .catalog.recipes import Recipe, read_recipe
from .catalog.records import Artifact, GateDecision, Promotion
from .catalog.remote import store_at
from .catalog.store import Options, Store
from .catalog.tables import render
from .eval.commands import add_eval, add_gate_tools, copy_reports, tell_github
from .eval.promotion_commands import add_promote_flags
from .merging.flags import add_merge_flags
from .training.flags import add_train_flags

GATE_EXIT = {"pass": 0, "fail": 1, "hold": 2, "error": 3}

EXAMPLES = {
    "build": (
        "make a corpus, a crawl plan, token counts, a mixture, conversations, a synthesis or an n-gram index",
        "sea-lion build recipes/tiny/01-corpus.toml",
    ),
    "train": ("train a tokenizer, initialise a model or run a training stage", "sea-lion train recipes/tiny/12-cpt.toml"),
    "merge": ("merge checkpoints", "sea-lion merge recipes/tiny/15-merge-1.toml"),
    "evaluate": ("score a checkpoint on a suite", "sea-lion evaluate my/scorecard.toml"),
    "gate": ("compare a scorecard with its baselines under a policy", "sea-lion gate my/gate.toml  # exit 0 pass, 1 fail"),
    "promote": ("move a stage's alias to a gated model", "sea-lion promote my/promotion.toml"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    _quiet_libraries()
    options = _parser().parse_args(joined(sys.argv[1:] if arguments is None else arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("mergekit", "lm_eval", "datasets", "accelerate", "trafilatura"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        with logging_redirect_tqdm():
            return cast(int, options.command(options))
    except SeaLionError as error:
        print(f"sea-lion: {error}", file=sys.stderr)
        return getattr(error, "exit_code", _usage(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"sea-lion: {error.filename}: {error.strerror}", file=sys.stderr)
        return _usage(options)
    except KeyboardInterrupt:
        print("sea-lion: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _usage(options: argparse.Namespace) -> int:
    """Exit code of what was asked wrongly: of a gate 2 means hold, so there it is 3, as for scores that cannot be compared."""
    return GATE_EXIT["error"] if getattr(options, "verb", "") == "gate" else 2


def joined(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `gate simulate` and `gate noise` as one word: `gate` alone takes a recipe."""
    if arguments[:1] == ["gate"] and arguments[1:2] in (["simulate"], ["noise"]):
        return [" ".join(arguments[:2]), *arguments[2:]]
    return list(arguments)


def _quiet_libraries() -> None:
    """Keep the libraries off the network, their chatter out of the output and idle OpenMP threads off the cores.

    Spinning threads cost a training run on a busy two-core machine more than twice its time (150 s against 57 s).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sea-lion", description="From a crawl to a promoted language model, on record.")
    parser.add_argument("--version", action="version", version=f"sea-lion {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for verb, (purpose, example) in EXAMPLES.items():
        made = command(commands, verb, purpose, example)
        needs_recipe = verb in ("evaluate", "gate")
        made.add_argument("recipe", type=Path, nargs=None if needs_recipe else "?", help="the recipe, a TOML file")
        _add_making_flags(made)
        made.set_defaults(command=_make, verb=verb, from_plan=None)
        if verb == "train":
            add_train_flags(made)
        if verb == "merge":
            add_merge_flags(made)
        if verb == "promote":
            add_promote_flags(made)
        if verb == "gate":
            made.add_argument("--output", type=Path, metavar="DIR", help="copy the decision's reports there as well")
        if verb == "build":
            made.add_argument(
                "--from-plan",
                type=Path,
                metavar="PLAN",
                help="instead of a recipe: a published crawl plan, which holds its recipe",
            )
    run = command(commands, "run", "make everything a folder of recipes describes", "sea-lion run tiny --dry-run")
    run.add_argument("folder", help="a folder of recipes, or the name of a built-in one (tiny, tiny-gemma)")
    run.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    run.add_argument("--report", type=Path, help="folder for the HTML report, written when done (default: CATALOG/report)")
    _add_making_flags(run)
    run.set_defaults(command=_run)
    report = command(commands, "report", "write the HTML report, a folder of pages", "sea-lion report --output report")
    report.add_argument("--output", type=Path, help="the folder to write (default: CATALOG/report)")
    report.add_argument("--compare", metavar="PLACE", help="another catalog, set beside this one")
    report.add_argument("--models", nargs=2, metavar="REF", help="two models, set side by side")
    add_catalog_flag(report)
    report.set_defaults(command=_report)
    _add_serve(commands)
    _add_waive(commands)
    add_eval(commands)
    add_gate_tools(commands)
    _add_catalog(commands)
    return parser


def _add_making_flags(command: argparse.ArgumentParser) -> None:
    add_catalog_flag(command)
    command.add_argument("--workers", type=int, default=1, metavar="N", help="processes for the steps that can use several")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where models run")
    command.add_argument(
        "--executor",
        choices=("local", "ray", "slurm"),
        default="local",
        help="what runs the tasks of a corpus (default: local)",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the executor, e.g. partition=cpu for slurm",
    )
    command.add_argument(
        "--mirror",
        default=Options().mirror,
        metavar="PLACE",
        help="where crawls lie: an address or a folder (default: %(default)s)",
    )


def _add_waive(commands: Any) -> None:
    waive = command(
        commands,
        "waive",
        "sign a waiver for a gate decision that is not a pass",
        "sea-lion waive decision/tiny-llama/final@1 --key me.pem --person 'A. Tan' --reason 'known cost' --expires 2027-01-31 "
        "--output waiver.toml",
    )
    waive.add_argument("decision", help="the gate decision, name@version")
    waive.add_argument("--key", type=Path, required=True, help="Ed25519 private key, PEM")
    waive.add_argument("--person", required=True, help="who answers for it")
    waive.add_argument("--reason", required=True, help="why it may ship all the same")
    waive.add_argument("--expires", required=True, metavar="YYYY-MM-DD", help="last day it may be used")
    waive.add_argument("--output", type=Path, required=True, help="the waiver file to write")
    add_catalog_flag(waive)
    waive.set_defaults(command=_waive)


def _add_catalog(commands: Any) -> None:
    asks = add_catalog(commands)
    add_detail(asks)
    show = ask(
        asks, "show", "everything on record about one artifact", "sea-lion catalog show corpus/tiny@1", _show, tabular=False
    )
    show.add_argument("ref", help="name@version or stage:NAME")
    export = ask(
        asks,
        "export",
        "a corpus as a folder to publish",
        "sea-lion catalog export corpus/tiny@1 --output tiny",
        _export,
        tabular=False,
    )
    export.add_argument("ref", help="name@version of a corpus")
    export.add_argument("--output", type=Path, required=True, help="the folder to make")
    export.add_argument("--form", choices=("parquet", "jsonl"), default="parquet", help="of the documents (default: parquet)")
    export.add_argument("--licence", default="", metavar="EXPRESSION", help="what its card claims (default: all it inherits)")
    add_care(asks)


def _options(arguments: argparse.Namespace) -> Options:
    if arguments.workers < 1:
        raise SeaLionError(f"--workers must be at least 1, not {arguments.workers}")
    return Options(
        workers=arguments.workers,
        device=arguments.device,
        executor=arguments.executor,
        executor_settings=settings_of(arguments.set),
        mirror=arguments.mirror,
        show_progress=sys.stderr.isatty(),
    )


def _make(arguments: argparse.Namespace) -> int:
    done = _other_command(arguments)
    if done is not None:
        return done
    if (arguments.recipe is None) == (arguments.from_plan is None):
        raise SeaLionError("name a recipe, or a plan with --from-plan")
    if arguments.from_plan is not None:
        from .data.planning import planned_recipe

        recipe: Recipe = planned_recipe(arguments.from_plan)
        arguments.recipe = arguments.from_plan
    else:
        recipe = read_recipe(arguments.recipe, chain.RECIPES)
    verb = chain.KINDS[recipe.kind].verb if recipe.kind in chain.KINDS else "run"
    if verb != arguments.verb:
        raise RecipeError(arguments.recipe, "kind", f"a recipe of kind {recipe.kind!r} is made by 'sea-lion {verb}'")
    store = store_at(arguments.catalog)
    artifact = chain.make(recipe, arguments.recipe.parent, store, _options(arguments))
    index.refresh(store)
    print(f"{artifact.ref}  {store.path(artifact.ref)}")
    if isinstance(artifact.body, GateDecision):
        print(f"{artifact.body.verdict}: {artifact.body.reason}")
        tell_github(store.folder(artifact.ref))
        if arguments.output:
            copy_reports(store.folder(artifact.ref), arguments.output)
        return GATE_EXIT[artifact.body.verdict]
    if isinstance(artifact.body, Promotion):
        last = store.promotions(artifact.body.stage)[-1]
        if last.ref != artifact.ref:
            print(f"{artifact.body.stage} stands by {last.ref}; raise the version to promote again")
    return 0


def _other_command(arguments: argparse.Namespace) -> int | None:
    """What a verb's flags ask for in place of making a recipe."""
    if arguments.verb == "train":
        from .training.commands import other_command

        return other_command(arguments)
    if arguments.verb == "merge":
        from .merging.commands import other_command

        return other_command(arguments)
    if arguments.verb == "promote":
        from .eval.promotion_commands import other_command

        return other_command(arguments)
    return None


def _run(arguments: argparse.Namespace) -> int:
    folder, store = chain.recipe_folder(arguments.folder), store_at(arguments.catalog)
    if arguments.dry_run:
        rows = [(node.verb, node.key, "done" if node.is_made(store) else "to make") for node in chain.plan(folder)]
        print(render(["verb", "artifact", "state"], rows, "table"))
        return 0
    try:
        outcome = chain.run(folder, store, _options(arguments))
    finally:
        if store.root.is_dir() and not index.is_current(store):
            index.refresh(store)
    report = arguments.report or store.root / "report"
    if outcome.made or not (report / "index.html").is_file():
        _write_report(store, report)
    for decision in outcome.refused:
        print(f"{decision.stage}: {decision.verdict}, {decision.model} is not promoted: {decision.reason}")
    print(f"report: {report / 'index.html'}")
    if outcome.stopped:
        raise SeaLionError(f"{len(outcome.stopped)} steps were not made, because a stage they need was refused")
    return 0


def _write_report(store: Store, folder: Path, other: Store | None = None, models: tuple[str, str] | None = None) -> None:
    from .catalog.report import write_report

    write_report(store, folder, other, models)


def _report(arguments: argparse.Namespace) -> int:
    store = existing(arguments.catalog)
    folder = arguments.output or store.root / "report"
    other = existing(arguments.compare) if arguments.compare else None
    models = (arguments.models[0], arguments.models[1]) if arguments.models else None
    _write_report(store, folder, other, models)
    print(f"report: {folder / 'index.html'}")
    return 0


def _add_serve(commands: Any) -> None:
    serve = command(commands, "serve", "show the report live, read only", "sea-lion serve --port 8000")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="(default: %(default)s; 0: any free one)")
    serve.add_argument(
        "--token",
        default=os.environ.get("SEA_LION_TOKEN", ""),
        help="who asks must show it; needed beyond loopback; auto: make one and print it (default: $SEA_LION_TOKEN)",
    )
    add_catalog_flag(serve)
    serve.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from .catalog.serve import serve

    existing(arguments.catalog)
    return serve(lambda: existing(arguments.catalog), host=arguments.host, port=arguments.port, token=arguments.token)


def _waive(arguments: argparse.Namespace) -> int:
    from .eval.waiver import read_signing_key, sign_waiver, write_waiver

    artifact = existing(arguments.catalog).require(arguments.decision)
    if not isinstance(artifact.body, GateDecision):
        raise SeaLionError(f"{artifact.ref} is a {artifact.kind}, not a gate decision")
    try:
        expires = date.fromisoformat(arguments.expires)
    except ValueError as error:
        raise SeaLionError(f"--expires {arguments.expires}: not a date like 2027-01-31") from error
    key, person, reason = read_signing_key(arguments.key), arguments.person, arguments.reason
    write_waiver(
        arguments.output,
        sign_waiver(artifact.body, artifact.fingerprint, person=person, reason=reason, expires=expires, key=key),
    )
    print(f"waiver: {arguments.output}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from .catalog.report import artifact_summary

    store = existing(arguments.catalog)
    artifact: Artifact = store.require(arguments.ref)
    print(artifact_summary(store, artifact))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from .catalog.export import export
    from .data.planning import write_corpus_plan

    store = existing(arguments.catalog)
    print(export(store, arguments.ref, arguments.output, arguments.form, write_corpus_plan, licence=arguments.licence))
    return 0
