"""One optimizer step, guarded against losses that would ruin the weights."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from resdiff.train.learning_rate import LearningRate
from resdiff.train.progress import Limits, Progress
from resdiff.train.update import BadLoss, Update

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
LONG = Limits(max_train_steps=1000)


class Run:
    """A linear layer trained by SGD on y = sum of x."""

    def __init__(
        self,
        rate: float = 0.1,
        max_grad_norm: float | None = None,
        schedule: str = "constant",
        warmup: int = 0,
        scaler: torch.amp.GradScaler | None = None,
    ):
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True)
        self.accelerator.scaler = scaler
        layer = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=123.0)
        self.layer, self.optimizer = self.accelerator.prepare(layer, optimizer)
        self.progress = Progress()
        self.update = Update(
            accelerator=self.accelerator,
            model=self.layer,
            optimizer=self.optimizer,
            learning_rate=LearningRate(peak=rate, schedule=schedule, warmup_steps=warmup),
            limits=LONG,
            max_grad_norm=max_grad_norm,
        )

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        error = self.layer(x).squeeze(1) - x.sum(dim=1)
        return {"loss": error.square().mean(), "l1": error.abs().mean()}

    def step(self, *batches: Tensor) -> dict[str, float]:
        logs = self.update(self.loss, batches, self.progress)
        self.progress.step += 1
        return logs

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten().clone() for p in self.layer.parameters()])


def gradient(run: Run, x: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(run.loss(x)["loss"], list(run.layer.parameters()))])


def test_accumulated_micro_batches_are_one_big_batch() -> None:
    whole, parts = Run(), Run()
    a, b = whole.step(X), parts.step(*X.chunk(4))
    torch.testing.assert_close(whole.weights(), parts.weights(), rtol=1e-6, atol=1e-7)
    assert a.keys() == b.keys() == {"loss", "l1", "lr", "grad_norm"}
    for name, value in a.items():
        assert b[name] == pytest.approx(value, rel=1e-6)


def test_a_step_is_one_of_the_optimizer_at_the_rate_of_the_progress() -> None:
    run = Run(schedule="constant_with_warmup", warmup=4)
    for rate in (0.025, 0.05, 0.075, 0.1, 0.1):
        before, slope = run.weights(), gradient(run, X)
        logs = run.step(X)
        torch.testing.assert_close(run.weights(), before - rate * slope)
        assert logs["lr"] == pytest.approx(rate)
        assert logs["grad_norm"] == pytest.approx(float(slope.norm()), rel=1e-5)


def test_the_gradient_is_clipped_to_its_norm_and_the_full_norm_reported() -> None:
    run = Run(max_grad_norm=0.01)
    before, slope = run.weights(), gradient(run, X)
    logs = run.step(*X.chunk(2))
    change = (before - run.weights()) / 0.1
    assert float(change.norm()) == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(change, 0.01 * slope / slope.norm(), rtol=1e-3, atol=1e-5)
    assert logs["grad_norm"] == pytest.approx(float(slope.norm()), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(bad) -> None:
    run = Run()
    run.step(X)
    before = run.weights()
    poisoned = X[:4].clone()
    poisoned[0] = bad
    with pytest.raises(BadLoss, match=r"the loss is (nan|inf)") as caught:
        run.step(X[4:], poisoned)
    assert torch.equal(run.weights(), before)
    assert caught.value.batches[1] is poisoned
    clean = gradient(run, X)
    run.step(X)  # nothing of the bad gradient is left
    torch.testing.assert_close(run.weights(), before - 0.1 * clean)


def test_an_exploding_loss_changes_nothing() -> None:
    run = Run(rate=1e-3)
    for _ in range(30):
        run.step(X)
    before, average = run.weights(), run.progress.average_loss
    with pytest.raises(BadLoss, match=r"the loss is .*, its running mean"):
        run.step(X * 10)
    assert torch.equal(run.weights(), before) and run.progress.average_loss == average
    run.step(X * 2)  # larger, within bounds


def test_the_running_mean_follows_the_loss() -> None:
    run = Run(rate=1e-9)
    loss = float(run.loss(X)["loss"])
    for _ in range(60):
        run.step(X)
    assert run.progress.average_loss == pytest.approx(loss, rel=1e-4)


def test_a_first_batch_that_is_easy_does_not_make_all_others_bad() -> None:
    run = Run(rate=1e-9)
    run.progress.average_loss, run.progress.step = 1e-6, 1  # what a first batch of plain sky leaves
    for _ in range(30):
        run.step(X)
    assert run.progress.average_loss == pytest.approx(float(run.loss(X)["loss"]), rel=0.1)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    run = Run()
    before = run.weights()

    def loss(x: Tensor) -> dict[str, Tensor]:
        flat = (run.layer(x) * 0).sum()
        return {"loss": flat.sqrt()}  # 0, with an infinite slope

    with pytest.raises(BadLoss, match=r"the gradient's norm is (nan|inf)"):
        run.update(loss, [X], run.progress)
    assert torch.equal(run.weights(), before)


def test_a_bad_step_with_a_gradient_scaler_does_not_stop_the_next() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    run = Run(scaler=scaler)
    run.accelerator.unscale_gradients = lambda *_: scaler.unscale_(run.optimizer.optimizer)  # as it does with fp16
    before = run.weights()
    with pytest.raises(BadLoss, match="the loss is nan"):
        run.step(X * math.nan)
    assert torch.equal(run.weights(), before)
    slope = gradient(run, X)
    run.step(X)
    torch.testing.assert_close(run.weights(), before - 0.1 * slope)


def test_in_a_game_no_finite_loss_is_too_large() -> None:
    run = Run()
    run.update.game = True
    run.progress.average_loss, run.progress.step = 1e-6, 1000
    before = run.weights()
    run.step(X)
    assert not torch.equal(run.weights(), before) and run.progress.average_loss == 1e-6
    with pytest.raises(BadLoss, match="the loss is nan"):
        run.step(X * math.nan)
