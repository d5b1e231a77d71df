"""`NetworkMixin`: two of diffusers' options for networks, made to hold for networks like ours.

diffusers compiles every block named in `_repeated_blocks` on its own. torch keeps the results by the block's class and,
by default, at most eight of them: fewer than the published networks have pairs of widths in their residual blocks.
diffusers stores layers in 8 bits and casts each when it is called, but leaves the ones it skips in their own dtype.
"""

from typing import Any

import torch

BLOCKS_OF_A_CLASS = 64  # compiled for it at most: its widths, each for a first size and then for any


class NetworkMixin:
    """Goes before `ModelMixin` among the bases of a network."""

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """Compile the repeated blocks, with the arguments of `torch.compile`; raises torch's limit to what they need."""
        import torch._dynamo.config as dynamo  # costs a second: paid by those who compile

        dynamo.recompile_limit = max(dynamo.recompile_limit, BLOCKS_OF_A_CLASS)
        super().compile_repeated_blocks(*args, **kwargs)  # type: ignore[misc]

    def enable_layerwise_casting(
        self,
        storage_dtype: torch.dtype = torch.float8_e4m3fn,
        compute_dtype: torch.dtype | None = None,  # None: the network's own
        **kwargs: Any,
    ) -> None:
        """Store most layers in `storage_dtype`; see diffusers. What is not stored so is cast to `compute_dtype` too."""
        if compute_dtype is not None:
            self.to(compute_dtype)  # type: ignore[attr-defined]
        super().enable_layerwise_casting(storage_dtype, compute_dtype, **kwargs)  # type: ignore[misc]
