"""The benchmark of StableSR: what it measures, that it runs, and that its networks have the published sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from accelerate import init_empty_weights

from resdiff.eval.bench_cases import Measurement
from resdiff.eval.bench_pipeline import table
from resdiff.eval.bench_stablesr import Case, architecture, full_size, groups, left_out, measure, pipeline, target
from resdiff.pipelines.stablesr import StableSRPipeline
from resdiff.pipelines.tiny import tiny_stablesr

SIDES = {512: 64, 1024: 96, 2048: 128}  # px, of tiny networks in place of the published
NETWORKS = {"vae", "text_encoder", "unet", "structure_encoder", "modulation", "cfw"}
STEP = {"unet", "structure_encoder", "modulation"}


@pytest.fixture(scope="module")
def tiny() -> StableSRPipeline:
    return tiny_stablesr()


@contextmanager
def counted(tiny: StableSRPipeline) -> Iterator[dict[str, list[int]]]:
    """Record the sizes of the batches in which networks, and one part of each, are called."""
    parts = {
        "unet": tiny.unet,
        "structure_encoder": tiny.structure_encoder,
        "modulation": tiny.modulation.get_submodule(tiny.modulation.blocks[0]).spade,
        "encoder": tiny.vae.encoder.conv_in,
        "decoder": tiny.vae.decoder.conv_in,
        "cfw": tiny.cfw.fusion_layer(1).encode_enc_3.conv2,
    }
    seen: dict[str, list[int]] = {name: [] for name in parts}
    hooks = [
        part.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(len(args[0])))
        for name, part in parts.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def run(case: Case, tiny: StableSRPipeline) -> tuple[set[str], dict[str, list[int]]]:
    """Return the networks that a case builds, and the batches in which one run calls them."""
    built: set[str] = set()

    def build(name: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        built.add(name)
        return getattr(tiny, name)

    with counted(tiny) as seen:
        done = measure(case, repeats=0, build=build)
    assert done.wall_seconds == done.first_seconds > 0
    return built, {name: batches for name, batches in seen.items() if batches}


def test_every_case_of_a_cpu_runs(tiny) -> None:
    cases = {case for cases in groups("float32", cuda=False, compiler=True).values() for case in cases}
    for case in cases:
        if case.dtype == "float32":
            run(replace(case, side=SIDES[case.side]), tiny)


def test_a_case_builds_the_networks_that_it_runs_and_no_others(tiny) -> None:
    step = Case("step", 64, "float32")
    assert run(replace(step, work="unet"), tiny)[0] == {"unet"}
    assert run(step, tiny)[0] == STEP
    assert run(replace(step, work="encode"), tiny)[0] == {"vae"}
    for fidelity, cfw in ((0.0, set()), (0.5, {"cfw"})):
        assert run(replace(step, work="decode", fidelity=fidelity), tiny)[0] == {"vae"} | cfw
        assert run(replace(step, work="call", fidelity=fidelity), tiny)[0] == NETWORKS - {"cfw"} | cfw


def test_a_step_is_the_encoder_and_the_modulated_unet_and_guidance_doubles_the_unet_alone(tiny) -> None:
    step = Case("step", 64, "float32")
    assert run(replace(step, work="unet"), tiny)[1] == {"unet": [1]}
    assert run(step, tiny)[1] == {"unet": [1], "structure_encoder": [1], "modulation": [1]}
    assert run(replace(step, guidance_scale=7.0), tiny)[1] == {
        "unet": [2], "structure_encoder": [1], "modulation": [2],
    }  # fmt: skip


@pytest.mark.parametrize("tiling", ["off", "bands"])
def test_decoding_looks_at_the_lr_image_only_where_features_are_fused(tiling, tiny) -> None:
    plain = Case("decode", 64, "float32", fidelity=0.0, vae_tiling=tiling)
    assert set(run(plain, tiny)[1]) == {"decoder"}
    assert set(run(replace(plain, fidelity=0.5), tiny)[1]) == {"encoder", "decoder", "cfw"}


def test_a_call_encodes_steps_and_decodes(tiny) -> None:
    call = Case("call", 64, "float32", steps=3, fidelity=0.0)
    three = {"unet": [1] * 3, "structure_encoder": [1] * 3, "modulation": [1] * 3}
    assert run(call, tiny)[1] == three | {"encoder": [1], "decoder": [1]}
    fused = run(replace(call, fidelity=0.5), tiny)[1]
    assert fused == three | {"encoder": [1, 1], "decoder": [1], "cfw": [1]}  # the features are the encoder's


def test_the_unet_is_as_it_was_after_a_step(tiny) -> None:
    run(Case("step", 64, "float32"), tiny)
    assert not tiny.unet.time_embedding._forward_pre_hooks


def test_the_latents_of_2048_px_are_cut_into_tiles_of_512_px(tiny) -> None:
    large = pipeline(Case("call", 2048, "bfloat16", "cuda"), lambda name: getattr(tiny, name))
    assert large.own_tiles.size == 64 and large.own_tiles.cuts(256, 256)
    assert large.smallest_side == 128
    assert not pipeline(Case("call", 512, "float32"), lambda name: getattr(tiny, name)).own_tiles.cuts(64, 64)


def test_networks_have_the_published_numbers_of_parameters() -> None:
    published = {
        "unet": 865_910_724,
        "structure_encoder": 52_494_080,
        "modulation": 53_020_160,
        "cfw": 44_393_728,
        "vae": 83_653_863,
        "text_encoder": 340_387_840,
    }
    assert set(published) == NETWORKS
    for name, count in published.items():
        with init_empty_weights():
            network = architecture(name)
        assert sum(parameter.numel() for parameter in network.parameters()) == count, name


def test_networks_of_full_size_fit_each_other() -> None:
    with init_empty_weights():
        networks = {name: architecture(name) for name in NETWORKS}
    pipe = pipeline(Case("call", 512, "float32"), networks.__getitem__)
    assert pipe.own_tiles.size == 64
    assert tuple(pipe.cfw.config.channels) == tuple(pipe.vae.config.block_out_channels[1:-1])
    assert pipe.structure_encoder.config.out_channels == pipe.modulation.config.structure_channels


def test_random_weights_wake_what_an_untrained_attention_keeps_silent() -> None:
    encoder = full_size("structure_encoder", torch.bfloat16, torch.device("cpu"))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
    assert all(parameter.any() for name, parameter in encoder.named_parameters() if name.endswith("proj_out.weight"))


@pytest.mark.parametrize("best", ["float32", "bfloat16"])
def test_a_group_compares_cases_that_differ_and_both_dtypes_are_shown(best) -> None:
    found = groups(best, cuda=True, compiler=True)
    for title, cases in found.items():
        assert len(cases) > 1 and len({case.label for case in cases}) == len(cases), title
        assert len({case.device for case in cases}) == 1
    for title in ("One step", "One decode", "The LR image", "A whole call"):
        assert {case.dtype for case in found[title]} == {"float32", "bfloat16"}
    assert {case.dtype for case in found["Decode of a larger canvas"]} == {best}


def test_the_adapter_stands_beside_the_unet_alone_and_fused_beside_plain_decoding() -> None:
    found = groups("float32", cuda=False, compiler=True)
    steps = [(case.work, case.guidance_scale) for case in found["One step"] if case.dtype == "float32"]
    assert steps == [("unet", 1.0), ("step", 1.0), ("step", 7.0)]
    decodes = [(case.side, case.fidelity, case.vae_tiling) for case in found["One decode"] if case.dtype == "float32"]
    assert decodes == [(512, 0.0, "off"), (512, 0.5, "off")]
    larger = [(case.side, case.fidelity, case.vae_tiling) for case in found["Decode of a larger canvas"]]
    assert larger == [(1024, 0.0, "bands"), (1024, 0.5, "bands"), (1024, 0.5, "off")]


def test_without_cuda_the_200_steps_are_said_to_be_left_out() -> None:
    cases = [case for of in groups("bfloat16", cuda=False, compiler=True).values() for case in of]
    assert {case.device for case in cases} == {"cpu"} and all(case.steps == 1 for case in cases)
    assert any("200 steps at 512 px" in line and "2048" in line for line in left_out(False, True))
    assert left_out(True, True) == []


def test_a_gpu_adds_200_steps_in_every_way_and_2048_px() -> None:
    found = groups("float32", cuda=True, compiler=True)
    assert [case.way for case in found["GPU, all steps"]] == ["plain", "compiled", "graphs", "compiled, graphs"]
    assert {(case.side, case.steps, case.guidance_scale) for case in found["GPU, all steps"]} == {(512, 200, 1.0)}
    for title, work in (("GPU, in tiles", "call"), ("GPU, decode in bands", "decode")):
        assert [(case.work, case.side, case.fidelity) for case in found[title]] == [(work, 2048, 0), (work, 2048, 0.5)]
    without = groups("float32", cuda=True, compiler=False)
    assert [case.way for case in without["GPU, all steps"]] == ["plain", "graphs"]


def test_targets_are_judged_for_200_steps_and_for_2048_px_on_a_gpu_alone() -> None:
    call = Case("call", 512, "bfloat16", "cuda", "compiled", steps=200)
    fast = Measurement(1, 1, 2.5, 2.5, 6000)
    assert target(call, fast) == "2500 ms on an H200: met"
    assert target(call, replace(fast, wall_seconds=2.51)) == "2500 ms on an H200: not met"
    for other in (replace(call, way="plain"), replace(call, device="cpu"), replace(call, steps=10)):
        assert target(other, fast) == ""
    large = replace(call, side=2048, way="plain", steps=4)
    assert target(large, fast) == "12 GB on an H200: met"
    assert target(large, replace(fast, peak_mib=11_445)) == "12 GB on an H200: not met"
    assert target(replace(large, work="decode"), fast) == ""


def test_the_table_has_a_line_for_each_case_with_its_label() -> None:
    alone = Case("unet", 512, "float32")
    steps = [(alone, Measurement(1, 9, 8, 8, 100)), (replace(alone, work="step"), Measurement(1, 13, 12, 12, 100))]
    text = table(steps, target)
    assert "| one step of the UNet alone without guidance, 512 px, cpu float32 | 8 | 8 | 1.00x |" in text
    assert "| one step without guidance, 512 px, cpu float32 | 12 | 12 | 1.50x |" in text
    bands = Case("decode", 1024, "float32", vae_tiling="bands")
    assert bands.label == "decode in bands, fidelity 0.5, 1024 px, cpu float32"
    assert Case("call", 512, "bfloat16", way="graphs", steps=2, fidelity=0.0).label == (
        "call of 2 steps, fidelity 0, 512 px, cpu bfloat16, graphs"
    )
