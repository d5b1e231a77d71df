"""What distilling costs: the table of evaluations is what the script does, and what is counted of them is right."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn

from resdiff.eval import distillation_counts
from resdiff.eval.bench_training import distilling_section
from resdiff.eval.distillation_cost import (
    FULL_RECIPES,
    SMALL_RECIPES,
    Distilling,
    alike,
    distillation_arguments,
    make_teacher,
    measure_alike,
    measure_distilling,
    prepared,
    vgg_layers,
)
from resdiff.eval.distillation_counts import (
    TRAINING,
    Autocast,
    Cost,
    Counted,
    Counts,
    count_blocks,
    count_recipes,
    counted,
    evaluations,
)
from resdiff.eval.training_cost import SMALL_TEACHER, V1, Case, Settings, Training, training_arguments
from resdiff.losses.perceptual import Lpips
from resdiff.models.norm import GroupNorm32
from resdiff.models.projected_discriminator import Heads
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines import SRPipeline
from resdiff.train.distill_add import AddLosses
from resdiff.train.distill_resshift import assemble
from resdiff.train.progress import Progress

BATCH = 2
FULL_SIZE = Settings(train_data_dir=None, batch=2, degradation_batch=2, steps=1, warmup=0, repeats=1, smoke=False)
UNUSED = Path("unused")


@pytest.fixture
def tiny(tmp_path) -> Iterator[Settings]:
    """Settings of tiny networks on two small photos; threads and accelerate's state are left as they were before."""
    (tmp_path / "photos").mkdir()
    for i in range(2):
        Image.effect_noise((96, 80), 50 + i).convert("RGB").save(tmp_path / "photos" / f"{i}.png")
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield replace(FULL_SIZE, train_data_dir=tmp_path / "photos", smoke=True)
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def seen(monkeypatch) -> Counter:
    """What networks are evaluated, as the table has it, once for each image of a batch."""
    counts: Counter = Counter()

    def watch(cls, method, block) -> None:
        original = getattr(cls, method)

        def watched(self, x, *args, **kwargs):
            counts[block(self, x)] += len(x[0] if isinstance(x, list) else x) / BATCH
            return original(self, x, *args, **kwargs)

        monkeypatch.setattr(cls, method, watched)

    def trained(network) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in network.parameters())

    def passed(x) -> bool:
        return torch.is_grad_enabled() and x.requires_grad

    watch(VQAutoencoder, "encode", lambda vae, x: "encode")
    watch(VQAutoencoder, "decode", lambda vae, x: "decode_back" if passed(x) else "decode")
    watch(
        SwinUNet,
        "forward",
        lambda unet, x: "unet_train" if trained(unet) else "unet_back" if passed(x) else "unet",
    )
    watch(SwinUNet, "encode", lambda unet, x: "look_back" if passed(x) else "look")
    watch(
        Heads,
        "forward",
        lambda heads, x: ("judge_deep" if len(x) == 1 else "judge") + ("_train" if trained(heads) else "_back"),
    )
    watch(Lpips, "forward", lambda lpips, x: "lpips")
    monkeypatch.setattr(AddLosses, "draw_step", lambda self, step: 1)  # the mean of its draws, for four steps
    return counts


@pytest.mark.parametrize(
    ("recipe", "changed"),
    [
        ("sinsr_realsr", {}),
        ("sinsr_realsr", {"loss_in_image_space": True}),
        ("sinsr_realsr", {"loss_in_image_space": True, "num_inference_steps": 3}),
        ("sinsr_realsr", {"inverse_weight": 0.0, "gt_weight": 0.0, "num_inference_steps": 2}),
        ("rsd_realsr", {}),
        ("rsd_realsr", {"detached": True, "lpips_weight": 0.0, "fake_updates": 2, "adversarial_weight": None}),
        ("add_realsr", {}),
        ("add_realsr", {"loss_in_image_space": False, "psr_weight": 0.0, "adversarial_weight": 0.0}),
    ],
)
def test_a_step_evaluates_what_the_table_says(recipe, changed, tiny, seen) -> None:
    with prepared(recipe, tiny) as (args, training):
        make_teacher(training, Path(args.teacher))
        args = replace(args, train_batch_size=BATCH, pair_pool=0, mixed_precision="no", **changed)
        if args.lpips_weight:
            torch.save(vgg_layers("cpu").state_dict(), args.lpips_weights)
        run = assemble(args)
        micro_batches = next(run.session.batches(first=0))
        seen.clear()
        run.step(micro_batches, Progress())
    step = evaluations(args, timesteps=15)
    expected = Counter(step.student)
    for _ in range(step.updates):
        expected.update(step.opponents)
    assert seen == {block: times for block, times in expected.items() if times}


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_steps_ahead_of_the_trained_one_are_those_that_are_drawn_on_average(steps) -> None:
    losses = AddLosses.__new__(AddLosses)
    losses.timesteps, losses.seed = list(range(steps)), 0
    drawn = sum(losses.draw_step(i) for i in range(1000)) / 1000
    args = distillation_arguments("add_realsr", FULL_SIZE, UNUSED)
    student = evaluations(replace(args, num_inference_steps=steps), timesteps=15).student
    assert student["unet"] - args.teacher_draws == pytest.approx(drawn, abs=0.1)


