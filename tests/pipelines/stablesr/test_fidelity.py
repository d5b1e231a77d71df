"""The fidelity knob: what is fused where, by how much, for each image."""

import pytest
import torch
from torch import Tensor

from resdiff.pipelines.autoencoding import VaeTiles
from resdiff.pipelines.tiny import tiny_stablesr


def decoded(pipe, latents: Tensor) -> Tensor:
    """What diffusers' own decoder makes of latents, in [0, 1]."""
    with torch.no_grad():
        image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return (image.clamp(-1, 1) / 2 + 0.5).clamp(0, 1)


def test_at_zero_it_is_the_plain_decoder_bit_for_bit(stablesr, photo, run) -> None:
    latents = run(stablesr, photo(), fidelity=0, output_type="latent")
    image = run(stablesr, photo(), fidelity=0, color_fix="none")
    assert torch.equal(image, decoded(stablesr, latents)[..., : image.shape[-2], : image.shape[-1]])
    for zero in (0.0, torch.zeros(1), [0]):
        assert torch.equal(run(stablesr, photo(), fidelity=zero, color_fix="none"), image)


def test_it_changes_nothing_but_the_decoding(stablesr, photo, run) -> None:
    latents = [run(stablesr, photo(), fidelity=w, output_type="latent") for w in (0.0, 0.3, 1.0)]
    assert torch.equal(latents[0], latents[1]) and torch.equal(latents[0], latents[2])
    images = [run(stablesr, photo(), fidelity=w, color_fix="none") for w in (0.0, 0.3, 1.0)]
    assert (images[1] - images[0]).abs().max() > 1e-3 and (images[2] - images[1]).abs().max() > 1e-3


def test_every_fusion_is_linear_in_the_fidelity(stablesr, photo, run) -> None:
    """F_m = F_d + C w: what comes into the up-sampler behind a level, against what its last residual block gives."""
    blocks = stablesr.vae.decoder.up_blocks
    for level, block in ((2, blocks[1]), (1, blocks[2])):  # the coarse one first: the fine one sees its result
        plain, fused, said = [], [], []
        hooks = [
            block.resnets[-1].register_forward_hook(lambda _m, _i, out, plain=plain: plain.append(out)),
            block.upsamplers[0].register_forward_pre_hook(lambda _m, given, fused=fused: fused.append(given[0])),
            stablesr.cfw.fusion_layer(level).register_forward_hook(lambda _m, _i, out, said=said: said.append(out)),
        ]
        for w in (0.25, 0.5, 1.0):
            run(stablesr, photo(), fidelity=w)
        for hook in hooks:
            hook.remove()
        assert len(plain) == len(fused) == len(said) == 3
        for w, before, after, c in zip((0.25, 0.5, 1.0), plain, fused, said, strict=True):
            torch.testing.assert_close(after - before, w * c, rtol=0, atol=1e-5)
            assert c.abs().max() > 0.01
        if level == 2:  # what the first fusion adds depends on w alone
            torch.testing.assert_close(2 * (fused[0] - plain[0]), fused[1] - plain[1], rtol=0, atol=1e-5)
            torch.testing.assert_close(said[0], said[2], rtol=0, atol=0)
        else:
            assert not torch.equal(plain[0], plain[2])


@pytest.mark.parametrize("weights", [torch.tensor([0.0, 0.4, 1.0]), [0.0, 0.4, 1.0], (0.2, 0.0, 0.9)])
def test_each_image_of_a_batch_may_have_its_own(stablesr, photo, run, weights) -> None:
    photos = [photo(i)[0] for i in range(3)]
    together = run(stablesr, photos, seed=[0, 1, 2], fidelity=weights)
    values = weights.tolist() if isinstance(weights, Tensor) else weights
    for i, w in enumerate(values):
        alone = run(stablesr, photos[i], seed=[i], fidelity=w)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


def test_several_results_of_an_image_share_its_fidelity(stablesr, photo, run) -> None:
    photos = [photo(i)[0] for i in range(2)]
    four = run(stablesr, photos, seed=[0, 1, 2, 3], fidelity=[0.0, 1.0], num_images_per_prompt=2)
    torch.testing.assert_close(four[3:], run(stablesr, photos[1], seed=[3], fidelity=1.0), rtol=0, atol=1e-5)


def test_in_bands_it_is_the_same_image(stablesr, photo, run) -> None:
    lr = photo(3, 20, 26)
    whole, bands = (run(stablesr, lr, fidelity=0.7, vae_tiling=tiling) for tiling in ("off", "bands"))
    torch.testing.assert_close(bands, whole, rtol=0, atol=1e-4)


def test_the_models_own_is_taken_where_none_is_said(stablesr, photo, run) -> None:
    own = type(stablesr).from_pipe(stablesr, fidelity=0.25)
    own.set_progress_bar_config(disable=True)
    assert torch.equal(run(own, photo()), run(stablesr, photo(), fidelity=0.25))
    without = type(stablesr).from_pipe(stablesr, cfw=None)
    without.set_progress_bar_config(disable=True)
    assert torch.equal(run(without, photo()), run(stablesr, photo(), fidelity=0))


def test_without_the_weights_it_says_which_to_give(photo) -> None:
    pipe = tiny_stablesr()
    pipe.register_modules(cfw=None)
    with pytest.raises(
        ValueError, match=r"fidelity=0.5 needs the weights.*vqgan_cfw_00011.ckpt as cfw_file=.*fidelity=0"
    ):
        pipe(photo(), fidelity=0.5)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, [0.2, 1.1], torch.tensor([2.0]), "much", True])
def test_outside_its_range_it_is_refused(stablesr, photo, wrong) -> None:
    with pytest.raises(ValueError, match=r"fidelity=.* must lie between 0 .* and 1"):
        stablesr(photo(), fidelity=wrong)


@pytest.mark.parametrize("wrong", [[0.1, 0.2, 0.3], torch.zeros(2, 2), torch.zeros(3)])
def test_one_number_or_one_for_each_image(stablesr, photo, wrong) -> None:
    with pytest.raises(ValueError, match=r"fidelity is of shape .* for 2 images; pass a number, or one for each image"):
        stablesr([photo(0)[0], photo(1)[0]], fidelity=wrong)


def test_tiles_that_cannot_fuse_are_refused(stablesr, photo) -> None:
    with pytest.raises(ValueError, match=r'VaeTiles.* cannot fuse features; use vae_tiling="bands"'):
        stablesr(photo(), vae_tiling=VaeTiles())
