"""`Update`: one optimizer's step on a list of micro-batches, guarded against losses that would ruin the weights."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from resdiff.train.learning_rate import LearningRate
from resdiff.train.progress import Limits, Progress
from resdiff.train.settings import TrainingArguments

MicroBatch = TypeVar("MicroBatch")
AVERAGING = 0.02  # weight of the newest loss in the running mean
EXPLODED = 10.0  # times the running mean
JUDGED_AFTER = 20  # steps; a mean of fewer batches is no measure, the first may be of plain sky


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], args: TrainingArguments, device: torch.device
) -> torch.optim.AdamW:
    """Return AdamW as the settings say, in one kernel where the device has one."""
    return torch.optim.AdamW(
        parameters,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        weight_decay=args.adam_weight_decay,
        fused=device.type in ("cuda", "cpu"),
    )


class BadLoss(RuntimeError):
    """The loss or its gradient is not finite, or far above its running mean: the weights were not changed.

    `batches` are the micro-batches of this process that led there.
    """

    def __init__(self, problem: str, batches: Sequence[Any]):
        super().__init__(problem)
        self.batches = batches


@dataclass(kw_only=True)
class Update(Generic[MicroBatch]):
    """Backward over micro-batches, clipping, optimizer step.

    The loss that is judged and reported is the mean over all processes, so that all of them decide alike.
    """

    accelerator: Accelerator
    model: torch.nn.Module  # as prepared
    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    limits: Limits
    max_grad_norm: float | None = None
    game: bool = (
        False  # between networks: no loss is too large, it follows the other player or is a difference around 0
    )

    def __call__(
        self, loss: Callable[[MicroBatch], dict[str, Tensor]], batches: Sequence[MicroBatch], progress: Progress
    ) -> dict[str, float]:
        """Do one step; return the means of the scalars that `loss` returned ("loss" is the one that is minimised).

        Raises BadLoss, on all processes at once, when the step must not be done.
        """
        rate = self.learning_rate.at(progress, self.limits)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        totals: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    terms = loss(batch)
                self.accelerator.backward(terms["loss"] / len(batches))
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value.detach().float() / len(batches)

        values = self.accelerator.reduce(torch.stack(list(totals.values())), reduction="mean").tolist()
        logs = dict(zip(totals, values, strict=True))
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm or math.inf))
        self._check(logs["loss"], norm, progress, batches)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.game:
            average = progress.average_loss
            weight = max(AVERAGING, 1 / (progress.step + 1))  # a plain mean at first
            progress.average_loss = logs["loss"] if average is None else average + weight * (logs["loss"] - average)
        return logs | {"lr": rate, "grad_norm": norm}

    def _check(self, loss: float, norm: float, progress: Progress, batches: Sequence[MicroBatch]) -> None:
        problem = ""
        if not math.isfinite(loss):
            problem = f"the loss is {loss}"
        elif not math.isfinite(norm) and self.accelerator.scaler is None:  # a scaler skips such steps by itself
            problem = f"the gradient's norm is {norm}"
        elif (
            not self.game
            and progress.step >= JUDGED_AFTER
            and loss > EXPLODED * (average := progress.average_loss or math.inf)
        ):
            problem = f"the loss is {loss:.4g}, its running mean {average:.4g}"
        if problem:
            self.optimizer.zero_grad()
            if self.accelerator.scaler is not None:  # it unscaled for this step already and would refuse the next
                self.accelerator.scaler.update()
            raise BadLoss(problem, batches)
