"""CUDA graphs: when a call is recorded, replayed, forgotten or simply made. What a device does: tests/pipelines/test_cuda.py.

Here a stand-in takes the place of the recorder: like a graph it computes from fixed inputs into one fixed output.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn

from resdiff import cuda_graphs
from resdiff.cuda_graphs import GraphedForward, disable_cuda_graphs, enable_cuda_graphs
from resdiff.models.vq import VQAutoencoder


class Network(nn.Module):
    """Counts how often it is called, which replaying does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: Tensor, shift: Tensor | None = None, twice: bool = False) -> Tensor:
        self.calls += 1
        y = self.layer(x) + (0 if shift is None else shift)
        return 2 * y if twice else y


class FakeRecording:
    """Replays by calling the unbound computation on fixed tensors, into one fixed output."""

    made = 0

    def __init__(self, forward, args, kwargs, pool):
        FakeRecording.made += 1
        fixed, named = cuda_graphs.cloned(args), cuda_graphs.cloned(kwargs)
        self.inputs = cuda_graphs.tensors_of(fixed, named)
        self.network = forward.__self__
        self.output = forward(*fixed, **named)
        self.graph = SimpleNamespace(pool=lambda: "pool of the first" if pool is None else pool, replay=self.compute)
        self.run = lambda: Network.forward(self.network, *fixed, **named)

    def compute(self) -> None:
        self.output.copy_(self.run())
        self.network.calls -= 1

    replay = cuda_graphs.Recording.replay


@pytest.fixture
def recorder(monkeypatch):
    """Record on the CPU with the stand-in."""
    FakeRecording.made = 0
    monkeypatch.setattr(cuda_graphs, "record", FakeRecording)
    monkeypatch.setattr(cuda_graphs, "can_record", lambda network, tensors: bool(tensors))
    return FakeRecording


def graphed(limit: int = 8) -> tuple[Network, GraphedForward]:
    torch.manual_seed(0)
    network = Network().eval()
    enable_cuda_graphs([network], limit)
    return network, vars(network)["forward"]


def plain(network: Network, *args: Tensor, **kwargs) -> Tensor:
    return Network.forward(network, *args, **kwargs)


@pytest.mark.parametrize("gradients", [False, True])
def test_on_a_cpu_the_network_is_simply_called(gradients) -> None:
    network, stand_in = graphed()
    x = torch.randn(2, 4)
    with torch.set_grad_enabled(gradients):
        for _ in range(4):
            assert torch.equal(network(x, twice=True), plain(network, x, twice=True))
    assert network(x).requires_grad
    assert not stand_in.recordings


@torch.no_grad()
def test_a_shape_is_recorded_when_it_comes_again_and_replayed_from_then_on(recorder) -> None:
    network, _ = graphed()
    outputs, expected = [], []
    for i in range(5):
        x = torch.randn(2, 4, generator=torch.Generator().manual_seed(i))
        outputs.append(network(x, shift=x))
        calls = network.calls
        expected.append(plain(network, x, shift=x))
        network.calls = calls
    assert recorder.made == 1 and network.calls == 2  # the first call and the one that was recorded
    for output, right in zip(outputs, expected, strict=True):  # results outlive the replays after them
        assert torch.equal(output, right)


@torch.no_grad()
def test_shapes_dtypes_and_options_have_recordings_of_their_own(recorder) -> None:
    network, stand_in = graphed()
    x = torch.randn(2, 4)
    for call in ({}, {"twice": True}, {"shift": x}, {"shift": x[:1]}):
        for _ in range(3):
            assert torch.equal(network(x, **call), plain(network, x, **call))
    assert torch.equal(network(x[:1]), plain(network, x[:1]))
    assert recorder.made == 4 and len(stand_in.recordings) == 5


@torch.no_grad()
def test_tensors_within_lists_and_dicts_are_followed_and_results_may_be_several(recorder, monkeypatch) -> None:
    network, _ = graphed()

    def forward(self, x: Tensor, more: list[Tensor], named: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        return [self.layer(y) for y in more], x + named["shift"]

    def compute(self) -> None:
        for old, new in zip(cuda_graphs.tree_leaves(self.output), cuda_graphs.tree_leaves(self.run()), strict=True):
            old.copy_(new)

    class Nested(FakeRecording):
        def __init__(self, called, args, kwargs, pool):
            fixed, named = cuda_graphs.cloned((args, kwargs))
            self.inputs = cuda_graphs.tensors_of(fixed, named)
            self.run = lambda: forward(network, *fixed, **named)
            self.output = self.run()
            self.graph = SimpleNamespace(pool=lambda: None, replay=lambda: compute(self))

    monkeypatch.setattr(cuda_graphs, "record", Nested)
    vars(network)["forward"].forward = forward.__get__(network)
    kept = []
    for i in range(4):
        x, a, b = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(i))
        kept.append((network(x, [a, b], named={"shift": a}), forward(network, x, [a, b], {"shift": a})))
    for (found, last), (right, other) in kept:
        assert torch.equal(last, other) and all(map(torch.equal, found, right))


