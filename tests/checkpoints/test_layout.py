"""The published sizes are those of the published files."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resdiff.checkpoints import layout
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known import AUTOENCODERS, KNOWN, VQ_F4, KnownAutoencoder, KnownModel, known_by_file

CONFORMANCE = Path(os.environ.get("RESDIFF_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")
MANIFESTS = sorted((CONFORMANCE / "resshift").glob("manifest_*.json"))


def kind(part: KnownModel | KnownAutoencoder) -> tuple:
    """What tells shapes apart; SinSR's are ResShift's."""
    if isinstance(part, KnownAutoencoder):
        return part.latent_channels, part.n_embed
    return part.autoencoder.latent_channels, part.scale, part.cond_mask


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_published_file_has_its_layout_and_no_other(path, monkeypatch) -> None:
    manifest = json.loads(path.read_text())
    shapes = {name: torch.empty(shape, device="meta") for name, shape in manifest["params"].items()}
    for name, entry in manifest["buffers"].items():
        shapes[name] = torch.empty(entry["shape"], device="meta")
    monkeypatch.setattr(layout, "read_shapes", lambda file: shapes)
    published = next((a for a in AUTOENCODERS if a.file == path.stem.removeprefix("manifest_") + ".pth"), None)
    own = published or known_by_file(manifest["checkpoint"])
    layout.check_layout(own, path)
    kinds = {kind(other): other for other in [*KNOWN.values(), *AUTOENCODERS]}
    for other in kinds.values():
        if kind(other) != kind(own):
            with pytest.raises(CheckpointError, match="does not fit"):
                layout.check_layout(other, path)


def test_the_discriminator_saved_with_an_autoencoder_may_be_there(monkeypatch, tmp_path) -> None:
    sizes = {"ch": 32, "ch_mult": (1, 1, 1), "num_res_blocks": 1, "n_embed": 4}
    monkeypatch.setattr(layout, "arguments", lambda published: sizes)
    state = layout.VQAutoencoder(**sizes).state_dict()
    save_file(state | {"loss.discriminator.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    layout.check_layout(VQ_F4, tmp_path / "a.safetensors")
    save_file(state | {"los.weight": torch.zeros(2)}, tmp_path / "b.safetensors")
    with pytest.raises(
        CheckpointError, match=r"b\.safetensors does not fit VQAutoencoder: 1 unexpected \(los\.weight\)"
    ):
        layout.check_layout(VQ_F4, tmp_path / "b.safetensors")
