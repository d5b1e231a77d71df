"""Group normalisation whose statistics are float32 in every precision, shared by the Swin UNet and the VQ model.

Reference: GroupNorm32 of zsyOAOA/ResShift models/basic_ops.py, which always casts to float32 and back. torch's own
half-precision kernels already accumulate and normalise in float32 and round once at the end (on CPU the same results to
one bfloat16 step in a third of the time), so the casts are made only where input and parameters differ in dtype, e.g.
under autocast.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm32(nn.GroupNorm):
    """GroupNorm with 32 groups over (B, C, H, W), C a multiple of 32; keeps dtype and memory format.

    Raises:
        ValueError: `channels` is not a multiple of 32.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        if channels % 32:
            raise ValueError(f"group norm has 32 groups, but the layer has {channels} channels; use a multiple of 32")
        super().__init__(32, channels, eps)

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == self.weight.dtype:
            return super().forward(input)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)
