"""`Prepare`: from what the workers read to a micro-batch on the device."""

import dataclasses

import torch

from resdiff.data.degradation.base import Degradation
from resdiff.data.degradation.pool import PairPool
from resdiff.data.training_set import Batch


class Prepare:
    """Degrade a batch on the device, then mix it with those before by the pair pool."""

    def __init__(self, degradation: Degradation, pool: PairPool | None, device: torch.device):
        self.degradation, self.pool, self.device = degradation, pool, device

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with LR images; pairs that were read as pairs stay as they are."""
        batch = batch.to(self.device)
        if batch.lr is None:
            hr, lr = self.degradation.pair(batch.hr, batch.draws)
            # the reference drops NaN samples; a flat one does no harm, keeps the batch whole, and nothing has to be read back
            fine = torch.isfinite(lr).flatten(1).all(dim=1)[:, None, None, None]
            batch = dataclasses.replace(batch, hr=torch.where(fine, hr, 0.5), lr=torch.where(fine, lr, 0.5))
        if self.pool is None:
            return batch
        hr, lr = self.pool.exchange((batch.hr, batch.lr))
        return dataclasses.replace(batch, hr=hr, lr=lr)
