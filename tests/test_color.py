"""Colour correction: what each method must keep and what it must change."""

import pytest
import torch

from resdiff.color import (
    ADAIN_EPS,
    COLOR_FIXES,
    Moments,
    adain,
    color_fix,
    luma_preserving,
    rgb_to_ycbcr,
    wavelet,
    ycbcr_to_rgb,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    content = torch.rand(2, 3, 37, 53, generator=generator) * 2 - 1
    style = torch.randn(2, 3, 37, 53, generator=generator) * 0.2 + 0.3
    return content, style


def direct_blur(x, radius):
    """[1 2 1] (x) [1 2 1] / 16, dilated, one output pixel at a time."""
    h, w = x.shape[-2:]
    y = torch.zeros_like(x)
    for dy, wy in ((-radius, 1), (0, 2), (radius, 1)):
        for dx, wx in ((-radius, 1), (0, 2), (radius, 1)):
            rows = (torch.arange(h) + dy).clamp(0, h - 1)
            columns = (torch.arange(w) + dx).clamp(0, w - 1)
            y += wy * wx * x[..., rows[:, None], columns]
    return y / 16


def test_adain_gives_mean_and_spread_of_the_style(pair):
    content, style = (x.double() for x in pair)
    result = adain(content, style)
    assert (result.mean((2, 3)) - style.mean((2, 3))).abs().max() < 1e-12
    assert (result.std((2, 3)) / style.std((2, 3)) - 1).abs().max() < 2e-4  # eps = 1e-5 in the variances


def test_adain_uses_the_unbiased_variance_and_its_epsilon():
    # unbiased variances 2e-6 and 4e-6: small enough for the epsilon to weigh
    content = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(1, 1, 1, 2) * 1e-3
    style = torch.tensor([0.0, 0.0, 0.0, 4.0], dtype=torch.float64).reshape(1, 1, 2, 2) * 1e-3
    expected = torch.tensor([-1.0, 1.0]).double() * 1e-3 * ((4e-6 + 1e-5) / (2e-6 + 1e-5)) ** 0.5 + 1e-3
    assert torch.allclose(adain(content, style).flatten(), expected, rtol=1e-12)


def test_adain_of_a_flat_image_is_the_mean_of_the_style(pair):
    _, style = pair
    result = adain(torch.full((2, 3, 5, 9), 0.25), style)
    assert torch.allclose(result, style.mean((2, 3), keepdim=True).expand_as(result), atol=1e-6)


def test_adain_takes_another_size_but_not_other_channels(pair):
    content, style = pair
    assert adain(content, style[..., :8, :9]).shape == content.shape
    with pytest.raises(ValueError, match="batch and channels"):
        adain(content, style[:1])
    with pytest.raises(ValueError, match="2 pixels"):
        adain(content, style[..., :1, :1])


def test_wavelet_of_identical_images_is_the_image(pair):
    content, _ = pair
    assert torch.equal(wavelet(content, content), content)


def test_wavelet_removes_a_constant_shift(pair):
    content, _ = pair
    shift = torch.tensor([0.2, -0.1, 0.4]).reshape(1, 3, 1, 1)
    assert torch.allclose(wavelet(content + shift, content), content, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (5, 11), (37, 53)])
def test_wavelet_is_high_of_content_plus_low_of_style(size):
    generator = torch.Generator().manual_seed(1)
    content, style = torch.randn(2, 1, 3, *size, generator=generator, dtype=torch.float64)
    high, low = torch.zeros_like(content), content
    low_style = style
    for radius in (1, 2, 4, 8, 16):
        blurred = direct_blur(low, radius)
        high, low = high + low - blurred, blurred
        low_style = direct_blur(low_style, radius)
    assert (wavelet(content, style) - (high + low_style)).abs().max() < 1e-12


def test_wavelet_refuses_another_size(pair):
    content, style = pair
    with pytest.raises(ValueError, match="differ, resize"):
        wavelet(content, style[..., :-1])


def test_luma_keeps_brightness_and_takes_colour(pair):
    content, style = pair
    result = rgb_to_ycbcr(luma_preserving(content, style))
    assert torch.allclose(result[:, :1], rgb_to_ycbcr(content)[:, :1], atol=1e-6)
    assert torch.allclose(result[:, 1:], rgb_to_ycbcr(style)[:, 1:], atol=1e-6)
    with pytest.raises(ValueError, match="differ"):
        luma_preserving(content, style[:1])


def test_ycbcr_of_primaries_is_that_of_jpeg():
    primaries = torch.eye(3).reshape(3, 3, 1, 1)  # red, green, blue in turn
    expected = torch.tensor([[0.299, -0.168736, 0.5], [0.587, -0.331264, -0.418688], [0.114, 0.5, -0.081312]])
    assert torch.allclose(rgb_to_ycbcr(primaries)[..., 0, 0], expected, atol=1e-6)


def test_ycbcr_returns_to_rgb_and_grey_has_no_chroma(pair):
    content, _ = pair
    assert torch.allclose(ycbcr_to_rgb(rgb_to_ycbcr(content)), content, atol=1e-6)
    grey = content[:, :1].expand(-1, 3, -1, -1)
    assert rgb_to_ycbcr(grey)[:, 1:].abs().max() < 1e-6
    with pytest.raises(ValueError, match="not colour"):
        rgb_to_ycbcr(content[:, :1])


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_every_method_keeps_shape_dtype_and_batch_independence(method, pair):
    content, style = pair
    whole = color_fix(content, style, method)
    alone = torch.cat([color_fix(content[i : i + 1], style[i : i + 1], method) for i in range(2)])
    assert whole.shape == content.shape and torch.allclose(whole, alone, atol=1e-6)
    half = color_fix(content.half(), style.half(), method)
    assert half.dtype == torch.float16 and (half.float() - whole).abs().max() < 0.01


def test_methods_are_chosen_by_name(pair):
    content, style = pair
    assert torch.equal(color_fix(content, style, "none"), content)
    assert torch.equal(color_fix(content, style, "adain"), adain(content, style))
    assert torch.equal(color_fix(content, style, "wavelet"), wavelet(content, style))
    assert torch.equal(color_fix(content, style, "luma"), luma_preserving(content, style))
    with pytest.raises(ValueError, match="none, adain, wavelet, luma"):
        color_fix(content, style, "histogram")


def test_moments_of_parts_are_those_of_the_whole() -> None:
    x = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0)) * 0.01 + 5  # little contrast, far from 0
    moments = Moments()
    for part in x.split([1, 22, 17], dim=-2):
        assert moments.add(part) is part
    mean, std = moments.mean_std()
    exact = x.double()
    expected = (exact.var(dim=(-2, -1), keepdim=True) + ADAIN_EPS).sqrt()
    torch.testing.assert_close(mean, exact.mean(dim=(-2, -1), keepdim=True).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(std, expected.float(), rtol=1e-4, atol=0)
