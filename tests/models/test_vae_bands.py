"""The VAE computed in bands is the untiled one, at less memory."""

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.profiler import ProfilerActivity, profile

from resdiff.models import vae_bands
from resdiff.models.strips import Bands, Strips
from resdiff.models.vae_bands import attend, attended_window, decode_in_bands, encode_in_bands
from resdiff.models.vae_hook import decode_hooked, encode_hooked

from .tiny_cfw import CPU, in_strips

WIDTHS = (16, 16, 32, 16)


def tiny(widths=WIDTHS, layers=1, groups=8, seed=0, **options):
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=groups,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        **options,
    )
    for layer in vae.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight, 1, 0.3)
            nn.init.normal_(layer.bias, 0, 0.3)
    return vae.eval()


def smooth(*shape):
    """Gradients and a wave: what photographs have and noise has not."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, shape[2]), torch.linspace(-1, 1, shape[3]), indexing="ij")
    return torch.stack([torch.sin(3 * y + c) * (x + 0.1 * c) for c in range(shape[1])])[None].repeat(shape[0], 1, 1, 1)


def relative_error(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def untiled(net, x):
    return net(x)


VARIANTS = {
    "sd": {"widths": (32, 32, 64, 32), "layers": 2, "groups": 32},
    "one_layer": {},
    "no_attention": {"mid_block_add_attention": False},
    "two_levels": {"widths": (16, 32)},
    "one_level": {"widths": (16,)},
}


@pytest.mark.parametrize("rows", [None, 1, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bands_give_the_untiled_result(variant, rows):
    vae = tiny(**VARIANTS[variant])
    image, z = torch.randn(2, 3, 37, 26), torch.randn(2, 4, 5, 7)
    assert relative_error(encode_in_bands(vae, image, rows), untiled(vae.encoder, image)) < 1e-5
    assert relative_error(decode_in_bands(vae, z, rows), untiled(vae.decoder, z)) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (15, 40), (41, 23), (64, 8), (50, 51), (31, 33)])
@pytest.mark.parametrize("rows", [2, 5])
def test_any_size_and_band_height_gives_the_untiled_result(height, width, rows):
    vae = tiny()
    image, z = torch.randn(1, 3, height, width), torch.randn(1, 4, height // 8, width // 8)
    assert relative_error(encode_in_bands(vae, image, rows), untiled(vae.encoder, image)) < 1e-5
    assert relative_error(decode_in_bands(vae, z, rows), untiled(vae.decoder, z)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_float32_as_the_untiled_network(dtype):
    vae = tiny()
    image, z = torch.randn(1, 3, 40, 48).to(dtype), torch.randn(1, 4, 6, 5).to(dtype)
    exact = untiled(vae.encoder, image.float()), untiled(vae.decoder, z.float())
    vae.to(dtype)
    plain = untiled(vae.encoder, image), untiled(vae.decoder, z)
    ours = encode_in_bands(vae, image, 7), decode_in_bands(vae, z, 7)
    for x, y, best in zip(ours, plain, exact, strict=True):
        assert x.dtype == dtype
        assert (x - best).square().mean() < 1.2 * (y - best).square().mean()


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("seed", range(3))
def test_bands_are_nearer_to_the_untiled_result_than_the_published_tiles(seed, kind):
    vae = tiny(seed=seed)
    make = torch.randn if kind == "noise" else smooth
    image, z = make(1, 3, 136, 88), make(1, 4, 31, 20)
    for ours, published, whole in (
        (encode_in_bands(vae, image, 24), encode_hooked(vae, image, 64), untiled(vae.encoder, image)),
        (decode_in_bands(vae, z, 24), decode_hooked(vae, z, 8), untiled(vae.decoder, z)),
    ):
        ours, published = (ours - whole).abs(), (published - whole).abs()
        assert ours.max() < 1e-3 * published.max()
        assert ours.mean() < 1e-3 * published.mean()


# --- attention ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("canvas", "window"),
    [
        ((256, 256), (256, 256)),
        ((64, 1024), (64, 1024)),
        ((257, 256), (256, 256)),
        ((512, 512), (256, 256)),
        ((100, 2000), (100, 655)),
        ((2000, 100), (655, 100)),
    ],
)
def test_a_query_sees_the_canvas_or_as_many_latents_around_it(canvas, window):
    assert attended_window(*canvas) == window
    assert window[0] * window[1] <= vae_bands.ATTENDED


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("canvas", [(7, 9), (8, 8), (11, 14), (3, 40)])
def test_beyond_the_limit_a_block_of_queries_attends_to_the_window_around_it(canvas, heads, monkeypatch):
    monkeypatch.setattr(vae_bands, "ATTENDED", 64)
    monkeypatch.setattr(vae_bands, "QUERY_SIDE", 4)
    torch.manual_seed(0)
    options = {"bias": True, "residual_connection": True, "rescale_output_factor": 1.5, "norm_num_groups": 4}
    attn = Attention(16, heads=heads, dim_head=16 // heads, **options).eval()
    x = torch.randn(2, 16, *canvas)
    ys, xs = (grid.flatten() for grid in torch.meshgrid(*map(torch.arange, canvas), indexing="ij"))

    def near(positions, length, side):
        first = (positions // 4 * 4 + (4 - side) // 2).clamp(0, length - side)
        return (positions[None] >= first[:, None]) & (positions[None] < first[:, None] + side)

    tall, wide = attended_window(*canvas)
    seen = near(ys, canvas[0], tall) & near(xs, canvas[1], wide)  # (queries, keys)
    with torch.no_grad():
        ours = attend(attn, in_strips(x, 3), Bands(3, CPU, CPU)).window(0, canvas[0], CPU)
        masked = attn(x, attention_mask=torch.where(seen, 0.0, float("-inf"))[None].repeat(2, 1, 1))
    assert bool(seen.all()) is (canvas[0] * canvas[1] <= 64)
    torch.testing.assert_close(ours, masked, rtol=0, atol=1e-5)


def test_scores_never_exist_for_all_pairs(monkeypatch):
    sizes = []

    def spy(q, k, v):
        sizes.append((q.shape[2], k.shape[2]))
        return attention(q, k, v)

    attention = vae_bands.attention
    monkeypatch.setattr(vae_bands, "attention", spy)
    monkeypatch.setattr(vae_bands, "ATTENDED", 100)
    monkeypatch.setattr(vae_bands, "QUERY_SIDE", 4)
    out = decode_in_bands(tiny((8, 16)), torch.randn(1, 4, 14, 13))
    assert out.shape == (1, 3, 28, 26) and bool(out.isfinite().all())
    assert len(sizes) == 16
    assert max(q for q, _ in sizes) == 16 and max(k for _, k in sizes) == 100


# --- memory ------------------------------------------------------------------------------------------------------


def peak_bytes(function):
    """The most that torch's CPU allocator had handed out at once during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record, torch.no_grad():
        function()
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_two_activations_at_full_size_live_at_once():
    vae = tiny((32, 32), mid_block_add_attention=False)
    z, image = torch.randn(1, 4, 96, 48), torch.randn(1, 3, 192, 96)
    full = 32 * 192 * 96 * 4  # bytes of an activation at full resolution
    assert peak_bytes(lambda: decode_in_bands(vae, z, 8)) < 2.6 * full
    assert peak_bytes(lambda: encode_in_bands(vae, image, 8)) < 2.6 * full
    assert peak_bytes(lambda: vae.decoder(z)) > 2.9 * full


