"""Photos in and out: every kind of input, every kind of damage, and lossless ways back."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.images import Photo, read_photos, to_tensor, to_uint8

ORIENTATION, DESCRIPTION = 0x0112, 0x010E


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def pixels_of(photo: Photo) -> np.ndarray:
    return to_uint8(photo.pixels).permute(1, 2, 0).numpy()


def one(lr) -> Photo:
    (photo,) = read_photos(lr)
    assert photo.pixels.dtype == torch.float32
    assert photo.pixels.shape[0] == 3
    assert photo.pixels.min() >= -1 and photo.pixels.max() <= 1
    return photo


# --- kinds of input --------------------------------------------------------------------------------------------------


def test_every_kind_of_input_gives_the_same_pixels(tmp_path):
    rgb = noise(5, 7)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    floats = rgb.astype(np.float64) / 255
    chw = torch.from_numpy(rgb).permute(2, 0, 1)
    kinds = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(rgb),
        rgb,
        rgb[None],
        floats,
        floats.astype(np.float32),
        chw,
        chw[None],
        chw / 255,
        (chw / 255).double().requires_grad_(),
        np.flip(np.flip(rgb, 0).copy(), 0),  # negative strides
        rgb.astype(">u2") * 257,
    ]
    photos = read_photos(kinds)
    assert len(photos) == len(kinds)
    for photo in photos:
        assert np.array_equal(pixels_of(photo), rgb)
        assert photo.alpha is None and not photo.grey


def test_batches_and_lists_are_flattened_in_order():
    batch = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (0, 255)])
    photos = read_photos([batch, torch.full((1, 4, 5), 0.5), Image.new("RGB", (6, 2))])
    assert [tuple(p.pixels.shape) for p in photos] == [(3, 2, 3), (3, 2, 3), (3, 4, 5), (3, 2, 6)]
    assert [p.pixels.mean().item() for p in photos] == [-1, 1, 0, -1]
    assert [p.grey for p in photos] == [False, False, True, False]


def test_a_photo_already_read_passes_through():
    photo = one(noise(2, 2))
    assert read_photos([photo])[0] is photo


def test_the_input_is_not_changed():
    array = np.linspace(-5e-4, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    before = array.copy()
    array.flags.writeable = False
    one(array).pixels.add_(1)
    assert np.array_equal(array, before)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_read(half):
    assert one(torch.full((3, 2, 2), 0.25, dtype=half)).pixels.unique().item() == -0.5


@pytest.mark.parametrize("kind", ["hw", "hw1", "L", "1"])
def test_grey_images_become_three_equal_channels_and_are_remembered(kind):
    values = noise(4, 6, 1)[..., 0]
    if kind == "1":
        values = np.where(values > 127, 255, 0).astype(np.uint8)
    source = {"hw": values, "hw1": values[..., None]}.get(kind)
    photo = one(Image.fromarray(values).convert(kind) if source is None else source)
    assert photo.grey
    assert np.array_equal(pixels_of(photo), values[..., None].repeat(3, axis=2))


def test_alpha_is_split_off():
    rgba = noise(3, 4, 4)
    for source in (Image.fromarray(rgba), rgba, torch.from_numpy(rgba).permute(2, 0, 1)):
        photo = one(source)
        assert np.array_equal(pixels_of(photo), rgba[..., :3])
        assert torch.equal(photo.alpha, torch.from_numpy(rgba[..., 3:]).permute(2, 0, 1) / 255)
    photo = one(Image.fromarray(noise(3, 4, 2), mode=None))
    assert photo.grey and photo.alpha.shape == (1, 3, 4)


def test_palette_images_are_read_with_and_without_transparency(tmp_path):
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[0, 0] = (10, 20, 30)
    palette = Image.fromarray(rgb).quantize(2)
    assert palette.mode == "P"
    assert np.array_equal(pixels_of(one(palette)), rgb)
    assert one(palette).alpha is None
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    photo = one(tmp_path / "p.png")
    assert photo.alpha[0].tolist() == [[0, 1], [1, 1]]


def test_a_transparent_colour_of_a_grey_png_becomes_alpha(tmp_path):
    Image.fromarray(np.array([[7, 9]], np.uint8)).save(tmp_path / "g.png", transparency=7)
    photo = one(tmp_path / "g.png")
    assert photo.grey and photo.alpha.tolist() == [[[0, 1]]]


def test_cmyk_is_converted_and_its_profile_dropped(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", icc_profile=b"a CMYK profile", quality=100)
    photo = one(tmp_path / "c.jpg")
    assert np.abs(pixels_of(photo).astype(int) - (255, 0, 0)).max() <= 2
    assert "icc_profile" not in photo.metadata


def test_16_bit_grey_is_scaled_by_65535_without_a_warning(tmp_path, recwarn):
    values = np.array([[0, 1, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "g.png")
    for source in (tmp_path / "g.png", Image.fromarray(values), values, Image.fromarray(values.astype(np.int32))):
        photo = one(source)
        assert photo.grey and photo.bits == 16
        expected = torch.from_numpy(values.astype(np.float32)) / 65535 * 2 - 1
        assert torch.allclose(photo.pixels[0], expected, atol=1e-7, rtol=0)
    assert not list(recwarn)


def test_arrays_and_tensors_of_16_bits_are_remembered_as_such():
    values = noise(3, 4).astype(np.uint16) * 257
    assert one(values).bits == one(torch.from_numpy(values).permute(2, 0, 1)).bits == 16
    assert one(noise(3, 4)).bits == one(values / 65535).bits == 8


def test_lab_is_converted_to_srgb():
    # L 54.29, a 80.80, b 69.89 (D50) is the red of sRGB; Pillow stores 2.55 L, a + 128 and b + 128
    photo = one(Image.merge("LAB", [Image.new("L", (2, 2), value) for value in (138, 209, 198)]))
    assert np.abs(pixels_of(photo).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_its_tag_reset(tmp_path, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # the bright corner is at the top left of the upright image
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a camera would have stored
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[ORIENTATION], exif[DESCRIPTION] = orientation, "a cat"
    stored.save(tmp_path / "o.png", exif=exif)
    photo = one(tmp_path / "o.png")
    assert np.array_equal(pixels_of(photo), upright)
    kept = Image.Exif()
    kept.load(photo.metadata["exif"])
    assert kept.get(ORIENTATION, 1) == 1
    assert kept[DESCRIPTION] == "a cat"


def test_damaged_exif_does_not_spoil_the_photo(tmp_path):
    Image.fromarray(noise(4, 4)).save(tmp_path / "x.jpg", exif=b"Exif\0\0rubbish, not TIFF")
    photo = one(tmp_path / "x.jpg")
    assert photo.pixels.shape == (3, 4, 4) and "exif" not in photo.metadata


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        (np.full((2, 2, 3), 255.0), r"floats in \[255, 255\], expected \[0, 1\]; divide by 255"),
        (np.linspace(-1, 1, 12).reshape(2, 2, 3), r"floats in \[-1, 1\], expected \[0, 1\]; pass \(x \+ 1\) / 2"),
        (torch.full((3, 2, 2), 1.002), r"floats in \[1.002, 1.002\]"),
        (torch.full((3, 2, 2), torch.nan), "holds NaN or Inf"),
        (np.full((2, 2), np.inf), "holds NaN or Inf"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (torch.zeros(3, 4, 0), "no pixels"),
        (torch.zeros(0, 3, 4, 4), "no pixels"),
        (Image.new("RGB", (0, 3)), "0x3: it has no pixels"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\)"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\); pass \(H, W\)"),
        (torch.zeros(8, 8, 3), r"shape \(8, 8, 3\); pass \(H, W\), \(C, H, W\)"),
        (np.zeros(3, np.uint8), r"shape \(3,\)"),
        (torch.zeros(1, 1, 3, 4, 4), r"shape \(1, 1, 3, 4, 4\)"),
        (np.zeros((4, 4, 3), np.int64), "int64; pass uint8, uint16, or floats"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32; pass uint8, uint16, or floats"),
        (np.array([["a"]]), "<U1; pass uint8"),
        ([], "empty list"),
        ([[Image.new("RGB", (2, 2))]], "type list"),
        (None, "type NoneType"),
        (3, "type int"),
        (Image.fromarray(np.array([[-1]], np.int32)), r"values span \[-1, -1\]"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(lr, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_photos(lr)
    assert "\n" not in str(caught.value)


def test_a_small_overshoot_is_clamped():
    photo = one(torch.tensor([-0.001, 1.001, 0.5]).view(1, 1, 3).expand(3, 1, 3))
    assert photo.pixels[0].tolist() == [[-1, 1, 0]]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_photos(tmp_path / "none.png")
    assert str(caught.value) == f"{tmp_path / 'none.png'} does not exist; check the name"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"just some text", "is not an image"), (b"\x89PNG\r\n\x1a\n", "is not an image")],
)
def test_files_that_are_no_images_are_named(tmp_path, content, message):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_photos(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_photos(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "avif"])
def test_truncated_and_damaged_files_give_an_image_or_one_line_that_names_the_file(tmp_path, suffix, read_damaged):
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    content = buffer.getvalue()
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot be read|not an image") as caught:
        read_photos(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    read_damaged(path, content, head=400)


# --- the way back ----------------------------------------------------------------------------------------------------


def test_all_256_values_survive_the_round_trip():
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(to_uint8(one(ramp).pixels), ramp.expand(3, -1, -1))
    assert torch.equal(to_uint8(one(Image.fromarray(ramp[0].numpy())).pixels), ramp.expand(3, -1, -1))


def test_to_uint8_rounds_half_to_even_and_clamps():
    halves = (torch.arange(64, 255) + 0.5) / 255 * 2 - 1
    scaled = (halves * 0.5 + 0.5) * 255
    ties = scaled.frac() == 0.5
    assert ties.sum() > 80
    assert (to_uint8(halves)[ties] % 2 == 0).all()
    x = torch.linspace(-1.2, 1.2, 4001)
    assert np.array_equal(to_uint8(x).numpy(), np.round(np.clip(x.numpy() * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8))
    assert to_uint8(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 128, 255, 255]


def test_to_uint8_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([0.0, torch.nan]))


def test_tensor_results_are_in_0_1():
    assert to_tensor(torch.tensor([-1.0, 0.0, 1.5])).tolist() == [0, 0.5, 1]
