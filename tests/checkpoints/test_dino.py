"""The published files of DINO and DINOv2 become transformers: every name used, or known to be unused."""

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from torch import Tensor

from resdiff.checkpoints.dino import UNUSED, load_dino, vit_config
from resdiff.checkpoints.io import CheckpointError, check_fit
from resdiff.models.vision_transformer import VisionTransformer

CONFORMANCE = Path(os.environ.get("RESDIFF_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")
DINOV2 = {"layer_scale": True, "interpolation": "bicubic", "interpolation_offset": 0.1}
SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
CONFIGS = {
    "DINO": SMALL,
    "DINOv2": SMALL | DINOV2,
    "wider": SMALL | {"embed_dim": 128, "num_heads": 2, "mlp_ratio": 2.0, "patch_size": 16},
    "deeper": SMALL | {"depth": 11},
}


def settings(net: VisionTransformer) -> dict[str, object]:
    return {name: value for name, value in net.config.items() if name[0] != "_"}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_file_becomes_the_network_it_was_saved_from(config: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = VisionTransformer(**config).eval(), torch.rand(1, 3, 48, 32)
    torch.save(net.state_dict() | {"mask_token": torch.zeros(1, 64)}, tmp_path / "net.pth")
    loaded = load_dino(tmp_path / "net.pth")
    assert settings(loaded) == settings(net)
    assert not loaded.training
    assert torch.equal(loaded(x), net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"register_tokens": torch.zeros(1, 4, 64)}, "1 unexpected \\(register_tokens\\)"),
        ({"norm.bias": None}, "1 missing \\(norm.bias\\)"),
        ({"pos_embed": None}, "no vision transformer, it has no tensor for pos_embed"),
        ({"pos_embed": torch.zeros(1, 16, 64)}, "15 positions, no square"),
        ({"blocks.0.mlp.fc1.weight": torch.zeros(4)}, "for blocks.0.mlp.fc1.weight"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_another_file_is_refused_in_one_line(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    state = VisionTransformer(**SMALL).state_dict() | change
    path = tmp_path / "other.pth"
    torch.save({name: x for name, x in state.items() if x is not None}, path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_dino(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dino_deitsmall16_pretrain", {}),
        ("dinov2_vits14_pretrain", DINOV2 | {"image_size": 518, "patch_size": 14}),
    ],
)
def test_the_published_file_fills_the_network(name: str, config: dict[str, object]) -> None:
    path = CONFORMANCE / "addsr" / f"manifest_{name}.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    content = json.loads(path.read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in content["params"].items()}
    assert sum(x.numel() for x in state.values()) == content["total_params"]
    with init_empty_weights():
        net, expected = VisionTransformer(**vit_config(state)), VisionTransformer(**config)
    assert settings(net) == settings(expected)
    check_fit(net, state, UNUSED)
