"""What two processes measure for test_heldout.py in one launch: `meter_worker.py FOLDER`, started twice.

Held-out losses of the model and token files in FOLDER, sharded, and a meter whose processes have different batches.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed.fsdp

from sea_lion.training.heldout import heldout_losses
from sea_lion.training.meters import Meter
from sea_lion.training.processes import join_processes
from sea_lion.training.system import System

HERE = Path(__file__)
SETUP: Any = SimpleNamespace(**runpy.run_path(str(HERE.with_name("test_heldout.py"))))
METER: Any = SimpleNamespace(**runpy.run_path(str(HERE.with_name("test_meters.py"))))


def measured(folder: Path) -> dict[str, Any]:
    """The rows of the held-out losses and of a meter that saw four steps, two batches each."""
    processes = join_processes("cpu")
    module = SETUP.tiny_llama()
    torch.distributed.fsdp.fully_shard(module)
    heldout = heldout_losses(module, SETUP.prepared(folder), processes, 7, micro_batch=2)
    assert all(len(parameter.to_local()) <= -(-len(parameter) // 2) for parameter in module.parameters()), "still divided"
    meter = Meter(
        steps=4, title="x", parts=METER.PARTS, processes=processes, system=System(log_steps=3), folder=folder / "log",
        byte_length_V=METER.LENGTHS,
    )  # fmt: skip
    state: dict[str, Any] = {}
    for step in range(1, 5):
        meter.begin_step(step, 0.5 * processes.rank)
        meter.add_batch(*METER.batch(10 * step + processes.rank))
        meter.end_step(1e-3, torch.tensor([1.0, 1.0, 0.0]))
        if step == 2:
            state = meter.state()
    meter.check_ledger()
    meter.close()
    return {"heldout": heldout, "rows": meter.rows, "losses": meter.loss_rows, "pace": meter.pace_rows, "state": state}


if __name__ == "__main__":
    Path(sys.argv[1], f"rank{os.environ['RANK']}.json").write_text(json.dumps(measured(Path(sys.argv[1]))))
    torch.distributed.destroy_process_group()
