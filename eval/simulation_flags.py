"""The flags of `sea-lion gate simulate`; apart from `simulate`, so that the command line need not import numpy and scipy."""

from __future__ import annotations

import argparse

LANGUAGES = ("ind", "vie", "tha", "tam", "fil")
TASKS = ("causal", "nli", "qa", "sentiment")


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sea-lion gate simulate`."""
    parser.add_argument("policy", help="a policy file, or the name of a built-in policy")
    parser.add_argument("--items", type=_sizes, default=(250,), help="items per task; several (100,500) repeat over the tasks")
    parser.add_argument("--churn", type=float, default=0.15, help="share of the answers that change between two models")
    parser.add_argument("--languages", type=_words, default=LANGUAGES, help="languages, with commas between")
    parser.add_argument("--tasks", type=_words, default=TASKS, help="tasks of each language, with commas between")
    parser.add_argument("--replications", type=int, default=500, help="decisions per scenario")
    parser.add_argument("--sigma-run", type=float, default=0.0, help="true run noise of each task")
    parser.add_argument("--sigma-common", type=float, default=0.0, help="true run noise that all tasks share")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of items, nor several with commas between") from error


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
