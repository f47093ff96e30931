"""Scripts that start a training run on many devices, for torchrun and for Slurm, to read and to change.

A script names no machine: the recipe and the catalog are relative to where it is started, and can be set from outside. The rule
of both is that exit code 75 means "start me again": the run was told to stop and has saved what it did. Slurm's script asks for
its own requeueing then. It starts one task a device itself, instead of torchrun, so that the warning signal reaches every
process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ..catalog.errors import SeaLionError
from .recipe import TrainRecipe

SAVING = 600
"""Seconds that torchrun waits for its processes to save when it is told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Where a recipe is to be trained."""

    nodes: int = 1
    devices: int = 1
    """Of a node; one process each."""
    device: str = "cuda"
    """`cpu` or `cuda`."""
    settings: tuple[str, ...] = ()
    """`NAME=VALUE` of `--set`."""

    def __post_init__(self) -> None:
        if min(self.nodes, self.devices) < 1:
            raise SeaLionError("--nodes and --devices-per-node must be at least 1")


def launch_file(form: str, recipe: TrainRecipe, file: Path, launch: Launch) -> str:
    """The script, of form `torchrun` or `slurm`, that trains the recipe of a file."""
    return _FORMS[form](recipe, file, launch)


def _preamble(file: Path) -> str:
    return f"""set -uo pipefail
recipe=${{RECIPE:-{quote(os.path.relpath(file))}}}
catalog=${{SEA_LION_CATALOG:-artifacts}}
logs=${{LOGS:-logs}}
[ -f "$recipe" ] || {{ echo "$recipe: no such file; start this where the recipe is found, or set RECIPE" >&2; exit 2; }}
mkdir -p "$logs"

export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# The last collectives of every process are kept, and written down when one of them hangs.
export TORCH_FR_BUFFER_SIZE=2000 TORCH_NCCL_DUMP_ON_TIMEOUT=1 TORCH_FR_DUMP_TEMP_FILE="$logs/flight-"
"""


def _training(launch: Launch) -> str:
    return " ".join(
        ["-m sea_lion.training.launch", '"$recipe"', '"$catalog"', f"--device {launch.device}"]
        + [f"--set {quote(setting)}" for setting in launch.settings]
    )


def _torchrun(recipe: TrainRecipe, file: Path, launch: Launch) -> str:
    from .interruption import RESUME_ME

    meeting = "--standalone"
    if launch.nodes > 1:
        first = '"${HEAD:?set HEAD to the first node}:${PORT:-29400}"'
        meeting = f"--rdzv-backend c10d --rdzv-endpoint {first} --rdzv-id {_job(recipe)}"
    return f"""#!/usr/bin/env bash
# {recipe.ref}, with torchrun: start it on each of {launch.nodes} node(s), {launch.devices} process(es) on each.
# Exit code 0: made. {RESUME_ME}: told to stop, and saved; start it again. 2: read the line and mend it.
{_preamble(file)}
exec python -m sea_lion.training.launch torchrun \\
    --nnodes {launch.nodes} --nproc-per-node {launch.devices} {meeting} \\
    --max-restarts 0 --signals-to-handle SIGTERM,SIGINT,SIGUSR1 --shutdown-timeout {SAVING} \\
    --log-dir "$logs" --redirects 3 --tee 0:3 \\
    {_training(launch)}
"""


def _slurm(recipe: TrainRecipe, file: Path, launch: Launch) -> str:
    from .interruption import RESUME_ME

    devices = f"#SBATCH --gpus-per-node={launch.devices}\n" if launch.device == "cuda" else ""
    return f"""#!/usr/bin/env bash
# {recipe.ref}, with Slurm: sbatch --partition=... --time=... THIS
# Two minutes before the time is over every process saves and ends with {RESUME_ME}; then the job goes back into the queue.
#SBATCH --job-name={_job(recipe)}
#SBATCH --nodes={launch.nodes}
#SBATCH --ntasks-per-node={launch.devices}
{devices}#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
{_preamble(file)}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT recipe catalog

# A process that ends takes the others with it after a minute, not at once: their exit code {RESUME_ME} would be lost.
srun --kill-on-bad-exit=0 --wait=60 --open-mode=append --output="$logs/%j-%t.log" bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec python {_training(launch)}
'
code=$?
if [ "$code" -eq {RESUME_ME} ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def _job(recipe: TrainRecipe) -> str:
    return str(recipe.ref).replace("/", "-").replace("@", "-")


_FORMS = {"torchrun": _torchrun, "slurm": _slurm}
FORMS = tuple(_FORMS)
