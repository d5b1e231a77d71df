"""What can be said of an image: the names of a benchmark's columns, which direction is better, range and needs."""

from dataclasses import dataclass
from typing import Literal

from resdiff.metrics import niqe, ssim, texture
from resdiff.metrics.clip_iqa import PUBLISHED_SMALLEST

Better = Literal["higher", "lower", "none"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One column."""

    name: str  # as --metrics takes it
    label: str
    better: Better
    low: float | None = None  # the range; None: unbounded
    high: float | None = None
    unit: str = ""
    digits: int = 4  # after the point, in tables
    needs_hr: bool = False
    needs_lr: bool = False
    of_set: bool = False  # one value per set, not per image
    smallest: tuple[int, int] = (1, 1)  # px: shorter and longer side that an image must have

    def fits(self, height: int, width: int) -> bool:
        """Whether an image of this size is large enough."""
        return min(height, width) >= self.smallest[0] and max(height, width) >= self.smallest[1]


def _square(side: int) -> tuple[int, int]:
    return side, side


_WINDOW = _square(ssim.WINDOW)
_DEEP = _square(64)  # the networks take less, down to 16 px, but what they say then is of no use
_CLIP = _square(PUBLISHED_SMALLEST)
_BLOCKS = (niqe.BLOCK, 2 * niqe.BLOCK)
_FLAT = _square(texture.BLUR_WINDOW)

OWN = (
    Figure(name="psnr_y", label="PSNR-Y", better="higher", low=0, unit="dB", digits=2, needs_hr=True),
    Figure(name="psnr_rgb", label="PSNR-RGB", better="higher", low=0, unit="dB", digits=2, needs_hr=True),
    Figure(name="ssim_y", label="SSIM-Y", better="higher", low=-1, high=1, needs_hr=True, smallest=_WINDOW),
    Figure(name="ssim_rgb", label="SSIM-RGB", better="higher", low=-1, high=1, needs_hr=True, smallest=_WINDOW),
    Figure(name="lpips", label="LPIPS (alex)", better="lower", low=0, needs_hr=True, smallest=_DEEP),
    Figure(name="lpips_vgg", label="LPIPS (vgg)", better="lower", low=0, needs_hr=True, smallest=_DEEP),
    Figure(name="lpips_squeeze", label="LPIPS (squeeze)", better="lower", low=0, needs_hr=True, smallest=_DEEP),
    Figure(name="dists", label="DISTS", better="lower", low=0, high=1, needs_hr=True, smallest=_DEEP),
    Figure(name="clip_iqa", label="CLIP-IQA", better="higher", low=0, high=1, smallest=_CLIP),
    Figure(name="clip_iqa_pair", label="CLIP-IQA (1 pair)", better="higher", low=0, high=1, smallest=_CLIP),
    Figure(name="clip_iqa_plus", label="CLIP-IQA+", better="higher", low=0, high=1, smallest=_CLIP),
    Figure(name="niqe", label="NIQE", better="lower", low=0, digits=3, smallest=_BLOCKS),
    Figure(name="fid", label="FID", better="lower", low=0, digits=2, needs_hr=True, of_set=True),
    Figure(name="kid", label="KID", better="lower", digits=5, needs_hr=True, of_set=True),
    Figure(
        name="color_shift", label="colour shift", better="lower", low=0, high=255, unit="1/255", digits=3, needs_lr=True
    ),
    Figure(name="lr_consistency", label="LR consistency", better="higher", low=0, unit="dB", digits=2, needs_lr=True),
    Figure(name="sharpness", label="sharpness", better="none", low=0, digits=2, smallest=(3, 3)),
    Figure(name="flat_noise", label="flat-area noise", better="none", low=0, digits=3, needs_hr=True, smallest=_FLAT),
)
