"""The table of what tiles cost: its parts on tiny stand-ins."""

import pytest
import torch
from diffusers import AutoencoderKL

from resdiff.eval import tiling
from resdiff.tiling import Gaussian


def test_the_seam_ratio_of_a_step_at_a_border_is_above_one_and_of_a_ramp_one() -> None:
    ramp = torch.linspace(0, 1, 128).expand(1, 3, 128, 128)
    stepped = ramp + (torch.arange(128) >= 64) * 0.1
    both = torch.stack([ramp + ramp.mT, stepped + stepped.mT])[:, 0]
    assert abs(tiling.seam_ratio(both[:1], Gaussian(8, 0)) - 1) < 1e-3
    assert tiling.seam_ratio(both[1:], Gaussian(8, 0)) > 5


def test_bands_differ_less_from_untiled_than_the_published_ways(monkeypatch) -> None:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    small = AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, **blocks).eval()
    monkeypatch.setattr(tiling, "random_vae", lambda seed: small)
    rows = {(half, kind, way): (largest, mean) for half, kind, way, largest, mean in tiling.vae_rows(1)}
    assert len(rows) == 2 * 2 * len(tiling.WAYS)
    for half in ("encoder", "decoder"):
        for kind in ("noise", "smooth"):
            bands, exact = rows[half, kind, "bands (ours)"], rows[half, kind, "published, exact"]
            assert bands[0] < exact[0] and bands[1] < exact[1] and bands[0] < 1e-3


@pytest.mark.parametrize("family", ["seesr", "stablesr"])
def test_latents_in_tiles_differ_from_whole_ones_and_no_more_with_more_overlap(monkeypatch, family) -> None:
    monkeypatch.setattr(tiling, "TILE", 8)
    tilings = {str(overlap): Gaussian(8, overlap) for overlap in (0, 1, 3)}
    monkeypatch.setattr(tiling, "TILINGS", dict.fromkeys(("seesr", "stablesr"), tilings))
    rows = dict(tiling.latent_rows(1, family))
    assert list(rows) == list(tilings)
    none, _, ours = (difference for difference, _, _ in rows.values())
    assert 0 < ours <= none
