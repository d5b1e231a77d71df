"""What can be said of a photo that its low-resolution image does not show, in four numbers.

Each compares the photo with what its LR predicts (the posterior mean that a network returned), as the logarithm of a
ratio: the words of a prompt must tell the model what it cannot see, not what it sees anyway. How large a ratio is usual
depends on the image: strong edges, which the LR image shows, leave less to add than fine texture does. `traits` are what a
prediction itself has of the attributes; from them the usual ratio is estimated. The project's own choice of numbers;
sharpness and flat noise are those of `resdiff.metrics.texture`. They have gradients in the photo, so that a training can
ask its results to have the attributes that were said.
"""

import torch
from torch import Tensor

from resdiff.metrics.luma import rgb_to_y
from resdiff.metrics.texture import flat_pixels, grain, laplacian, variance
from resdiff.metrics.window import gaussian_window, window_mean

ATTRIBUTES = ("detail", "grain", "contrast", "texture")
TRAITS = ("detail", "contrast", "texture")  # without grain, which not every image has a place for

FLOOR = 0.5  # 8-bit levels, added in squares: what rounding alone leaves of a deviation
FLAT_SHARE = 0.02  # of the pixels: with fewer flat ones, grain is not measured
FINE, COARSE = (11, 1.5), (31, 6.0)  # window and sigma in pixels of the two blurs between which contrast is measured
SMALLEST = COARSE[0]
QUARTILES = (0.25, 0.75)


def attributes(hr: Tensor, predicted: Tensor, flat: Tensor | None = None) -> Tensor:
    """Measure crops against what their low-resolution images predict.

    detail: standard deviation of the Laplacian of Y. grain: standard deviation of Y less its blur (sigma 1.5) where the
    9x9 standard deviation is below 3. contrast: standard deviation of Y between blurs of sigma 1.5 and 6. texture: mean
    of |Laplacian| between its quartiles, which a few edges do not move (a median, but with gradients everywhere).

    Args:
        hr: (B, 3, H, W) in [0, 1], at least 31x31.
        predicted: the same shape, of the network's posterior mean; no gradient goes there.
        flat: the same shape, the photo that says where it is flat; None: hr itself.

    Returns:
        (B, 4) float32, in the order of `ATTRIBUTES`: natural logarithms of hr's over predicted's; NaN for the grain of
        crops of which less than 2 % is flat.

    Raises:
        ValueError: shapes differ or are too small.
    """
    flat = hr if flat is None else flat
    if (
        hr.ndim != 4
        or hr.shape[1] != 3
        or not hr.shape == predicted.shape == flat.shape
        or min(hr.shape[-2:]) < SMALLEST
    ):
        shapes = ", ".join(str(tuple(x.shape)) for x in (hr, predicted, flat))
        raise ValueError(
            f"hr, predicted and flat are {shapes}; give one shape (B, 3, H, W), at least {SMALLEST} px a side"
        )
    mask = flat_pixels(_y(flat))
    return _log_powers(_y(hr), mask) - _log_powers(_y(predicted.detach()), mask)


def traits(predicted: Tensor) -> Tensor:
    """Measure what predictions themselves have of the attributes.

    predicted: (B, 3, H, W) in [0, 1], at least 31x31. Returns (B, 3) float32, in the order of `TRAITS`: natural
    logarithms of deviations in 8-bit levels.
    """
    y = _y(predicted)
    detail, _, contrast, texture = _log_powers(y, flat_pixels(y)).unbind(1)
    return torch.stack([detail, contrast, texture], dim=1)


def _log_powers(y: Tensor, flat: Tensor) -> Tensor:
    """(B, 1, H, W), mask of the flat pixels -> (B, 4): logarithms of the four deviations."""
    edges = laplacian(y)
    noise = torch.where(flat.float().mean((1, 2, 3)) < FLAT_SHARE, float("nan"), variance(grain(y), flat))
    powers = torch.stack([variance(edges), noise, variance(_band(y)), midmean(edges.abs()).square()], dim=1)
    return (powers + FLOOR**2).log() / 2


def _band(y: Tensor) -> Tensor:
    """What lies between two blurs, where both fit: (B, 1, H, W) -> (B, 1, H - 30, W - 30)."""
    edge = (COARSE[0] - FINE[0]) // 2
    return window_mean(y[..., edge:-edge, edge:-edge], gaussian_window(*FINE)) - window_mean(
        y, gaussian_window(*COARSE)
    )


def midmean(x: Tensor) -> Tensor:
    """Mean of the values between the quartiles of each image (B, ...): (B,)."""
    x = x.flatten(1)
    count = x.shape[1]
    with torch.no_grad():
        low, high = (x.kthvalue(round(q * (count - 1)) + 1, dim=1, keepdim=True).values for q in QUARTILES)
        weight = ((x >= low) & (x <= high)).to(x.dtype)
        weight = weight / weight.sum(1, keepdim=True)
    return (weight * x).sum(1)


def _y(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, 1, H, W) float32 in [16, 235]."""
    return rgb_to_y(255 * image, round_y=False).float()
