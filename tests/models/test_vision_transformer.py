"""The vision transformer of DINO and DINOv2: as timm has it, with positions for images of other sizes."""

import pytest
import torch
import torch.nn.functional as F

from resdiff.models.vision_transformer import VisionTransformer

SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


def network(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    net = VisionTransformer(**SMALL | options).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layer_scale", [False, True])
@torch.no_grad()
def test_it_computes_what_timm_does_from_the_same_names(layer_scale: bool) -> None:
    timm = pytest.importorskip("timm.models.vision_transformer")
    net = network(layer_scale=layer_scale)
    other = timm.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0, init_values=layer_scale or None
    ).eval()
    other.load_state_dict(net.state_dict())
    x = images(2, 3, 32, 32)
    torch.testing.assert_close(net(x), other.forward_features(x))


@torch.no_grad()
def test_hidden_states_are_the_embedded_tokens_and_those_behind_each_block() -> None:
    net, x = network(), images(1, 3, 32, 32)
    states = net.hidden_states(x)
    assert [s.shape for s in states] == [(1, 17, 24)] * 4
    assert torch.equal(states[0], net.embed(x))
    assert torch.equal(net.blocks[1](states[1]), states[2])
    assert torch.equal(net.norm(states[-1]), net(x))


@pytest.mark.parametrize(("interpolation", "offset"), [("bilinear", 0.0), ("bicubic", 0.1)])
@torch.no_grad()
def test_positions_follow_the_image(interpolation: str, offset: float) -> None:
    net = network(interpolation=interpolation, interpolation_offset=offset)  # 4 x 4 patches
    places = (
        (torch.arange(n) + 0.5) / (n + offset) * 2 - 1 for n in (7, 5)
    )  # of the new patches, the image is [-1, 1]
    y, x = torch.meshgrid(*places, indexing="ij")
    table = net.pos_embed[:, 1:].mT.unflatten(-1, (4, 4))
    expected = F.grid_sample(
        table, torch.stack([x, y], dim=-1)[None], mode=interpolation, padding_mode="border", align_corners=False
    )
    positions = net.positions(7, 5)
    assert torch.equal(positions[:, :1], net.pos_embed[:, :1])
    torch.testing.assert_close(positions[:, 1:].mT, expected.flatten(2))


@torch.no_grad()
def test_the_published_table_of_dinov2_fits_other_images() -> None:
    net = network(image_size=14 * 37, patch_size=14, interpolation="bicubic", interpolation_offset=0.1)
    for rows, columns in ((37, 36), (16, 16), (50, 74), (1, 3)):
        assert net.positions(rows, columns).shape == (1, 1 + rows * columns, 24)


def test_an_image_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="image is 30x32; resize it to multiples of 8"):
        network()(images(1, 3, 30, 32))


@pytest.mark.parametrize("options", [{"num_heads": 5}, {"image_size": 30}])
def test_sizes_that_do_not_divide_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be a multiple of"):
        network(**options)