def test_both_scripts_get_the_same_network_batch_and_crops() -> None:
    for recipe in (*SMALL_RECIPES, *FULL_RECIPES):
        args = distillation_arguments(recipe, FULL_SIZE, UNUSED)
        training = alike(args, recipe, FULL_SIZE, UNUSED)
        for name in ("train_batch_size", "pair_pool", "crop", "degradation", "trained_part", "train_data_dir"):
            assert getattr(args, name) == getattr(training, name)
        updates = args.fake_updates if args.method == "rsd" else 1
        assert (training.accumulation(1), args.accumulation(1)) == (1, updates)
        assert args.fake_warmup_steps == args.critic_warmup_steps == 0  # from the first step on all is paid
        assert training.scheduler["num_train_timesteps"] == 15
    assert args.trained_part == "all" and training.unet["model_channels"] == 160


def test_a_random_teacher_leads_somewhere(tiny, tmp_path) -> None:
    args = replace(training_arguments(Case(recipe=SMALL_TEACHER), tiny, UNUSED), output_dir=tmp_path)
    make_teacher(args, tmp_path / "teacher")
    unet = SRPipeline.from_pretrained(tmp_path / "teacher").unet
    x, lq = torch.rand(2, 1, 3, 32, 32), torch.rand(1, 3, 8, 8)
    first, second = (unet(y, torch.tensor([7]), lq) for y in x)
    assert not torch.allclose(first, second, atol=1e-5)


def test_a_network_keeps_what_its_gradient_needs_and_its_flops_follow() -> None:
    with torch.device("meta"), Autocast():
        network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU()).bfloat16()
        x, with_gradient = torch.empty(1, 2, 8, 8), torch.empty(1, 2, 8, 8, requires_grad=True)
        once = 2 * 2 * 4 * 64
        # to its weights: the rounded input, and where ReLU is open
        assert counted(network, network, x) == Cost(2 * once, 2 * (2 + 4) * 64)
        network.requires_grad_(False)
        # torch's convolution keeps its input, whether its weights are trained or not
        assert counted(network, network, with_gradient) == Cost(2 * once, 2 * (2 + 4) * 64)
        assert counted(network, network, x) == Cost(once, 0)
        norm = GroupNorm32(32)
        saved = counted(norm, norm, torch.empty(1, 32, 8, 8, dtype=torch.bfloat16)).saved
        assert 4 * 32 * 64 <= saved <= 4 * 32 * 64 + 2 * 4 * 32  # in float32, as autocast has it, and its statistics


def test_costs_add_up() -> None:
    blocks = {"encode": Cost(3, 0), "unet_train": Cost(10, 100), "unet_back": Cost(7, 60)}
    counts = Counts(blocks, unet=10, heads=3, deep_head=2, vae=7)
    assert counts.flops(TRAINING) == 16
    assert counts.flops({"encode": 1.5, "unet_back": 2}) == pytest.approx(18.5)
    assert counts.saved({"encode": 2, "unet_train": 3, "unet_back": 1}) == 360
    student, teacher, autoencoder = 4 * 5 * 10, 4 * 10, 2 * 7
    assert counts.held("sinsr") == student + teacher + autoencoder
    assert counts.held("rsd") == student + teacher + autoencoder + 4 * 4 * (10 + 2)
    assert counts.held("add") == student + teacher + autoencoder + 4 * 4 * 3