@torch.no_grad()
def test_the_number_of_shapes_is_bounded_and_the_oldest_goes_first(recorder) -> None:
    network, stand_in = graphed(limit=2)
    sizes = [torch.randn(n, 4) for n in (1, 2, 3)]
    for x in (sizes[0], sizes[0], sizes[1], sizes[1], sizes[0], sizes[2], sizes[2]):
        assert torch.equal(network(x), plain(network, x))
    assert len(stand_in.recordings) == 2 and recorder.made == 3
    network(sizes[0])  # used later than the second size, so it was kept
    assert recorder.made == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.double().float(),
        lambda network: setattr(network.layer, "weight", nn.Parameter(torch.ones(4, 4))),
        lambda network: network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()}, assign=True),
    ],
)
@torch.no_grad()
def test_weights_that_moved_are_recorded_again(recorder, change) -> None:
    network, stand_in = graphed()
    x = torch.randn(2, 4)
    for _ in range(3):
        network(x)
    change(network)
    network(x)
    assert list(stand_in.recordings.values()) == [None]
    for _ in range(2):
        assert torch.equal(network(x), plain(network, x))
    assert recorder.made == 2


@torch.no_grad()
def test_weights_changed_in_place_are_seen_by_the_recording(recorder) -> None:
    network, _ = graphed()
    x = torch.randn(2, 4)
    for _ in range(3):
        before = network(x)
    network.layer.weight.mul_(2)
    assert torch.equal(network(x), plain(network, x)) and not torch.equal(network(x), before)
    assert recorder.made == 1


@torch.no_grad()
def test_recordings_share_one_pool_while_any_is_alive(recorder) -> None:
    first, second = Network().eval(), Network().eval()
    enable_cuda_graphs([first, second])
    x = torch.randn(2, 4)
    for network in (first, second):
        for _ in range(2):
            network(x)
    pools = [r.graph.pool() for n in (first, second) for r in vars(n)["forward"].recordings.values()]
    assert pools == ["pool of the first"] * 2
    disable_cuda_graphs([first])
    assert vars(second)["forward"].pool() == "pool of the first"


def test_disabling_leaves_the_network_as_it_was_and_may_be_repeated() -> None:
    network, _ = graphed()
    enable_cuda_graphs([network])
    assert isinstance(vars(network)["forward"].forward.__self__, Network)  # not a stand-in of a stand-in
    for _ in range(2):
        disable_cuda_graphs([network])
        assert "forward" not in vars(network)
    copy.deepcopy(network)


def test_an_autoencoder_is_recorded_in_its_halves() -> None:
    vae = VQAutoencoder(ch=32, ch_mult=(1, 1), num_res_blocks=1, n_embed=4)
    enable_cuda_graphs([vae])
    assert all(isinstance(vars(part)["forward"], GraphedForward) for part in (vae.encoder, vae.decoder))
    assert "forward" not in vars(vae) and "encoder.conv_in.weight" in vae.state_dict()


def test_what_cannot_go_together_is_one_line() -> None:
    compiled = Network().eval()
    compiled.compile(backend="eager")
    offloaded = Network().eval()
    cpu_offload(offloaded, torch.device("cpu"))
    with pytest.raises(ValueError, match="Network is compiled as a whole; compile it with mode='reduce-overhead'"):
        enable_cuda_graphs([compiled])
    with pytest.raises(ValueError, match="OptimizedModule is compiled as a whole"):
        enable_cuda_graphs([torch.compile(Network(), backend="eager")])
    with pytest.raises(ValueError, match="Network is offloaded or cast layer by layer"):
        enable_cuda_graphs([offloaded])
    with pytest.raises(ValueError, match="limit=0 must be at least 1 shape"):
        enable_cuda_graphs([], limit=0)
    network, _ = graphed()
    with pytest.raises(TypeError, match="call disable_cuda_graphs first"):
        copy.deepcopy(network)
