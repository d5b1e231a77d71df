"""Open and convert spoilt and hostile checkpoints with the command and check that one line is all that happens.

    python tests/fuzz/checkpoints.py --count 200 --seed 0        spoilt checkpoints, every hostile one among them
    python tests/fuzz/checkpoints.py --count 0                   the valid ones only: each must work

Tiny networks with random weights are written as torch zip, older torch pickle, safetensors and saved folders, spoilt,
and sent through `resdiff convert` or `resdiff upscale --model`. To start Python and torch takes seconds, so this script
imports them once and forks: each case is `resdiff.cli.main()` in a process of its own, with its own memory limit,
streams and time limit. Checked: the exit code; one line that names what is wrong; nothing half-written; no code of the
file is run (it would leave a canary); time and memory. Prints a summary and the defects; exits with 1 when there is any.
"""

import argparse
import collections
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a process with threads cannot be forked
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipelines"))  # the tiny pipelines
sys.path.insert(0, str(Path(__file__).resolve().parent))  # its parts lie beside this script and are no package

import torch
from conftest import latent_pipeline, pixel_pipeline
from diffusers.utils.logging import disable_progress_bar
from hostile import as_pickle, as_zip, edit, hostile_files, hostile_folders
from images import MEMORY, RUN_RECORD, message_kind, wait
from mutations import mutate
from PIL import Image
from safetensors.torch import save

import resdiff.cli
from resdiff.pipelines import SRPipeline

CASE_S = 20  # a valid model takes less than one second
ADDRESS_SPACE = 2**33  # bytes a case may map beside what torch has mapped already
KNOWN_AS = "resshift-realsrx4-v3"
HUGE = (0, -1, 1, 3, 2**31 - 1, 2**63, 10**9, 1e300, float("nan"), float("inf"))
STRANGE = (None, True, "", "x" * 10000, "../../outside", [], {}, [10**9] * 3, [[1]], [0], ["os", "system"], {"a": 1})


@dataclass(frozen=True)
class Case:
    """One spoilt model: what was done to it, and the arguments of the command; `out` must appear whole or not at all."""

    name: str
    arguments: list[str]
    out: Path


# --- valid models ------------------------------------------------------------------------------------------------------


FORMS: dict[str, Callable[[dict[str, torch.Tensor]], bytes]] = {
    ".pth": as_zip,
    ".ckpt": as_pickle,
    ".safetensors": save,
}


