"""Photos in and out: whatever the user holds, to float RGB (3, h, w) in [-1, 1], and back.

Files, PIL images, numpy arrays (HW, HWC, NHWC) and tensors (CHW, NCHW) are read. EXIF orientation is applied,
transparency split off, and what a file says beside its pixels (EXIF, ICC profile, DPI) kept aside for the way out.
`to_uint8` rounds half to even, as numpy's round in ResShift's utils/util_image.py (tensor2img). Unlike diffusers'
`VaeImageProcessor`, nothing is resized and a value out of range is an error, not a change of range.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from resdiff.files.deep_images import DeepImage, read_deep, tiff_info
from resdiff.files.formats import printable
from resdiff.files.reading import (
    COPY_AGAIN,
    DAMAGE,
    EXIF_HEADER,
    RefusedImage,
    first_line,
    frame_count,
    open_image,
    opened,
    warn_of_frames,
)

FLOAT_TOLERANCE = 1e-3 + 1e-6  # overshoot of [0, 1] that is clamped: half precision, resampling (and float32 of 1.001)

GREY_MODES = {"1", "L", "LA", "La"}
RGB_PROFILE_MODES = GREY_MODES | {"RGB", "RGBA", "RGBa", "P", "PA", "I;16", "I;16B", "I;16L"}

# EXIF orientation -> what turns an array (h, w, C) upright
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@dataclass(frozen=True, eq=False)
class Photo:
    """One image as read, with what has to reach the output untouched."""

    pixels: Tensor  # (3, h, w) float32 in [-1, 1], on the CPU
    alpha: Tensor | None = None  # (1, h, w) float32 in [0, 1]; None: opaque
    grey: bool = False  # one channel in the source: the output will have one as well
    metadata: dict[str, Any] = field(default_factory=dict)  # exif (bytes), icc_profile (bytes), dpi (x, y)
    bits: int = 8  # per channel in the source, 8 or 16: the output will have as many
    path: Path | None = None  # of the source, where it was a file

    def to_pil(self) -> Image.Image:
        """Return the colours as an 8-bit RGB image."""
        return Image.fromarray(to_uint8(self.pixels).movedim(0, -1).numpy())


ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor | Photo


def read_photos(lr: ImageLike | Sequence[ImageLike], name: str = "lr") -> list[Photo]:
    """Read one image, a batch, or a list mixing any of them.

    Args:
        lr: path, PIL image, numpy HW / HWC / NHWC, tensor HW / CHW / NCHW, an already read `Photo`, or a list or tuple
            of these. Arrays have 1, 3 or 4 channels (the fourth is alpha); uint8, uint16, bool or floats in [0, 1].
            Of an animation or a multi-page file, the first frame is read, and a warning says so.
        name: of the argument, for messages.

    Returns:
        One `Photo` per image, in order; sizes may differ.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file is empty, damaged, too large, no image, or changes meanwhile; an array has a wrong shape, type or range, holds
            NaN or Inf, or no pixel; `lr` is an empty list or of another type. One line each.
    """
    if not isinstance(lr, (list, tuple)):
        return _read(lr, name)
    if not lr:
        raise ValueError(f"{name} is an empty list; pass at least one image")
    return [photo for item in lr for photo in _read(item, name)]


def _read(item: object, name: str) -> list[Photo]:
    if isinstance(item, Photo):
        return [item]
    if isinstance(item, (str, os.PathLike)):
        return [_from_file(Path(item))]
    if isinstance(item, Image.Image):
        return [_from_pil(item, name)]
    if isinstance(item, np.ndarray):
        return _from_array(item, name)
    if isinstance(item, Tensor):
        return _from_tensor(item, name)
    raise ValueError(
        f"{name} is of type {type(item).__name__}; pass a path, PIL image, numpy array, tensor or a list of them"
    )


def _from_file(path: Path) -> Photo:
    name = printable(path)
    with opened(path) as file:
        try:
            deep = read_deep(file, name)
        except RefusedImage:
            raise
        except DAMAGE as error:
            raise ValueError(f"{name} cannot be read: {first_line(error)}; {COPY_AGAIN}") from error
        if deep is not None:
            photo = _from_deep(deep, name)
            warn_of_frames(deep.frames, name)
            return replace(photo, path=path)
        with open_image(file, name) as image:
            photo = _from_pil(image, name)
            warn_of_frames(frame_count(image), name)
            if image.format == "TIFF":
                photo = replace(photo, metadata=_tiff_metadata(file, image.mode))
        return replace(photo, path=path)


def _from_deep(deep: DeepImage, name: str) -> Photo:
    stand_in = Image.new("L", (1, 1))  # Pillow knows the places where the orientation may be noted, and removes it
    stand_in.info.update(deep.info)
    try:
        orientation = stand_in.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        orientation = 1
    metadata = _metadata(_upright(stand_in), "RGB")
    values = np.ascontiguousarray(UPRIGHT.get(orientation, np.asarray)(deep.values))
    return _photo(_unit(torch.from_numpy(values).movedim(-1, 0), name), metadata, bits=16)


def _tiff_metadata(file: BinaryIO, mode: str) -> dict[str, Any]:
    stand_in = Image.new("L", (1, 1))
    stand_in.info.update(tiff_info(file))
    return _metadata(_upright(stand_in), mode)


def _from_pil(image: Image.Image, name: str) -> Photo:
    if min(image.size) < 1:
        raise ValueError(f"{name} is {image.width}x{image.height}: it has no pixels; pass at least 1x1")
    try:
        image.load()
        upright = _upright(image)
        values = samples_of(upright)
    except DAMAGE as error:
        raise ValueError(f"{name} cannot be read: {first_line(error)}; {COPY_AGAIN}") from error
    bits = 8 if values.dtype == np.uint8 else 16
    return _photo(_unit(torch.from_numpy(values).movedim(-1, 0), name), _metadata(upright, image.mode), bits)


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation says and remove that tag; damaged EXIF is dropped."""
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGE:
        image = image.copy()
        image.info.pop("exif", None)
        return image


