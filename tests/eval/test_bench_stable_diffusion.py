"""What the benchmarks of the Stable Diffusion families share: random weights, and how one case is measured."""

import pytest
import torch
from torch import nn

from resdiff.eval.bench_cases import Measurement
from resdiff.eval.bench_stable_diffusion import (
    call_of,
    left_out_without,
    measured,
    memory_target,
    other_dtype,
    step_of,
    with_random_weights,
)
from resdiff.models.seesr import SeeSRControlNet
from resdiff.pipelines.tiny import UNET

CPU = torch.device("cpu")


def test_random_weights_have_the_asked_dtype_leave_norms_alone_and_wake_the_zero_convolutions() -> None:
    controlnet = {**UNET, "conditioning_embedding_out_channels": (8, 8, 16, 16), "use_image_cross_attention": True}
    network = with_random_weights(lambda: SeeSRControlNet(**controlnet), torch.bfloat16, CPU)
    assert not network.training and {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert network.controlnet_down_blocks[0].weight.float().std().item() == pytest.approx(0.02, rel=0.1)
    norm = network.down_blocks[0].resnets[0].norm1
    assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_buffers_of_a_network_of_random_weights_keep_their_values() -> None:
    norm = with_random_weights(lambda: nn.BatchNorm1d(4), torch.float32, CPU)
    assert (norm.running_mean == 0).all() and (norm.running_var == 1).all()


def test_loading_is_timed_apart_and_the_fastest_run_counts() -> None:
    runs: list[int] = []

    def prepare():
        runs.append(0)
        return lambda: torch.full((1,), float(runs.append(1) is None))

    done = measured(prepare, "a case", CPU, repeats=2)
    assert runs == [0, 1, 1, 1]
    assert done.load_seconds > 0 and done.first_seconds > 0 and done.wall_seconds > 0


def test_the_same_weights_and_inputs_are_drawn_in_every_process() -> None:
    drawn: list[torch.Tensor] = []
    for _ in range(2):
        measured(lambda: lambda: drawn.append(torch.rand(3)) or drawn[-1], "a case", CPU, repeats=0)
    assert torch.equal(*drawn)


def test_a_result_that_is_not_finite_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="the result of a case is not finite"):
        measured(lambda: lambda: torch.tensor([0.0, torch.inf]), "a case", CPU, repeats=1)


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 1), (7.0, 2)])
def test_a_step_evaluates_both_branches_where_there_is_guidance(scale, rows) -> None:
    seen = []

    def networks(x, t, text, boxes, **each_step):
        seen.append((x.shape, text.shape, int(t)))
        return x

    assert step_of(networks, 16, scale, 64, CPU)().shape == (1, 4, 8, 8)
    assert seen == [((rows, 4, 8, 8), (rows, 77, 16), 999)]


class Pipe:
    """What `call_of` asks of a pipeline."""

    native_scale = 4

    def __init__(self) -> None:
        self.prepared: list[str] = []

    def set_progress_bar_config(self, *, disable: bool) -> None:
        assert disable

    def compile_networks(self, *, fullgraph: bool) -> None:
        assert fullgraph
        self.prepared.append("compiled")

    def enable_cuda_graphs(self) -> None:
        self.prepared.append("graphs")


@pytest.mark.parametrize(
    ("way", "prepared"),
    [
        ("plain", []),
        ("compiled", ["compiled"]),
        ("graphs", ["graphs"]),
        ("compiled, graphs", ["compiled", "graphs"]),
    ],
)
def test_a_call_is_prepared_in_its_way(way, prepared) -> None:
    pipe = Pipe()
    call_of(pipe, way, 64)
    assert pipe.prepared == prepared


def test_float32_stands_beside_the_machines_other_dtype() -> None:
    assert [other_dtype(best) for best in ("float32", "bfloat16")] == ["bfloat16", "bfloat16"]


def test_what_a_machine_lacks_is_said_once() -> None:
    assert left_out_without(cuda=True, compiler=True, steps=7) == []
    assert left_out_without(cuda=True, compiler=False, steps=7) == ["compiled blocks: no C++ compiler was found"]
    (line,) = left_out_without(cuda=False, compiler=False, steps=7)
    assert line.startswith("7 steps at 512 px") and "2048 px" in line and "no CUDA device" in line


def test_gigabytes_of_the_target_are_decimal() -> None:
    assert memory_target(Measurement(1, 1, 1, 1, 11_444)) == "12 GB on an H200: met"  # 11999 MB
    assert memory_target(Measurement(1, 1, 1, 1, 11_445)) == "12 GB on an H200: not met"
