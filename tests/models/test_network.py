"""What the networks promise to those who compile, cast, lay out or embed: the same for each of them."""

from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import ModelMixin
from torch import Tensor

from resdiff.models.network import BLOCKS_OF_A_CLASS
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder

Arguments = tuple[Tensor, ...]


def pixel() -> PixelUNet:
    return seeded(lambda: PixelUNet(channels=(8, 12), num_blocks=(1, 1), embed_dim=16), 0.1)


def swin(**changes) -> SwinUNet:
    options = {"num_res_blocks": 1, "attention_resolutions": (16,), "channel_mult": (1,), "lq_size": 16}
    options |= {"num_head_channels": 16, "swin_embed_dim": 32, "window_size": 4, "mlp_ratio": 2.0}
    return seeded(lambda: SwinUNet(image_size=16, model_channels=32, **options | changes), 0.08)


def vq() -> VQAutoencoder:
    return seeded(lambda: VQAutoencoder(ch=32, ch_mult=(1, 2), num_res_blocks=1, n_embed=64, resolution=16), 0.08)


def seeded(build: Callable, std: float):
    """Build a network whose zero-initialised layers have something to say."""
    torch.manual_seed(0)
    network = build()
    for name, parameter in network.named_parameters():
        if name.endswith("weight") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
    return network.eval()


def inputs(network: ModelMixin, side: int = 16) -> Arguments:
    """Arguments of a call: latents, or whatever becomes them, of about `side` px."""
    g = torch.Generator().manual_seed(side)
    if isinstance(network, PixelUNet):
        return (
            torch.randn(1, 3, 4 * side, 4 * side, generator=g),
            torch.tensor([1]),
            torch.randn(1, 3, side, side, generator=g),
        )
    x = torch.randn(1, 3, side, side, generator=g)
    if isinstance(network, VQAutoencoder):
        return x, True  # type: ignore[return-value]  (codes may flip; they are no matter of layout or compilation)
    return x, torch.tensor([1]), torch.randn(1, 3, side, side, generator=g)


def cast(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    return tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)


@pytest.fixture(params=[pixel, swin, vq])
def build(request) -> Callable[[], ModelMixin]:
    return request.param


@pytest.fixture(params=[pixel, swin])
def unet(request) -> PixelUNet | SwinUNet:
    return request.param()


@pytest.fixture
def compilation() -> Iterator:
    """The compiler's counters, from zero; its settings are brought back."""
    from torch._dynamo.utils import counters

    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()
    counters.clear()
    torch._dynamo.config.recompile_limit = limit


@torch.no_grad()
def test_steps_embedded_beforehand_give_the_same_output(unet) -> None:
    x, _, lq = inputs(unet)
    steps = torch.arange(4)
    embeddings = unet.embed(steps)
    assert embeddings.shape[0] == 4 and embeddings.dtype == torch.float32
    for i in steps:
        one = unet.embed(steps[i : i + 1])
        expected = unet(x, steps[i : i + 1], lq)
        assert torch.equal(unet(x, None, lq, embedding=one), expected)
        torch.testing.assert_close(unet(x, None, lq, embedding=embeddings[i : i + 1]), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(unet(x, None, lq, embedding=embeddings[:1]), unet(x, None, lq, embedding=embeddings[1:2]))


@torch.no_grad()
def test_one_embedding_serves_a_whole_batch(unet) -> None:
    x, t, lq = (torch.cat([a, a]) for a in inputs(unet))
    torch.testing.assert_close(unet(x, None, lq, embedding=unet.embed(t[:1])), unet(x, t, lq), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "prepare", [lambda u: u.bfloat16(), lambda u: u.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)]
)
def test_embeddings_have_the_dtype_of_the_network_but_are_formed_in_float32(unet, prepare) -> None:
    seen: list[Tensor] = []
    unet.time_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    unet.embed(torch.tensor([14]))
    prepare(unet)
    embedding = unet.embed(torch.tensor([14]))
    assert embedding.dtype == torch.bfloat16
    assert torch.equal(seen[1], seen[0].bfloat16())  # sinusoids of float32 angles, rounded once


@torch.no_grad()
def test_repeated_blocks_compile_without_breaks_and_not_for_every_size(build, compilation) -> None:
    plain, network = build(), build()
    network.compile_repeated_blocks(fullgraph=True, backend="aot_eager" if build is pixel else "eager")
    graphs = []
    for side in (16, 48, 20, 28, 36, 44):  # torch compiles once more when a size is seen to change, and by thresholds
        arguments = inputs(network, side)
        torch.testing.assert_close(network(*arguments), plain(*arguments), rtol=0, atol=1e-5)
        graphs.append(compilation["stats"]["unique_graphs"])
    assert not compilation["graph_break"]
    assert graphs[0] > 0 and graphs[3] == graphs[4] == graphs[5]


@torch.no_grad()
def test_networks_of_more_widths_than_torch_allows_compile_all_the_same(compilation) -> None:
    network = seeded(lambda: PixelUNet(channels=tuple(range(8, 26, 2)), num_blocks=(1,) * 9, embed_dim=16), 0.1)
    arguments = inputs(network, 256)
    expected = network(*arguments)
    network.compile_repeated_blocks(fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(network(*arguments), expected, rtol=0, atol=1e-5)
    assert 8 < compilation["stats"]["unique_graphs"] < BLOCKS_OF_A_CLASS


def test_a_higher_limit_of_compiled_blocks_is_left_alone(compilation) -> None:
    torch._dynamo.config.recompile_limit = 1000
    pixel().compile_repeated_blocks(backend="eager")
    assert torch._dynamo.config.recompile_limit == 1000


@torch.no_grad()
def test_networks_compile_as_a_whole_without_breaks(build, compilation) -> None:
    network = build()
    arguments = inputs(network)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), network(*arguments), rtol=0, atol=1e-5)
    assert compilation["stats"]["unique_graphs"] == 1


@torch.no_grad()
def test_a_compiled_network_saves_what_it_was(build, compilation, tmp_path) -> None:
    network = build()
    network.compile_repeated_blocks(backend="eager")
    arguments = inputs(network)
    expected = network(*arguments)
    network.save_pretrained(tmp_path)
    torch.testing.assert_close(type(network).from_pretrained(tmp_path)(*arguments), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.04), (torch.float16, 0.003)])
@torch.no_grad()
def test_channels_last_gives_the_same_in_every_dtype(build, dtype, bound) -> None:
    network = build().to(dtype)
    arguments = cast(inputs(network), dtype)
    plain = network(*arguments).float()
    network.to(memory_format=torch.channels_last)
    last = network(*arguments).float()
    assert (last - plain).abs().mean() < bound * plain.abs().mean()


@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_layers_stored_in_float8_compute_in_the_asked_dtype_whatever_they_were_loaded_in(build, loaded) -> None:
    network = build()
    arguments = inputs(network)
    exact = network(*arguments)
    network.to(loaded).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    stored = network(*cast(arguments, torch.bfloat16))
    assert any(p.dtype == torch.float8_e4m3fn for p in network.parameters())
    assert network.dtype == stored.dtype == torch.bfloat16
    assert 0 < (stored.float() - exact).abs().mean() < 0.3 * exact.abs().mean()
