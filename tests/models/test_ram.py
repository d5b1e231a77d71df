"""RAM has the published topology, sees what Swin is defined to see, and needs nothing but its weights."""

import pytest
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights

from resdiff.attention import attention_backend
from resdiff.checkpoints.io import load_strictly
from resdiff.models.ram import RAM, tagger_input, tagger_input_bicubic
from resdiff.models.swin import relative_position_index
from resdiff.models.swin_encoder import PatchMerging, SwinBlock, SwinEncoder, from_windows, into_windows, region_mask

NAMES = ["cat", "dog", "old house", "sky"]
TINY = {
    "image_res": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "image_embed_dim": 16,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 3,
    "num_classes": 4,
    "tags": NAMES,
    "thresholds": [0.5, 0.5, 0.7, 0.2],
}


def tiny(**options) -> RAM:
    torch.manual_seed(0)
    network = RAM(**TINY | options)
    for name, parameter in network.named_parameters():  # tables, labels and biases are to count, norms stay norms
        if parameter.ndim > 1 or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return network.eval()


def images(batch: int = 1, side: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(side))


# --- Swin ----------------------------------------------------------------------------------------------------------


def test_windows_are_put_together_as_they_were_cut() -> None:
    x = torch.arange(2 * 6 * 9 * 2.0).view(2, 6, 9, 2)
    windows = into_windows(x, 3)
    assert windows.shape == (2 * 6, 9, 2)
    assert torch.equal(windows[1], x[0, :3, 3:6].flatten(0, 1))
    assert torch.equal(from_windows(windows, 3, 6, 9), x)