def write_models(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Write the valid folders `latent` and `pixel`; return the state dicts of a published network and autoencoder."""
    latent = latent_pipeline()
    latent.save_pretrained(folder / "latent")
    pixel_pipeline().save_pretrained(folder / "pixel")
    return {"unet": latent.unet.state_dict(), "vae": latent.vae.state_dict()}


def spoil_number(content: Any, rng: random.Random) -> tuple[str, Any]:
    """Return which entry of a configuration was set to what, and the configuration."""
    name = rng.choice(sorted(content))
    old = content[name]
    value = rng.choice(HUGE + STRANGE)
    if isinstance(old, list) and old and rng.random() < 0.6:
        value = [*old[:-1], value] if rng.random() < 0.5 else [*old, *old * 1000]
    return f"{name}={str(value)[:30]}", {**content, name: value}


# --- cases -------------------------------------------------------------------------------------------------------------


def cases(
    work: Path, models: Path, states: dict[str, dict[str, torch.Tensor]], count: int, seed: int
) -> Iterator[Case]:
    """Yield valid cases when `count` is 0, else hostile and spoilt ones in turn; each is written when it is asked for."""
    if not count:
        for suffix, form in FORMS.items():
            for command in ("convert", "upscale"):
                yield file_case(work, f"valid {command}{suffix}", command, "unet", suffix, form(states["unet"]), states)
        for name in ("latent", "pixel"):
            yield folder_case(work, f"valid {name}", models / name, lambda folder: None)
        return
    rng = random.Random(seed)
    special: list[Callable[[], Case]] = []
    for index, (name, suffix, data) in enumerate(hostile_files(states["unet"], work / "canary")):
        command, role = ("convert", "upscale")[index % 2], "vae" if index % 5 == 4 else "unet"
        special.append(lambda a=(name, command, role, suffix, data): file_case(work, *a, states))
    for name, change in hostile_folders(work / "canary"):
        special.append(lambda a=(name, models / "latent", change): folder_case(work, *a))
    rng.shuffle(special)
    for _ in range(count):
        yield special.pop()() if special and rng.random() < 0.5 else spoilt_case(work, models, states, rng)


def spoilt_case(work: Path, models: Path, states: dict[str, dict[str, torch.Tensor]], rng: random.Random) -> Case:
    """Return a case of a random mutation."""
    if rng.random() < 0.5:
        suffix, role = rng.choice(list(FORMS)), rng.choice(("unet", "unet", "vae"))
        change, data = spoilt(FORMS[suffix](states[role]), rng)
        command = rng.choice(("convert", "upscale"))
        return file_case(work, f"{change} {role}{suffix}", command, role, suffix, data, states)
    kind = rng.choice(("latent", "pixel"))
    files = [path.relative_to(models / kind) for path in sorted((models / kind).rglob("*")) if path.is_file()]
    file = rng.choice(files)
    if file.suffix == ".json" and rng.random() < 0.7:
        what, content = spoil_number(json.loads((models / kind / file).read_text()), rng)
        return folder_case(work, f"{kind}/{file} {what}", models / kind, lambda f: edit(f / file, lambda _: content))
    change, data = spoilt((models / kind / file).read_bytes(), rng)
    return folder_case(work, f"{kind}/{file} {change}", models / kind, lambda f: (f / file).write_bytes(data) and None)


def spoilt(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Mutate the whole, or only the first or last bytes, where the structure is: most of the rest is weights."""
    edge = rng.choice((len(data), min(len(data), 6000)))
    if edge < len(data) and rng.random() < 0.5:
        change, tail = mutate(data[-edge:], rng)
        return f"{change} at the end", data[:-edge] + tail
    change, head = mutate(data[:edge], rng)
    return change, head + data[edge:]


def file_case(
    work: Path, name: str, command: str, role: str, suffix: str, data: bytes, states: dict[str, dict[str, torch.Tensor]]
) -> Case:
    """Write a published file `role` with the content `data`, beside a valid partner, for `command`."""
    other = "vae" if role == "unet" else "unet"
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = {"unet": "resshift_realsrx4_s4_v3", "vae": "autoencoder_vq_f4"}
    given, partner = folder / f"{names[role]}{suffix}", folder / f"{names[other]}.safetensors"
    given.write_bytes(data)
    partner.write_bytes(save(states[other]))
    if command == "convert":
        return Case(name, ["convert", str(given), str(partner), str(work / "out" / "made")], work / "out" / "made")
    unet = given if role == "unet" else partner
    return Case(name, upscale(work, unet), work / "out" / "photo.png")


def folder_case(work: Path, name: str, valid: Path, change: Callable[[Path], object]) -> Case:
    """Copy a saved folder, change it, and open it."""
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, folder)
    change(folder)
    return Case(name, upscale(work, folder), work / "out" / "photo.png")


def upscale(work: Path, model: Path) -> list[str]:
    """Return the arguments that enlarge the small photo with `model`."""
    return ["upscale", str(work / "photo.png"), "-o", str(work / "out"), "--model", str(model), "--device", "cpu"]


# --- running -----------------------------------------------------------------------------------------------------------


