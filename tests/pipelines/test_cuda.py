"""The same pipelines on a CUDA device."""

import pytest
import torch

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
