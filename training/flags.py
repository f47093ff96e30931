"""The flags of `sea-lion train` that `commands` obeys; apart from it, so that the command line need not import torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..catalog.tables import FORMATS
from .launch_files import FORMS


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `sea-lion train` that make nothing, and those of `--import`."""
    plan = parser.add_argument_group("plan before you pay")
    plan.add_argument("--plan", action="store_true", help="train nothing: show memory, steps, tokens, hours and disk")
    plan.add_argument("--devices", type=int, default=1, metavar="N", help="devices (default: 1)")
    plan.add_argument("--memory", type=float, metavar="GB", help="of a device; what does not fit is refused")
    plan.add_argument(
        "--mfu", type=float, metavar="SHARE", help="of the peak, all tokens attending to all; needs --set peak_tflops=N"
    )
    plan.add_argument("--tokens-per-second", type=float, metavar="N", help="of one device")
    plan.add_argument("--model-config", type=Path, metavar="FILE", help="plan for a config.json, without a recipe")
    plan.add_argument("--sequence-length", type=int, metavar="N", help="with --model-config: tokens of a sequence")
    plan.add_argument(
        "--micro-batch", type=int, default=1, metavar="N", help="with --model-config: sequences at a time (default: 1)"
    )
    plan.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="with --model-config (default: bf16)")
    plan.add_argument("--format", choices=FORMATS, default="table", help="how to print the plan (default: table)")
    launch = parser.add_argument_group("many devices")
    launch.add_argument("--launch", choices=FORMS, help="train nothing: write a script that does, with torchrun or Slurm")
    launch.add_argument("--nodes", type=int, default=1, metavar="N", help="(default: 1)")
    launch.add_argument("--devices-per-node", type=int, default=1, metavar="N", help="(default: 1)")
    launch.add_argument("--output", type=Path, metavar="FILE", help="file of the script, or of the plan")
    outside = parser.add_argument_group("a model of another trainer")
    outside.add_argument("--import", dest="outside", type=Path, metavar="FOLDER", help="record its safetensors as a checkpoint")
    outside.add_argument("--name", help="of the checkpoint, checkpoint/x")
    outside.add_argument("--version", default="1", help="(default: 1)")
    outside.add_argument("--parents", nargs="+", default=[], metavar="REF", help="the checkpoints it was trained from")
    outside.add_argument("--stage", choices=("cpt", "sft", "simpo", "outside"), default="outside", help="(default: outside)")
    outside.add_argument("--tokens", type=int, default=0, metavar="N", help="that were in the loss")
    outside.add_argument("--steps", type=int, default=0, metavar="N", help="optimizer steps")
    outside.add_argument("--licence", default="", metavar="EXPRESSION", help="that it adds to those of its parents")
