"""Network metrics refuse what is not RGB in [0, 1], in one line with the remedy."""

import pytest
import torch

from resdiff.metrics.rgb import check_rgb, check_rgb_pair


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.rand(3, 40, 40), r"images is torch.float32 \(3, 40, 40\); give RGB"),
        (torch.rand(1, 1, 40, 40), r"\(1, 1, 40, 40\); give RGB"),
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(0, 3, 40, 40), r"\(0, 3, 40, 40\)"),
        (torch.rand(1, 3, 40, 31), "40x31 px; give at least 32x32"),
        (torch.full((1, 3, 40, 40), 255.0), r"spans 255\.\.255; give values in \[0, 1\]"),
        (torch.full((1, 3, 40, 40), -0.5), r"spans -0\.5"),
        (torch.full((1, 3, 40, 40), torch.nan), "spans nan"),
    ],
)
def test_other_images_are_refused(images, said):
    with pytest.raises(ValueError, match=said):
        check_rgb("images", images, 32)


def test_a_pair_has_one_size():
    check_rgb_pair(torch.zeros(1, 3, 32, 33), torch.ones(1, 3, 32, 33), 32)
    with pytest.raises(ValueError, match=r"sr is \(1, 3, 32, 32\) and hr \(1, 3, 32, 33\)"):
        check_rgb_pair(torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 33))
