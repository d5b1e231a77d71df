"""One of several processes of `accelerate launch` or `torchrun`: its device, its cores, and when it may end.

Each process takes its share of the files by itself (`resdiff.runs.jobs.Shard`); there is no process group.
"""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore

DONE = "resdiff/done"  # counts the processes that have come to their end
LOOK_EVERY = 0.5  # seconds


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
