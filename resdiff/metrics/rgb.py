"""What network metrics take: RGB images in [0, 1], checked before a network turns anything else into a number."""

from torch import Tensor


def check_rgb(name: str, images: Tensor, smallest: int = 1) -> None:
    """Raise ValueError unless `images` is floating (B, 3, H, W) in [0, 1] with at least `smallest` px a side."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not images.numel():
        raise ValueError(f"{name} is {images.dtype} {tuple(images.shape)}; give RGB as floating point (B, 3, H, W)")
    if min(images.shape[-2:]) < smallest:
        raise ValueError(
            f"{name} is {images.shape[-2]}x{images.shape[-1]} px; give at least {smallest}x{smallest}, or enlarge it"
        )
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # NaN is refused, too
        raise ValueError(f"{name} spans {low:g}..{high:g}; give values in [0, 1]")


def check_rgb_pair(sr: Tensor, hr: Tensor, smallest: int = 1) -> None:
    """Raise ValueError unless both are such images and have one shape."""
    if sr.shape != hr.shape:
        raise ValueError(f"sr is {tuple(sr.shape)} and hr {tuple(hr.shape)}; give images of one size")
    check_rgb("sr", sr, smallest)
    check_rgb("hr", hr, smallest)
