"""What a training script settles before it builds anything: threads, precision, trackers."""

import logging
import os
from importlib.util import find_spec

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import ProjectConfiguration, parse_flag_from_env

from resdiff.devices import check_dtype, default_device, default_dtype
from resdiff.train.settings import TrainingArguments

logger = logging.getLogger(__name__)

PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def set_threads(num_processes: int, wanted: int | None = None) -> int:
    """Give each process its share of the CPU cores; return the number of threads.

    A number that the user chose stays: `wanted` (`--num_threads`) or OMP_NUM_THREADS. That variable does not count when
    it is the 1 that `accelerate launch` and `torchrun` set on their own.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    launched = any(name.startswith(("ACCELERATE_", "TORCHELASTIC_")) for name in os.environ)
    if wanted is None and chosen and not (launched and chosen == "1"):
        return torch.get_num_threads()
    threads = wanted or max(1, cores() // num_processes)
    torch.set_num_threads(threads)
    return threads


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return "no", "fp16" or "bf16": what was asked for, else what the launcher was told, else what is fast on `device`.

    Raises ValueError for a precision that the device lacks.
    """
    if wanted == "auto":
        wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if wanted in ("no", ""):  # also what the launcher says when nobody told it anything
            fast = default_dtype(device)
            return next(name for name, dtype in PRECISIONS.items() if dtype == fast)
    if wanted not in PRECISIONS:
        raise ValueError(f"--mixed_precision {wanted} is unknown; choose auto, {', '.join(PRECISIONS)}")
    try:
        check_dtype(PRECISIONS[wanted], device)
    except ValueError as error:
        raise ValueError(f"--mixed_precision {wanted} is not for this device: {error}") from None
    return wanted


def cores() -> int:
    """Return the CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent outside Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def choose_workers(wanted: int | None, photos_in: str, num_processes: int, device: torch.device) -> int:
    """Return how many processes read photos for each training process.

    None on a CPU, whose cores are all in use, nor for photos that lie on the device, which cannot be sent to them.
    Raises ValueError when some are wanted all the same.
    """
    if photos_in == "device":
        if wanted:
            raise ValueError(f"--dataloader_num_workers {wanted} cannot read photos on the device; leave it out")
        return 0
    if wanted is not None:
        return wanted
    return 0 if device.type == "cpu" else max(1, min(8, cores() // num_processes))


def start(args: TrainingArguments) -> Accelerator:
    """Join the other processes and say how this run is going to work.

    Raises ValueError when the device lacks the precision, or a tracker is not installed.
    """
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or default_device().type == "cpu"
    state = PartialState(cpu=cpu)  # without the word it overlooks torchrun's other processes on a CPU
    if not state.is_main_process:
        logging.getLogger("resdiff").setLevel(logging.ERROR)  # the main process speaks for all
    if args.report_to not in ("all", "none") and find_spec(args.report_to) is None:
        raise ValueError(
            f"--report_to {args.report_to}: {args.report_to} is not installed; pip install it, or pass none"
        )
    precision = choose_precision(args.mixed_precision, state.device)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))  # of several machines' processes
    threads = set_threads(here, args.num_threads)
    if args.allow_tf32 and state.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    logger.info(
        "%d process(es) on %s, %d CPU threads each, mixed precision %s",
        state.num_processes, state.device, threads, precision,
    )  # fmt: skip
    for library in ("accelerate", "diffusers"):  # they name every file they write
        logging.getLogger(library).setLevel(logging.ERROR)
    return Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=ProjectConfiguration(str(args.output_dir), str(args.logging_dir or args.output_dir / "logs")),
    )