def test_shifted_windows_are_masked_where_pixels_were_no_neighbours() -> None:
    mask = region_mask(6, 3, 1)  # 2 x 2 windows, the last row and column of the map come from the other side
    assert mask.shape == (4, 9, 9)
    assert not mask[0].any()
    wrapped = torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 3]])
    for window, region in enumerate((wrapped * 0, wrapped % 2, wrapped // 2, wrapped)):
        differ = region.flatten()[:, None] != region.flatten()[None, :]
        assert torch.equal(mask[window], torch.where(differ, -100.0, 0.0))


def test_patches_are_merged_row_first_then_column() -> None:
    merge = PatchMerging(1)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 2, 2, 1)
    merge.reduction.weight.data = torch.eye(4)[:2]
    expected = F.layer_norm(torch.tensor([1.0, 3.0, 2.0, 4.0]), (4,))[:2]
    torch.testing.assert_close(merge(x).flatten(), expected)


@torch.no_grad()
def test_every_second_block_lets_windows_see_one_another() -> None:
    torch.manual_seed(0)
    for depth, reaches in ((1, False), (2, True)):
        encoder = SwinEncoder(16, 1, 8, [depth], [2], 4, 2.0).eval()
        x = images(side=16)
        changed = x.clone()
        changed[..., 0, 0] += 1
        differs = (encoder(changed) - encoder(x))[0, 1:].abs().amax(-1).view(16, 16) > 1e-6
        assert differs[:4, :4].all()
        assert bool(differs[4:, 4:].any()) is reaches
        assert not differs[-1, -1]  # the shift is cyclic, but what was wrapped stays apart


@torch.no_grad()
def test_a_shifted_window_lies_half_a_window_further() -> None:
    torch.manual_seed(0)
    block = SwinBlock(8, 2, 4, 2, 2.0)
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[0, 3, 5] += torch.randn(8)
    mask = region_mask(8, 4, 2)
    index = relative_position_index(4)
    differs = (block(changed, index, mask) - block(x, index, mask))[0].abs().amax(-1) > 1e-6
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(differs, expected)


def test_a_stage_of_one_window_is_not_shifted() -> None:
    encoder = SwinEncoder(32, 2, 8, [2, 2], [2, 4], 8, 2.0)
    assert [(stage.window, stage.shift) for stage in encoder.layers] == [(8, 4), (8, 0)]
    smaller = SwinEncoder(16, 2, 8, [2, 2], [2, 4], 8, 2.0)
    assert [(stage.window, stage.shift) for stage in smaller.layers] == [(8, 0), (4, 0)]
    assert smaller.layers[1].blocks[0].attn.relative_position_bias_table.shape == (49, 4)


@torch.no_grad()
def test_the_first_token_is_the_mean_of_the_others() -> None:
    tokens = tiny().visual_encoder(images())
    assert tokens.shape == (1, 1 + 64, 16)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_res": 33}, "image_res is 33; 2 stages need a multiple of 4"),
        ({"window_size": 5}, "stage 0 has 8 channels on 16x16 patches"),
        ({"num_heads": [3, 4]}, "stage 0 has 8 channels"),
        ({"num_heads": [2]}, "give one per stage"),
        ({"num_attention_heads": 5}, "hidden_size is 12, not a multiple of num_attention_heads 5"),
        ({"tags": ["one"]}, "there are 1 tags for 4 classes"),
        ({"thresholds": [0.1] * 5}, "there are 5 thresholds for 4 classes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RAM(**TINY | options)


@pytest.mark.parametrize("shape", [(1, 3, 32, 34), (1, 3, 64, 64), (1, 1, 32, 32), (3, 32, 32)])
def test_images_of_another_size_are_refused(shape: tuple) -> None:
    with pytest.raises(ValueError, match=r"resize them to \(B, 3, 32, 32\)"):
        tiny()(torch.zeros(shape))


# --- RAM -----------------------------------------------------------------------------------------------------------


def test_the_published_tagger_has_the_published_size() -> None:
    with torch.device("meta"):
        network = RAM()
    shapes = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    assert sum(x.numel() for x in network.state_dict().values()) == 212_117_045
    assert not list(network.buffers())  # the reference has 2,903,040 numbers of indices and masks besides
    assert shapes["visual_encoder.layers.2.blocks.17.attn.relative_position_bias_table"] == (529, 24)
    assert shapes["tagging_head.encoder.layer.1.crossattention.self.key.weight"] == (768, 512)
    assert "visual_encoder.layers.3.downsample.norm.weight" not in shapes


@torch.no_grad()
def test_images_do_not_see_one_another() -> None:
    network, x = tiny(), images(2)
    both = network(x)
    assert both.image_embeds.shape == (2, 65, 16) and both.logits.shape == (2, 4)
    for i in range(2):
        one = network(x[i : i + 1])
        torch.testing.assert_close(both.image_embeds[i], one.image_embeds[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(both.logits[i], one.logits[0], rtol=0, atol=1e-5)
    assert (both.logits[0] - both.logits[1]).abs().max() > 1e-3
    torch.testing.assert_close(network(x, return_dict=False)[1], both.logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_logits_are_those_of_post_norm_cross_attention_layers() -> None:
    network, seen = tiny(), torch.randn(1, 5, 16)
    x = network.wordvec_proj(network.label_embed).clamp(min=0)  # (4, 12)
    for layer in network.tagging_head.encoder.layer:
        look, heads = layer.crossattention, []
        for head in range(3):
            q, k, v = (
                part.unflatten(-1, (3, 4))[..., head, :]
                for part in (look.self.query(x), look.self.key(seen[0]), look.self.value(seen[0]))
            )
            heads.append(torch.softmax(q @ k.T / 2, dim=-1) @ v)
        x = standardized(look.output.dense(torch.cat(heads, -1)) + x) + look.output.LayerNorm.bias
        h = layer.intermediate.dense(x)
        h = h * (1 + torch.erf(h / 2**0.5)) / 2
        x = standardized(layer.output.dense(h) + x) + layer.output.LayerNorm.bias
    torch.testing.assert_close(network.logits(seen)[0], network.fc(x)[:, 0], rtol=0, atol=1e-4)


def standardized(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, unbiased=False)


@torch.no_grad()
def test_tokens_with_almost_no_contrast_are_normalised_all_the_same() -> None:
    norm = tiny().tagging_head.encoder.layer[0].output.LayerNorm
    x = torch.linspace(-1, 1, 12)
    torch.testing.assert_close(norm(x * 1e-3), norm(x), rtol=0, atol=1e-4)  # an eps of 1e-5 would halve it


@torch.no_grad()
def test_queries_are_projected_once_for_a_batch() -> None:
    network = tiny()
    seen: list[int] = []
    first, second = network.tagging_head.encoder.layer
    first.crossattention.self.query.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    second.crossattention.self.query.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    network(images(3))
    assert seen == [1, 3]


@torch.no_grad()
def test_biases_of_keys_change_nothing_and_tags_do_not_see_one_another() -> None:
    network, x = tiny(), images()
    before = network(x).logits
    for layer in network.tagging_head.encoder.layer:
        layer.crossattention.self.key.bias += 3.0
    torch.testing.assert_close(network(x).logits, before, rtol=0, atol=1e-4)
    network.label_embed[1] += 1.0
    changed = (network(x).logits - before).abs()[0] > 1e-3
    assert changed.tolist() == [False, True, False, False]


def test_tags_stand_in_the_order_of_the_list_and_above_their_thresholds() -> None:
    network = tiny()
    logits = torch.tensor([[1.0, 0.0, 0.85, -1.0], [-1.0, -1.0, 0.84, -2.0]])  # logit(0.7) = 0.8473
    assert network.is_present(logits).tolist() == [[True, False, True, True], [False] * 4]  # 0.5 is not above 0.5
    assert network.tags(logits) == ["cat, old house, sky", ""]
    assert network.tags(logits.bfloat16())[0] == "cat, old house, sky"


def test_without_lists_there_are_embeddings_but_no_tags() -> None:
    network = tiny(tags=None, thresholds=None)
    with torch.no_grad():
        seen = network(images())
        torch.testing.assert_close(seen.logits, tiny()(images()).logits)
    with pytest.raises(ValueError, match=r"no tags; .*ram_tag_list.txt and ram_tag_list_threshold.txt") as caught:
        network.tags(seen.logits)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no thresholds"):
        network.is_present(seen.logits)


@torch.no_grad()
def test_saving_and_loading_gives_the_same_tagger_with_its_tags(tmp_path) -> None:
    network, x = tiny(), images()
    network.save_pretrained(tmp_path)
    for low_cpu_mem_usage in (True, False):
        again = RAM.from_pretrained(tmp_path, dtype=torch.float32, low_cpu_mem_usage=low_cpu_mem_usage)
        torch.testing.assert_close(again(x).logits, network(x).logits, rtol=0, atol=1e-5)  # storage aligned otherwise
        assert again.tags(torch.full((1, 4), 9.0)) == ["cat, dog, old house, sky"]
        assert list(again.config.thresholds) == TINY["thresholds"]


@pytest.mark.parametrize("empty", [init_empty_weights, lambda: torch.device("meta")])
@torch.no_grad()
def test_a_tagger_built_without_storage_is_whole_once_its_weights_are_there(empty) -> None:
    network, x = tiny(), images()
    with empty():
        built = RAM(**TINY)
    load_strictly(built, network.state_dict())
    assert not any(tensor.is_meta for tensor in [*built.parameters(), *built.buffers()])
    torch.testing.assert_close(built.eval()(x).logits, network(x).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_same_is_seen_by_every_backend_and_nearly_in_half_precision() -> None:
    network, x = tiny(), images(2)
    exact = network(x)
    with attention_backend("eager"):
        torch.testing.assert_close(network(x).logits, exact.logits, rtol=0, atol=1e-5)
    half = network.to(torch.bfloat16)(x.bfloat16())
    assert half.logits.dtype == torch.bfloat16
    assert (half.image_embeds.float() - exact.image_embeds).abs().mean() < 0.05 * exact.image_embeds.abs().mean()


@torch.no_grad()
def test_layers_stored_in_float8_compute_in_the_asked_dtype() -> None:
    network, x = tiny(), images()
    exact = network(x).image_embeds
    network.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    seen = network(x.bfloat16())
    assert any(p.dtype == torch.float8_e4m3fn for p in network.parameters())
    assert seen.image_embeds.dtype == seen.logits.dtype == torch.bfloat16
    assert 0 < (seen.image_embeds.float() - exact).abs().mean() < 0.3 * exact.abs().mean()


def test_gradients_reach_every_weight_even_after_a_call_in_inference_mode() -> None:
    network, x = tiny(), images(2)
    with torch.inference_mode():
        network(x)
    seen = network(x)
    (seen.logits.square().mean() + seen.image_embeds.square().mean()).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None}
    assert not without


@torch.no_grad()
def test_it_compiles_without_breaks() -> None:
    network, x = tiny(), images()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x).logits, network(x).logits, rtol=0, atol=1e-5)
    torch._dynamo.reset()


# --- its input -----------------------------------------------------------------------------------------------------


def test_inference_resizes_the_photo_itself_without_antialiasing() -> None:
    lr = torch.zeros(1, 3, 8, 12)
    lr[..., ::2] = 1.0  # columns of white and grey
    x = tagger_input(lr, 4)
    assert x.shape == (1, 3, 4, 4)
    # Pixel centres 1, 4, 7, 10: between two columns of the stripes; bilinear without a filter takes just these two.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x[0, :, 0], ((torch.tensor([0.5, 1.0, 0.5, 1.0]) - mean[:, None]) / std[:, None]))
    black = tagger_input(torch.full((1, 3, 5, 7), -1.0), 4)
    torch.testing.assert_close(black[0, :, 2, 2], -mean / std)


def test_bicubic_input_overshoots_unless_it_is_clamped() -> None:
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1.0
    free, clamped = tagger_input_bicubic(step, 20), tagger_input_bicubic(step, 20, clamp=True)
    white, black = tagger_input_bicubic(step * 0 + 1, 20)[0, :, 0, 0], tagger_input_bicubic(step * 0, 20)[0, :, 0, 0]
    assert (free.amax((0, 2, 3)) > white + 0.1).all() and (free.amin((0, 2, 3)) < black - 0.1).all()
    low, high = (x.view(3, 1, 1).expand(3, 20, 20) for x in (black, white))
    torch.testing.assert_close(clamped[0], free[0].clamp(low, high), rtol=0, atol=1e-5)
