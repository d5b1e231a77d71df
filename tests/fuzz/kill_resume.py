"""Kill `resdiff upscale` at random moments and resume it: the files must be those of an uninterrupted run, bit for bit.

python tests/fuzz/kill_resume.py --files 200 --kills 10 --seed 0
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COMMAND = [sys.executable, "-m", "resdiff.cli", "upscale"]
OPTIONS = ["--steps", "1", "--device", "cpu", "--dtype", "fp32"]
PATIENCE = 120  # seconds for one run


@dataclass(frozen=True)
class Outcome:
    """How the experiment ended."""

    files: int
    kills: int
    done_at_kill: list[int]  # results that were there at each kill
    half_files: int  # temporary files found after the kills, all told
    different: list[str]  # names that are missing, too many, or of other bytes


def make_photos(folder: Path, count: int, seed: int) -> None:
    """Write `count` small pictures in several formats, sizes and folders."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = rng.integers(12, 40, 2)
        path = folder / f"part{index % 4}" / f"{index:04}{('.png', '.jpg', '.webp', '.bmp')[index % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (int(height), int(width), 3), dtype=np.uint8)
        Image.fromarray(noise).resize((int(width), int(height)), Image.Resampling.BICUBIC).save(path)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` but the record of the run, which tells when it began."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".resdiff-run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def count(folder: Path, pattern: str) -> int:
    """Return how many files below `folder` match, looking only at names."""
    return sum(1 for _ in folder.rglob(pattern)) if folder.is_dir() else 0


def kill_at(command: list[str], out: Path, results: int, delay: float) -> bool:
    """Start `command`, and kill it `delay` seconds after `results` files are there; return False if it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and count(out, "[0-9]*.png") < results:
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"no {results} results after {PATIENCE} s")
        time.sleep(0.001)
    time.sleep(delay)
    alive = process.poll() is None
    process.kill()  # SIGKILL: nothing is tidied up
    process.wait()
    return alive


def experiment(folder: Path, files: int, kills: int, seed: int) -> Outcome:
    """Compare an uninterrupted run with one that is killed `kills` times and resumed each time, in `folder`."""
    make_photos(folder / "in", files, seed)
    arguments = [*COMMAND, str(folder / "in"), *OPTIONS]
    subprocess.run([*arguments, "-o", str(folder / "whole")], check=True, capture_output=True, timeout=10 * PATIENCE)

    out = folder / "killed"
    rng = random.Random(seed)
    resumed = [*arguments, "-o", str(out), "--resume", "--report", str(folder / "report.json")]
    done, half = [], 0
    moments = sorted(rng.sample(range(1, files - 1), kills))  # after so many results, and a little
    for moment in moments:
        if kill_at(resumed, out, moment, rng.uniform(0, 0.02)):
            done.append(count(out, "[0-9]*.png"))
            half += count(out, ".resdiff-*.tmp")
    subprocess.run(resumed, check=True, capture_output=True, timeout=10 * PATIENCE)

    whole, again = contents(folder / "whole"), contents(out)
    different = sorted(name for name in whole.keys() | again.keys() if whole.get(name) != again.get(name))
    return Outcome(len(whole), len(done), done, half, different)


def main() -> int:
    """Run the experiment and print its outcome; 0 when nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = experiment(Path(folder), args.files, args.kills, args.seed)
    print(
        f"{outcome.files} files, killed {outcome.kills} times with {', '.join(map(str, outcome.done_at_kill))} results "
        f"there, {outcome.half_files} half-written files left by the kills; after the last resume "
        f"{len(outcome.different)} files differ from an uninterrupted run ({time.monotonic() - begun:.0f} s, "
        f"{os.cpu_count()} cores)"
    )
    return int(bool(outcome.different) or outcome.kills < args.kills)


if __name__ == "__main__":
    sys.exit(main())