def test_activations_are_held_where_asked_and_the_result_lies_with_the_input(monkeypatch):
    places = []
    append = Strips.append
    monkeypatch.setattr(Strips, "append", lambda self, strip, hold: (places.append(hold), append(self, strip, hold)))
    vae, z = tiny((8, 16)), torch.randn(1, 4, 6, 5)
    elsewhere = torch.device("cpu", 0)  # not equal to torch.device("cpu")
    decode_in_bands(vae, z, 6, hold=elsewhere)
    assert places[-1] == CPU and places[-2] == CPU  # the image, in two bands
    assert set(places[:-2]) == {elsewhere}


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_block_of_another_kind_is_refused_in_one_line():
    vae = AutoencoderKL(down_block_types=["AttnDownEncoderBlock2D"], up_block_types=["AttnUpDecoderBlock2D"])
    with pytest.raises(ValueError, match=r"^the VAE has a AttnDownEncoderBlock2D .*; call it untiled$"):
        encode_in_bands(vae, torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match="AttnUpDecoderBlock2D"):
        decode_in_bands(vae, torch.randn(1, 4, 4, 4))


def test_an_unsuitable_argument_is_refused():
    vae = tiny()
    with pytest.raises(ValueError, match="rows is 0"):
        decode_in_bands(vae, torch.randn(1, 4, 4, 4), rows=0)
    with pytest.raises(ValueError, match="image is 7x16; both sides must be at least 8"):
        encode_in_bands(vae, torch.randn(1, 3, 7, 16))
