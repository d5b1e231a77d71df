"""RAM's and DAPE's files become one tagger: every name used or known to be unused, every update where it belongs."""

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from torch import Tensor

from resdiff.checkpoints.io import CheckpointError, check_fit
from resdiff.checkpoints.ram import UNUSED, load_ram, merge_lora, ram_config, ram_state
from resdiff.models.ram import RAM
from resdiff.models.swin import relative_position_index
from resdiff.models.swin_encoder import region_mask

CONFORMANCE = Path(os.environ.get("RESDIFF_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")
needs_manifests = pytest.mark.skipif(not (CONFORMANCE / "seesr").is_dir(), reason=f"no manifests in {CONFORMANCE}")

TINY = {
    "image_res": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 8,
    "mlp_ratio": 2.0,
    "image_embed_dim": 16,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_classes": 3,
}
CONFIGS = {
    "one window at the end": {},
    "three stages": {"depths": [1, 3, 2], "num_heads": [1, 2, 8], "window_size": 4},
    "larger images": {"image_res": 64},
    "window above the last stage": {"window_size": 16, "depths": [2, 2]},
    "one layer in the head": {"num_hidden_layers": 1, "patch_size": 4},
}
RANK = 2


def network(**options) -> RAM:
    torch.manual_seed(0)
    return RAM(**TINY | options).eval()


def published(net: RAM) -> dict[str, Tensor]:
    """The state dict of RAM with what else its file holds."""
    state = dict(net.state_dict())
    for i, stage in enumerate(net.visual_encoder.layers):
        for j, block in enumerate(stage.blocks):
            prefix = f"visual_encoder.layers.{i}.blocks.{j}"
            state[f"{prefix}.attn.relative_position_index"] = relative_position_index(stage.window)
            if block.shift:
                state[f"{prefix}.attn_mask"] = region_mask(stage.resolution, stage.window, stage.shift)
    unused = ("tag_encoder.embeddings.position_ids", "text_decoder.bert.encoder.layer.0.output.dense.weight")
    return state | {name: torch.ones(2, 2) for name in unused}


def dape(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Updates of rank 2 of every layer that has one, and some of the captioning half."""
    g = torch.Generator().manual_seed(seed)
    lora = {}
    for name, weight in state.items():
        layer = name.removesuffix(".weight")
        if layer.endswith((".query", ".key")):
            lora[f"{layer}.lora_A"] = torch.randn(RANK, weight.shape[1], generator=g)
            lora[f"{layer}.lora_B"] = torch.randn(weight.shape[0], RANK, generator=g)
        elif layer.endswith(".qkv") and name.endswith("weight"):
            lora[f"{layer}.lora_A"] = torch.randn(2 * RANK, weight.shape[1], generator=g)
            lora[f"{layer}.lora_B"] = torch.randn(2 * weight.shape[1], RANK, generator=g)
    unused = "encoder.layer.0.attention.self.query.lora_"
    return lora | {
        f"{part}.{unused}{factor}": torch.zeros(2, 2)
        for part in ("tag_encoder", "text_decoder.bert")
        for factor in "AB"
    }


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """RAM's and DAPE's file."""
    ram_file, dape_file = tmp_path / "ram_swin_large_14m.pth", tmp_path / "DAPE.pth"
    net = network()
    torch.save({"model": published(net)}, ram_file)
    torch.save(dape(net.state_dict()), dape_file)
    return ram_file, dape_file


def refused(match: str, *args: object, **options: object) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_ram(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_tell_the_configuration(name: str) -> None:
    net = network(**CONFIGS[name])
    state = published(net)
    config = {key: net.config[key] for key in TINY}
    found = ram_config(state)
    assert found.pop("window_size") == min(config.pop("window_size"), net.visual_encoder.layers[0].resolution)
    assert found == config
    with init_empty_weights():
        check_fit(RAM(**ram_config(state)), ram_state(state))


def test_without_masks_the_last_stage_is_taken_for_one_window() -> None:
    state = ram_state(published(network(**CONFIGS["three stages"])))
    assert ram_config(state)["image_res"] == 32


def test_the_tagger_in_the_file_is_the_one_that_was_saved(files: tuple[Path, Path]) -> None:
    x = torch.randn(1, 3, 32, 32)
    loaded = load_ram(files[0], tags=("a", "b", "c"), thresholds=(0.1, 0.2, 0.3))
    assert not loaded.training and not any(p.is_meta for p in loaded.parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded(x).logits, network()(x).logits, rtol=0, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network().parameters(), strict=True))
    assert loaded.tags(torch.full((1, 3), 9.0)) == ["a, b, c"]
    assert list(loaded.config.tags) == ["a", "b", "c"]
    half = load_ram(*files, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16} and half.config.tags is None


def test_the_tag_heads_first_name_is_understood(files: tuple[Path, Path]) -> None:
    for file in files:
        state = torch.load(file)
        state = state.get("model", state)
        torch.save({k.replace("tagging_head", "vision_multi"): v for k, v in state.items()}, file)
    net = network()
    expected = merge_lora(net.state_dict(), dape(net.state_dict()))
    assert all(torch.equal(x, expected[name]) for name, x in load_ram(*files).state_dict().items())


def test_updates_go_to_queries_and_values_of_the_encoder_and_queries_and_keys_of_the_head(
    files: tuple[Path, Path],
) -> None:
    base, lora = network().state_dict(), torch.load(files[1])
    changed = dict(load_ram(*files).state_dict())
    for layer in ("visual_encoder.layers.1.blocks.0.attn.qkv", "visual_encoder.layers.0.blocks.1.attn.qkv"):
        a, b = lora[f"{layer}.lora_A"], lora[f"{layer}.lora_B"]
        delta = changed.pop(f"{layer}.weight") - base[f"{layer}.weight"]
        c = a.shape[1]
        torch.testing.assert_close(delta[:c], b[:c] @ a[:RANK] / RANK, rtol=0, atol=1e-5)  # alpha is 1
        assert not delta[c : 2 * c].any()
        torch.testing.assert_close(delta[2 * c :], b[c:] @ a[RANK:] / RANK, rtol=0, atol=1e-5)
    for layer in [name.removesuffix(".weight") for name in changed if name.endswith((".query.weight", ".key.weight"))]:
        delta = changed.pop(f"{layer}.weight") - base[f"{layer}.weight"]
        expected = lora[f"{layer}.lora_B"] @ lora[f"{layer}.lora_A"] / RANK
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-5)
    different = [name for name, x in changed.items() if not torch.equal(x, base[name])]
    assert different == ["visual_encoder.layers.0.blocks.0.attn.qkv.weight"]  # the one not looked at above


def test_merging_leaves_its_arguments_alone_and_scales_with_alpha() -> None:
    base = {name: x.clone() for name, x in network().state_dict().items()}
    lora, before = dape(base), {name: x.clone() for name, x in base.items()}
    once, twice = merge_lora(base, lora), merge_lora(base, lora, alpha=2.0)
    assert all(torch.equal(x, before[name]) for name, x in base.items())
    name = "tagging_head.encoder.layer.0.crossattention.self.key.weight"
    torch.testing.assert_close(twice[name] - base[name], 2 * (once[name] - base[name]))


def test_exchanged_files_are_told_apart(files: tuple[Path, Path]) -> None:
    ram_file, dape_file = files
    refused("DAPE.pth holds only updates of RAM", dape_file, ram_file)
    refused("ram_swin_large_14m.pth is not an update of RAM, it has whole weights", ram_file, ram_file)


def test_what_is_not_ram_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save({"encoder.conv_in.weight": torch.ones(3)}, other := tmp_path / "other.pth")
    refused("other.pth: this is not RAM, it lacks label_embed", other)
    refused("other.pth is not an update of RAM", files[0], other)
    refused("none.pth is not a file", tmp_path / "none.pth")
    refused("none.pth is not a file", files[0], tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": None}, r"1 missing \(fc.weight\)"),
        ({"fc.other": torch.ones(1)}, r"1 unexpected \(fc.other\)"),
        ({"label_embed": torch.ones(3)}, r"it has \(3,\) for label_embed"),
        ({"image_proj.weight": torch.ones(16, 15)}, "1 of another shape"),
        ({"visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table": None}, "it lacks .*bias_table"),
        ({"visual_encoder.layers.999999999.blocks.0.norm1.bias": torch.ones(1)}, "lacks .*layers.2.blocks.0"),
        ({"visual_encoder.layers.0.blocks.999999999.norm1.bias": torch.ones(1)}, "missing"),
        ({"tagging_head.encoder.layer.0.output.LayerNorm.bias": None}, "1 missing"),
    ],
)
def test_a_file_of_ram_with_other_names_or_shapes_is_refused(
    change: dict, message: str, files: tuple[Path, Path]
) -> None:
    state = torch.load(files[0])["model"] | change
    torch.save({"model": {name: x for name, x in state.items() if x is not None}}, files[0])
    refused(message, files[0])


QUERY, QKV = "tagging_head.encoder.layer.1.crossattention.self.query", "visual_encoder.layers.0.blocks.1.attn.qkv"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{QUERY}.lora_B": None}, f"DAPE.pth: the update lacks {QUERY}.lora_B"),
        ({f"{QKV}.lora_A": None, f"{QKV}.lora_B": None}, f"the update lacks {QKV}.lora_A, {QKV}.lora_B"),
        ({"fc.lora_A": torch.ones(1, 12)}, "the update has fc.lora_A, which RAM has no place for"),
        ({f"{QKV}.lora_A": torch.ones(2, 8)}, r"update of .*qkv is of shapes \(2, 8\) and \(16, 2\)"),
        ({f"{QKV}.lora_B": torch.ones(24, 2)}, r"update of .*qkv is of shapes"),
        ({f"{QUERY}.lora_A": torch.ones(2, 13)}, r"update of .*query is of shapes \(2, 13\) and \(12, 2\)"),
        ({f"{QUERY}.lora_B": torch.ones(12)}, r"update of .*query is of shapes"),
        ({f"{QUERY}.lora_A": torch.ones(0, 12), f"{QUERY}.lora_B": torch.ones(12, 0)}, "update of .*query"),
        ({"visual_encoder.norm.weight": torch.ones(16)}, "has whole weights"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(change: dict, message: str, files: tuple[Path, Path]) -> None:
    lora = torch.load(files[1]) | change
    torch.save({name: x for name, x in lora.items() if x is not None}, files[1])
    refused(message, *files)


def test_lists_of_another_model_are_refused(files: tuple[Path, Path]) -> None:
    refused("there are 2 tags for 3 classes", files[0], tags=["a", "b"], thresholds=[0.1, 0.2])


# --- the published files, by their names and shapes -----------------------------------------------------------------


def manifest(name: str) -> dict[str, Tensor]:
    content = json.loads((CONFORMANCE / "seesr" / f"manifest_{name}.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in content["params"].items()}
    assert sum(x.numel() for x in state.values()) == content["total_params"]
    return state


@needs_manifests
def test_the_published_ram_fills_every_module_and_every_name_is_accounted_for() -> None:
    state = manifest("ram_swin_large_14m")
    with init_empty_weights():
        net = RAM(**ram_config(state))
        default = RAM()
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in default.config.items() if k[0] != "_"} == {
        k: v for k, v in net.config.items() if k[0] != "_"
    }
    used = ram_state(state)
    check_fit(net, used)
    check_fit(net, state, UNUSED)
    assert sum(x.numel() for x in used.values()) == sum(p.numel() for p in net.parameters()) == 212_117_045


@needs_manifests
def test_every_published_update_is_merged_or_of_the_captioning_half() -> None:
    state, lora = ram_state(manifest("ram_swin_large_14m")), manifest("DAPE")
    used = ram_state(lora)
    assert (len(lora), len(used)) == (248, 56)
    assert {name.split(".")[0] for name in lora.keys() - used.keys()} == {"tag_encoder", "text_decoder"}
    merged = merge_lora(state, lora)
    assert {name: x.shape for name, x in merged.items()} == {name: x.shape for name, x in state.items()}
    assert sum(merged[name] is not state[name] for name in state) == 28
