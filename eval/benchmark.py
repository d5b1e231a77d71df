"""PSNR and SSIM of x4 super-resolution on Set5, Set14 and BSD100, beside bicubic measured in the same run.

    python eval/benchmark.py --data_dir sets --sets set5 set14 --num_inference_steps 1 4
    python eval/benchmark.py --data_dir sets/set5 --model runs/x4 --output_dir out --json out/set5.json

Protocol of the classic tables: the luma of 8-bit RGB (BT.601 studio swing, rounded), 4 pixels cropped from every side,
the mean over images of each image's value. A grey image is its own luma. Bicubic is Pillow's kernel on floats, rounded
once at the end: 28.42 dB / 0.8102 on Set5, 25.99 / 0.7024 on Set14, 25.96 / 0.6673 on BSD100.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.resize import bicubic

SCALE = 4
SETS = ("set5", "set14", "bsd100")
BASELINE = "Pillow bicubic"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Restore = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image of a set under one method."""

    name: str
    psnr_y: float  # dB
    ssim_y: float
    seconds: float  # wall time of the restoration alone


@dataclass(frozen=True, kw_only=True)
class Result:
    """One set under one method."""

    set: str
    method: str
    rows: list[Row]

    def mean(self, figure: str) -> float:
        """Mean over the images of ``psnr_y``, ``ssim_y`` or ``seconds``."""
        return statistics.fmean(getattr(row, figure) for row in self.rows)


def find_sets(data_dir: Path, names: list[str]) -> dict[str, Path]:
    """Name -> folder with HR/ and LRx4/: `data_dir` itself if it is one set, otherwise its sub-folders `names`.

    Raises:
        ValueError: a set lacks one of its two folders.
    """
    itself = is_set(data_dir)
    folders = {data_dir.resolve().name: data_dir} if itself else {name: data_dir / name for name in names}
    for folder in folders.values():
        if not is_set(folder):
            raise ValueError(
                f"{folder} has no HR and LRx{SCALE} folders; point --data_dir at the sets or choose --sets"
            )
    return folders


def is_set(folder: Path) -> bool:
    """Whether `folder` holds the pairs of one set."""
    return (folder / "HR").is_dir() and (folder / f"LRx{SCALE}").is_dir()


def read(path: Path) -> Image.Image:
    """An 8-bit image of mode L or RGB."""
    image = Image.open(path)
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """(1, 1 or 3, H, W), float32 in [0, 255]."""
    array = np.array(image, dtype=np.float32)
    return torch.from_numpy(np.atleast_3d(array)).movedim(-1, 0)[None]


def to_image(x: Tensor) -> Image.Image:
    """Inverse of `to_tensor`: rounds half up and clips to 8 bits."""
    array = (x[0] + 0.5).floor().clamp(0, 255).to(torch.uint8).movedim(0, -1).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def upscale_bicubic(lr: Image.Image) -> Image.Image:
    """x4 by Pillow's bicubic kernel in floats, rounded once."""
    return to_image(bicubic(to_tensor(lr), (lr.height * SCALE, lr.width * SCALE), "pil"))


def measure(sr: Image.Image, hr: Image.Image) -> tuple[float, float]:
    """PSNR-Y in dB and SSIM-Y. Against a grey `hr` a coloured `sr` counts by the mean of its channels.

    Raises:
        ValueError: the sizes differ.
    """
    if sr.size != hr.size:
        raise ValueError(f"the restored image is {sr.size}, its original {hr.size}: the model must enlarge by {SCALE}")
    if hr.mode == "L" and sr.mode != "L":
        sr = to_image(to_tensor(sr.convert("RGB")).mean(dim=1, keepdim=True))
    pair = to_tensor(sr.convert(hr.mode)), to_tensor(hr)
    return psnr(*pair, crop_border=SCALE).item(), ssim(*pair, crop_border=SCALE).item()


