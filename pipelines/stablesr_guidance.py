"""What steers StableSR's chain and its decoder beside the image."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resdiff.diffusion.gaussian import pulled
from resdiff.images import read_photos
from resdiff.pipelines.sampling import Guide
from resdiff.pipelines.stablesr_options import StableSROptions
from resdiff.pipelines.text_guidance import TextGuidance
from resdiff.resize import bicubic


@dataclass(frozen=True, kw_only=True)
class StableSRGuidance(TextGuidance):
    """What steers StableSR's chain and its decoder beside the image."""

    fidelity: tuple[float, ...]  # in [0, 1]; 0: the plain decoder
    reference: tuple[Tensor, ...] | None  # each (1, 3, h, w) in [-1, 1], of any size


def references(given: Any, images: int, each: int) -> tuple[Tensor, ...] | None:
    """Return an image of reference for each result, `each` of every image; None where none are given.

    Raises ValueError unless there is one for each image.
    """
    if given is None:
        return None
    read = [photo.pixels[None] for photo in read_photos(given, "reference")]
    if len(read) != images:
        raise ValueError(f"reference holds {len(read)} images for {images}; pass one for each image")
    return tuple(image for image in read for _ in range(each))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `image` (B, 3, h, w) in [-1, 1] at another size by the published bicubic (torch's)."""
    return bicubic(image, size, "torch").clamp(-1, 1)


def pull_to(reference: Tensor, options: StableSROptions, timesteps: list[int]) -> Guide:
    """Return what pulls x_0 to latents of a reference in the steps of `reference_range`, and leaves it alone in others.

    timesteps: those of the chain; faithful, the range is one of places in it, counted from its end.
    """
    least, most = options.reference_range

    def guide(x0: Tensor, step: int) -> Tensor:
        place = len(timesteps) - 1 - step if options.faithful else timesteps[step]
        return pulled(x0, reference, options.reference_lr, options.reference_steps) if least <= place <= most else x0

    return guide
