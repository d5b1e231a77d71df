"""The same pipelines on a CUDA device."""

import copy

import pytest
import torch
from torch import Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def on_cuda(pipe):
    """Move the shared pipeline and bring it back."""
    yield pipe.to("cuda")
    pipe.to("cpu", torch.float32)


def test_cuda_gives_the_image_that_the_cpu_gives(pipe, request) -> None:
    lr = torch.rand(1, 3, 24, 33, generator=torch.Generator().manual_seed(0))
    cpu = pipe(lr, generator=torch.Generator().manual_seed(0), output_type="latent").images
    cuda = request.getfixturevalue("on_cuda")(
        lr, generator=torch.Generator().manual_seed(0), output_type="latent"
    ).images
    torch.testing.assert_close(cuda.cpu(), cpu, atol=2e-3, rtol=0)  # convolutions may run in TF32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_cuda_gives_finite_images(on_cuda, dtype) -> None:
    lr = torch.rand(2, 3, 24, 33)
    images = on_cuda.to(dtype)(lr, output_type="pt").images
    assert images.shape == (2, 3, 96, 132) and torch.isfinite(images).all()


def test_seeds_may_come_from_a_cuda_generator(on_cuda) -> None:
    run = [
        on_cuda(torch.zeros(1, 3, 8, 8), generator=torch.Generator("cuda").manual_seed(3), output_type="pt").images
        for _ in range(2)
    ]
    assert torch.equal(run[0], run[1])


LR = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))


def run(pipe, lr: Tensor = LR, seed: int = 0) -> Tensor:
    return pipe(lr, generator=torch.Generator().manual_seed(seed), output_type="pt").images


def on_the_device(pipe) -> list[torch.nn.Module]:
    """The networks that have a parameter on the CUDA device."""
    networks = [network for network in (pipe.unet, pipe.vae) if network is not None]
    return [network for network in networks if any(p.is_cuda for p in network.parameters())]


OFFLOADING = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(),
    "sequential": lambda pipe: pipe.enable_sequential_cpu_offload(),
    "blocks": lambda pipe: pipe.enable_group_offload(torch.device("cuda"), num_blocks_per_group=1),
    "blocks, streamed": lambda pipe: pipe.enable_group_offload(
        torch.device("cuda"), num_blocks_per_group=1, use_stream=True
    ),
    "leaves": lambda pipe: pipe.enable_group_offload(torch.device("cuda"), offload_type="leaf_level"),
    "leaves, streamed": lambda pipe: pipe.enable_group_offload(
        torch.device("cuda"), offload_type="leaf_level", use_stream=True
    ),
}


@pytest.mark.parametrize("way", OFFLOADING)
def test_offloaded_networks_give_the_image_of_those_that_stay(own, way) -> None:
    expected = run(copy.deepcopy(own).to("cuda")).cpu()
    OFFLOADING[way](own)
    assert not on_the_device(own)
    for _ in range(2):  # the second call prefetches in the order of the first
        torch.testing.assert_close(run(own).cpu(), expected, atol=1e-4, rtol=0)
    if way in ("model", "sequential", "leaves"):
        assert not on_the_device(own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_give_the_image_of_plain_calls(own, dtype) -> None:
    own.to("cuda", dtype)
    photos = [torch.rand(1, 3, 24, side, generator=torch.Generator().manual_seed(side)) for side in (20, 20, 70, 20)]
    expected = [run(own, photo, seed) for seed, photo in enumerate(photos)]
    own.enable_cuda_graphs()
    replayed = [run(own, photo, seed) for seed, photo in enumerate(photos)]
    for image, right in zip(replayed, expected, strict=True):
        torch.testing.assert_close(image, right, atol=1e-4 if dtype == torch.float32 else 0.05, rtol=0)
    assert any(recording is not None for recording in own.unet.forward.recordings.values())
    own.disable_cuda_graphs()
    torch.testing.assert_close(run(own), run(own), atol=0, rtol=0)


def test_cuda_graphs_follow_weights_that_are_cast_and_moved(own) -> None:
    own.to("cuda").enable_cuda_graphs()
    exact = run(own)
    half = run(own.to(torch.bfloat16))
    assert torch.isfinite(half).all() and not torch.equal(half, exact)
    own.to("cpu", torch.float32)
    assert torch.isfinite(run(own)).all()
    own.to("cuda")
    assert torch.equal(run(own), run(own))


def test_cuda_graphs_keep_to_their_number_of_shapes(own) -> None:
    own.to("cuda").enable_cuda_graphs(limit=2)
    for side in (8, 72, 136, 200):
        assert torch.isfinite(run(own, torch.rand(1, 3, 8, side))).all()
    assert len(own.unet.forward.recordings) <= 2


def test_compiled_blocks_give_the_image_of_plain_ones(own) -> None:
    own.to("cuda")
    expected = run(own)
    for network in on_the_device(own):
        network.compile_repeated_blocks(fullgraph=True)
    torch.testing.assert_close(run(own), expected, atol=2e-3, rtol=0)
    torch._dynamo.reset()


def test_networks_stored_in_float8_take_less_memory_and_give_a_finite_image(own) -> None:
    own.to("cuda", torch.bfloat16)
    before = torch.cuda.memory_allocated()
    for network in on_the_device(own):
        network.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    assert torch.cuda.memory_allocated() < before
    assert torch.isfinite(run(own)).all()
