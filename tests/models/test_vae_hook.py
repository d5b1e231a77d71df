"""The published tiled VAE: layouts, shared statistics, and where it is the plain forward. Numbers: conformance."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from resdiff.models import vae_hook
from resdiff.models.vae_hook import (
    decode_hooked,
    encode_hooked,
    run_tiled,
    shared_statistics,
    thumbnail,
    tile_layout,
    tile_length,
    tile_spans,
)
from resdiff.models.vae_layers import decoder_layers, encoder_layers


def tiny(widths=(16, 32, 16, 16), groups=8):
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=widths,
        norm_num_groups=groups,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
    ).eval()


# --- layout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "tile", "pad", "core"),
    [
        (33, 8, 11, 8),  # 11 in two: 6, raised to 8
        (184, 64, 32, 64),  # 120 in two: 60, raised to 64
        (136, 64, 32, 64),  # 72 in two: 36, raised to 64
        (150, 64, 11, 64),  # 128 in two
        (3000, 1024, 32, 992),  # 2936 in three: 979, raised to a multiple of 32
        (102, 41, 11, 40),  # 80 in two: 40; 64 and 48 are too much, 8 divides it
        (99, 39, 11, 39),  # 77 in two: 39, and every multiple is too much
        (22, 64, 11, 0),  # nothing between the margins
        (5, 64, 11, 0),
    ],
)
def test_cores_are_equal_and_rounded_up_where_the_tile_allows(length, tile, pad, core):
    assert tile_length(length, tile, pad) == core


@pytest.mark.parametrize("pad", [11, 32])
@pytest.mark.parametrize("tile", [7, 24, 64, 100])
def test_tiles_cover_every_position_once_and_read_the_margin_around_their_core(tile, pad):
    for length in range(1, 400, 3):
        spans = tile_spans(length, tile, pad)
        parts = [part for _, part in spans]
        assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
        assert parts[-1][1] == length
        for (start, stop), (first, last) in spans:
            assert 0 <= start <= first < last <= stop <= length
            assert start == 0 or first - start == pad
            assert stop == length or stop - last == pad
            assert stop - start <= tile + 2 * pad + pad  # an outer core takes the border with it


def test_a_layout_goes_row_by_row_in_pixels_of_either_image():
    layout = tile_layout(100, 33, 64, 11, up=8)
    assert [tile.source for tile in layout] == [(0, 33, 0, 86), (0, 33, 64, 100)]  # cores end at 75 and 100
    assert [tile.covered for tile in layout] == [(0, 264, 0, 688), (0, 264, 512, 800)]
    assert [tile.target for tile in layout] == [(0, 264, 0, 600), (0, 264, 600, 800)]
    wide = tile_layout(136, 184, 64, 32, down=8)
    assert [tile.target for tile in wide] == [(0, 12, 0, 12), (12, 23, 0, 12), (0, 12, 12, 17), (12, 23, 12, 17)]


# --- statistics --------------------------------------------------------------------------------------------------


def test_statistics_are_averaged_by_pixels_and_ignore_differences_between_tiles():
    norm = nn.GroupNorm(2, 4)
    tiles = [torch.randn(2, 4, 3, 5), torch.randn(2, 4, 6, 5) * 2 + 7]
    mean, var = shared_statistics(norm, tiles)
    groups = [tile.unflatten(1, (2, 2)).flatten(2) for tile in tiles]
    torch.testing.assert_close(mean, groups[0].mean(2) / 3 + groups[1].mean(2) * 2 / 3)
    torch.testing.assert_close(var, groups[0].var(2, correction=0) / 3 + groups[1].var(2, correction=0) * 2 / 3)


def test_a_thumbnail_has_the_colours_of_the_image():
    x = torch.rand(2, 3, 40, 70) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + 5
    small = thumbnail(x, 35, 1)
    assert small.shape == (2, 3, 20, 35)
    torch.testing.assert_close(small.mean((0, 2, 3)), x.mean((0, 2, 3)), rtol=2e-3, atol=0)
    torch.testing.assert_close(small.std((0, 2, 3)), x.std((0, 2, 3)), rtol=2e-2, atol=0)
    assert small.min() >= x.min() and small.max() <= x.max()


def test_fast_mode_computes_one_tile_at_a_time(monkeypatch):
    counts = []
    run = vae_hook.run
    monkeypatch.setattr(
        vae_hook, "run", lambda net, layers, tiles, s: (counts.append(len(tiles)), run(net, layers, tiles, s))[1]
    )
    vae, z = tiny((16, 16)), torch.randn(1, 4, 40, 31)
    fast, exact = decode_hooked(vae, z, 16, fast=True), decode_hooked(vae, z, 16)
    assert counts == [1, 1, 1, 2]  # the thumbnail, each tile; both tiles
    assert 1e-3 < (fast - exact).abs().max() < 1


def test_fast_mode_is_the_exact_one_where_a_channel_is_constant():
    vae, image = tiny((16, 16)), torch.randn(1, 3, 104, 72)
    image[:, 1] = -1
    assert torch.equal(encode_hooked(vae, image, 32, fast=True), encode_hooked(vae, image, 32))


# --- the whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
def test_small_canvases_are_computed_untiled(fast):
    vae = tiny((8, 16, 8, 8))
    image, z = torch.randn(1, 3, 80, 72), torch.randn(1, 4, 30, 25)
    with torch.no_grad():
        assert torch.equal(encode_hooked(vae, image, 16, fast), vae.encoder(image))
        assert torch.equal(decode_hooked(vae, z, 8, fast), vae.decoder(z))
        assert not torch.allclose(encode_hooked(vae, image, 15, fast), vae.encoder(image), atol=1e-3)
        assert not torch.allclose(decode_hooked(vae, z, 7, fast), vae.decoder(z), atol=1e-3)


def test_one_tile_gives_the_plain_result():
    vae = tiny()
    image, z = torch.randn(2, 3, 41, 56), torch.randn(2, 4, 7, 9)
    with torch.no_grad():
        ours = run_tiled(vae.encoder, encoder_layers(vae.encoder), image, tile_layout(41, 56, 64, 32, down=8), None)
        torch.testing.assert_close(ours, vae.encoder(image), rtol=0, atol=1e-5)
        ours = run_tiled(vae.decoder, decoder_layers(vae.decoder), z, tile_layout(7, 9, 64, 11, up=8), None)
        torch.testing.assert_close(ours, vae.decoder(z), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("size", [(40, 13), (13, 47), (41, 36)])
def test_any_size_gives_a_whole_image(size, fast):
    vae = tiny((16, 16))
    out = decode_hooked(vae, torch.randn(2, 4, *size), 10, fast)
    assert out.shape == (2, 3, 2 * size[0], 2 * size[1])
    assert bool(out.isfinite().all())
    assert encode_hooked(vae, out[:, :, :-1], 8, fast).shape == (2, 8, size[0] - 1, size[1])


def test_samples_do_not_share_statistics():
    vae, z = tiny((16, 16)), torch.randn(2, 4, 36, 20)
    z[1] *= 3
    ours = decode_hooked(vae, z, 8)
    torch.testing.assert_close(ours[1:], decode_hooked(vae, z[1:], 8), rtol=0, atol=1e-5)


def test_the_vae_is_not_changed():
    vae = tiny((16, 16))
    before = {name: x.clone() for name, x in vae.state_dict().items()}
    processors = vae.attn_processors
    decode_hooked(vae, torch.randn(1, 4, 36, 20), 8, fast=True)
    assert all(torch.equal(x, before[name]) for name, x in vae.state_dict().items())
    assert vae.attn_processors == processors
    assert "forward" not in vars(vae.encoder) | vars(vae.decoder)


def test_an_unsuitable_tile_is_refused():
    vae = tiny()
    with pytest.raises(ValueError, match="tile is 0"):
        decode_hooked(vae, torch.randn(1, 4, 40, 40), 0)
    with pytest.raises(ValueError, match="do not fit the VAE's factor"):
        encode_hooked(vae, torch.randn(1, 3, 184, 104), 20)
    with pytest.raises(ValueError, match="3x100 is too long for the fast mode with tiles of 20"):
        decode_hooked(vae, torch.randn(1, 4, 3, 100), 20, fast=True)