def _metadata(image: Image.Image, mode: str) -> dict[str, Any]:
    """Return what the file says beside its pixels, as far as it still holds and can be written; `mode`: of the file."""
    metadata: dict[str, Any] = {}
    try:
        raw = image.info.get("exif", b"").removeprefix(EXIF_HEADER)
        tags = Image.Exif()
        tags.load(EXIF_HEADER + raw)
        if tags:
            metadata["exif"] = EXIF_HEADER + raw  # WebP and AVIF leave the header out, JPEG needs it
    except DAMAGE:
        pass
    profile = image.info.get("icc_profile")
    if profile and mode in RGB_PROFILE_MODES:  # elsewhere it describes CMYK or Lab numbers, not the RGB made of them
        metadata["icc_profile"] = profile
    dpi = image.info.get("dpi")
    if dpi and all(math.isfinite(x) and x > 0 for x in dpi):
        metadata["dpi"] = tuple(float(x) for x in dpi)
    return metadata


def samples_of(image: Image.Image) -> np.ndarray:
    """Return the pixels (h, w, C) of a PIL image: C = 1, 2 (grey + alpha), 3 or 4, uint8, uint16 or float32.

    Raises ValueError for 32-bit integers beyond 16 bits.
    """
    if image.mode.startswith("I"):
        values = np.array(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values span [{values.min()}, {values.max()}], 16-bit images hold [0, 65535]")
        return values.astype(np.uint16)[..., None]
    if image.mode == "F":
        return np.array(image)[..., None]
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(lab), ImageCms.ImageCmsProfile(srgb), "LAB", "RGB"
        ).apply(image)
    if image.mode in GREY_MODES:
        image = image.convert("LA" if image.has_transparency_data else "L")
    else:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    values = np.array(image)
    return values if values.ndim == 3 else values[..., None]


def _from_array(array: np.ndarray, name: str) -> list[Photo]:
    if array.ndim not in (2, 3, 4) or (array.ndim > 2 and array.shape[-1] not in (1, 3, 4)):
        raise ValueError(
            f"{name} is an array of shape {array.shape}; pass (H, W), (H, W, C) or (N, H, W, C) with C = 1, 3 or 4"
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.bool_):
        raise ValueError(f"{name} is an array of {array.dtype}; pass uint8, uint16, or floats in [0, 1]")
    values = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    return _from_tensor(values if values.ndim == 2 else values.movedim(-1, -3), name)


def _from_tensor(x: Tensor, name: str) -> list[Photo]:
    if x.ndim not in (2, 3, 4) or (x.ndim > 2 and x.shape[-3] not in (1, 3, 4)):
        raise ValueError(
            f"{name} is a tensor of shape {tuple(x.shape)}; pass (H, W), (C, H, W) or (N, C, H, W) with C = 1, 3 or 4"
        )
    if x.numel() == 0:
        raise ValueError(f"{name} is of shape {tuple(x.shape)}: it has no pixels; pass at least 1x1")
    x = x.detach().cpu()
    batch = x.reshape(-1, x.shape[-3] if x.ndim > 2 else 1, *x.shape[-2:])
    bits = 16 if x.dtype == torch.uint16 else 8
    return [_photo(_unit(image, name), {}, bits) for image in batch]


def _unit(x: Tensor, name: str) -> Tensor:
    """Return `x` as float32 in [0, 1]."""
    if x.dtype == torch.uint8:
        return x.float().div_(255)  # in place here and below: photos may be large
    if x.dtype == torch.bool:
        return x.float()
    if x.dtype == torch.uint16:
        return x.float().div_(65535)
    if not x.is_floating_point():
        raise ValueError(f"{name} is of {x.dtype}; pass uint8, uint16, or floats in [0, 1]")
    x = x.float()
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or Inf; replace them, as torch.nan_to_num does")
    low, high = x.min().item(), x.max().item()
    if low < -FLOAT_TOLERANCE or high > 1 + FLOAT_TOLERANCE:
        remedy = "divide by 255" if low >= 0 and high > 2 else "pass (x + 1) / 2" if -1.01 < low < 0 else "rescale it"
        raise ValueError(f"{name} has floats in [{low:.4g}, {high:.4g}], expected [0, 1]; {remedy}")
    return x.clamp(0, 1)


def _photo(x: Tensor, metadata: dict[str, Any], bits: int) -> Photo:
    """Split `x`, (C, h, w) in [0, 1] with C = 1, 2 (grey + alpha), 3 or 4, into a `Photo`."""
    channels = x.shape[0]
    alpha = x[-1:].clone() if channels in (2, 4) else None
    colour = (x[:3] if channels >= 3 else x[:1]).mul(2).sub_(1)
    return Photo(pixels=colour.expand(3, -1, -1), alpha=alpha, grey=channels < 3, metadata=metadata, bits=bits)


def to_uint8(x: Tensor) -> Tensor:
    """Map [-1, 1] to uint8, clamped and rounded half to even (ResShift, utils/util_image.py, tensor2img).

    Raises ValueError for NaN or Inf, which would otherwise be written as black.
    """
    if not torch.isfinite(x).all():
        raise ValueError("the image holds NaN or Inf; try dtype float32")
    return (x.float() * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)


def to_tensor(pixels: Tensor) -> Tensor:
    """Map [-1, 1], clamped, to float32 in [0, 1]."""
    return (pixels.float() * 0.5 + 0.5).clamp(0, 1)
