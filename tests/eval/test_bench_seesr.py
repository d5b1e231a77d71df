"""The benchmark of SeeSR and AddSR: what it measures, that it runs, and that its networks have the published sizes."""

from dataclasses import replace

import pytest
import torch
from accelerate import init_empty_weights

from resdiff.eval import bench_seesr
from resdiff.eval.bench_cases import Measurement
from resdiff.eval.bench_pipeline import table
from resdiff.eval.bench_seesr import Case, architecture, full_size, groups, left_out, measure, target
from resdiff.models.ram import RAM
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import tiny_adapter

SIDES = {384: 32, 512: 64, 1024: 96, 2048: 128}  # px, of tiny networks in place of the published
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny() -> SeeSRPipeline:
    return tiny_adapter(SeeSRPipeline)


def small(case: Case) -> Case:
    return replace(case, side=SIDES[case.side])


@pytest.mark.parametrize("family", ["seesr", "addsr"])
def test_every_case_of_a_cpu_runs(family, tiny) -> None:
    built: list[str] = []

    def build(name: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        built.append(name)
        return getattr(tiny, name)

    needed = {
        "step": {"unet", "controlnet"},
        "encode": {"vae", "controlnet"},
        "decode": {"vae"},
        "tagger": {"tagger"},
        "call": {"vae", "text_encoder", "unet", "controlnet", "tagger"},
    }
    for case in {
        small(case) for cases in groups(family, "float32", cuda=False, compiler=True).values() for case in cases
    }:
        if case.dtype == "float32":
            done = measure(case, repeats=0, build=build)
            assert done.wall_seconds == done.first_seconds > 0
            assert set(built) == needed[case.work], "a network that is not run counts as memory"
            built.clear()


def test_a_result_that_is_not_finite_is_no_measurement(tiny) -> None:
    def broken(name: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        network = tiny_adapter(SeeSRPipeline).vae
        network.decoder.conv_out.bias.data.fill_(torch.nan)
        return network

    with pytest.raises(RuntimeError, match="decode, 64 px, cpu float32 is not finite"):
        measure(Case("seesr", "decode", 64, "float32"), repeats=1, build=broken)


def evaluations(case: Case, tiny: SeeSRPipeline) -> dict[str, list[int]]:
    """Return the sizes of the batches in which networks are called by one run of a case."""
    seen: dict[str, list[int]] = {"unet": [], "decoder": [], "encoder": [], "tagger": []}
    parts = {"unet": tiny.unet, "decoder": tiny.vae.decoder, "encoder": tiny.vae.encoder}
    parts["tagger"] = tiny.tagger.visual_encoder
    hooks = [
        part.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(len(args[0])))
        for name, part in parts.items()
    ]
    try:
        measure(case, repeats=0, build=lambda name, dtype, device: getattr(tiny, name))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def test_seesrs_step_has_both_branches_of_guidance_and_addsrs_one(tiny) -> None:
    step = Case("seesr", "step", 64, "float32")
    assert evaluations(step, tiny)["unet"] == [2]
    assert evaluations(replace(step, family="addsr"), tiny)["unet"] == [1]


def test_refinement_costs_a_decode_and_a_look_of_the_tagger_between_steps(tiny) -> None:
    plain = Case("addsr", "call", 64, "float32", steps=3)
    once = evaluations(plain, tiny)
    assert (once["unet"], once["encoder"], once["decoder"]) == ([1, 1, 1], [1], [1])
    refined = evaluations(replace(plain, psr_weight=0.5), tiny)
    assert refined == {"unet": [1, 1, 1], "encoder": [1], "decoder": [1, 1, 1], "tagger": [1, 1, 1]}


def test_the_lr_image_is_encoded_as_often_as_the_case_says(tiny) -> None:
    lr = Case("seesr", "encode", 64, "float32")
    assert evaluations(lr, tiny)["encoder"] == [1]
    assert evaluations(replace(lr, images=2), tiny)["encoder"] == [2]


def test_networks_have_the_published_numbers_of_parameters() -> None:
    published = {"unet": 1_126_760_324, "controlnet": 489_031_440, "vae": 83_653_863, "text_encoder": 340_387_840}
    for name, count in published.items():
        with init_empty_weights():
            network = architecture(name)
        assert sum(parameter.numel() for parameter in network.parameters()) == count, name


def test_the_tagger_of_random_weights_finds_no_tags_so_that_the_prompt_is_not_cut(monkeypatch) -> None:
    sizes = {"image_res": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    sizes |= {"hidden_size": 32, "intermediate_size": 64}
    monkeypatch.setattr(bench_seesr, "RAM", lambda **lists: RAM(**sizes, **lists))
    tagger = full_size("tagger", torch.float32, CPU)
    with torch.no_grad():
        assert tagger.tags(tagger(torch.randn(1, 3, 32, 32)).logits) == [""]


def test_groups_compare_cases_of_one_family_and_both_dtypes_are_shown() -> None:
    for family in ("seesr", "addsr"):
        for best in ("float32", "bfloat16"):
            found = groups(family, best, cuda=True, compiler=True)
            assert [case.dtype for case in found["One step"]] == ["float32", "bfloat16"]
            for title, cases in found.items():
                assert len(cases) > 1 and len({case.label for case in cases}) == len(cases), title
                assert {case.family for case in cases} == {family}
                assert len({case.device for case in cases}) == 1


def test_without_cuda_the_published_number_of_steps_is_said_to_be_left_out() -> None:
    for family, steps in (("seesr", 50), ("addsr", 4)):
        cases = [case for of in groups(family, "bfloat16", cuda=False, compiler=True).values() for case in of]
        assert {case.device for case in cases} == {"cpu"} and all(case.steps < 4 for case in cases)
        assert any(f"{steps} steps at 512 px" in line and "2048" in line for line in left_out(family, False, True))
    assert left_out("seesr", True, True) == []


def test_a_gpu_adds_eager_compiled_and_recorded_calls_and_both_modes_of_the_vae_at_2048_px() -> None:
    found = groups("seesr", "float32", cuda=True, compiler=True)
    assert [case.way for case in found["GPU, all steps"]] == ["plain", "compiled", "graphs"]
    assert [(case.side, case.vae_tiling) for case in found["GPU, in tiles"]] == [(2048, "bands"), (2048, "published")]
    found = groups("addsr", "float32", cuda=True, compiler=False)
    assert [case.way for case in found["GPU, all steps, psr_weight 0.5"]] == ["plain", "graphs"]
    assert {case.psr_weight for case in found["GPU, all steps, psr_weight 0"]} == {0.0}


def test_targets_are_judged_for_the_published_steps_on_a_gpu_alone() -> None:
    call = Case("seesr", "call", 512, "bfloat16", "cuda", "compiled", steps=50)
    fast = Measurement(1, 1, 0.9, 0.9, 6000)
    assert target(call, fast) == "900 ms on an H200: met"
    assert target(call, replace(fast, wall_seconds=0.91)) == "900 ms on an H200: not met"
    for other in (replace(call, way="plain"), replace(call, device="cpu"), replace(call, steps=10)):
        assert target(other, fast) == ""
    addsr = replace(call, family="addsr", steps=4)
    at_80_ms = replace(fast, wall_seconds=0.08)
    assert target(replace(addsr, psr_weight=0.5), at_80_ms) == "100 ms on an H200: met"
    assert target(addsr, at_80_ms) == "60 ms on an H200: not met"
    large = replace(call, side=2048, way="plain", vae_tiling="bands")
    assert target(large, replace(fast, peak_mib=11_444)) == "12 GB on an H200: met"  # 11999 MB
    assert target(large, replace(fast, peak_mib=11_445)) == "12 GB on an H200: not met"


def test_the_table_has_a_line_for_each_case_with_its_label() -> None:
    case = Case("addsr", "call", 512, "bfloat16", steps=2)
    refined = replace(case, psr_weight=0.5)
    text = table([(case, Measurement(1, 9, 8, 8, 100)), (refined, Measurement(1, 13, 12, 12, 100))], target)
    assert "| call of 2 steps, psr_weight 0, 512 px, cpu bfloat16 | 8 | 8 | 1.00x |" in text
    assert "| call of 2 steps, psr_weight 0.5, 512 px, cpu bfloat16 | 12 | 12 | 1.50x |" in text
    assert Case("seesr", "step", 512, "float32").label == "one step with guidance, 512 px, cpu float32"
    assert Case("seesr", "decode", 512, "float32", vae_tiling="bands").label == "decode in bands, 512 px, cpu float32"
