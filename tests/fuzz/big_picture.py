"""Memory and seconds that a large photo takes, through the real command.

    python tests/fuzz/big_picture.py --case a      4000x3000 at scale 2, one step, tiles, wavelet colour fix: below 3 GB
    python tests/fuzz/big_picture.py --case b      4000x3000 to 16000x12000, a memory-mapped canvas: below 4 GB

A synthetic photo goes through `resdiff upscale` with the bundled model. Prints one line: size of the result, seconds,
peak resident memory of the process, and the limit; exits with 1 when it is above. The photo is made and the result
looked at in other processes, so that their memory does not count. Allow minutes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # `images` lies beside this script and is no package

from images import wait

GB = 10**9
LONGEST_S = 3600
MAKE = """
import sys
import numpy as np
from PIL import Image
height, width = 3000, 4000
rng = np.random.default_rng(0)
y, x = np.ogrid[:height, :width]
waves = [np.sin(x / (7 + c) + y / 90) * np.cos(y / (11 + c)) for c in range(3)]
values = np.stack(waves, axis=-1).astype(np.float32) * 80 + 120
values += rng.standard_normal(values.shape, dtype=np.float32) * 12
Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(sys.argv[1], compress_level=1)
"""
LOOK = """
import sys
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
image = Image.open(sys.argv[1])
image.load()
print(f"{image.width}x{image.height}")
"""


@dataclass(frozen=True)
class BigCase:
    """What to ask of the command, and what may come of it."""

    options: tuple[str, ...]
    size: str  # of the result
    limit: int  # bytes resident


CASES = {
    "a": BigCase(("--scale", "2", "--steps", "1", "--tile", "auto", "--color-fix", "wavelet"), "8000x6000", 3 * GB),
    "b": BigCase(("--steps", "1", "--tile", "auto"), "16000x12000", 4 * GB),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one case; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=sorted(CASES), required=True)
    options = parser.parse_args(arguments)
    case = CASES[options.case]
    with tempfile.TemporaryDirectory(prefix="resdiff-big-") as folder:
        photo, out = Path(folder) / "photo.png", Path(folder) / "big.png"
        subprocess.run([sys.executable, "-c", MAKE, str(photo)], check=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "resdiff.cli", "upscale", str(photo), "-o", str(out), *case.options]
        code, peak = wait(subprocess.Popen([*command, "--device", "cpu"]).pid, LONGEST_S)
        seconds = time.monotonic() - began
        if code != 0:
            print(f"case {options.case}: exit code {code} after {seconds:.0f} s, peak {peak / GB:.2f} GB")
            return 1
        size = subprocess.run([sys.executable, "-c", LOOK, str(out)], check=True, capture_output=True, text=True).stdout
    fine = size.strip() == case.size and peak < case.limit
    print(
        f"case {options.case}: {size.strip()} (expected {case.size}), {seconds:.0f} s, peak {peak / GB:.2f} GB "
        f"(limit {case.limit / GB:.0f} GB): {'as it should be' if fine else 'TOO MUCH'}"
    )
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
