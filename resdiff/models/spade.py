"""SPADE modulation of a Stable Diffusion UNet by feature maps, StableSR's adapter (2305.07015, after 1903.07291).

Reference: IceClear/StableSR ldm/modules/spade.py and ResBlockDual of ldm/modules/diffusionmodules/openaimodel.py. There
each residual block of a UNet of its own contains a SPADE; here the UNet is diffusers', and the SPADEs are a network
beside it, which hooks attach. Names of parameters are what diffusers' renaming makes of the published ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from resdiff.models.network import NetworkMixin
from resdiff.models.norm import GroupNorm32

HIDDEN = 128  # channels between structure and modulation, in the reference for every width


class SPADE(nn.Module):
    """GroupNorm(h) * (1 + gamma) + beta, with gamma and beta of each position from the structure.

    The norm has a scale and a shift of its own, so that even gamma = beta = 0 does not leave h as it is.
    """

    def __init__(self, channels: int, structure_channels: int) -> None:
        super().__init__()
        self.param_free_norm = GroupNorm32(channels)
        self.mlp_shared = nn.Sequential(nn.Conv2d(structure_channels, HIDDEN, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(HIDDEN, channels, 3, padding=1)

    def forward(self, h: Tensor, structure: Tensor) -> Tensor:
        """h: (B, channels, H, W); structure: (B, structure_channels, H, W), or (1, ...) for all."""
        hidden = self.mlp_shared(structure)
        return torch.addcmul(self.mlp_beta(hidden), self.param_free_norm(h), 1 + self.mlp_gamma(hidden))


def resnets(widths: Sequence[int], structure_channels: int) -> nn.ModuleDict:
    """Return the SPADEs of one block of the UNet, named as its residual blocks are."""
    spades = (SPADE(width, structure_channels) for width in widths)
    return nn.ModuleDict({"resnets": nn.ModuleList(nn.ModuleDict({"spade": spade}) for spade in spades)})


class SpadeModulation(NetworkMixin, ModelMixin, ConfigMixin):
    """One SPADE for each residual block of a UNet; `blocks` are their paths, in the order in which the UNet runs them.

    The defaults fit Stable Diffusion 1 and 2 (22 SPADEs, 53,020,160 parameters).

        with modulation.attached(unet):
            noise = unet(x, t, text, timestep_cond=encoder(z, t)).sample

    Raises:
        ValueError: widths do not fit 32 norm groups.
    """

    _no_split_modules: ClassVar[list[str]] = ["SPADE"]
    _repeated_blocks: ClassVar[list[str]] = ["SPADE"]

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        structure_channels: int = 256,
    ) -> None:
        super().__init__()

        def blocks(widths: Sequence[int], layers: int) -> nn.ModuleList:
            return nn.ModuleList(resnets([width] * layers, structure_channels) for width in widths)

        self.down_blocks = blocks(block_out_channels, layers_per_block)
        self.mid_block = resnets([block_out_channels[-1]] * 2, structure_channels)
        self.up_blocks = blocks(block_out_channels[::-1], layers_per_block + 1)
        self.blocks = [name.removesuffix(".spade") for name, part in self.named_modules() if isinstance(part, SPADE)]

    def enable_group_offload(
        self,
        onload_device: torch.device,
        offload_device: torch.device = torch.device("cpu"),  # noqa: B008 (as in diffusers)
        offload_type: str = "leaf_level",
        **kwargs: Any,
    ) -> None:
        """See diffusers. Always by leaves: a call runs one SPADE, which would leave the rest of its block waiting."""
        super().enable_group_offload(onload_device, offload_device, "leaf_level", **kwargs)

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, structure_channels: int = 256) -> Self:
        """Return an untrained modulation of the sizes of `unet`; raises ValueError where none fits."""
        modulation = cls(unet.config.block_out_channels, len(unet.down_blocks[0].resnets), structure_channels)
        modulation.check_fits(unet)
        return modulation

    def check_fits(self, unet: UNet2DConditionModel) -> None:
        """Raise ValueError where `unet` has other residual blocks than these SPADEs are made for."""
        theirs = {name: part.out_channels for name, part in unet.named_modules() if isinstance(part, ResnetBlock2D)}
        ours = {block: self._spade(block).mlp_beta.out_channels for block in self.blocks}
        for block in sorted(ours.keys() | theirs.keys()):
            if ours.get(block) != theirs.get(block):
                raise ValueError(
                    f"the modulation does not fit the UNet: channels of {block} are {ours.get(block, 'missing')} here "
                    f"and {theirs.get(block, 'missing')} there; take both from the same model"
                )

    def _spade(self, block: str) -> Any:
        return self.get_submodule(f"{block}.spade")

    def forward(self, h: Tensor, structure: Sequence[Tensor], block: str) -> Tensor:
        """Modulate what the second convolution of a residual block returns, before the shortcut is added.

        Args:
            h: (B, C, H, W).
            structure: feature maps (B, structure_channels, H', W'), or (1, ...) for all, of several sizes; the one of
                h's size counts.
            block: path of the residual block in the UNet, one of `blocks`.

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: no feature map is of h's size.
        """
        for feature in reversed(structure):  # as in the reference, the deepest counts where levels are equally small
            if feature.shape[2:] == h.shape[2:]:
                return self._spade(block)(h, feature)
        sizes = ", ".join(f"{feature.shape[2]}x{feature.shape[3]}" for feature in structure)
        raise ValueError(
            f"{block} is {h.shape[2]}x{h.shape[3]} but the feature maps are {sizes or 'none'}; encode a latent of the "
            "size of the UNet's"
        )

    @contextmanager
    def attached(self, unet: UNet2DConditionModel) -> Iterator[UNet2DConditionModel]:
        """Modulate `unet` inside the `with` block, by the feature maps that each call has as its `timestep_cond`.

        An argument of the call, so that whatever records or compiles it sees inputs; Stable Diffusion's networks have
        no use of their own for it. Afterwards the UNet is as it was. One modulation at a time. With gradient
        checkpointing, go back from a call before the next one and inside the context.

        Raises:
            ValueError: the modulation does not fit; inside, a call comes without feature maps or with unfitting ones.
        """
        unet = getattr(unet, "_orig_mod", unet)  # of a wrapper of torch.compile
        self.check_fits(unet)
        dtype = self.dtype  # which may be another than the UNet's
        structure: list[Tensor] = []  # of the call that is running

        def take(_embedding: nn.Module, arguments: tuple[Tensor, Any]) -> tuple[Tensor, None]:
            time, given = arguments
            if given is None:
                raise ValueError(
                    "the UNet is modulated (once); pass the feature maps of the structure as timestep_cond"
                )
            structure[:] = [features.to(dtype) for features in given]
            return time, None

        def modulate(block: str) -> Any:
            return lambda _conv, _arguments, h: self(h.to(dtype), structure, block).to(h.dtype)

        def forget(_unet: nn.Module, _arguments: Any, _output: Any) -> None:
            if not (torch.is_grad_enabled() and unet.is_gradient_checkpointing):  # the way back runs the blocks again
                structure.clear()

        with ExitStack() as hooks:
            hooks.enter_context(unet.time_embedding.register_forward_pre_hook(take))
            hooks.enter_context(unet.register_forward_hook(forget, always_call=True))
            for block in self.blocks:  # looked up now: a LoRA may have replaced the convolution
                convolution = unet.get_submodule(block).conv2
                hooks.enter_context(convolution.register_forward_hook(modulate(block)))
            try:
                yield unet
            finally:
                structure.clear()
