"""A script or command as one of several processes of `accelerate launch` or `torchrun`: device, cores, how it ends.

Each process takes its share of the files by itself (`resdiff.runs.jobs.Shard`); `resdiff upscale` needs no process group.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore

DONE = "resdiff/done"  # counts the processes that have come to their end
LOOK_EVERY = 0.5  # seconds


class RunAborted(Exception):
    """What ended a run that had begun, in one line."""


def run_script(main: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Run a script; return its exit code, what went wrong being one line of the main process.

    0: done, or stopped by a signal after saving. 2: it cannot run as told. 1: `RunAborted` or Ctrl-C (of which
    `interrupted` says how to go on). RESDIFF_DEBUG=1 in the environment shows the traceback.
    """
    try:
        main()
    except (ValueError, OSError, RunAborted, KeyboardInterrupt) as error:
        if os.environ.get("RESDIFF_DEBUG"):
            raise
        if os.environ.get("RANK", "0") == "0":
            text = interrupted if isinstance(error, KeyboardInterrupt) else " ".join(str(error).split())
            print(f"error: {text}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, OSError)) else 1
    return 0


def local_device(name: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the device of this process among those that a launcher started on one machine (LOCAL_RANK)."""
    if name is None and environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "cpu"
    rank = environ.get("LOCAL_RANK", "")
    if name in (None, "cuda") and rank.isdecimal():
        import torch

        if torch.cuda.is_available():
            return f"cuda:{int(rank) % torch.cuda.device_count()}"
    return name


def share_cores(environ: Mapping[str, str]) -> None:
    """Give each process of a launcher its share of the cores: launchers set one thread each when nobody chose."""
    processes = environ.get("LOCAL_WORLD_SIZE", "")
    if not processes.isdecimal() or environ.get("OMP_NUM_THREADS", "1") != "1":
        return
    import torch

    affinity = getattr(os, "sched_getaffinity", None)  # absent outside Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // max(1, int(processes))))


def wait_for_others(environ: Mapping[str, str]) -> None:
    """Return when every process of `torchrun` has called `count_done`: it ends the others when one ends in failure."""
    store = _store(environ)
    if store is not None:
        while store.add(DONE, 0) < int(environ["WORLD_SIZE"]):
            time.sleep(LOOK_EVERY)


def count_done(environ: Mapping[str, str]) -> None:
    """Tell the others that this process has done its share."""
    store = _store(environ)
    if store is not None:
        store.add(DONE, 1)


def _store(environ: Mapping[str, str]) -> "TCPStore | None":
    """Return the launcher's own key-value store; None where there is none, and nobody ends others."""
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or environ.get("WORLD_SIZE", "1") == "1":
        return None
    from torch.distributed import TCPStore

    return TCPStore(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False)