def evaluate_set(restore: Restore, hr_dir: Path, lr_dir: Path, save_dir: Path | None = None) -> list[Row]:
    """Restore every PNG of `lr_dir` and compare it with its namesake in `hr_dir`, in the order of their names.

    Args:
        restore: an 8-bit LR image, mode L or RGB, to its x4 enlargement.
        save_dir: where to write the restored images, if anywhere.

    Raises:
        ValueError: the folders do not hold the same names, or none.
    """
    names = sorted(path.name for path in hr_dir.glob("*.png"))
    if not names or names != sorted(path.name for path in lr_dir.glob("*.png")):
        raise ValueError(f"{hr_dir} and {lr_dir} must hold PNG files of the same names")
    rows = []
    for name in names:
        lr, hr = read(lr_dir / name), read(hr_dir / name)
        start = time.perf_counter()
        sr = restore(lr)
        seconds = time.perf_counter() - start
        psnr_y, ssim_y = measure(sr, hr)
        rows.append(Row(name=name, psnr_y=psnr_y, ssim_y=ssim_y, seconds=seconds))
        if save_dir is not None:
            save_dir.mkdir(parents=True, exist_ok=True)
            sr.save(save_dir / name)
    return rows


def table(results: list[Result]) -> str:
    """Markdown of one set; the first result is the one the differences refer to."""
    base = results[0]
    lines = [
        f"### {base.set}",
        "",
        "| method | PSNR-Y (dB) | difference | SSIM-Y | difference | images | s/image |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        p, s = result.mean("psnr_y"), result.mean("ssim_y")
        p_gain, s_gain = f"{p - base.mean('psnr_y'):+.2f}", f"{s - base.mean('ssim_y'):+.4f}"
        if result is base:
            p_gain = s_gain = "-"
        lines.append(
            f"| {result.method} | {p:.2f} | {p_gain} | {s:.4f} | {s_gain} "
            f"| {len(result.rows)} | {result.mean('seconds'):.3f} |"
        )
    return "\n".join(lines)


def load_restorers(args: argparse.Namespace) -> dict[str, Restore]:
    """Method name -> the model of `args` at each of its step counts."""
    from resdiff import SRPipeline

    pipe = SRPipeline.from_pretrained(args.model)
    pipe.to(args.device, DTYPES[args.dtype])
    pipe.set_progress_bar_config(disable=True)

    def at(steps: int | None) -> Restore:
        def restore(lr: Image.Image) -> Image.Image:
            generator = torch.Generator().manual_seed(args.seed)
            return pipe(lr, num_inference_steps=steps, generator=generator, output_type="pil").images[0]

        return restore

    label = "bundled model" if args.model is None else Path(args.model).name
    if args.num_inference_steps is None:
        return {label: at(None)}
    return {f"{label}, {n} step{'s' if n > 1 else ''}": at(n) for n in args.num_inference_steps}


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or `input_args` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name, folder or checkpoint file; default: the bundled model")
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="folder of the sets, or one set with HR/ and LRx4/"
    )
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="sub-folders of data_dir")
    parser.add_argument("--num_inference_steps", type=int, nargs="+", help="one or several; default: the pipeline's")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, the same for every image")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--output_dir", type=Path, help="save the restored images here, as set/method/name.png")
    parser.add_argument("--json", type=Path, help="write all figures, per image, to this file")
    args = parser.parse_args(input_args)
    if args.num_inference_steps is not None and min(args.num_inference_steps) < 1:
        parser.error(f"--num_inference_steps is {args.num_inference_steps}, every count must be at least 1")
    return args


def main(args: argparse.Namespace) -> list[Result]:
    """Run the benchmark, print one table per set, and return what it measured."""
    folders = find_sets(args.data_dir, args.sets)
    methods = {BASELINE: upscale_bicubic} | load_restorers(args)
    results: list[Result] = []
    for name, folder in folders.items():
        of_set = []
        for method, restore in methods.items():
            folder_name = method.replace(",", "").replace(" ", "_")
            save_dir = args.output_dir / name / folder_name if args.output_dir is not None else None
            rows = evaluate_set(restore, folder / "HR", folder / f"LRx{SCALE}", save_dir)
            of_set.append(Result(set=name, method=method, rows=rows))
        print(table(of_set), end="\n\n", flush=True)
        results += of_set
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return results


if __name__ == "__main__":
    main(parse_args())