def run_forked(arguments: Sequence[str], work: Path) -> tuple[int | None, str, int]:
    """Run the command in a fork of this process; return exit code (None: killed for time), stderr and peak memory."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            code = command(arguments, work)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # without what this script has open
    exit_code, peak = wait(process, CASE_S)
    return exit_code, (work / "stderr").read_text(errors="replace"), peak


def command(arguments: Sequence[str], work: Path) -> int:
    """Be the command line, in the child: own streams, folder and memory limit."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(work / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.chdir(work / "cwd")
    sys.path.insert(0, str(work / "cwd"))  # where a module lies that leaves the canary when it is imported
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
    sys.argv = ["resdiff", *arguments]
    try:
        resdiff.cli.main()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def problems(case: Case, work: Path, code: int | None, stderr: str, peak: int) -> Iterator[str]:
    """Yield what is wrong with how a case ended."""
    lines = [line for line in re.split(r"[\r\n]", stderr) if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    if code is None:
        yield f"hangs (more than {CASE_S} s)"
    elif code not in (0, 1, 2):
        yield f"exit code {code}: {lines[-1] if lines else ''}"
    if "Traceback (most recent call last)" in stderr:
        yield "traceback"
    if code in (1, 2) and len(errors) != 1:
        yield f"{len(errors)} lines of error: {' | '.join(errors)[:300]}"
    if code == 0 and errors:
        yield f"success, and an error: {errors[0]}"
    for line in errors:
        text = line.removeprefix("Error: ").removeprefix(f"{work / 'photo.png'}: ")
        if re.match(r"[A-Z]\w*(Error|Exception)\b", text) and "not finite" not in text:
            yield f"an error nobody expected: {text[:300]}"
        if len(line) > 1000:
            yield f"a line of {len(line)} characters"
    if peak > MEMORY:
        yield f"{peak / 2**20:.0f} MiB of memory"
    if (work / "canary").exists():
        yield "code of the checkpoint was run"
        (work / "canary").unlink()
    if left := [path.name for path in (work / "out").iterdir() if path != case.out and path.name != RUN_RECORD]:
        yield f"left behind: {', '.join(left)}"
    if code is not None and (code == 0) != case.out.exists():
        yield f"exit code {code} and {'a' if case.out.exists() else 'no'} result"
    if case.out.is_file():
        with Image.open(case.out) as image:
            image.load()
    elif case.out.is_dir():
        try:
            SRPipeline.from_pretrained(case.out)
        except Exception as error:
            yield f"what was converted does not open: {error}"


def prepare(work: Path) -> None:
    """Lay out the folder in which cases run."""
    for name in ("cwd", "out", "cache"):
        (work / name).mkdir()
    Image.new("RGB", (9, 7), (90, 120, 30)).save(work / "photo.png")
    (work / "cwd" / "canary_module.py").write_text(f"open({str(work / 'canary')!r}, 'w')\nclass Canary:\n    pass\n")
    os.environ |= {"RESDIFF_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "TMPDIR": str(work / "cwd")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="spoilt checkpoints; 0: the valid ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    disable_progress_bar()  # when this script opens what was converted
    began, codes, highest = time.monotonic(), collections.Counter[str](), 0
    messages: collections.Counter[str] = collections.Counter()
    defects: list[str] = []
    with tempfile.TemporaryDirectory(prefix="resdiff-fuzz-") as name:
        work, models = Path(name) / "work", Path(name) / "models"
        work.mkdir()
        prepare(work)
        states = write_models(models)
        for case in cases(work, models, states, options.count, options.seed):
            code, stderr, peak = run_forked(case.arguments, work)
            highest = max(highest, peak)
            codes["killed" if code is None else f"exit {code}"] += 1
            for line in filter(None, map(str.strip, re.split(r"[\r\n]", stderr))):
                if "images/s" not in line:
                    messages[message_kind(line, str(work / "model"))] += 1
            defects += [f"{case.name}: {problem}" for problem in problems(case, work, code, stderr, peak)]
            if options.count == 0 and code != 0:
                defects.append(f"{case.name}: a valid model is refused: {stderr[-300:]}")
            shutil.rmtree(work / "out")
            (work / "out").mkdir()
    total = ", ".join(f"{number} {code}" for code, number in sorted(codes.items()))
    seconds = time.monotonic() - began
    print(
        f"{codes.total()} checkpoints: {total}; {len(defects)} defects; {seconds:.0f} s, peak {highest / 2**20:.0f} MiB"
    )
    for message, number in messages.most_common():
        print(f"{number:6} {message}")
    for defect in defects:
        print(f"DEFECT {defect}")
    return int(bool(defects))


if __name__ == "__main__":
    sys.exit(main())
