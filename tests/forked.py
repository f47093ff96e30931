"""Programs in processes of multiprocessing's fork server, which has imported what they need: a start takes tenths of a second.

A Python of their own would import torch, transformers and datasets each time, three to eight seconds of a core. What only
such a one shows (a launcher, a shell, what a command imports) is started by the tests that are about it.
"""

import contextlib
import gc
import importlib
import multiprocessing
import os
import random
import runpy
import socket
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    "sea_lion.cli",
    "sea_lion.data.build",
    "sea_lion.eval.evaluate",
    "mergekit.merge",
    "sea_lion.merging.search",
    "sea_lion.training.launch",
    "accelerate",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "transformers.models.gemma2.modeling_gemma2",
    "transformers.models.llama.modeling_llama",
]


def preload() -> None:
    """Say what the server imports when it starts; the tests' conftest does, since once it runs it is too late."""
    multiprocessing.set_forkserver_preload(PRELOADED)


def started(
    program: str | Path, *arguments: str, environment: Mapping[str, str] | None = None, says: Path | None = None
) -> BaseProcess:
    """Run a program: a file, or a module whose `main` takes the arguments and gives the exit code.

    It leads a session of its own and computes with one thread; what it prints goes to the files `stdout` and `stderr` of the
    folder `says`, or nowhere. It is ended when the tests end.
    """
    given = {"GIVEN": (str(program), list(arguments), dict(environment or {}), says and str(says))}
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=runpy.run_path, args=(__file__, given, "__forked__"), daemon=True)
    process.start()
    return process


def together(world: int, program: str | Path, *arguments: str, says: Path | None = None) -> list[BaseProcess]:
    """Start a program in so many processes, as a launcher does; what each says goes to `says/RANK`."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world)}
    processes = []
    for rank in map(str, range(world)):
        folder = says / rank if says else None
        if folder:
            folder.mkdir(exist_ok=True)
        environment = {**meeting, "RANK": rank, "LOCAL_RANK": rank}
        processes.append(started(program, *arguments, environment=environment, says=folder))
    return processes


def _free_port() -> int:
    """A port where nobody listens, and that the system gives to none who asks for any: another test could be given it first."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def exit_codes(processes: list[BaseProcess], seconds: float) -> list[int | None]:
    """Wait for the processes' ends, and kill those that are there after so many seconds."""
    for process in processes:
        process.join(seconds)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def _run(program: str, arguments: list[str], environment: dict[str, str], says: str | None) -> Any:
    """The program, in a process of the server."""
    import torch

    from sea_lion.training import processes

    gc.freeze()  # a collection would walk through all that the server has imported, a second of a core, and copy its memory
    multiprocessing.current_process().daemon = False  # it may have processes of its own, which come from a server of its own
    multiprocessing.set_forkserver_preload(["sea_lion.data.build"])
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        with (Path(says, name) if says else Path(os.devnull)).open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(environment)
    processes.THREADS = 1
    torch.set_num_threads(1)
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
        return 0
    return importlib.import_module(program).main(arguments)


if __name__ == "__forked__":
    sys.exit(_run(*globals()["GIVEN"]))
