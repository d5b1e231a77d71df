"""The exponential moving average of the weights."""

import pytest
import torch

from resdiff.train.ema import Ema

VALUES = [3.0, -1.0, 4.0, 1.5, -9.0, 2.0]


def averaged(decay: float, warmup: bool) -> tuple[Ema, torch.nn.Parameter]:
    """Average the values of one parameter."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    ema = Ema([parameter], decay, warmup)
    for value in VALUES:
        parameter.data.fill_(value)
        ema.step()
    return ema, parameter


def test_plain_decay_starts_with_a_copy_of_the_first_weights() -> None:
    ema, parameter = averaged(0.9, warmup=False)
    expected = VALUES[0]
    for value in VALUES[1:]:
        expected = 0.9 * expected + 0.1 * value
    with ema.applied():
        assert parameter.item() == pytest.approx(expected, rel=1e-12)


def test_warm_up_raises_the_decay_to_its_end() -> None:
    ema, parameter = averaged(0.3, warmup=True)
    expected = VALUES[0]
    for step, value in enumerate(VALUES[1:], start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert (1 + 1) / (10 + 1) < 0.3 < (1 + 5) / (10 + 5)  # the test sees both
    with ema.applied():
        assert parameter.item() == pytest.approx(expected, rel=1e-12)


def test_the_trained_weights_come_back_after_use_even_through_an_error() -> None:
    ema, parameter = averaged(0.9, warmup=False)
    with pytest.raises(KeyError), ema.applied():
        assert parameter.item() != VALUES[-1]
        raise KeyError
    assert parameter.item() == VALUES[-1]


def test_state_goes_through_tensors() -> None:
    ema, _ = averaged(0.9, warmup=True)
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    other = Ema([parameter], 0.9, warmup=True)
    other.load_tensors({name: tensor.clone() for name, tensor in ema.tensors().items()})
    for average in (ema, other):
        average.parameters[0].data.fill_(7.0)
        average.step()
    assert ema.tensors().keys() == other.tensors().keys() == {"shadow.0", "optimization_step"}
    for name, tensor in ema.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay) -> None:
    with pytest.raises(ValueError, match=f"--ema_decay {decay} must lie in"):
        Ema([torch.nn.Parameter(torch.zeros(1))], decay)