@pytest.fixture(scope="module")
def full_size() -> Counts:
    """The blocks of the full-size recipes."""
    return count_blocks(training_arguments(Case(recipe=V1), FULL_SIZE, UNUSED))


def test_blocks_are_counted_as_training_is(full_size) -> None:
    blocks = full_size.blocks
    assert full_size.flops(TRAINING) / 1e12 == pytest.approx(0.99, abs=0.005)  # as the specification counted
    assert blocks["unet_train"].flops == pytest.approx(3 * blocks["unet"].flops, rel=0.005)
    assert blocks["unet_back"].flops == pytest.approx(2 * blocks["unet"].flops, rel=0.01)
    assert blocks["look"].flops < blocks["unet"].flops / 2 and blocks["lpips"].flops / 1e9 == pytest.approx(160, abs=1)
    assert {name for name, cost in blocks.items() if not cost.saved} == {"encode", "decode", "unet", "look"}
    assert (full_size.unet, full_size.vae) == (118_593_583, 55_322_782)


def test_the_full_size_recipes_cost_what_the_documentation_says(full_size, monkeypatch) -> None:
    monkeypatch.setattr(distillation_counts, "count_blocks", lambda args: full_size)
    found = {count.recipe: count for count in count_recipes(FULL_SIZE)}
    assert [found[recipe].tflop for recipe in FULL_RECIPES] == pytest.approx([3.22, 9.01, 6.83], abs=0.005)
    assert [found[recipe].ratio for recipe in FULL_RECIPES] == pytest.approx([3.24, 9.06, 6.86], abs=0.005)
    assert [found[recipe].held / 2**30 for recipe in FULL_RECIPES] == pytest.approx([2.75, 4.58, 2.86], abs=0.005)
    assert [found[recipe].saved / 2**30 for recipe in FULL_RECIPES] == pytest.approx([1.05, 2.64, 1.82], abs=0.05)

    # by hand: the student's update, and five of fake and critic, each on images of its own
    others = {"encode": 2, "unet": 1, "unet_train": 1, "look": 3, "judge_deep_train": 2}
    student = {"encode": 2, "unet_train": 1, "unet_back": 2, "decode_back": 1, "lpips": 1}
    student |= {"look": 1, "look_back": 1, "judge_deep_back": 1}
    flops = full_size.flops(student) + 5 * full_size.flops(others)
    assert found["rsd_realsr"].tflop == pytest.approx(flops / 1e12)
    assert found["rsd_realsr"].saved == full_size.saved(student)  # more than the others'
    assert found["sinsr_realsr"].saved == 3 * full_size.blocks["unet_train"].saved


def test_a_full_size_recipe_is_measured_beside_training(tiny) -> None:
    distilling = measure_distilling("rsd_realsr", tiny)
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a new process
    training = measure_alike("rsd_realsr", tiny)
    assert (distilling.batch, training.batch, distilling.steps, training.steps) == (40, 8, 1, 1)
    assert (distilling.case.recipe, training.case.recipe) == ("distill/rsd_realsr", V1)


def test_the_report_shows_times_against_training_and_what_is_counted() -> None:
    def run(batch: int, seconds: float) -> Training:
        return Training(
            case=Case(recipe="x"),
            device="cuda",
            precision="bf16",
            threads=1,
            batch=batch,
            steps=10,
            seconds=[10 * seconds],
            waited=[seconds],
            peak_mib=7.0,
        )

    measured = [
        Distilling(recipe="rsd_small", distilling=run(20, 0.5), training=run(4, 0.2)),
        Distilling(recipe="rsd_realsr", distilling=run(40, 2.0), training=run(8, 0.4)),
    ]
    count = Counted(recipe="rsd_realsr", tflop=5.0, ratio=8.4, held=3 * 2**30, saved=512.0 * 2**20)
    text = distilling_section(measured, [count])
    assert "| rsd_small | cuda | bf16 | 20 | 0.5 | 40 | 10.00% | - | 7 | 2.50x |" in text
    # 5 TFLOP for each image of the student's batch of eight, in two seconds
    assert "| rsd_realsr | cuda | bf16 | 40 | 2 | 20 | 10.00% | 20 | 7 | 5.00x |" in text
    assert "| rsd_realsr | 5.00 | 8.40x | 3.00 | 512 |" in text
    assert "Counted, not measured" in text
