"""State dicts tell their architecture: from random networks, and from the names and shapes of published files."""

import json
import os
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known import KNOWN, known_by_file
from resdiff.checkpoints.resshift import (
    Published,
    autoencoder_config,
    detect,
    load_autoencoder,
    load_published,
    load_unet,
    resolve,
    unet_config,
)
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder

CONFORMANCE = Path(os.environ.get("RESDIFF_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")
MANIFESTS = sorted((CONFORMANCE / "resshift").glob("manifest_*.json"))

# Every level attends somewhere, windows are clipped somewhere, channels and blocks differ between levels.
UNETS = {
    "published topology": {},
    "x2": {"lq_size": 128},
    "inpainting": {"lq_size": 256, "cond_mask": True},
    "mask of the latent's size": {"cond_mask": True},
    "eight channels": {"in_channels": 8, "out_channels": 8, "lq_size": 512},
    "sinsr": {"in_channels": 6, "lq_size": None},
    "sinsr, unshuffled condition": {"in_channels": 15, "lq_size": None},
    "no resampling convolutions": {"conv_resample": False},
    "resampling blocks": {"resblock_updown": True},
    "uneven blocks": {"num_res_blocks": [2, 0, 3]},
    "uneven blocks, no resampling convolutions": {"num_res_blocks": [0, 2, 0], "conv_resample": False},
    "uneven blocks, resampling blocks": {"num_res_blocks": [0, 2, 1], "resblock_updown": True},
    "added embedding": {"use_scale_shift_norm": False},
    "norm of patches": {"patch_norm": True},
    "fractional channels": {"model_channels": 80, "channel_mult": [0.4, 1.2, 1.6]},
    "one level": {"channel_mult": [2], "num_res_blocks": [1], "attention_resolutions": [64]},
    "attention below": {"attention_resolutions": [16]},
    "no attention": {"attention_resolutions": []},
    "deep layers, many heads": {"swin_depth": 3, "swin_embed_dim": 64, "num_head_channels": 8},
    "fractional mlp": {"mlp_ratio": 2.5, "swin_embed_dim": 96, "num_head_channels": 96},
    "other windows": {"window_size": 4},
}
TINY_UNET = {
    "image_size": 64,
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 3,
    "num_res_blocks": [1, 1, 1],
    "attention_resolutions": [64, 32, 16],
    "channel_mult": [1, 2, 1],
    "dropout": 0.0,
    "conv_resample": True,
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "swin_depth": 2,
    "swin_embed_dim": 32,
    "window_size": 8,
    "mlp_ratio": 2,
    "patch_norm": False,
    "cond_lq": True,
    "cond_mask": False,
    "lq_size": 64,
}
TINY_VQ = {
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": [1, 0, 2],
    "z_channels": 3,
    "embed_dim": 3,
    "n_embed": 16,
    "in_channels": 3,
    "out_ch": 3,
    "resolution": 256,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def random_weights(net, seed=0):
    """Let every parameter matter, zero-initialised ones included."""
    torch.manual_seed(seed)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.05)
    return net.eval()


def tiny_unet(**options):
    return random_weights(SwinUNet(**TINY_UNET | options))


def tiny_vq(**options):
    return random_weights(VQAutoencoder(**TINY_VQ | options))


def reference_buffers(net):
    """The buffers that the reference adds to the state dict, for the side each Swin layer was built for."""
    config, window = net.config, net.config.window_size
    sides = {layer: None for layer, module in net.named_modules() if type(module).__name__ == "SwinLayer"}
    side = config.image_size
    for i, stage in enumerate(net.input_blocks):
        side //= 1 + (i > 0 and len(stage) == 1 and type(stage[0]).__name__ == "Downsample")
        sides |= {f"input_blocks.{i}.1": side} if f"input_blocks.{i}.1" in sides else {}
    sides["middle_block.1"] = side
    for i, stage in enumerate(net.output_blocks):
        sides |= {f"output_blocks.{i}.1": side} if f"output_blocks.{i}.1" in sides else {}
        side *= 1 + (type(stage[-1]).__name__ == "Upsample")
    buffers = {}
    for layer, side in sides.items():
        tokens = min(window, side) ** 2
        for block in range(config.swin_depth):
            buffers[f"{layer}.blocks.{block}.attn.relative_position_index"] = torch.zeros(tokens, tokens).long()
            if block % 2 and side > window:
                buffers[f"{layer}.blocks.{block}.attn_mask"] = torch.zeros(side**2 // tokens, tokens, tokens)
    return buffers


@pytest.mark.parametrize("options", UNETS.values(), ids=UNETS)
def test_a_random_unet_gives_its_configuration_and_output_back(options):
    net = tiny_unet(**options)
    condition = "resshift" if net.config.lq_size else "sinsr"
    state = net.state_dict()
    assert detect(state) == "unet"
    assert unet_config(state, condition) == TINY_UNET | options
    again = load_unet(state, condition)
    assert not again.training
    lq_side = 128 if net.config.in_channels == 15 else (net.config.lq_size or 64)
    x, lq = torch.randn(1, net.config.out_channels, 64, 64), torch.randn(1, 3, lq_side, lq_side)
    mask = torch.randn(1, 1, lq_side, lq_side) if net.config.cond_mask else None
    with torch.no_grad():
        assert torch.equal(net(x, torch.tensor([2]), lq, mask), again(x, torch.tensor([2]), lq, mask))


@pytest.mark.parametrize(
    ("image_size", "window", "attention"),
    [(32, 4, [32, 16, 8]), (16, 4, [16, 8, 4]), (16, 4, [16]), (32, 8, [8]), (128, 4, []), (64, 8, [64, 32, 16])],
)
def test_buffers_tell_the_image_size(image_size, window, attention):
    options = {
        "image_size": image_size,
        "lq_size": image_size,
        "window_size": window,
        "attention_resolutions": attention,
    }
    net = tiny_unet(**options)
    state = net.state_dict() | reference_buffers(net)
    assert unet_config(state) == TINY_UNET | options
    assert load_unet(state).config.image_size == image_size


@pytest.mark.parametrize(("image_size", "window"), [(32, 16), (16, 8), (128, 64)])
def test_clipped_windows_tell_the_image_size_without_buffers(image_size, window):
    sides = [image_size, image_size // 2, image_size // 4]
    options = {"image_size": image_size, "lq_size": image_size, "window_size": window, "attention_resolutions": sides}
    with torch.device("meta"):
        net = SwinUNet(**TINY_UNET | options)
    assert unet_config(net.state_dict()) == TINY_UNET | options


def test_heads_given_by_number_are_told_by_their_size():
    state = tiny_unet(num_head_channels=-1, num_heads=4).state_dict()
    assert unet_config(state)["num_head_channels"] == 8


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ch_mult": [1, 2, 1, 1], "num_res_blocks": [1, 2, 1, 1], "z_channels": 8, "embed_dim": 4, "n_embed": 7},
        {"attn_resolutions": [256, 64], "num_res_blocks": [1, 1, 1]},
        {"ch_mult": [2], "num_res_blocks": [1], "in_channels": 4, "out_ch": 1},
    ],
)
def test_a_random_autoencoder_gives_its_configuration_and_output_back(options):
    vae = tiny_vq(**options)
    state = vae.state_dict()
    assert detect(state) == "autoencoder"
    assert autoencoder_config(state) == TINY_VQ | options
    again = load_autoencoder(state)
    x = torch.randn(1, vae.config.in_channels, 16, 24)
    with torch.no_grad():
        assert torch.equal(vae.decode(vae.encode(x)), again.decode(again.encode(x)))


def test_half_precision_leaves_the_codebook_exact():
    vae = load_autoencoder(tiny_vq().state_dict(), torch.float16)
    assert vae.quantize.embedding.weight.dtype == torch.float32
    assert vae.quant_conv.weight.dtype == torch.float16


def test_an_autoencoder_may_come_with_its_training_loss_but_nothing_else():
    state = tiny_vq().state_dict()
    load_autoencoder(state | {"loss.discriminator.main.0.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"1 unexpected \(lossy\.weight\)"):
        load_autoencoder(state | {"lossy.weight": torch.zeros(1)})


def test_a_state_dict_of_another_family_is_not_detected():
    assert detect({"conv_in.weight": torch.zeros(1)}) is None


def test_a_condition_that_resshift_does_not_have_is_an_error_that_names_the_file():
    with pytest.raises(CheckpointError, match=r"^w\.pth: .* 12 channels besides the latent's 3"):
        load_unet(tiny_unet(in_channels=15, lq_size=None).state_dict(), source="w.pth")


def test_a_part_of_a_network_is_an_error_that_names_the_file():
    part = {name: tensor for name, tensor in tiny_unet().state_dict().items() if not name.startswith("output_blocks")}
    with pytest.raises(CheckpointError, match=r"^w\.pth: output_blocks\.0\..* is missing"):
        load_unet(part, source="w.pth")


# --- published files ---------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def saved(path, net):
    save_file(net.state_dict(), path) if path.suffix == ".safetensors" else torch.save(net.state_dict(), path)
    return path


def error(files, known_as=None):
    with pytest.raises(CheckpointError) as caught:
        resolve(files, known_as)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_published_name_says_which_model_it_is_and_files_come_in_any_order(here, cache):
    unet = saved(here / "resshift_realsrx4_s4_v3.pth", tiny_unet())
    vae = saved(here / "mine.safetensors", tiny_vq())
    expected = Published(KNOWN["resshift-realsrx4-v3"], unet, vae)
    assert resolve([unet, vae]) == resolve([vae, unet]) == expected


def test_an_explicit_name_wins_over_the_files(here, cache):
    unet = saved(here / "resshift_realsrx4_s4_v3.pth", tiny_unet())
    vae = saved(here / "autoencoder_vq_f4.pth", tiny_vq())
    assert resolve([unet], "sinsr-v1") == Published(KNOWN["sinsr-v1"], unet, vae)


def test_an_ambiguous_file_lists_the_models_that_fit(here, cache):
    text = error([saved(here / "net.pth", tiny_unet())])
    assert "--as NAME" in text and "known_as=NAME" in text
    for name, known in KNOWN.items():
        assert (f"{name}," in text or f"{name} " in text) == (known.scale == 4)
    text = error([saved(here / "mask.pth", tiny_unet(lq_size=256, cond_mask=True))])
    assert "could be resshift-inpaint-imagenet, resshift-inpaint-face by its shapes" in text


def test_a_network_that_no_known_model_has_is_said_to_fit_none(here, cache):
    assert "none of the known models" in error([saved(here / "net.pth", tiny_unet(in_channels=4, out_channels=4))])


def test_an_autoencoder_beside_the_network_comes_before_the_cache(here, cache):
    unet = saved(here / "sinsr_v2.safetensors", tiny_unet())
    far = saved(cache / "autoencoder_vq_f4.pth", tiny_vq())
    assert resolve([unet]).autoencoder_file == far
    near = saved(here / "autoencoder_vq_f4.safetensors", tiny_vq())
    assert resolve([unet]).autoencoder_file == near


def test_a_missing_autoencoder_is_named_with_its_address(here, cache):
    text = error([saved(here / "resshift_faceir_s4.pth", tiny_unet(in_channels=8, out_channels=8, lq_size=512))])
    assert "https://github.com/zsyOAOA/ResShift/releases/download/v2.0/ffhq512_vq_f8_dim8_face.pth" in text
    assert str(cache) in text and str(here) in text and "resdiff models fetch resshift-faceir" in text


def test_shapes_that_contradict_the_name_are_refused(here, cache):
    masked = saved(here / "resshift_realsrx4_s15_v1.pth", tiny_unet(lq_size=256, cond_mask=True))
    text = error([masked], "resshift-realsrx4-v3")
    assert "is not resshift-realsrx4-v3" in text and "a mask" in text and "resshift-inpaint-face" in text
    assert "is not resshift-realsrx4-v1" in error([masked])


def test_an_autoencoder_of_another_factor_is_refused(here, cache):
    unet = saved(here / "SinSR_v1.pth", tiny_unet())
    deep = saved(here / "f8.pth", tiny_vq(ch_mult=[1, 1, 1, 1], num_res_blocks=[1, 1, 1, 1]))
    text = error([unet, deep])
    assert str(deep) in text and "factor 8 and 3 latent channels, not 4 and 3" in text
    assert "not the autoencoder" in error([unet, saved(here / "wide.pth", tiny_vq(embed_dim=8))])


def test_files_that_make_no_pair_are_refused(here, cache):
    unet, vae = saved(here / "SinSR_v1.pth", tiny_unet()), saved(here / "vq.pth", tiny_vq())
    assert "give the file of the network too" in error([vae])
    assert "give one network, one autoencoder" in error([unet, unet])
    assert "give one network, one autoencoder" in error([vae, vae])
    assert "0 files" in error([]) and "3 files" in error([unet, vae, vae])
    torch.save({"conv.weight": torch.zeros(1)}, here / "other.pth")
    text = error([here / "other.pth"])
    assert "lacks time_embed.0.weight and encoder.conv_in.weight" in text
    with pytest.raises(ValueError, match="'sinsr' is not a known model"):
        resolve([unet, vae], "sinsr")


def test_an_autoencoder_of_the_same_shapes_is_told_by_its_published_name(here, cache):
    unet = saved(here / "SinSR_v1.pth", tiny_unet())
    face = saved(here / "celeba256_vq_f4_dim3_face.safetensors", tiny_vq())
    assert "is not the autoencoder of sinsr-v1 by its name; give autoencoder_vq_f4.pth" in error([unet, face])
    general = saved(here / "Autoencoder_VQ_f4.ckpt", tiny_vq())
    assert resolve([unet, general]).autoencoder_file == general


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_published_pair_loads_with_its_scheduler(here, cache, dtype):
    net = tiny_unet()
    saved(here / "autoencoder_vq_f4.pth", tiny_vq())
    torch.save({"state_dict": {f"module.{k}": v.half() for k, v in net.state_dict().items()}}, here / "SinSR_v1.pth")
    parts = load_published(resolve([here / "SinSR_v1.pth"]), dtype)
    assert set(parts) == {"unet", "vae", "scheduler"}
    assert parts["unet"].dtype == parts["vae"].dtype == dtype
    assert parts["unet"].config.lq_size is None and parts["unet"].config.in_channels == 6
    assert torch.equal(parts["unet"].out[2].weight, net.out[2].weight.half().to(dtype))
    assert parts["scheduler"].config.deterministic and len(parts["scheduler"]) == 15


# --- manifests of the published files ----------------------------------------------------------------------------


def test_every_manifest_is_found():
    if not CONFORMANCE.is_dir():
        pytest.skip(f"no conformance data at {CONFORMANCE}; set RESDIFF_CONFORMANCE")
    assert len(MANIFESTS) >= 11


@pytest.mark.parametrize(
    ("path", "buffers"), list(product(MANIFESTS, [False, True])), ids=lambda p: getattr(p, "stem", str(p))
)
def test_a_published_checkpoint_is_understood_and_filled_name_by_name(path, buffers):
    manifest = json.loads(path.read_text())
    state = {name: torch.empty(shape, device="meta") for name, shape in manifest["params"].items()}
    if buffers:
        for name, entry in manifest["buffers"].items():
            state[name] = torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
    if manifest["class"] == "VQModelTorch":
        expected = manifest["config"] | manifest["config"]["ddconfig"]
        blocks, levels = expected["num_res_blocks"], len(expected["ch_mult"])
        expected["num_res_blocks"] = [blocks] * levels if isinstance(blocks, int) else blocks
        known = next(k for k in KNOWN.values() if k.autoencoder.file == manifest["checkpoint"])
        assert known.autoencoder.url == manifest["url"]
        kind, config, net = "autoencoder", autoencoder_config(state), load_autoencoder(state)
        not_told = {"resolution"}  # and without attention no difference
        assert known.autoencoder.factor == net.factor and known.autoencoder.latent_channels == config["embed_dim"]
    else:
        expected = {"patch_norm": False, "cond_mask": False, "lq_size": None} | manifest["config"]
        known = known_by_file(manifest["checkpoint"])
        assert known.url == manifest["url"]
        assert known_by_file(manifest.get("local_name", manifest["checkpoint"])) is known
        kind, config, net = "unet", unet_config(state, known.condition), load_unet(state, known.condition)
        not_told = set()
        assert known.lq_factor == (config["lq_size"] or config["image_size"]) // config["image_size"]
    assert detect(state) == kind
    assert {key: value for key, value in config.items() if key not in not_told} == {
        key: expected[key] for key in config if key not in not_told
    }
    assert sum(p.numel() for p in net.parameters()) == manifest["total_params"]
    assert net.state_dict().keys() == manifest["params"].keys()
    assert all(parameter.is_meta for parameter in net.parameters()), "the manifest's own tensors must have been used"
