"""Named protocols: how the images of a published table were compared, down to rounding and borders.

Two schools exist. The classic tables (Set5 to Urban100) shave the scale from every side; the real-world ones are made
with pyiqa on whole images. The same picture differs between them by more than methods do, so a protocol is part of
every number. A change of a protocol's numbers changes its `version`.
"""

from dataclasses import dataclass
from typing import Literal

from resdiff.metrics.luma import Luma
from resdiff.names import remedy


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What the figures of a table were computed on; the defaults are those of the real-world school."""

    name: str
    version: int = 1
    crop: Literal["scale", "none"] = "none"  # pixels left out on every side before PSNR and SSIM
    psnr_round_y: bool = False  # whether the BT.601 luma is rounded to integers
    psnr_eps: float = 1e-8  # added to the mean squared error of values in [0, 1]
    ssim_round_y: bool = True
    ssim_clamp: bool = True  # negative contrast-structure terms count as zero
    niqe_luma: Luma = "yiq"
    grey_is_luma: bool = False  # a grey file is its own luma; else it counts as a colour image of equal channels
    hr_size: int | None = None  # px a side that every HR image has; None: any

    def crop_border(self, scale: int) -> int:
        """Return the pixels left out on every side at a scale."""
        return scale if self.crop == "scale" else 0


CLASSIC_Y = Protocol(
    name="classic-y",
    crop="scale",
    psnr_round_y=True,
    psnr_eps=0.0,
    ssim_clamp=False,
    niqe_luma="bt601",
    grey_is_luma=True,
)
BASICSR_Y = Protocol(
    name="basicsr-y",
    crop="scale",
    psnr_eps=0.0,
    ssim_round_y=False,
    ssim_clamp=False,
    niqe_luma="bt601",
    grey_is_luma=True,
)
STABLESR_CROP512 = Protocol(name="stablesr-crop512", hr_size=512)
FULL_SIZE = Protocol(name="full-size")
RESSHIFT_IMAGENET256 = Protocol(name="resshift-imagenet256", hr_size=256)
PROTOCOLS = (CLASSIC_Y, BASICSR_Y, STABLESR_CROP512, FULL_SIZE, RESSHIFT_IMAGENET256)


def protocol(name: str) -> Protocol:
    """Return the protocol called `name`. Raises ValueError that names the nearest and all."""
    found = {one.name: one for one in PROTOCOLS}
    if name not in found:
        raise ValueError(f"protocol {name!r} is unknown; {remedy(name, found)}")
    return found[name]
