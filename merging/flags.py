"""The flags of `sea-lion merge` that `commands` obeys; apart from it, so that the command line need not import torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..catalog.tables import FORMATS


def add_merge_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `sea-lion merge` that merge nothing."""
    plan = parser.add_argument_group("plan before you merge")
    plan.add_argument(
        "--plan",
        action="store_true",
        help="merge nothing: check the models; show what is taken from where, bytes, memory, time",
    )
    plan.add_argument("--model-config", type=Path, metavar="FILE", help="plan without the models: all have this config.json")
    plan.add_argument("--format", choices=FORMATS, default="table", help="how to print the plan (default: table)")
    verify = parser.add_argument_group("prove a merge")
    verify.add_argument("--verify", metavar="REF", help="merge tensors of a finished merge again and compare them")
    verify.add_argument("--tensors", type=int, default=8, metavar="N", help="how many; 0: all (default: %(default)s)")
    convert = parser.add_argument_group("a model in pickles")
    convert.add_argument("--convert", type=Path, metavar="FOLDER", help="write its weights as safetensors, running no code")
    convert.add_argument("--output", type=Path, metavar="PATH", help="folder of the converted model, or file of the plan")
