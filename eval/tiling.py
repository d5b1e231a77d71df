"""What tiles cost in exactness: latents in tiles against whole ones, the autoencoder in its ways against untiled.

    python eval/tiling.py                      # as in RESULTS.md: 20 seeds, SeeSR
    python eval/tiling.py --family stablesr

Networks are tiny and random, which keeps nothing back: of a trained network the same arithmetic shows less. For the
latents: mean absolute difference of the images to the untiled ones (of 255 grey levels), and the seam ratio, mean
gradient where tiles begin or end over that elsewhere, of which the untiled images have some too. For the autoencoder:
largest and mean absolute difference to untiled, on noise and on smooth inputs.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from resdiff.models.vae_bands import decode_in_bands, encode_in_bands
from resdiff.models.vae_hook import decode_hooked, encode_hooked
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import tiny_adapter, tiny_stablesr
from resdiff.tiling import Gaussian, starts

FACTOR = 8  # px per latent
TILE = 24  # latents; overlaps are the same shares of it as of 96
TILINGS = {
    "seesr": {
        "none between tiles": Gaussian(TILE, 0),
        "published, 4 of 96": Gaussian(TILE, 1, published=True),
        "ours, 32 of 96": Gaussian(TILE, 8),
    },
    "stablesr": {
        "none between tiles": Gaussian(TILE, 0),
        "published, 32 of 64": Gaussian(TILE, 12, published=True),
        "ours, 32 of 64": Gaussian(TILE, 12),
    },
}
WAYS = ("bands (ours)", "published, exact", "published, fast")


def smooth(seed: int, channels: int, height: int, width: int) -> Tensor:
    """Return a field without steps, (1, channels, height, width) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, height // 6 + 1, width // 6 + 1, generator=generator) * 2 - 1
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)


def noise(seed: int, channels: int, height: int, width: int) -> Tensor:
    """Return noise of the same range."""
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def seam_ratio(image: Tensor, tiling: Gaussian) -> float:
    """Mean gradient of neighbouring columns where tiles begin or end, over that elsewhere; of both directions."""
    ratios = []
    for view in (image, image.mT):
        latents = view.shape[-1] // FACTOR
        begins = starts(latents, tiling.size, tiling.step)
        edges = {edge for begin in begins for edge in (begin, begin + tiling.size) if 0 < edge < latents}
        steps = (view[..., 1:] - view[..., :-1]).abs().mean(dim=(0, 1, 2))
        at_border = torch.zeros(len(steps), dtype=torch.bool)
        at_border[[edge * FACTOR - 1 for edge in edges]] = True
        ratios.append(float(steps[at_border].mean() / steps[~at_border].mean()))
    return sum(ratios) / 2


def latent_rows(seeds: int, family: str = "seesr") -> list[tuple[str, list[float]]]:
    """Return (tiling, [mean difference, seam ratio, that of the untiled images]), means over seeds."""
    pipe: Any = tiny_adapter(SeeSRPipeline) if family == "seesr" else tiny_stablesr()
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in TILINGS[family]}
    for seed in range(seeds):
        lr = smooth(seed, 3, 2 * TILE + 36, 2 * TILE + 36) / 2 + 0.5
        run = partial(pipe, lr, output_type="pt")
        whole = run(tile="off", generator=torch.Generator().manual_seed(seed)).images
        for name, tiling in TILINGS[family].items():
            image = run(tile=tiling, generator=torch.Generator().manual_seed(seed)).images
            difference = float((image - whole).abs().mean()) * 255
            found[name].append((difference, seam_ratio(image, tiling), seam_ratio(whole, tiling)))
    return [(name, [sum(column) / seeds for column in zip(*rows, strict=True)]) for name, rows in found.items()]


def random_vae(seed: int) -> AutoencoderKL:
    """Return an autoencoder of Stable Diffusion's kind, a quarter as wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=(32, 64, 128, 128),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=32,
        ).eval()


@torch.no_grad()
def vae_rows(seeds: int) -> list[tuple[str, str, str, float, float]]:
    """Return (half, input, way, largest and mean difference) over seeds; tiles of 64 px, or 12 latents."""
    inputs: dict[str, Callable[[int, int, int, int], Tensor]] = {"noise": noise, "smooth": smooth}
    rows = []
    for half, channels, side in (("encoder", 3, 296), ("decoder", 4, 38)):
        is_encoder = half == "encoder"
        hooked, banded = (encode_hooked, encode_in_bands) if is_encoder else (decode_hooked, decode_in_bands)
        ways = (banded, *(partial(hooked, tile=64 if is_encoder else 12, fast=fast) for fast in (False, True)))
        for kind, make in inputs.items():
            differences: dict[str, list[Tensor]] = {way: [] for way in WAYS}
            for seed in range(seeds):
                vae = random_vae(seed)
                x = make(seed, channels, side, side)
                untiled = (vae.encoder if is_encoder else vae.decoder)(x)
                for name, way in zip(WAYS, ways, strict=True):
                    differences[name].append((way(vae, x) - untiled).abs())
            for name, found in differences.items():
                every = torch.stack(found)
                rows.append((half, kind, name, float(every.max()), float(every.mean())))
    return rows


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=TILINGS, default="seesr", help="whose latents are tiled")
    parser.add_argument("--seeds", type=int, default=20, help="of the photos and the noise")
    parser.add_argument("--vae_seeds", type=int, default=5, help="of the autoencoders and their inputs")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Print both tables."""
    print(
        "| overlap of the latents' tiles | mean difference to untiled, grey levels | seam ratio | the untiled image's |"
    )
    print("|---|---|---|---|")
    for name, (difference, seam, without) in latent_rows(args.seeds, args.family):
        print(f"| {name} | {difference:.2f} | {seam:.3f} | {without:.3f} |")
    print("\n| half | input | way | largest difference to untiled | mean |")
    print("|---|---|---|---|---|")
    for half, kind, name, largest, mean in vae_rows(args.vae_seeds):
        print(f"| {half} | {kind} | {name} | {largest:.2g} | {mean:.2g} |")


if __name__ == "__main__":
    main(parse_args())
