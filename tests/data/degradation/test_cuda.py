"""The degradations on a CUDA device, where a batch shares one canvas."""

import pytest
import torch

from resdiff.data.degradation.presets import PRESETS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("degradation", PRESETS.values(), ids=PRESETS)
def test_a_batch_on_cuda_is_its_samples_alone(degradation) -> None:
    hr = torch.rand(3, 3, 8, 8, generator=seeded(0)).cuda()
    hr = torch.nn.functional.interpolate(hr, size=(96, 128), mode="bicubic").clamp(0, 1)
    draws = [degradation.draw(96, 128, seeded(i)) for i in range(3)]
    target, lr = degradation.pair(hr, draws)
    assert lr.device.type == "cuda" and target.shape == hr.shape
    assert lr.shape[-2:] == (96 // degradation.scale, 128 // degradation.scale)
    assert torch.isfinite(lr).all() and lr.min() >= 0 and lr.max() <= 1
    alone = torch.cat([degradation.pair(hr[i : i + 1], draws[i : i + 1])[1] for i in range(3)])
    different = ((lr - alone).abs() > 1e-4).float().mean()
    assert different < 0.02  # rounding ties of JPEG and 8 bits


def test_cuda_gives_the_clean_reductions_of_the_cpu() -> None:
    hr = torch.rand(2, 3, 64, 96, generator=seeded(0))
    for name in ("bicubic-matlab", "bicubic-pil", "bicubic-torch"):
        draws = [PRESETS[name].draw(64, 96, seeded(i)) for i in range(2)]
        ours, theirs = PRESETS[name].pair(hr.cuda(), draws)[1].cpu(), PRESETS[name].pair(hr, draws)[1]
        assert ((ours - theirs).abs() > 1e-4).float().mean() < 0.01
